r"""The logarithm of a sum of densities: a mixture whose labels the model has summed out.

For positive p_k with logarithms x_k, and any probabilities r_k (the responsibilities),

    log sum_k exp(x_k)  >=  sum_k r_k (x_k - log r_k),

by Jensen's inequality; in expectation the best r is softmax(E[x]), where it is log sum_k exp(E[x_k]): the bound that
mean field has with a label z ~ Categorical for each element, at the optimum of q(z). It is a function of expectations
(:class:`~lowerbound.expectations.rules.base.Bound`), and its slope in them is r, so that coordinate updates are those
of the mixture with labels.

``jax.scipy.special.logsumexp`` is told from its operations: x less its largest element, exp, sum, log, and that
element back. Between them stand the classes here, which have no other use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.composed import MIXTURE, OPERATIONS, Composed, Pending, value_of
from lowerbound.expectations.rearranging import STRUCTURAL, taken
from lowerbound.expectations.values import Value, align, as_value, constant_of

#: Name of the bound.
RESPONSIBILITIES = "responsibilities"
#: Components at most: each is an expectation of its own.
_COMPONENTS = 64
_SAME = ("convert_element_type", "copy", "copy_p", "stop_gradient", "optimization_barrier", "reduce_precision")


@dataclass(frozen=True, eq=False)
class Peak(Pending):
    """The largest element of x along some dimensions, in whatever shape, and whether it is finite."""

    x: Value
    dims: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Shifted(Pending):
    """x less its peak; or its exponential."""

    x: Value
    dims: tuple[int, ...]
    raised: bool = False


@dataclass(frozen=True, eq=False)
class Sum(Pending):
    """sum_k exp(x_k - peak); or its logarithm."""

    x: Value
    parts: tuple[Value, ...]
    logged: bool = False


@dataclass(frozen=True, eq=False)
class Lower(Pending):
    """A value plus weighted logarithms of sums, each element of which has a bound.

    Attributes:
        value: What is exact.
        sums: The x_k of each logarithm of a sum, and its weight; over the value's dimensions and then ``summed`` more.
        summed: How many dimensions have been summed.
    """

    value: Value
    sums: tuple[tuple[tuple[Value, ...], Value], ...]
    summed: int = 0
    said = "the logarithm of a sum inside of another function"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    def each(self, f: Callable[[Value], Value]) -> Lower:
        return Lower(f(self.value), tuple((tuple(map(f, parts)), f(w)) for parts, w in self.sums), self.summed)

    def inside(self, v: Value) -> Value:
        return v.expand(*range(v.ndim, v.ndim + self.summed))

    def times(self, v: Value) -> Lower:
        """v must not be negative, and is a constant."""
        if v.random:
            raise NotClosedForm("the logarithm of a sum, times a latent")
        c = constant_of(v)
        if not c.known or (c.array < 0).any():
            raise NotClosedForm("the logarithm of a sum, subtracted")
        return Lower(self.value * v, tuple((p, w * self.inside(v)) for p, w in self.sums), self.summed).spread()

    def spread(self) -> Lower:
        """The weights over all of the value's dimensions, so that each element counts."""
        ones = self.inside(as_value(np.ones(self.shape)))
        return replace(self, sums=tuple((p, w * ones) for p, w in self.sums))

    def added(self, other: Lower | Value) -> Lower:
        if isinstance(other, Value):
            return replace(self, value=self.value + other).spread()
        if self.summed != other.summed and self.shape + other.shape:
            raise NotClosedForm("a sum of logarithms of sums of different shapes")
        if self.summed != other.summed:  # both are numbers
            most = max(self.summed, other.summed)
            return self.longer(most).added(other.longer(most))
        whole = self.value + other.value
        return Lower(whole, (*self.sums, *other.sums), self.summed).spread()

    def longer(self, summed: int) -> Lower:
        extra = summed - self.summed
        sums = tuple((tuple(v.expand(*range(extra)) for v in p), w.expand(*range(extra))) for p, w in self.sums)
        return Lower(self.value, sums, summed)

    def sum(self, *dims: int) -> Lower:
        dims = tuple(d % self.value.ndim for d in dims)
        rest = [d for d in range(self.value.ndim) if d not in dims]

        def moved(v: Value, full: Value) -> Value:
            v = Value((None,) * (full.ndim - v.ndim) + v.axes, v.terms)
            return v.transpose([*rest, *dims, *range(self.value.ndim, v.ndim)])

        sums = tuple((tuple(moved(v, w) for v in parts), moved(w, w)) for parts, w in self.spread().sums)
        return Lower(self.value.sum(*dims), sums, self.summed + len(dims))


