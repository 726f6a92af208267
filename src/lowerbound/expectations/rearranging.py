"""Operations that only move elements: broadcasting, reshaping, slicing, joining, indexing.

They act on axes. An index that is data becomes a lookup; one that is a discrete latent enumerates it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.errors import DataError
from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.axes import Axis, Const, Lookup
from lowerbound.expectations.composed import masked, operation
from lowerbound.expectations.tables import as_table
from lowerbound.expectations.values import Term, Value, align, array_of, as_value, constant_of, product, simplified

#: Elements of an array of integers that an operation may make to keep track of places.
_PLACES = 10**7


@operation("broadcast_in_dim")
def _broadcast(x: Sequence[Any], params: Any) -> Value:
    value = as_value(x[0])
    shape, places = params["shape"], params["broadcast_dimensions"]
    axes: list[Axis | None] = [Axis(n) if n != 1 else None for n in shape]
    for d, place in enumerate(places):
        a = value.axes[d]
        if a is not None:
            axes[place] = a
    return Value(tuple(axes), value.terms)


@operation("squeeze")
def _squeeze(x: Sequence[Any], params: Any) -> Value:
    value = as_value(x[0])
    return value.squeeze(*params["dimensions"])


@operation("expand_dims")
def _expand(x: Sequence[Any], params: Any) -> Value:
    return as_value(x[0]).expand(*params["dimensions"])


@operation("transpose")
def _transpose(x: Sequence[Any], params: Any) -> Value:
    return as_value(x[0]).transpose(params["permutation"])


@operation("reshape")
def _reshape(x: Sequence[Any], params: Any) -> Value:
    return reshape(as_value(x[0]), tuple(params["new_sizes"]))


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


def taken(value: Value, dim: int, places: np.ndarray) -> Value:
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


@operation("slice")
def _slice(x: Sequence[Any], params: Any) -> Value:
    value = as_value(x[0])
    strides = params["strides"] or (1,) * value.ndim
    for d, (a, b, s) in enumerate(zip(params["start_indices"], params["limit_indices"], strides, strict=True)):
        value = taken(value, d, np.arange(a, b, s))
    return value


@operation("rev")
def _rev(x: Sequence[Any], params: Any) -> Value:
    value = as_value(x[0])
    for d in params["dimensions"]:
        value = taken(value, d, np.arange(value.shape[d])[::-1].copy())
    return value


@operation("tile")
def _tile(x: Sequence[Any], params: Any) -> Value:
    value = x[0]
    for d, times in enumerate(params["reps"]):
        value = taken(value, d, np.tile(np.arange(value.shape[d]), times))
    return value


@operation("dynamic_slice")
def _dynamic_slice(x: Sequence[Any], params: Any) -> Value:
    value, starts = as_value(x[0]), x[1:]
    for d, (start, size) in enumerate(zip(starts, params["slice_sizes"], strict=True)):
        if size == value.shape[d]:
            continue
        if start.random and size == 1:  # x[z], z one discrete latent
            value = index(value, d - value.ndim, start).expand(d)
            continue
        start = np.asarray(array_of(as_value(start)))
        at = int(np.clip(start, 0, value.shape[d] - size))
        value = taken(value, d, np.arange(at, at + size))
    return value


@operation("concatenate")
def _concatenate(x: Sequence[Any], params: Any) -> Value:
    d = params["dimension"]
    return _joined([as_value(p) for p in x], d)


@operation("stack")
def _stack(x: Sequence[Any], params: Any) -> Value:
    d = params["axis"]
    return _joined([as_value(p).expand(d) for p in x], d)


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


@operation("pad")
def _pad(x: Sequence[Any], params: Any) -> Value:
    value, filling = as_value(x[0]), as_value(x[1])
    for d, (low, high, inner) in enumerate(params["padding_config"]):
        if low < 0 or high < 0 or inner:
            raise NotClosedForm("pad with a negative or inner padding")
        for n, before in ((low, True), (high, False)):
            if n:
                shape = tuple(n if e == d else m for e, m in enumerate(value.shape))
                block = filling + as_value(np.zeros(shape))
                value = _joined([block, value] if before else [value, block], d)
    return value


@operation("split")
def _split(x: Sequence[Any], params: Any) -> list[Value]:
    value, out, start = as_value(x[0]), [], 0
    for n in params["sizes"]:
        out.append(taken(value, params["axis"], np.arange(start, start + n)))
        start += n
    return out


@operation("gather")
def _gather(x: Sequence[Any], params: Any) -> Value:
    """Indexing: one or several dimensions of the operand at indices that are data or discrete latents."""
    value, indices = as_value(x[0]), as_value(x[1])
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
    return taken(indices, indices.ndim - 1, np.array([n])).squeeze(indices.ndim - 1)


def _index(value: Value, at: dict[int, Value], batch: list[int], offset: list[int], ndim: int) -> Value:
    """The value with dimensions ``at`` indexed; the dimensions of the indices become those named by ``batch``."""
    lead: Value | None = None
    for i in at.values():
        lead = i if lead is None else align(lead, i)[0]
    assert lead is not None
    at = {d: align(lead, i)[1] for d, i in at.items()}
    shape_axes = list(align(lead, lead)[0].axes)
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
            c = constant_of(i)
            places[a] = Lookup(_checked(c.array, n), c.axes)
            continue
        places[a] = _by_latent(i, n)
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
    lead, at = align(rest, at)
    if a is None:
        return lead
    # The dimension goes first and is indexed; the others are already the same as those of the index.
    if not at.random:
        c = constant_of(at)
        return lead.looked_up({a: Lookup(_checked(c.array, n), c.axes)}, lead.axes)
    atom, k, place = _by_latent(at, n)
    return _enumerated(lead.looked_up({a: place}, lead.axes), atom, k)


def _by_latent(at: Value, n: int) -> tuple[Any, Axis, Lookup]:
    """An index that a discrete latent decides: its indicator, a new axis of its values, the place that each stands for.

    Args:
        at: The index.
        n: Places that there are.
    """
    table = as_table(at)
    if table is None:
        raise NotClosedForm("an index that is not one discrete latent")
    atom, c = table
    k = Axis(atom.index[-1].size)  # pyright: ignore[reportAttributeAccessIssue]
    c = c.renamed({atom.index[-1]: k})  # pyright: ignore[reportArgumentType]
    return atom, k, Lookup(_checked(c.array, n), c.axes)


def _enumerated(out: Value, atom: Any, k: Axis) -> Value:
    """sum_k 1[z = k] out, where k is among the axes that run inside of it."""
    indicator = Term((), (replace(atom, index=(*atom.place, k)),))
    terms = []
    for t in out.terms:
        found = product(indicator, t)
        if found is not None:
            terms.append(simplified(replace(found, summed=found.summed | {k})).fresh())
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
    at = np.asarray(np.rint(array_of(indices)), np.int32)
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
        at[d] = as_value(along)
    return _index(value, at, batch, list(numbers.offset_dims), out_ndim)


STRUCTURAL = {
    *("broadcast_in_dim", "squeeze", "expand_dims", "transpose", "reshape", "slice", "rev", "dynamic_slice"),
    "gather",
}
