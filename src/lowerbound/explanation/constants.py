"""The arrays in a derivation, recognised as what they were made of.

The algebra multiplies constants together and sums over rows, so that X and y arrive as y_n X_nd, X'X or X'y, times some
number. Here such an array is compared with the arguments of the model, functions of them, products of two, and sums of
products over an axis they share. What is not recognised is given a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from lowerbound.expectations.axes import Axis, Const
from lowerbound.explanation.operands import Known, Operand

#: Relative difference up to which two arrays are the same.
_SAME = 1e-9
#: Places that are compared first, and multiplications that a sum over rows may cost.
_PROBES, _WORK = 64, 5e8

#: Functions of one argument, by how they are named here.
FUNCTIONS = {
    "x": lambda x: x,
    "x^2": lambda x: x**2,
    "1/x": lambda x: 1 / x,
    "1/x^2": lambda x: x**-2.0,
    "log": np.log,
}


class _Candidate(NamedTuple):
    """A function of an argument, with axes of the array in question for its dimensions."""

    name: str
    function: str
    places: tuple[int, ...]
    values: np.ndarray


class Arrays:
    """The arguments of a model, and the arrays that are none of them.

    Args:
        arguments: By name.
    """

    def __init__(self, arguments: Mapping[str, Any]):
        self.arguments: dict[str, np.ndarray] = {}
        for name, value in arguments.items():
            array = np.asarray(value)
            if array.dtype.kind in "biuf" and array.size > 1:
                self.arguments[name] = array.reshape([n for n in array.shape if n != 1])
        self.numbered: list[np.ndarray] = []
        self.integers: list[np.ndarray] = []
        self._values: dict[tuple[str, str], np.ndarray | None] = {}

    # -- integers --------------------------------------------------------------------------------------

    def index_name(self, integers: Any) -> str | int:
        """The argument that an array of places is, or the number it is given from here on."""
        integers = np.asarray(integers)
        if integers.ndim == 0:
            return int(integers)
        for name, a in self.arguments.items():
            if a.shape == integers.shape and np.array_equal(a, integers):
                return name
        for n, a in enumerate(self.integers):
            if a.shape == integers.shape and np.array_equal(a, integers):
                return n + 1
        self.integers.append(integers)
        return len(self.integers)

    # -- numbers ---------------------------------------------------------------------------------------

    def written(self, c: Const) -> tuple[float, list[Operand]]:
        """A number, and the operands that times it are the constant, without axes along which it does not change."""
        array, axes = np.asarray(c.array, float), list(c.axes)
        for n in range(len(axes))[::-1]:
            first = array.take(0, axis=n)
            if np.array_equal(array, np.broadcast_to(np.expand_dims(first, n), array.shape)):
                array = first
                del axes[n]
        if not axes:
            return float(array), []
        found = self._recognised(array, tuple(axes))
        if found is not None:
            return found
        for n, a in enumerate(self.numbered):
            if a.shape == array.shape and (s := _multiple(array, a)) is not None:
                return s, [Known(tuple(axes), a, "array", (n + 1,))]
        self.numbered.append(array)
        return 1.0, [Known(tuple(axes), array, "array", (len(self.numbered),))]

    def _recognised(self, array: np.ndarray, axes: tuple[Axis, ...]) -> tuple[float, list[Operand]] | None:
        if not np.isfinite(array).all():
            return None
        candidates = list(self._candidates(array.shape))
        for c in candidates:
            if len(c.places) == array.ndim:
                values, own = _spread(c, array.ndim), tuple(axes[p] for p in c.places)
                if (s := _multiple(array, values)) is not None:
                    return s, [Known(own, c.values, "data", (c.name,), (c.function,))]
                if c.function == "x" and (line := _affine(array, values)) is not None:
                    s, t = line
                    return s, [Known(own, c.values + t, "data", (c.name,), ("x",), t)]
        if (pair := self._pair(array, axes, candidates)) is not None:
            return pair
        if array.ndim == 2 and array.shape[0] == array.shape[1]:
            s = float(array[0, 0])
            if s and np.array_equal(array, s * np.eye(len(array))):
                return s, [Known(axes, np.eye(len(array)), "identity")]
        return self._sums(array, axes)

    def _candidates(self, shape: tuple[int, ...]) -> Iterator[_Candidate]:
        for name, a in self.arguments.items():
            if a.ndim > len(shape):
                continue
            for places in permutations(range(len(shape)), a.ndim):
                if tuple(shape[p] for p in places) != a.shape:
                    continue
                for f in FUNCTIONS:
                    values = self._value(name, f)
                    if values is not None:
                        yield _Candidate(name, f, places, values)

    def _value(self, name: str, function: str) -> np.ndarray | None:
        """A function of an argument, where it is finite everywhere and another than the argument itself."""
        if (name, function) not in self._values:
            a = self.arguments[name].astype(float)
            with np.errstate(all="ignore"):
                out = FUNCTIONS[function](a)
            fine = np.isfinite(out).all() and (function == "x" or not np.array_equal(out, a))
            self._values[name, function] = out if fine else None
        return self._values[name, function]

    def _pair(
        self, array: np.ndarray, axes: tuple[Axis, ...], candidates: list[_Candidate]
    ) -> tuple[float, list[Operand]] | None:
        """s f(x) g(y), each along some of the axes."""
        rng = np.random.default_rng(0)
        at = tuple(rng.integers(0, n, _PROBES) for n in array.shape)
        there = array[at]
        probes = [c.values[tuple(at[p] for p in c.places)] for c in candidates]
        for i, c in enumerate(candidates):
            for j in range(i, len(candidates)):
                e = candidates[j]
                if {*c.places, *e.places} != set(range(array.ndim)):
                    continue
                if _multiple(there, probes[i] * probes[j]) is None:
                    continue
                s = _multiple(array, _spread(c, array.ndim) * _spread(e, array.ndim))
                if s is not None:
                    return s, [
                        Known(tuple(axes[p] for p in x.places), x.values, "data", (x.name,), (x.function,))
                        for x in (c, e)
                    ]
        return None

    def _sums(self, array: np.ndarray, axes: tuple[Axis, ...]) -> tuple[float, list[Operand]] | None:
        """s sum_n x_n.. y_n.. over an axis that two arguments share, or s sum_n x_n.. of one."""
        matrices = {n: a.astype(float) for n, a in self.arguments.items() if a.ndim <= 2}
        for name, a in matrices.items():
            for rows in range(a.ndim):
                if a.ndim == 2 and (a.shape[1 - rows],) == array.shape:
                    values = a.sum(rows)
                    if (s := _multiple(array, values)) is not None:
                        return s, [Known(axes, values, "sum", (name,), (f"{rows}",), split=1)]
        for name, a in matrices.items():
            for other, b in matrices.items():
                for i in range(a.ndim):
                    for j in range(b.ndim):
                        rest = (
                            *(n for k, n in enumerate(a.shape) if k != i),
                            *(n for k, n in enumerate(b.shape) if k != j),
                        )
                        if a.shape[i] != b.shape[j] or rest != array.shape or a.size * b.size / a.shape[i] > _WORK:
                            continue
                        values = np.tensordot(a, b, ([i], [j]))
                        known = Known(axes, values, "sum", (name, other), (f"{i}", f"{j}"), split=a.ndim - 1)
                        if (s := _multiple(array, values)) is not None:
                            return s, [known]
                        # X' (y - 1/2), as of logits: the last argument may be shifted.
                        columns = a.sum(i)
                        if b.ndim == 1 and (line := _line(array, values, columns)) is not None:
                            s, t = line
                            return s, [replace(known, value=values + t * columns, shift=t)]
        return None


def _spread(c: _Candidate, ndim: int) -> np.ndarray:
    order = sorted(range(len(c.places)), key=lambda k: c.places[k])
    values = c.values.transpose(order)
    shape = [1] * ndim
    for k, n in zip(sorted(c.places), values.shape, strict=True):
        shape[k] = n
    return values.reshape(shape)


def _multiple(array: np.ndarray, of: np.ndarray) -> float | None:
    """s with array = s of, if there is one."""
    of = np.broadcast_to(of, array.shape)
    top = np.unravel_index(int(np.argmax(np.abs(of))), of.shape)
    if not of[top]:
        return None
    s = float(array[top] / of[top])
    s = round(s) if abs(s - round(s)) < _SAME * abs(s) else s
    size = float(np.abs(array).max())
    return float(s) if s and np.abs(array - s * of).max() <= _SAME * size else None


def _line(array: np.ndarray, of: np.ndarray, ones: np.ndarray) -> tuple[float, float] | None:
    """(s, t) with array = s (of + t ones), if there are: t = -1/2 is tried where there are too few to tell."""
    if (s := _multiple(array, of - 0.5 * ones)) is not None:
        return s, -0.5
    if array.size < 3:
        return None
    s, st = np.linalg.lstsq(np.stack([of.ravel(), ones.ravel()], 1), array.ravel(), rcond=None)[0]
    if not s or (exact := _multiple(array, of + st / s * ones)) is None:
        return None
    return exact, float(st / s)


def _affine(array: np.ndarray, of: np.ndarray) -> tuple[float, float] | None:
    """(s, t) with array = s (of + t), if there are."""
    of = np.broadcast_to(of, array.shape)
    low = np.unravel_index(int(np.argmin(of)), of.shape)
    top = np.unravel_index(int(np.argmax(of)), of.shape)
    if of[low] == of[top]:
        return None
    s = float((array[top] - array[low]) / (of[top] - of[low]))
    if not s:
        return None
    t = float(array[top] / s - of[top])
    t = round(2 * t) / 2 if abs(2 * t - round(2 * t)) < _SAME * max(1, abs(t)) else t
    size = float(np.abs(array).max())
    if array.size < 3:  # a line goes through any two points
        return None
    return (s, t) if np.abs(array - s * (of + t)).max() <= _SAME * size else None