def perform_on_sums(name: str, inputs: Sequence[Any], params: dict[str, Any]) -> Any:
    """An operation on the way to a logarithm of a sum, or on one; None where it has nothing to do with either.

    Raises:
        NotClosedForm: the way ends here.
    """
    if name == "reduce_max" and isinstance(inputs[0], (Value, Composed)) and len(params["axes"]) == 1:
        x = inputs[0] if isinstance(inputs[0], Value) else value_of(inputs[0])
        return Peak(x, tuple(params["axes"]))
    if not any(isinstance(x, Pending) for x in inputs):
        return None
    first: Any = inputs[0]
    if any(isinstance(x, Lower) for x in inputs):
        return _on_lower(name, inputs, params)
    if name in _SAME:
        return first
    peak = next((x for x in inputs if isinstance(x, Peak)), None)
    if isinstance(first, Peak) and (name in STRUCTURAL or name == "is_finite"):
        return first
    if peak is not None and name in ("max", "select_n") and not any(isinstance(x, (Shifted, Sum)) for x in inputs):
        return peak
    if name == "sub" and isinstance(inputs[1], Peak) and first is inputs[1].x:
        return Shifted(inputs[1].x, inputs[1].dims)
    if name == "exp" and isinstance(first, Shifted) and not first.raised:
        return replace(first, raised=True)
    if name == "reduce_sum" and isinstance(first, Shifted) and first.raised and tuple(params["axes"]) == first.dims:
        return _sum(first)
    if isinstance(first, Sum) and not first.logged and name in STRUCTURAL:
        return replace(first, parts=tuple(OPERATIONS[name]([v], params) for v in first.parts))
    if name == "abs" and isinstance(first, Sum) and not first.logged:
        return first
    if name == "log" and isinstance(first, Sum) and not first.logged:
        return replace(first, logged=True)
    if name == "add" and peak is not None:
        (other,) = (x for x in inputs if x is not peak)
        if isinstance(other, Sum) and other.logged and other.x is peak.x:
            zero = as_value(np.zeros(np.broadcast_shapes(*(v.shape for v in other.parts))))
            return Lower(zero, ((other.parts, as_value(1.0)),)).spread()
    raise NotClosedForm("reduce_max", rewrite=MIXTURE)


def _sum(x: Shifted) -> Sum:
    (d,) = x.dims
    n = x.x.shape[d]
    if n > _COMPONENTS:
        raise NotClosedForm(f"the logarithm of a sum of {n} terms", rewrite=MIXTURE)
    return Sum(x.x, tuple(taken(x.x, d, np.array([k])).squeeze(d) for k in range(n)))


def _on_lower(name: str, inputs: Sequence[Any], params: dict[str, Any]) -> Any:
    first: Any = inputs[0]
    if name in _SAME:
        return first
    if name in STRUCTURAL and not first.summed:
        places = [value_of(x) for x in inputs[1:]]
        return first.each(lambda v: OPERATIONS[name]([_whole(v, first.shape), *places], params))
    if name in STRUCTURAL and OPERATIONS[name]([first.value], params).shape == first.shape == ():
        return first
    if name == "reduce_sum":
        return first.sum(*params["axes"]) if params["axes"] else first
    if name in ("add", "add_any"):
        a, b = (x if isinstance(x, Lower) else value_of(x) for x in inputs)
        return a.added(b) if isinstance(a, Lower) else b.added(a)  # pyright: ignore[reportAttributeAccessIssue]
    if name == "sub" and isinstance(first, Lower) and not isinstance(inputs[1], Pending):
        return first.added(-value_of(inputs[1]))
    if name == "mul":
        a, b = inputs if isinstance(first, Lower) else inputs[::-1]
        if not isinstance(b, Pending):
            return a.times(value_of(b))
    if name == "div" and isinstance(first, Lower) and not isinstance(inputs[1], Pending):
        c = value_of(inputs[1])
        return first.times(OPERATIONS["div"]([as_value(1.0), c], {}))
    if name == "select_n" and len(inputs) == 3 and not isinstance(first, Pending) and not as_value(first).random:
        which = as_value(first)
        out = None
        for x, mask in ((inputs[2], which), (inputs[1], 1.0 - which)):
            own = x.times(mask) if isinstance(x, Lower) else OPERATIONS["select_n"]([mask, as_value(0.0), x], {})
            out = own if out is None else (out.added(own) if isinstance(out, Lower) else own.added(out))
        return out
    raise NotClosedForm(f"{name} of the logarithm of a sum", rewrite=MIXTURE)


def _whole(v: Value, shape: tuple[int, ...]) -> Value:
    """With one dimension for each of a shape, and an axis for each that is longer than one."""
    return align(as_value(np.zeros(shape)), v)[1] if v.shape != shape else v


def weighted_log_sum(*parts: Any) -> Any:
    """weight x log sum_k exp(x_k), elementwise."""
    *x, weight = jnp.broadcast_arrays(*parts)
    return weight * logsumexp(jnp.stack(x), axis=0)
