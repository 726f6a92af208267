"""What JAX's operations do to random values.

One function for each primitive, in a table. Operations that only rearrange elements act on axes; sums and
products are those of :mod:`~lowerbound.expectations.values`; any other elementwise function of one value is kept
as a :class:`Composed`, for the rules of those distributions that know what to do with it. Everything else raises
:class:`~lowerbound.expectations.values.NotClosedForm`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.expectations.arguments import Argument, argument, in_terms_of
from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.axes import Axis, constant
from lowerbound.expectations.composed import MIXTURE, OPERATIONS, Composed, Matrix, operation, source, value_of
from lowerbound.expectations.elementary import exp, log, one_element
from lowerbound.expectations.elementwise import ELEMENTWISE
from lowerbound.expectations.functions import IDENTITY, Function
from lowerbound.expectations.mixtures import perform_on_sums
from lowerbound.expectations.rearranging import STRUCTURAL
from lowerbound.expectations.tables import tabulate
from lowerbound.expectations.values import Term, Value, as_value, constant_of


def perform(primitive: Any, inputs: Sequence[Any], params: dict[str, Any], kinds: Sequence[Any]) -> Any:
    """One operation on values, at least one of which is random.

    Args:
        primitive, params: The operation.
        inputs: What it is done to.
        kinds: Their types: values have none, and an operation on whole numbers is another than that on real ones.

    Raises:
        NotClosedForm: it has no place in the algebra.
    """
    name = primitive.name
    if (found := perform_on_sums(name, inputs, params)) is not None:
        return found
    operation = OPERATIONS.get(name) if _is_algebra(name, params, kinds) else None
    failed: NotClosedForm | None = None
    if name in STRUCTURAL and isinstance(x := inputs[0], Composed):
        places = [value_of(y) for y in inputs[1:]]
        return Composed(OPERATIONS[name]([x.inner, *places], params), x.call, x.name, x.jumps, x.left)
    if name in ELEMENTWISE and not any(isinstance(x, Matrix) for x in inputs):
        apart = name not in _POLYNOMIAL or operation is None
        if apart and not any(isinstance(x, Composed) for x in inputs):
            found = tabulate(inputs, _on_arrays(primitive, params, kinds))
            if found is not None:
                return found
        composed = None
        if operation is not None:
            try:
                out = operation([value_of(x) for x in inputs], params)
                if any(_outside(x) for x in inputs):
                    composed = _composed(primitive, inputs, params, kinds)
                return out if composed is None else replace(out, origin=composed)
            except NotClosedForm as e:
                failed = e
        composed = _composed(primitive, inputs, params, kinds)
        if composed is not None:
            if composed.left is None:
                several = NotClosedForm(f"{name} of an expression of several elements")
                composed = replace(composed, left=several if failed is None else failed)
            return composed
        raise failed or NotClosedForm(f"{name} of several latents", rewrite=_REWRITES.get(name, ""))
    if operation is None:
        raise NotClosedForm(name, rewrite=_REWRITES.get(name, ""))
    return operation([value_of(x) for x in inputs], params)


#: Operations that the algebra does by itself on functions of a discrete latent too.
_POLYNOMIAL = ("add", "sub", "mul", "neg", "add_any", "convert_element_type")


def _is_algebra(name: str, params: dict[str, Any], kinds: Sequence[Any]) -> bool:
    """Whether the operation is that of real numbers: not one that rounds to whole numbers, or to truths."""
    if name == "div":
        return not any(np.issubdtype(k, np.integer) for k in kinds)
    if name == "convert_element_type":
        return _width(kinds[0]) <= _width(params["new_dtype"])
    return True


def _width(kind: Any) -> int:
    return 0 if np.issubdtype(kind, np.bool_) else 1 if np.issubdtype(kind, np.integer) else 2


#: What an index of a discrete latent goes through: by NumPy, since JAX compiles a program for each outside of a trace.
_BY_NUMPY = {
    "lt": np.less,
    "ge": np.greater_equal,
    "eq": np.equal,
    "add": np.add,
    "select_n": lambda which, *cases: np.choose(np.asarray(which, int), cases),
}


def _on_arrays(primitive: Any, params: dict[str, Any], kinds: Sequence[Any]) -> Callable[..., np.ndarray]:
    """The operation on known arrays, whatever trace is under way."""

    def call(*arrays: Any) -> np.ndarray:
        if primitive.name in _BY_NUMPY:
            return _BY_NUMPY[primitive.name](*(np.asarray(a).astype(k) for a, k in zip(arrays, kinds, strict=True)))
        with jax.ensure_compile_time_eval():
            parts = [jnp.asarray(a).astype(k) for a, k in zip(np.broadcast_arrays(*arrays), kinds, strict=True)]
            return np.asarray(primitive.bind(*parts, **params))

    return call


_REWRITES = {
    "lu": "give the distribution the matrix itself (precision_matrix=), not its determinant",
    "triangular_solve": "give the distribution the matrix itself (precision_matrix= or covariance_matrix=)",
    "while": "use jax.lax.scan, or an array operation",
    "scan": "write the recursion with array operations: x[1:] - x[:-1], jnp.cumsum",
    "reduce_max": MIXTURE,
    "max": "if it is jnp.logaddexp of the components of a mixture, write jax.scipy.special.logsumexp(jnp.stack(..), 0)",
    "sort": "order the latents by an ordered prior instead",
}


def _composed(primitive: Any, inputs: Sequence[Any], params: dict[str, Any], kinds: Sequence[Any]) -> Composed | None:
    """The function of one value that an elementwise operation makes; None where there are two."""
    parts: list[Callable[[Any], Any]] = []
    names: list[str] = []
    inputs = [source(x) for x in inputs]
    moving = [x.inner if isinstance(x, Composed) else as_value(x) for x in inputs]
    read = _read(moving)
    if read is None:
        return None
    inner = next(found.inner for found in read if found is not None)
    for x, value, found in zip(inputs, moving, read, strict=True):
        if found is not None:
            own = found.call
            if isinstance(x, Composed):
                parts.append(lambda t, own=own, call=x.call: call(own(t)))
                names.append(x.name.replace("·", found.name))
            else:
                parts.append(own)
                names.append(found.name)
            continue
        c = constant_of(value)
        if not c.known or not c.array.size or not np.all(c.array == c.array.flat[0]):
            return None
        number = c.array.flat[0]
        parts.append(lambda t, number=number: number)
        names.append(repr(float(number)))

    def call(t: Any) -> Any:
        t = jnp.asarray(t)
        arguments = [jnp.broadcast_to(jnp.asarray(p(t)), t.shape) for p in parts]
        return primitive.bind(*(a.astype(k) for a, k in zip(arguments, kinds, strict=True)), **params)

    jumps = primitive.name in _JUMPS or any(isinstance(x, Composed) and x.jumps for x in inputs)
    if primitive.name == "convert_element_type":
        jumps = jumps or not _is_algebra(primitive.name, params, kinds)
    if primitive.name == "select_n":  # a choice between functions may be smooth; between constants it is not
        chosen = [x for x in inputs[1:] if isinstance(x, Composed) or as_value(x).random]
        jumps = not chosen or any(isinstance(x, Composed) and x.jumps for x in chosen)
    own = {k: x for k, x in params.items() if x is not None and k not in ("weak_type", "sharding")}
    name = primitive.name + ("".join(f"[{k}={own[k]}]" for k in sorted(own)))
    left = next((x.left for x in inputs if isinstance(x, Composed)), None)
    return Composed(inner, call, name if names == ["·"] else f"{name}({', '.join(names)})", jumps, left)


def _outside(x: Any) -> bool:
    """Whether something is known as a function of something else."""
    x = source(x)
    return isinstance(x, Composed) or (isinstance(x, Value) and argument(x).inner is not x)


def _read(moving: Sequence[Value]) -> list[Argument | None] | None:
    """Each value that is random in terms of one and the same argument; None where there is none."""
    first = next((argument(v).inner for v in moving if v.random), None)
    if first is None:
        return None
    moving = [_along(v, first) if v.random else v for v in moving]
    read = [in_terms_of(v, first) if v.random else None for v in moving]
    if all(found is not None or not v.random for v, found in zip(moving, read, strict=True)):
        return read
    # Functions of one element are functions of one argument, whatever they are.
    parts = [one_element(v) if v.random else None for v in moving]
    if any(p is None and v.random for v, p in zip(moving, parts, strict=True)):
        return None
    (lead, v), *others = [(p, v) for p, v in zip(parts, moving, strict=True) if p is not None]
    if any(not lead[0].same_place(p[0]) or p[0].latent is not lead[0].latent for p, _ in others):
        return None
    if any(w.axes != v.axes for _, w in others):
        return None
    element = Value(v.axes, (Term((), (replace(lead[0], function=IDENTITY),)),))
    return [None if p is None else Argument(element, _scaled(p[1], p[2]), f"{p[1]!r} {p[2].said('·')}") for p in parts]


def _along(v: Value, other: Value) -> Value:
    """A value over the axes of another of its shape."""
    if v.shape != other.shape or v.axes == other.axes:
        return v
    pairs = zip(v.axes, other.axes, strict=True)
    return v.renamed({a: b for a, b in pairs if a is not None and b is not None and a is not b})


def _scaled(scale: float, f: Function) -> Callable[[Any], Any]:
    return lambda t: scale * f(t, jnp)


_JUMPS = {"eq", "ne", "lt", "le", "gt", "ge", "floor", "ceil", "round", "sign", "rem", "is_finite", "not", "and", "or"}

#: Rows up to which a cumulative sum is a multiplication by a triangular matrix.
_CUMULATIVE = 5000


@operation("reduce_sum")
def _reduce_sum(x: Sequence[Any], params: Any) -> Value:
    return value_of(x[0]).sum(*params["axes"]) if params["axes"] else value_of(x[0])


@operation("reduce_prod")
def _reduce_prod(x: Sequence[Any], params: Any) -> Value:
    value = value_of(x[0])
    if any(not c.known or (c.array < 0).any() for t in value.terms for c in t.constants):
        raise NotClosedForm("a product of what may be negative")
    return exp(log(value).sum(*params["axes"]))


@operation("cumsum")
def _cumsum(x: Sequence[Any], params: Any) -> Value:
    value, d = value_of(x[0]), params["axis"]
    n = value.shape[d]
    if n > _CUMULATIVE:
        raise NotClosedForm(f"a cumulative sum over {n:,} elements")
    if n == 1:
        return value
    triangle = np.tri(n)
    if params.get("reverse"):
        triangle = triangle.T.copy()
    a, b = value.axes[d], Axis(n)
    old = a if a is not None else Axis(n)
    weights = Value(
        (*(None for _ in value.axes[:d]), b, *(None for _ in value.axes[d + 1 :]), old),
        (Term((constant(triangle, (b, old)),)),),
    )
    moved = Value((*value.axes[:d], None, *value.axes[d + 1 :], old), value.terms)
    return (moved * weights).sum(-1)


@operation("dot_general")
def _dot_general(x: Sequence[Any], params: Any) -> Value:
    a, b = value_of(x[0]), value_of(x[1])
    (ca, cb), (ba, bb) = params["dimension_numbers"]
    rest_a = [d for d in range(a.ndim) if d not in (*ca, *ba)]
    rest_b = [d for d in range(b.ndim) if d not in (*cb, *bb)]
    # [batch, free of a, free of b, contracted]
    left = a.transpose([*ba, *rest_a, *ca]).expand(*range(len(ba) + len(rest_a), len(ba) + len(rest_a) + len(rest_b)))
    right = b.transpose([*bb, *rest_b, *cb]).expand(*range(len(bb), len(bb) + len(rest_a)))
    out = left * right
    return out.sum(*range(out.ndim - len(ca), out.ndim)) if ca else out


@operation("cholesky")
def _cholesky(x: Sequence[Any], params: Any) -> Matrix:
    value = value_of(x[0])
    return Matrix(value, value.shape)
