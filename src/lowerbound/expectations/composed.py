"""What an operation may be handed: values, functions of a value outside of the algebra, factors of random matrices.

With the table of operations that the other modules fill, one function for each of JAX's primitives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.axes import Const, spread
from lowerbound.expectations.elementary import function_of
from lowerbound.expectations.values import Term, Value, align, as_value, constant_of


@dataclass(frozen=True, eq=False)
class Composed:
    """An elementwise function, outside of the algebra, of a value inside of it.

    Attributes:
        inner: That value.
        call, name: The function; the name says all of it, since functions of the same name are one statistic.
        jumps: Whether it is a step function, of which no grid gives the expectation exactly.
        left: Why the algebra was left, and on which line of the model.
    """

    inner: Value
    call: Callable[[Any], Any]
    name: str
    jumps: bool = False
    left: NotClosedForm | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape


@dataclass(frozen=True, eq=False)
class Matrix:
    """The Cholesky factor of a random matrix, which only the rule of a distribution may read."""

    of: Value
    shape: tuple[int, ...]


class Pending:
    """What stands between the operations of the logarithm of a sum (:mod:`~lowerbound.expectations.mixtures`)."""

    #: What it is where the algebra goes no further.
    said = "reduce_max"


#: What to do where a continuous latent decides.
CHANGE_POINT = (
    "if it is a change point, make it a discrete latent: numpyro.sample('tau', dist.DiscreteUniform(0, n - 1))"
)
#: What to do with a mixture that the model has summed out.
MIXTURE = (
    "if this sums the components of a mixture, write the component as a discrete latent: "
    "z = numpyro.sample('z', dist.Categorical(weights)); if it is a softmax, give the distribution logits= instead of "
    "probabilities"
)


def value_of(x: Any) -> Value:
    """As a value of the algebra, if it is one."""
    if isinstance(x, Composed):
        out = None if x.jumps else function_of(x.inner, x.name, x.call)
        if out is None:
            if x.jumps:
                e = NotClosedForm(f"{x.name}, which jumps, of a continuous latent", rewrite=CHANGE_POINT)
            elif x.left is not None:
                e = NotClosedForm(x.left.operation, rewrite=x.left.rewrite)
            else:
                e = NotClosedForm(f"{x.name} of an expression of several elements")
            e.line = "" if x.left is None else x.left.line
            raise e
        return out
    if isinstance(x, Pending):
        raise NotClosedForm(x.said, rewrite=MIXTURE)
    if isinstance(x, Matrix):
        raise NotClosedForm("arithmetic with the Cholesky factor of a random matrix")
    return as_value(x)


def source(x: Any) -> Any:
    """A value as the function of another that it is, where it is one."""
    return x.origin if isinstance(x, Value) and x.origin is not None else x


OPERATIONS: dict[str, Callable[..., Any]] = {}


def operation(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(f: Callable[..., Any]) -> Callable[..., Any]:
        for n in names:
            OPERATIONS[n] = f
        return f

    return register


def masked(value: Value, mask: Value) -> Value:
    """value * mask, zero where the mask is, whatever the constants are there."""
    value, mask = align(value, mask)
    return finite(value, mask) * mask


def finite(value: Value, mask: Value) -> Value:
    """The value with zeros for those constants that are not finite where the mask is zero."""
    value, mask = align(value, mask)
    m = constant_of(mask)
    if not m.known:
        return value
    out = []
    for t in value.terms:
        constants = []
        for c in t.constants:
            if c.known and not np.isfinite(c.array).all():
                axes = tuple(dict.fromkeys((*c.axes, *m.axes)))
                there = np.broadcast_to(spread(m, axes) != 0, [a.size for a in axes])
                c = Const(np.where(there, spread(c, axes), 0.0), axes)
            constants.append(c)
        exponent = t.exponent
        if exponent is not None and set(m.axes) <= {a for a in exponent.axes if a is not None}:
            exponent = finite(exponent, Value(exponent.axes, mask.terms))
        out.append(Term(tuple(constants), t.atoms, t.summed, exponent))
    return Value(value.axes, tuple(out))
