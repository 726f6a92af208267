"""What written terms are products of: arrays, moments, brackets, and the two that stand for a function of other sums.

Every operand has axes, an array along them, and a symbol. An axis that two operands share is the same index; one that
is not free is summed over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.expectations.axes import Axis
from lowerbound.expectations.structure import Moment

#: From an axis to the place at which it first occurs, for comparing products.
Numbering = Callable[[Axis], Any]


class Operand(ABC):
    """One factor of a product."""

    axes: tuple[Axis, ...]

    @abstractmethod
    def array(self, moments: Mapping[Moment, np.ndarray]) -> np.ndarray:
        """Its numbers, one dimension for each of its axes."""

    @abstractmethod
    def renamed(self, names: Mapping[Axis, Axis]) -> Operand:
        """With other axes."""

    @abstractmethod
    def key(self, number: Numbering) -> tuple[Any, ...]:
        """Equal for operands that are the same but for the identity of their axes."""


@dataclass(frozen=True, eq=False)
class Known(Operand):
    """An array of the data, or made of it.

    Attributes:
        axes: Along which it runs.
        value: Its numbers.
        form: How it is written: ``"data"`` (a function of one argument), ``"sum"`` (over the rows of one or two of
            them), ``"identity"``, or ``"array"`` (numbered).
        names: Of the arguments; of an array its number.
        functions: Of each argument, the function of it.
        shift: Of ``"data"``, what is added.
        split: Of ``"sum"``, how many of the axes are the first argument's.
    """

    axes: tuple[Axis, ...]
    value: Any
    form: str
    names: tuple[Any, ...] = ()
    functions: tuple[str, ...] = ()
    shift: float = 0.0
    split: int = 0

    def array(self, moments: Mapping[Moment, np.ndarray]) -> np.ndarray:
        return np.asarray(self.value, float)

    def renamed(self, names: Mapping[Axis, Axis]) -> Known:
        return replace(self, axes=tuple(names.get(a, a) for a in self.axes))

    def key(self, number: Numbering) -> tuple[Any, ...]:
        return (self.form, self.names, self.functions, self.shift, self.split, tuple(map(number, self.axes)))


@dataclass(frozen=True, eq=False)
class Place:
    """A place that an array of integers gives; ``name`` is the argument that the array is, or its number."""

    integers: Any
    axes: tuple[Axis, ...]
    name: str | int

    def renamed(self, names: Mapping[Axis, Axis]) -> Place:
        return replace(self, axes=tuple(names.get(a, a) for a in self.axes))


def _index_axes(index: Sequence[Axis | Place]) -> tuple[Axis, ...]:
    out: dict[Axis, None] = {}
    for i in index:
        out.update(dict.fromkeys(i.axes if isinstance(i, Place) else (i,)))
    return tuple(out)


def _renamed(i: Axis | Place, names: Mapping[Axis, Axis]) -> Axis | Place:
    return i.renamed(names) if isinstance(i, Place) else names.get(i, i)


def _index_key(i: Axis | Place, number: Numbering) -> Any:
    return (i.name, tuple(map(number, i.axes))) if isinstance(i, Place) else number(i)


def _along(i: Axis | Place, axes: Sequence[Axis]) -> np.ndarray:
    """An index as integers that broadcast along axes."""
    own = i.axes if isinstance(i, Place) else (i,)
    values = np.asarray(i.integers) if isinstance(i, Place) else np.arange(i.size)
    order = [a for a in axes if a in own]
    values = values.transpose([own.index(a) for a in order])
    return values.reshape([a.size if a in own else 1 for a in axes])


@dataclass(frozen=True, eq=False)
class MomentAt(Operand):
    """A moment of a block, at an index.

    Attributes:
        moment: Which.
        index: Where.
        half: How many of its last indices may change places with as many before them: a matrix is symmetric, and so
            is <x_i x_j>.
    """

    moment: Moment
    index: tuple[Axis | Place, ...]
    half: int = 0

    @property
    def axes(self) -> tuple[Axis, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _index_axes(self.index)

    def array(self, moments: Mapping[Moment, np.ndarray]) -> np.ndarray:
        whole = np.asarray(moments[self.moment])
        return np.asarray(whole[tuple(_along(i, self.axes) for i in self.index)])

    def renamed(self, names: Mapping[Axis, Axis]) -> MomentAt:
        return replace(self, index=tuple(_renamed(i, names) for i in self.index))

    def key(self, number: Numbering) -> tuple[Any, ...]:
        at = [_index_key(i, number) for i in self.index]
        n = len(at)
        one, two = at[n - 2 * self.half : n - self.half], at[n - self.half :]
        if repr(two) < repr(one):
            at[n - 2 * self.half :] = [*two, *one]
        return ("moment", *self.moment.latents, str(self.moment), *at)


@dataclass(frozen=True, eq=False)
class Bracket(Operand):
    """1 where two indices are the same, else 0."""

    left: Axis | Place
    right: Axis

    @property
    def axes(self) -> tuple[Axis, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _index_axes((self.left, self.right))

    def array(self, moments: Mapping[Moment, np.ndarray]) -> np.ndarray:
        return (_along(self.left, self.axes) == _along(self.right, self.axes)).astype(float)

    def renamed(self, names: Mapping[Axis, Axis]) -> Bracket:
        right = _renamed(self.right, names)
        assert isinstance(right, Axis)
        return Bracket(_renamed(self.left, names), right)

    def key(self, number: Numbering) -> tuple[Any, ...]:
        return ("bracket", _index_key(self.left, number), number(self.right))


@dataclass(frozen=True, eq=False)
class Exponential(Operand):
    """<exp a> of an affine function a of Gaussians, or 1 - <a>.

    Attributes:
        number: Which one, for its symbol.
        axes: Its axes here.
        mean, square: <a> and <a^2>, over ``own``.
        own: The axes they are written with.
        part: ``"value"`` or ``"one minus mean"``.
    """

    number: int
    axes: tuple[Axis, ...]
    mean: tuple[Product, ...]
    square: tuple[Product, ...]
    own: tuple[Axis, ...]
    part: str

    def array(self, moments: Mapping[Moment, np.ndarray]) -> np.ndarray:
        m = total(self.mean, self.own, moments)
        if self.part == "one minus mean":
            return 1 - m
        return np.exp(m + 0.5 * (total(self.square, self.own, moments) - m**2))

    def renamed(self, names: Mapping[Axis, Axis]) -> Exponential:
        return replace(self, axes=tuple(names.get(a, a) for a in self.axes))

    def key(self, number: Numbering) -> tuple[Any, ...]:
        return ("exponential", self.number, self.part, *map(number, self.axes))


@dataclass(frozen=True, eq=False)
class Slope(Operand):
    """weight x the function of a bound, or x its derivative with respect to input ``which``."""

    bound: Any
    which: int | None
    axes: tuple[Axis, ...]

    def array(self, moments: Mapping[Moment, np.ndarray]) -> np.ndarray:
        b = self.bound
        shape = [a.size for a in b.axes]
        arrays = [jnp.broadcast_to(jnp.asarray(total(i, b.axes, moments)), shape) for i in b.inputs]
        weight = np.broadcast_to(total(b.weight, b.axes, moments), shape)
        if self.which is None:
            return np.asarray(b.function(*arrays)) * weight
        slope = jax.grad(lambda *x: b.function(*x).sum(), argnums=self.which)(*arrays)
        return np.asarray(slope) * weight

    def renamed(self, names: Mapping[Axis, Axis]) -> Slope:
        return replace(self, axes=tuple(names.get(a, a) for a in self.axes))

    def key(self, number: Numbering) -> tuple[Any, ...]:
        return ("slope", self.bound.number, self.which, *map(number, self.axes))


@dataclass(frozen=True, eq=False)
class Product:
    """number x the operands, summed over every axis that is not free."""

    number: float
    operands: tuple[Operand, ...]
    free: tuple[Axis, ...] = ()

    @property
    def summed(self) -> tuple[Axis, ...]:
        return tuple(dict.fromkeys(a for o in self.operands for a in o.axes if a not in self.free))

    def key(self) -> Any:
        """Equal for products that are the same but for their number, as far as the order of operands tells."""
        names: dict[Axis, Any] = {a: f"free {i}" for i, a in enumerate(self.free)}
        # Those with two halves come last, when the axes that they share with others have got their names.
        blind = sorted(self.operands, key=lambda o: (getattr(o, "half", 0), repr(o.key(lambda a: a.size))))
        return tuple(o.key(lambda a: names.setdefault(a, len(names))) for o in blind)

    def value(self, moments: Mapping[Moment, np.ndarray]) -> np.ndarray:
        """Over the free axes."""
        names: dict[Axis, int] = {}
        arguments: list[Any] = []
        for a in self.free:
            arguments += [np.ones(a.size), [names.setdefault(a, len(names))]]
        for o in self.operands:
            arguments += [o.array(moments), [names.setdefault(a, len(names)) for a in o.axes]]
        if not arguments:
            return np.asarray(self.number)
        return self.number * np.einsum(*arguments, [names[a] for a in self.free], optimize=True)


def total(products: Sequence[Product], free: Sequence[Axis], moments: Mapping[Moment, np.ndarray]) -> np.ndarray:
    """Their sum, over the free axes."""
    out = np.zeros([a.size for a in free])
    for p in products:
        out = out + p.value(moments)
    return out
