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

from lowerbound.expectations.axes import Axis, constant
from lowerbound.expectations.composed import OPERATIONS, Composed, Matrix, operation, value_of
from lowerbound.expectations.elementary import exp, log
from lowerbound.expectations.elementwise import ELEMENTWISE
from lowerbound.expectations.rearranging import STRUCTURAL
from lowerbound.expectations.tables import tabulate
from lowerbound.expectations.values import NotClosedForm, Term, Value, as_value, constant_of


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
    operation = OPERATIONS.get(name) if _is_algebra(name, params, kinds) else None
    failed: NotClosedForm | None = None
    if name in STRUCTURAL and isinstance(x := inputs[0], Composed):
        places = [value_of(y) for y in inputs[1:]]
        return Composed(OPERATIONS[name]([x.inner, *places], params), x.call, x.name, x.jumps, x.left)
    if name in ELEMENTWISE and not any(isinstance(x, Matrix) for x in inputs):
        if not any(isinstance(x, Composed) for x in inputs):
            if name not in _POLYNOMIAL or operation is None:
                found = tabulate(inputs, _on_arrays(primitive, params, kinds))
                if found is not None:
                    return found
            if operation is not None:
                try:
                    return operation([as_value(x) for x in inputs], params)
                except NotClosedForm as e:
                    failed = e
        elif operation is not None:
            try:
                return operation([value_of(x) for x in inputs], params)
            except NotClosedForm as e:
                failed = e
        composed = _composed(primitive, inputs, params, kinds)
        if composed is not None:
            if composed.left is None:
                several = NotClosedForm(f"{name} of an expression of several elements")
                composed = replace(composed, left=several if failed is None else failed)
            return composed
        raise failed or NotClosedForm(name)
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


def _on_arrays(primitive: Any, params: dict[str, Any], kinds: Sequence[Any]) -> Callable[..., np.ndarray]:
    """The operation on known arrays, whatever trace is under way."""

    def call(*arrays: Any) -> np.ndarray:
        with jax.ensure_compile_time_eval():
            parts = [jnp.asarray(a).astype(k) for a, k in zip(np.broadcast_arrays(*arrays), kinds, strict=True)]
            return np.asarray(primitive.bind(*parts, **params))

    return call


_REWRITES = {
    "lu": "give the distribution the matrix itself (precision_matrix=), not its determinant",
    "triangular_solve": "give the distribution the matrix itself (precision_matrix= or covariance_matrix=)",
    "while": "use jax.lax.scan, or an array operation",
    "scan": "write the recursion with array operations: x[1:] - x[:-1], jnp.cumsum",
    "reduce_max": "if this sums the components of a mixture, write the component as a discrete latent; if it is a "
    "softmax, give the probabilities a Dirichlet prior",
    "sort": "order the latents by an ordered prior instead",
}


def _composed(primitive: Any, inputs: Sequence[Any], params: dict[str, Any], kinds: Sequence[Any]) -> Composed | None:
    """The function of one value that an elementwise operation makes; None where there are two."""
    inner: Value | None = None
    parts: list[Callable[[Any], Any]] = []
    names: list[str] = []
    for x in inputs:
        if isinstance(x, Composed):
            if inner is not None and x.inner is not inner:
                return None
            inner = x.inner
            parts.append(x.call)
            names.append(x.name)
            continue
        value = as_value(x)
        if value.random:
            if inner is not None and value is not inner:
                return None
            inner = value
            parts.append(lambda t: t)
            names.append("·")
            continue
        c = constant_of(value)
        if not c.known or not c.array.size or not np.all(c.array == c.array.flat[0]):
            return None
        number = c.array.flat[0]
        parts.append(lambda t, number=number: number)
        names.append(repr(float(number)))
    if inner is None:
        return None

    def call(t: Any) -> Any:
        t = jnp.asarray(t)
        arguments = [jnp.broadcast_to(jnp.asarray(p(t)), t.shape) for p in parts]
        return primitive.bind(*(a.astype(k) for a, k in zip(arguments, kinds, strict=True)), **params)

    jumps = primitive.name in _JUMPS or any(isinstance(x, Composed) and x.jumps for x in inputs)
    if primitive.name == "convert_element_type":
        jumps = jumps or not _is_algebra(primitive.name, params, kinds)
    if primitive.name == "select_n":  # a choice between functions may be smooth; between constants it is not
        moving = [x for x in inputs[1:] if isinstance(x, Composed) or as_value(x).random]
        jumps = not moving or any(isinstance(x, Composed) and x.jumps for x in moving)
    own = {k: x for k, x in params.items() if x is not None and k not in ("weak_type", "sharding")}
    name = primitive.name + ("".join(f"[{k}={own[k]}]" for k in sorted(own)))
    left = next((x.left for x in inputs if isinstance(x, Composed)), None)
    return Composed(inner, call, name if names == ["·"] else f"{name}({', '.join(names)})", jumps, left)


_JUMPS = {"eq", "ne", "lt", "le", "gt", "ge", "floor", "ceil", "round", "sign", "rem", "is_finite", "not", "and", "or"}

#: Rows up to which a cumulative sum is a multiplication by a triangular matrix.
_CUMULATIVE = 5000


@operation("reduce_sum")
def _reduce_sum(x: Sequence[Any], params: Any) -> Value:
    return value_of(x[0]).sum(*params["axes"]) if params["axes"] else value_of(x[0])


@operation("reduce_prod")
def _reduce_prod(x: Sequence[Any], params: Any) -> Value:
    return exp(log(value_of(x[0])).sum(*params["axes"]))


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
