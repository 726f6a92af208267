"""What values are made of: latents, and functions of one element of one latent.

An *atom* is f(latent[index]). Its index is made of axes and of lookups (arrays of whole numbers along other axes); to
look a value up elsewhere is to put places for its axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from lowerbound.expectations.axes import Axis, Const, Index, Lookup, gather, index_axes, same_index
from lowerbound.expectations.functions import INDICATOR, Function


class NotClosedForm(Exception):
    """An expectation has no closed form here.

    Attributes:
        operation: What was asked for, in words.
        line: The line of the model it stands on, where known.
        factor: The factor of the model it belongs to.
        rewrite: What would give it one, where something would.
    """

    def __init__(self, operation: str, *, rewrite: str = ""):
        self.operation, self.rewrite = operation, rewrite
        self.line = self.factor = ""
        super().__init__(operation)

    def __str__(self) -> str:
        where = (f"factor {self.factor!r}: " if self.factor else "") + self.operation
        return where + (f" ({self.line})" if self.line else "") + (f"; {self.rewrite}" if self.rewrite else "")


@dataclass(frozen=True, eq=False)
class Latent:
    """A latent site as the algebra sees it.

    Args:
        name: Of the site.
        shape: Of its value; of a discrete site, of one value for each of its plates.
        support: ``"real"``, ``"positive"``, ``"unit"``, ``"[a, b]"``, ``"simplex"``, ``"matrix"`` (positive definite)
            or ``"discrete"``.
        values: The values of a discrete site, else None.
    """

    name: str
    shape: tuple[int, ...]
    support: str
    values: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Atom:
    """f(latent[index]). The index of an indicator ends with the axis k of its values."""

    latent: Latent
    function: Function
    index: tuple[Index, ...]

    def same_place(self, other: Atom) -> bool:
        return self.latent is other.latent and all(map(same_index, self.index, other.index))

    def renamed(self, names: Mapping[Axis, Axis]) -> Atom:
        return replace(self, index=tuple(_renamed(i, names) for i in self.index))

    @property
    def axes(self) -> tuple[Axis, ...]:
        return index_axes(self.index)

    @property
    def place(self) -> tuple[Index, ...]:
        """The index without the axis of an indicator's values."""
        return self.index[:-1] if self.function is INDICATOR else self.index


def _renamed(i: Index, names: Mapping[Axis, Axis]) -> Index:
    if isinstance(i, Axis):
        return names.get(i, i)
    if not any(a in names for a in i.axes):
        return i
    c = Const(i.array, i.axes).renamed(names)
    return Lookup(c.array, c.axes)


def never_both(a: Atom, b: Atom) -> bool:
    """Whether two indicators of one element name different values everywhere."""
    j, k = a.index[-1], b.index[-1]
    both = isinstance(j, Lookup) and isinstance(k, Lookup) and j.axes == () and k.axes == ()
    return both and int(j.array) != int(k.array)  # pyright: ignore


def clash(a: Atom) -> None:
    """Raise: whether they name the same value is not known before the data are."""
    raise NotClosedForm(f"two indicators of {a.latent.name!r} at values that are looked up")


def const_at(c: Const, places: Mapping[Axis, Index]) -> Const:
    """A constant with places for some of its axes."""
    if not any(a in places for a in c.axes):
        return c
    return gather(c.array, [places.get(a, a) for a in c.axes])


def atom_at(atom: Atom, places: Mapping[Axis, Index]) -> Atom:
    """An atom with places for some of its axes."""
    if not any(a in places for a in atom.axes):
        return atom
    return replace(atom, index=tuple(index_at(i, places) for i in atom.index))


def index_at(i: Index, places: Mapping[Axis, Index]) -> Index:
    """An index with places for some of its axes."""
    if isinstance(i, Axis):
        return places.get(i, i)
    if not any(a in places for a in i.axes):
        return i
    c = const_at(Const(i.array, i.axes), places)
    return Lookup(c.array, c.axes)
