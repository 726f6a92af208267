"""Axes: the names by which the terms of a random value say which of their indices are the same.

A term of a random value is an einsum: constants and latents, each with its own axes, multiplied where the axes
agree and summed over those that are not among the value's own. An :class:`Axis` is known by identity. A latent may also
be looked up in an array of integers, ``mu[group]``: its index is then a :class:`Lookup`, and the axes are those of that
array.

Arrays are NumPy where they are known and JAX tracers where they are not; :func:`library` tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from opt_einsum import get_symbol


class Axis:
    """One index, known by identity; ``size`` values."""

    __slots__ = ("size",)

    def __init__(self, size: int):
        self.size = int(size)

    def __repr__(self) -> str:
        return f"<{self.size}>"


@dataclass(frozen=True, eq=False)
class Const:
    """An array with an axis for each of its dimensions."""

    array: Any
    axes: tuple[Axis, ...]

    def renamed(self, names: Mapping[Axis, Axis]) -> Const:
        """With other axes; where two become one, the diagonal."""
        if not any(a in names for a in self.axes):
            return self
        axes = tuple(names.get(a, a) for a in self.axes)
        if len(set(axes)) == len(axes):
            return Const(self.array, axes)
        return contract([Const(self.array, axes)], tuple(dict.fromkeys(axes)))

    @property
    def known(self) -> bool:
        return isinstance(self.array, (np.ndarray, np.generic))


@dataclass(frozen=True, eq=False)
class Lookup:
    """An index that an array of integers gives; no axes for a fixed place."""

    array: Any
    axes: tuple[Axis, ...]

    def same(self, other: Any) -> bool:
        if self is other:
            return True
        if not isinstance(other, Lookup) or self.axes != other.axes:
            return False
        if self.array is other.array:
            return True
        known = all(isinstance(a, (np.ndarray, np.generic)) for a in (self.array, other.array))
        return known and np.array_equal(self.array, other.array)


Index = Axis | Lookup


def same_index(a: Index, b: Index) -> bool:
    """Whether two indices are equal at every place."""
    return a is b or (isinstance(a, Lookup) and a.same(b))


def index_axes(index: Sequence[Index]) -> tuple[Axis, ...]:
    """The axes that an index runs over, each once."""
    out: dict[Axis, None] = {}
    for i in index:
        out.update(dict.fromkeys((i,) if isinstance(i, Axis) else i.axes))
    return tuple(out)


def library(*arrays: Any) -> Any:
    """NumPy if all arrays are known, else jax.numpy."""
    return np if all(isinstance(a, (np.ndarray, np.generic, int, float, bool)) for a in arrays) else jnp


def constant(value: Any, axes: Sequence[Axis | None]) -> Const:
    """An array as a constant: dimensions whose axis is None have size one and are dropped."""
    array = np.asarray(value) if library(value) is np else value
    keep = [i for i, a in enumerate(axes) if a is not None]
    array = array.reshape([array.shape[i] for i in keep])
    return Const(array, tuple(a for a in axes if a is not None))


def of_data(array: Any) -> Any:
    """A single number as an argument of the program. (JAX writes an array without dimensions into the program's text as
    it writes 2.0, and the same program on other data would be compiled again.)"""
    if isinstance(array, (np.ndarray, np.generic)) and array.ndim == 0:
        return jnp.asarray(np.reshape(array, 1))[0]
    return array


def contract(operands: Sequence[Const], out: Sequence[Axis]) -> Const:
    """The einsum of the operands, summed over every axis that is not in ``out``.

    Axes of ``out`` that no operand has are left out of the result.
    """
    names: dict[Axis, str] = {}
    for o in operands:
        for a in o.axes:
            names.setdefault(a, get_symbol(len(names)))
    keep = tuple(a for a in out if a in names)
    if len(operands) == 1 and operands[0].axes == keep:
        return operands[0]
    spec = ",".join("".join(names[a] for a in o.axes) for o in operands) + "->" + "".join(names[a] for a in keep)
    arrays = [o.array for o in operands]
    xp = library(*arrays)
    if xp is np:
        array = np.einsum(spec, *arrays, optimize=len(arrays) > 1)
    else:
        array = jnp.einsum(spec, *arrays, optimize="optimal" if len(arrays) < 8 else "greedy")
    return Const(array, keep)


def gather(array: Any, index: Sequence[Index]) -> Const:
    """``array[index]`` with an axis for every axis of the index.

    A plain axis keeps its dimension; lookups that share axes run along them together.
    """
    if all(isinstance(i, Axis) for i in index):
        return _diagonal(array, list(index))  # pyright: ignore[reportArgumentType]
    looked = [n for n, i in enumerate(index) if isinstance(i, Lookup)]
    if len(looked) == 1:
        n, lookup = looked[0], index[looked[0]]
        assert isinstance(lookup, Lookup)
        out = library(array, lookup.array).take(array, lookup.array, axis=n)
        axes = [a for a in index[:n]] + list(lookup.axes) + [a for a in index[n + 1 :]]
        return _diagonal(out, axes)  # pyright: ignore[reportArgumentType]
    axes = index_axes(index)
    places = {a: n for n, a in enumerate(axes)}
    parts = []
    for i in index:
        own = (i,) if isinstance(i, Axis) else i.axes
        values = np.arange(i.size) if isinstance(i, Axis) else i.array
        order = sorted(range(len(own)), key=lambda k: places[own[k]])
        values = values.transpose(order) if len(own) > 1 else values
        shape = [1] * len(axes)
        for a in own:
            shape[places[a]] = a.size
        parts.append(values.reshape(shape))
    return Const(array[tuple(parts)], axes)


def _diagonal(array: Any, axes: list[Axis]) -> Const:
    if len(set(axes)) == len(axes):
        return Const(array, tuple(axes))
    return contract([Const(array, tuple(axes))], tuple(dict.fromkeys(axes)))


def spread(c: Const, axes: Sequence[Axis | None]) -> Any:
    """The array with one dimension for each of ``axes``, size one where the constant does not have it."""
    order = [c.axes.index(a) for a in axes if a is not None and a in c.axes]
    array = c.array.transpose(order) if order != list(range(len(order))) else c.array
    return array.reshape([a.size if a is not None and a in c.axes else 1 for a in axes])
