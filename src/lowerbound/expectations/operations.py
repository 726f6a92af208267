"""What JAX's operations do to random values.

One function for each primitive, in a table. Operations that only rearrange elements act on axes; sums and
products are those of :mod:`~lowerbound.expectations.values`; any other elementwise function of one value is kept
as a :class:`Composed`, for the rules of those distributions that know what to do with it. Everything else raises
:class:`~lowerbound.expectations.values.NotClosedForm`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.errors import DataError
from lowerbound.expectations import values as v
from lowerbound.expectations.axes import Axis, Const, Lookup, constant
from lowerbound.expectations.functions import INDICATOR
from lowerbound.expectations.values import NotClosedForm, Term, Value

#: Elements of an array of integers that an operation may make to keep track of places.
_PLACES = 10**7
#: Rows up to which a cumulative sum is a multiplication by a triangular matrix.
_CUMULATIVE = 5000


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


def value_of(x: Any) -> Value:
    """As a value of the algebra, if it is one."""
    if isinstance(x, Composed):
        out = None if x.jumps else v.of_one_element(x.inner, x.name, x.call)
        if out is None:
            if x.jumps:
                e = NotClosedForm(f"{x.name}, which jumps, of a continuous latent")
            elif x.left is not None:
                e = NotClosedForm(x.left.operation, rewrite=x.left.rewrite)
            else:
                e = NotClosedForm(f"{x.name} of an expression of several elements")
            e.line = "" if x.left is None else x.left.line
            raise e
        return out
    if isinstance(x, Matrix):
        raise NotClosedForm("arithmetic with the Cholesky factor of a random matrix")
    return v.as_value(x)


OPERATIONS: dict[str, Callable[..., Any]] = {}


def _operation(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(f: Callable[..., Any]) -> Callable[..., Any]:
        for n in names:
            OPERATIONS[n] = f
        return f

    return register


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
                found = v.tabulate(inputs, _on_arrays(primitive, params, kinds))
                if found is not None:
                    return found
            if operation is not None:
                try:
                    return operation([v.as_value(x) for x in inputs], params)
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
        value = v.as_value(x)
        if value.random:
            if inner is not None and value is not inner:
                return None
            inner = value
            parts.append(lambda t: t)
            names.append("·")
            continue
        c = v.constant_of(value)
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
        moving = [x for x in inputs[1:] if isinstance(x, Composed) or v.as_value(x).random]
        jumps = not moving or any(isinstance(x, Composed) and x.jumps for x in moving)
    own = {k: x for k, x in params.items() if x is not None and k not in ("weak_type", "sharding")}
    name = primitive.name + ("".join(f"[{k}={own[k]}]" for k in sorted(own)))
    left = next((x.left for x in inputs if isinstance(x, Composed)), None)
    return Composed(inner, call, name if names == ["·"] else f"{name}({', '.join(names)})", jumps, left)


_JUMPS = {"eq", "ne", "lt", "le", "gt", "ge", "floor", "ceil", "round", "sign", "rem", "is_finite", "not", "and", "or"}


# -- elementwise -------------------------------------------------------------------------------------


@_operation("add", "add_any")
def _add(x: Sequence[Value], _: Any) -> Value:
    return x[0] + x[1]


@_operation("sub")
def _sub(x: Sequence[Value], _: Any) -> Value:
    return x[0] - x[1]


@_operation("mul")
def _mul(x: Sequence[Value], _: Any) -> Value:
    return x[0] * x[1]


@_operation("div")
def _div(x: Sequence[Value], _: Any) -> Value:
    return x[0] * v.reciprocal(x[1])


@_operation("neg")
def _neg(x: Sequence[Value], _: Any) -> Value:
    return -x[0]


@_operation("convert_element_type", "copy", "copy_p", "stop_gradient", "optimization_barrier", "reduce_precision")
def _same(x: Sequence[Value], params: Any) -> Value:
    return x[0]


@_operation("integer_pow")
def _integer_pow(x: Sequence[Value], params: Any) -> Value:
    return v.power(x[0], float(params["y"]))


@_operation("square")
def _square(x: Sequence[Value], _: Any) -> Value:
    return v.power(x[0], 2.0)


@_operation("sqrt")
def _sqrt(x: Sequence[Value], _: Any) -> Value:
    return v.power(x[0], 0.5)


@_operation("rsqrt")
def _rsqrt(x: Sequence[Value], _: Any) -> Value:
    return v.power(x[0], -0.5)


@_operation("pow")
def _pow(x: Sequence[Value], _: Any) -> Value:
    base, exponent = x
    if exponent.random:
        return v.exp(exponent * v.log(base))
    c = v.constant_of(exponent)
    if not c.known or not np.all(c.array == c.array.flat[0]):
        return v.exp(exponent * v.log(base))
    return v.power(base, float(c.array.flat[0]))


@_operation("exp")
def _exp(x: Sequence[Value], _: Any) -> Value:
    return v.exp(x[0])


@_operation("exp2")
def _exp2(x: Sequence[Value], _: Any) -> Value:
    return v.exp(x[0] * math.log(2))


@_operation("log")
def _log(x: Sequence[Value], _: Any) -> Value:
    return v.log(x[0])


@_operation("log1p")
def _log1p(x: Sequence[Value], _: Any) -> Value:
    return v.log(x[0] + 1.0)


@_operation("abs")
def _abs(x: Sequence[Value], _: Any) -> Value:
    if len(x[0].terms) == 1:
        (t,) = x[0].terms
        fixed = all(c.known and (c.array >= 0).all() for c in t.constants)
        if fixed and all(_positive(a) for a in t.atoms):
            return x[0]
    raise NotClosedForm("abs")


def _positive(a: Any) -> bool:
    """Whether an atom is never negative: an indicator, or a power (not the logarithm) of what never is."""
    power = a.latent.support in ("positive", "unit", "simplex") and a.function.exponent is not None
    return power or a.function is INDICATOR


@_operation("select_n")
def _select(x: Sequence[Any], _: Any) -> Value:
    if len(x) != 3:
        raise NotClosedForm("a choice of more than two")
    which, no, yes = x
    which = which.expand(*range(yes.ndim - which.ndim))  # one truth may choose between whole arrays
    if which.random:
        if v.as_table(which) is None:
            raise NotClosedForm("a choice that depends on a continuous latent")
        return which * yes + (1.0 - which) * no
    c = v.constant_of(which)
    if not c.known:
        c = Const(c.array.astype(float), c.axes)
        here = Value(which.axes, (Term((c,)),))
        return here * yes + (1.0 - here) * no
    if c.array.all():
        return Value(tuple(_first(a, b) for a, b in zip(yes.axes, which.axes, strict=True)), yes.terms)
    if not c.array.any():
        return Value(tuple(_first(a, b) for a, b in zip(no.axes, which.axes, strict=True)), no.terms)
    return masked(yes, which) + masked(no, 1.0 - which)


def _first(a: Axis | None, b: Axis | None) -> Axis | None:
    return a if a is not None else b


def masked(value: Value, mask: Value) -> Value:
    """value * mask, zero where the mask is, whatever the constants are there."""
    value, mask = v.align(value, mask)
    return finite(value, mask) * mask


def finite(value: Value, mask: Value) -> Value:
    """The value with zeros for those constants that are not finite where the mask is zero."""
    value, mask = v.align(value, mask)
    m = v.constant_of(mask)
    if not m.known:
        return value
    out = []
    for t in value.terms:
        constants = []
        for c in t.constants:
            if c.known and not np.isfinite(c.array).all():
                axes = tuple(dict.fromkeys((*c.axes, *m.axes)))
                there = np.broadcast_to(v.spread(m, axes) != 0, [a.size for a in axes])
                c = Const(np.where(there, v.spread(c, axes), 0.0), axes)
            constants.append(c)
        exponent = t.exponent
        if exponent is not None and set(m.axes) <= {a for a in exponent.axes if a is not None}:
            exponent = finite(exponent, Value(exponent.axes, mask.terms))
        out.append(Term(tuple(constants), t.atoms, t.summed, exponent))
    return Value(value.axes, tuple(out))


ELEMENTWISE = {
    *("add", "add_any", "sub", "mul", "div", "neg", "convert_element_type", "integer_pow", "square", "sqrt", "rsqrt"),
    *("pow", "exp", "exp2", "log", "log1p", "abs", "select_n", "expm1", "logistic", "erf", "erfc", "erf_inv", "tanh"),
    *("sin", "cos", "tan", "atan", "asin", "acos", "sinh", "cosh", "asinh", "acosh", "atanh", "lgamma", "digamma"),
    *("max", "min", "sign", "floor", "ceil", "round", "clamp", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not"),
    *("is_finite", "rem", "cbrt", "copy", "copy_p", "stop_gradient", "log_softmax", "atan2", "nextafter", "xor"),
}

# -- rearranging -------------------------------------------------------------------------------------


@_operation("broadcast_in_dim")
def _broadcast(x: Sequence[Any], params: Any) -> Value:
    value = v.as_value(x[0])
    shape, places = params["shape"], params["broadcast_dimensions"]
    axes: list[Axis | None] = [Axis(n) if n != 1 else None for n in shape]
    for d, place in enumerate(places):
        a = value.axes[d]
        if a is not None:
            axes[place] = a
    return Value(tuple(axes), value.terms)


@_operation("squeeze")
def _squeeze(x: Sequence[Any], params: Any) -> Value:
    value = v.as_value(x[0])
    return value.squeeze(*params["dimensions"])


@_operation("expand_dims")
def _expand(x: Sequence[Any], params: Any) -> Value:
    return v.as_value(x[0]).expand(*params["dimensions"])


@_operation("transpose")
def _transpose(x: Sequence[Any], params: Any) -> Value:
    return v.as_value(x[0]).transpose(params["permutation"])


@_operation("reshape")
def _reshape(x: Sequence[Any], params: Any) -> Value:
    return reshape(v.as_value(x[0]), tuple(params["new_sizes"]))


def reshape(value: Value, shape: tuple[int, ...]) -> Value:
    """Dimensions split and merged; each group of old ones that becomes a group of new ones is looked up."""
    old = [(d, a) for d, a in enumerate(value.axes) if a is not None]
    new = [n for n in shape if n != 1]
    axes_new: list[Axis] = []
    places: dict[Axis, Lookup] = {}
    i = j = 0
    while i < len(old) or j < len(new):
        first_i, first_j = i, j
        have, want = old[i][1].size, new[j]
        i, j = i + 1, j + 1
        while have != want:
            if have < want:
                have, i = have * old[i][1].size, i + 1
            else:
                want, j = want * new[j], j + 1
        group = [a for _, a in old[first_i:i]]
        sizes = new[first_j:j]
        if len(group) == len(sizes) == 1:
            axes_new.append(group[0])
            continue
        if have > _PLACES:
            raise NotClosedForm(f"a reshape of {have:,} elements that merges or splits dimensions")
        own = tuple(Axis(n) for n in sizes)
        flat = np.arange(have).reshape(sizes)
        for a, at in zip(group, np.unravel_index(flat, [a.size for a in group]), strict=True):
            places[a] = Lookup(at, own)
        axes_new.extend(own)
    axes: list[Axis | None] = []
    rest = iter(axes_new)
    for n in shape:
        axes.append(None if n == 1 else next(rest))
    return value.looked_up(places, axes) if places else Value(tuple(axes), value.terms)


def _taken(value: Value, dim: int, places: np.ndarray) -> Value:
    """Elements ``places`` along one dimension."""
    a = value.axes[dim]
    if a is None:
        size = len(places)
        axes = (*value.axes[:dim], Axis(size) if size != 1 else None, *value.axes[dim + 1 :])
        return Value(axes, value.terms)
    if len(places) == a.size and np.array_equal(places, np.arange(a.size)):
        return value
    if len(places) == 1:
        lookup, axis = Lookup(np.asarray(places[0]), ()), None
    else:
        axis = Axis(len(places))
        lookup = Lookup(places, (axis,))
    return value.looked_up({a: lookup}, (*value.axes[:dim], axis, *value.axes[dim + 1 :]))


@_operation("slice")
def _slice(x: Sequence[Any], params: Any) -> Value:
    value = v.as_value(x[0])
    strides = params["strides"] or (1,) * value.ndim
    for d, (a, b, s) in enumerate(zip(params["start_indices"], params["limit_indices"], strides, strict=True)):
        value = _taken(value, d, np.arange(a, b, s))
    return value


@_operation("rev")
def _rev(x: Sequence[Any], params: Any) -> Value:
    value = v.as_value(x[0])
    for d in params["dimensions"]:
        value = _taken(value, d, np.arange(value.shape[d])[::-1].copy())
    return value


@_operation("tile")
def _tile(x: Sequence[Any], params: Any) -> Value:
    value = x[0]
    for d, times in enumerate(params["reps"]):
        value = _taken(value, d, np.tile(np.arange(value.shape[d]), times))
    return value


@_operation("dynamic_slice")
def _dynamic_slice(x: Sequence[Any], params: Any) -> Value:
    value, starts = v.as_value(x[0]), x[1:]
    for d, (start, size) in enumerate(zip(starts, params["slice_sizes"], strict=True)):
        if size == value.shape[d]:
            continue
        if start.random and size == 1:  # x[z], z one discrete latent
            value = index(value, d - value.ndim, start).expand(d)
            continue
        start = np.asarray(v.array_of(v.as_value(start)))
        at = int(np.clip(start, 0, value.shape[d] - size))
        value = _taken(value, d, np.arange(at, at + size))
    return value


@_operation("concatenate")
def _concatenate(x: Sequence[Any], params: Any) -> Value:
    d = params["dimension"]
    return _joined([v.as_value(p) for p in x], d)


@_operation("stack")
def _stack(x: Sequence[Any], params: Any) -> Value:
    d = params["axis"]
    return _joined([v.as_value(p).expand(d) for p in x], d)


def _joined(parts: Sequence[Value], d: int) -> Value:
    """One behind another along a dimension: each with a mask of where it is."""
    total = sum(p.shape[d] for p in parts)
    if len(parts) == 1:
        return parts[0]
    axis = Axis(total)
    out: Value | None = None
    start = 0
    for p in parts:
        n = p.shape[d]
        inside = np.zeros(total)
        inside[start : start + n] = 1.0
        places = np.clip(np.arange(total) - start, 0, n - 1)
        a = p.axes[d]
        axes = (*p.axes[:d], axis, *p.axes[d + 1 :])
        moved = p.looked_up({a: Lookup(places, (axis,))}, axes) if a is not None else Value(axes, p.terms)
        mask = Value((axis,) + (None,) * (p.ndim - 1 - d), (Term((Const(inside, (axis,)),)),))
        moved = masked(moved, mask)
        out = moved if out is None else out + moved
        start += n
    assert out is not None
    return out


@_operation("pad")
def _pad(x: Sequence[Any], params: Any) -> Value:
    value, filling = v.as_value(x[0]), v.as_value(x[1])
    for d, (low, high, inner) in enumerate(params["padding_config"]):
        if low < 0 or high < 0 or inner:
            raise NotClosedForm("pad with a negative or inner padding")
        for n, before in ((low, True), (high, False)):
            if n:
                shape = tuple(n if e == d else m for e, m in enumerate(value.shape))
                block = filling + v.as_value(np.zeros(shape))
                value = _joined([block, value] if before else [value, block], d)
    return value


@_operation("split")
def _split(x: Sequence[Any], params: Any) -> list[Value]:
    value, out, start = v.as_value(x[0]), [], 0
    for n in params["sizes"]:
        out.append(_taken(value, params["axis"], np.arange(start, start + n)))
        start += n
    return out


@_operation("gather")
def _gather(x: Sequence[Any], params: Any) -> Value:
    """Indexing: one or several dimensions of the operand at indices that are data or discrete latents."""
    value, indices = v.as_value(x[0]), v.as_value(x[1])
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    if numbers.operand_batching_dims or numbers.start_indices_batching_dims:
        return _batched_gather(value, indices, numbers, sizes)
    mapped, collapsed = tuple(numbers.start_index_map), tuple(numbers.collapsed_slice_dims)
    whole = all(sizes[d] == value.shape[d] for d in range(value.ndim) if d not in mapped)
    if set(collapsed) != set(mapped) or not whole or any(sizes[d] != 1 for d in mapped):
        return _by_places(value, indices, params)
    out_ndim = indices.ndim - 1 + len(numbers.offset_dims)
    batch = [d for d in range(out_ndim) if d not in numbers.offset_dims]
    at = {d: _column(indices, n) for n, d in enumerate(mapped)}
    return _index(value, at, batch, list(numbers.offset_dims), out_ndim)


def _column(indices: Value, n: int) -> Value:
    return _taken(indices, indices.ndim - 1, np.array([n])).squeeze(indices.ndim - 1)


def _index(value: Value, at: dict[int, Value], batch: list[int], offset: list[int], ndim: int) -> Value:
    """The value with dimensions ``at`` indexed; the dimensions of the indices become those named by ``batch``."""
    lead: Value | None = None
    for i in at.values():
        lead = i if lead is None else v.align(lead, i)[0]
    assert lead is not None
    at = {d: v.align(lead, i)[1] for d, i in at.items()}
    shape_axes = list(v.align(lead, lead)[0].axes)
    axes: list[Axis | None] = [None] * ndim
    rest = [d for d in range(value.ndim) if d not in at]
    for place, d in zip(offset, rest, strict=True):
        axes[place] = value.axes[d]
    for place, a in zip(batch, shape_axes, strict=True):
        axes[place] = a
    # (Axes of the indices may be those of the value itself: theta[z, n] with n an axis of z as well as of theta.)
    own = {a for d, a in enumerate(value.axes) if a is not None and d not in at}
    if any(a in own for a in shape_axes if a is not None):
        names = {a: Axis(a.size) for a in value.axes if a is not None}
        value = value.renamed(names)
        for place, d in zip(offset, rest, strict=True):
            axes[place] = value.axes[d]
    places: dict[Axis, Any] = {}
    for d, i in at.items():
        a, n = value.axes[d], value.shape[d]
        if a is None:
            continue
        if not i.random:
            c = v.constant_of(i)
            places[a] = Lookup(_checked(c.array, n), c.axes)
            continue
        table = v.as_table(i)
        if table is None:
            raise NotClosedForm("an index that is not one discrete latent")
        atom, c = table
        k = Axis(atom.index[-1].size)  # pyright: ignore[reportAttributeAccessIssue]
        c = c.renamed({atom.index[-1]: k})  # pyright: ignore[reportArgumentType]
        places[a] = (atom, k, Lookup(_checked(c.array, n), c.axes))
    lookups = {a: p[2] if isinstance(p, tuple) else p for a, p in places.items()}
    out = value.looked_up(lookups, axes)
    for p in places.values():
        if not isinstance(p, tuple):
            continue
        atom, k, _ = p
        out = _enumerated(out, atom, k)
    return out


def index(value: Value, dim: int, at: Value) -> Value:
    """``take_along_axis`` of one place: the value with dimension ``dim`` (from the end) at ``at``, which broadcasts
    against the other dimensions."""
    d = value.ndim + dim
    a, n = value.axes[d], value.shape[d]
    rest = Value(tuple(x for e, x in enumerate(value.axes) if e != d), value.terms)
    lead, at = v.align(rest, at)
    if a is None:
        return lead
    # The dimension goes first and is indexed; the others are already the same as those of the index.
    if not at.random:
        c = v.constant_of(at)
        return lead.looked_up({a: Lookup(_checked(c.array, n), c.axes)}, lead.axes)
    table = v.as_table(at)
    if table is None:
        raise NotClosedForm("an index that is not one discrete latent")
    atom, c = table
    k = Axis(atom.index[-1].size)  # pyright: ignore[reportAttributeAccessIssue]
    c = c.renamed({atom.index[-1]: k})  # pyright: ignore[reportArgumentType]
    out = lead.looked_up({a: Lookup(_checked(c.array, n), c.axes)}, lead.axes)
    return _enumerated(out, atom, k)


def _enumerated(out: Value, atom: Any, k: Axis) -> Value:
    """sum_k 1[z = k] out, where k is among the axes that run inside of it."""
    indicator = Term((), (v.replace(atom, index=(*atom.place, k)),))
    terms = []
    for t in out.terms:
        found = v.product(indicator, t)
        if found is not None:
            terms.append(v.simplified(v.replace(found, summed=found.summed | {k})).fresh())
    return Value(out.axes, tuple(terms))


def _checked(array: Any, size: int) -> Any:
    """Indices as whole numbers from 0 to size - 1."""
    if not isinstance(array, np.ndarray):
        return array.astype(int)
    whole = np.rint(array).astype(int)
    low, high = (int(whole.min()), int(whole.max())) if whole.size else (0, 0)
    if low < -size or high >= size:
        raise DataError(
            f"an index into an array of {size} elements runs from {low} to {high}; needed: whole numbers from 0 to "
            f"{size - 1}. JAX would silently take the nearest element instead."
        )
    return np.where(whole < 0, whole + size, whole)


def _by_places(value: Value, indices: Value, params: Any) -> Value:
    """Any other gather: where each element of the result comes from, by gathering the places themselves."""
    if indices.random:
        raise NotClosedForm("a slice at a place that a latent decides")
    size = math.prod(value.shape)
    if size > _PLACES:
        raise NotClosedForm(f"a gather from {size:,} elements")
    at = np.asarray(np.rint(v.array_of(indices)), np.int32)
    with jax.ensure_compile_time_eval():
        from_ = np.asarray(jax.lax.gather_p.bind(jnp.arange(size).reshape(value.shape), jnp.asarray(at), **params))
    return _rearranged(value, from_)


def _rearranged(value: Value, places: np.ndarray) -> Value:
    """The elements of a value at flat places."""
    axes = tuple(Axis(n) if n != 1 else None for n in places.shape)
    own = tuple(a for a in axes if a is not None)
    flat = places.reshape([a.size for a in own])
    where = np.unravel_index(flat, value.shape) if value.ndim else ()
    lookups = {a: Lookup(np.asarray(w), own) for a, w in zip(value.axes, where, strict=True) if a is not None}
    return value.looked_up(lookups, axes)


def _batched_gather(value: Value, indices: Value, numbers: Any, sizes: Sequence[int]) -> Value:
    """take_along_axis: the batching dimensions run along those of the indices."""
    mapped = tuple(numbers.start_index_map)
    batching = tuple(numbers.operand_batching_dims)
    if set(numbers.collapsed_slice_dims) != set(mapped) or any(sizes[d] != 1 for d in (*mapped, *batching)):
        raise NotClosedForm("a gather of slices")
    out_ndim = indices.ndim - 1 + len(numbers.offset_dims)
    batch = [d for d in range(out_ndim) if d not in numbers.offset_dims]
    at = {d: _column(indices, n) for n, d in enumerate(mapped)}
    shape = indices.shape[:-1]
    for d, i in zip(batching, numbers.start_indices_batching_dims, strict=True):
        n = shape[i]
        along = np.arange(n).reshape([n if e == i else 1 for e in range(len(shape))])
        at[d] = v.as_value(along)
    return _index(value, at, batch, list(numbers.offset_dims), out_ndim)


STRUCTURAL = {
    *("broadcast_in_dim", "squeeze", "expand_dims", "transpose", "reshape", "slice", "rev", "dynamic_slice"),
    "gather",
}

# -- sums --------------------------------------------------------------------------------------------


@_operation("reduce_sum")
def _reduce_sum(x: Sequence[Any], params: Any) -> Value:
    return value_of(x[0]).sum(*params["axes"]) if params["axes"] else value_of(x[0])


@_operation("reduce_prod")
def _reduce_prod(x: Sequence[Any], params: Any) -> Value:
    return v.exp(v.log(value_of(x[0])).sum(*params["axes"]))


@_operation("cumsum")
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


@_operation("dot_general")
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


@_operation("cholesky")
def _cholesky(x: Sequence[Any], params: Any) -> Matrix:
    value = value_of(x[0])
    return Matrix(value, value.shape)
