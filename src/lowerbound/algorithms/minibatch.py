r"""Some rows of a plate at a time: the terms of the exact ELBO, restricted to them.

A plate's latents are *local*, all others *global*. Terms that run along the plate's rows are *row terms*: over a batch
of b of n rows their sum, times n / b, is an unbiased estimate of the whole. Everything else is exact as it is; so is
whatever has been contracted over the rows beforehand (the cross product of a regression's columns), which then is no
row term.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from lowerbound.algorithms.blocks import blocks_of
from lowerbound.algorithms.coordinate_ascent import CoordinateAscent
from lowerbound.algorithms.factored import Factored
from lowerbound.errors import IncompatibleError
from lowerbound.expectations.axes import Axis, Const, Index, Lookup, index_axes
from lowerbound.expectations.moments import BoundExpectation, Contraction, Expectation
from lowerbound.expectations.structure import Moment
from lowerbound.families.exponential import ExponentialBlock


def data_plate(factored: Factored) -> str:
    """The plate with most rows that terms run along.

    Raises:
        IncompatibleError: there is none.
    """
    sizes: dict[str, int] = {}
    for a, plate in row_axes(factored).items():
        sizes[plate] = max(sizes.get(plate, 0), a.size)
    if not sizes:
        raise IncompatibleError(
            "minibatches need a plate of rows: put the observed site inside `with numpyro.plate('rows', n):`, and "
            "every latent that each row has of its own."
        )
    return max(sizes, key=lambda p: sizes[p])


def row_axes(factored: Factored) -> dict[Axis, str]:
    """The axes of terms that run along plates: those of their factors, and those that index a plate's own latents."""
    out = dict(factored.rows)
    for plate in dict.fromkeys(p for own in factored.plate_axes.values() for p in own):
        for t in (*factored.terms, *factored.bounds):
            for i in _own_indices(factored, plate, t):
                if isinstance(i, Axis):
                    out.setdefault(i, plate)
    return out


def axes_along(factored: Factored, plate: str) -> set[Axis]:
    """The axes that run along one plate. (Another plate of its size may be how a factor of its latents is written.)"""
    own = {a for a, p in factored.rows.items() if p == plate}
    for t in (*factored.terms, *factored.bounds):
        own |= {i for i in _own_indices(factored, plate, t) if isinstance(i, Axis)}
    return own


def _own_indices(factored: Factored, plate: str, t: Any) -> list[Index | None]:
    """By what the latents of a plate are indexed in a term, along the plate; None where their rows are not apart."""
    out: list[Index | None] = []
    for m, index in _all_moments(t):
        for n in dict.fromkeys(m.latents):
            if plate in factored.plate_axes.get(n, {}):
                place = place_of(factored, m, n, plate)
                out.append(None if place is None or place >= len(index) else index[place])
    return out


def place_of(factored: Factored, m: Any, name: str, plate: str) -> int | None:
    """Which axis of a moment (and its natural parameter) runs along a plate of one of its latents; None if two do."""
    place = factored.plate_axes[name][plate]
    group = factored.structure.gaussian.get(name)
    if group is None or len(m.latents) == 1:
        return place
    return group.plates[name].index(place) if place in group.plates[name] else None  # E[x y']: plates first


def _all_moments(t: Any) -> list[tuple[Moment, tuple[Index, ...]]]:
    """The moments of a term or a bound, those inside of it among them, each with its index."""
    if isinstance(t, BoundExpectation):
        inside = [m for e in (*t.inputs, t.weight) for p in e.parts for m in _all_moments(p)]
        return [*t.indicators, *inside]
    assert isinstance(t, Contraction)
    return [*t.moments, *(m for e in t.exponents or () for p in e.parts for m in _all_moments(p))]


@dataclass(frozen=True, eq=False)
class Batched:
    """The exact ELBO of a model, some rows of a plate at a time.

    Args:
        factored: Of all rows.
        plate: Name of the plate.
        size: Rows of a batch.

    Attributes:
        rows: Rows in all.
        local, shared: Indices of the blocks of the plate's latents, and of the others.
        local_blocks: The former, for one batch.
        row_terms, row_bounds: What runs along the plate.
        other_terms, other_bounds: What does not.
    """

    factored: Factored
    plate: str
    size: int
    rows: int = field(init=False)
    local: list[int] = field(init=False)
    shared: list[int] = field(init=False)
    local_blocks: list[ExponentialBlock] = field(init=False)
    row_terms: list[tuple[Contraction, Axis]] = field(init=False)
    other_terms: list[Contraction] = field(init=False)
    row_bounds: list[tuple[BoundExpectation, Axis]] = field(init=False)
    other_bounds: list[BoundExpectation] = field(init=False)

    def __post_init__(self) -> None:
        f, put = self.factored, object.__setattr__
        if f.sampled:
            raise IncompatibleError(
                f"factor {f.sampled[0].name!r} has no closed form, so minibatches of it are not taken. Use "
                "algorithm='conjugate_computation'."
            )
        axes = axes_along(f, self.plate)
        if not axes:
            raise IncompatibleError(
                f"no term of the model runs along the plate {self.plate!r}; there is nothing to take minibatches of."
            )
        put(self, "rows", max(a.size for a in axes))
        names = [n for n, p in f.plate_axes.items() if self.plate in p]
        put(self, "local", [i for i, b in enumerate(f.blocks) if any(n in names for n in b.latents)])
        put(self, "shared", [i for i in range(len(f.blocks)) if i not in self.local])
        for i in self.local:
            if f.blocks[i].latents[0] in f.structure.scaled:
                raise IncompatibleError(
                    f"{' and '.join(f.blocks[i].latents)} share a block of q in every row. Use joined=False."
                )
            mixed = [n for n in f.blocks[i].latents if n not in names]
            if mixed:
                raise IncompatibleError(
                    f"{', '.join(mixed)} shares a block of q with latents of the plate {self.plate!r}, so that no row "
                    "can be left out. Use joined=False."
                )
        self._check(axes)
        put(self, "local_blocks", self._resized(self.size))
        split: tuple[list[Any], list[Any]] = ([], [])
        for t in f.terms:
            assert isinstance(t, Contraction)
            mine = _axes_of(t) & axes
            if len(mine) > 1:
                raise IncompatibleError(f"a term of the model couples rows of the plate {self.plate!r} in pairs.")
            (split[0] if mine else split[1]).append((t, mine.pop()) if mine else t)
        put(self, "row_terms", split[0])
        put(self, "other_terms", split[1])
        bounds: tuple[list[Any], list[Any]] = ([], [])
        for b in f.bounds:
            mine = set(b.axes) & axes
            (bounds[0] if mine else bounds[1]).append((b, mine.pop()) if mine else b)
        put(self, "row_bounds", bounds[0])
        put(self, "other_bounds", bounds[1])

    def _check(self, axes: set[Axis]) -> None:
        """Refuse a term with latents of rows that are not those of the term's own row."""
        f = self.factored
        for t in (*f.terms, *f.bounds):
            mine = (set(t.axes) if isinstance(t, BoundExpectation) else _axes_of(t)) & axes
            for i in _own_indices(f, self.plate, t):
                if isinstance(i, Axis) and i in mine:
                    continue
                names = sorted({n for m in t.needs for n in m.latents if self.plate in f.plate_axes.get(n, {})})
                how = "each on all others" if i is None else "by looking them up"
                raise IncompatibleError(
                    f"a term of the model depends on {', '.join(names)} of several rows of the plate {self.plate!r}, "
                    f"{how}, so that no row can be left out. Take minibatches of another plate (plate=...), or use "
                    "algorithm='coordinate_ascent'."
                )

    def _resized(self, size: int) -> list[ExponentialBlock]:
        """The local blocks for so many rows."""
        f = self.factored
        latents = dict(f.structure.latents)
        for n, places in f.plate_axes.items():
            if self.plate in places:
                shape = list(latents[n].shape)
                shape[places[self.plate]] = size
                latents[n] = dataclasses.replace(latents[n], shape=tuple(shape))
        structure = dataclasses.replace(f.structure, latents=latents)
        groups = {}
        for g in structure.groups():
            lead = g.latents[0]
            plate_shape = tuple(latents[lead].shape[i] for i in g.plates[lead])
            groups |= dict.fromkeys(g.latents, dataclasses.replace(g, plate_shape=plate_shape))
        structure = dataclasses.replace(structure, gaussian={n: groups[n] for n in structure.gaussian})
        needed = {m for p in (*f.terms, *f.bounds) for m in p.needs}
        blocks = blocks_of(structure, needed)
        return [next(b for b in blocks if b.latents == f.blocks[i].latents) for i in self.local]

    # -- traceable by JAX ----------------------------------------------------------------------------

    def restricted(self, rows: Any) -> tuple[list[Contraction], list[BoundExpectation]]:
        """The row terms and bounds on a batch ``rows [size]`` of row numbers."""
        local = {n for i in self.local for n in self.factored.blocks[i].latents}
        terms = [_restricted(t, a, Axis(self.size), rows, local) for t, a in self.row_terms]
        bounds = [_restricted_bound(b, a, Axis(self.size), rows, local) for b, a in self.row_bounds]
        return terms, bounds

    def subset(self, rows: np.ndarray) -> Factored:
        """The exact ELBO of these rows alone, each counted as often as makes them all of the data."""
        f = self.factored
        terms, bounds = self.restricted(rows)
        times = Const(np.asarray(self.rows / len(rows)), ())
        scaled = [dataclasses.replace(t, constants=(*t.constants, times)) for t in terms]
        weighed = [dataclasses.replace(b, weight=_times(b.weight, times)) for b in bounds]
        blocks = list(f.blocks)
        latents = dict(f.structure.latents)
        for i, b in zip(self.local, self.local_blocks, strict=True):
            blocks[i] = repeated(b, self.rows / len(rows))
            for n in b.latents:
                shape = list(latents[n].shape)
                shape[f.plate_axes[n][self.plate]] = len(rows)
                latents[n] = dataclasses.replace(latents[n], shape=tuple(shape))
        structure = dataclasses.replace(f.structure, latents=latents)
        return Factored(structure, blocks, [*scaled, *self.other_terms], [*weighed, *self.other_bounds])

    def energy(self, moments: Mapping[Any, Any], terms: Sequence[Any], bounds: Sequence[Any]) -> Any:
        return self.factored.energy(moments, terms, bounds)


def repeated(block: ExponentialBlock, times: float) -> ExponentialBlock:
    """A block of rows that count several times: each of so many copies has the same q, and an entropy of its own.

    The row terms being counted as often, the slope of all copies' terms is ``times`` that of one.
    """
    out = copy.copy(block)
    out.times = times
    natural, entropy = block.natural, block.entropy
    out.natural = lambda gradient: natural({k: g / times for k, g in gradient.items()})  # pyright: ignore
    out.entropy = lambda n: times * entropy(n)  # pyright: ignore
    return out


def _times(e: Expectation, c: Const) -> Expectation:
    return Expectation(e.axes, tuple(dataclasses.replace(p, constants=(*p.constants, c)) for p in e.parts))


def started(
    factored: Factored, plate: str, seed: int, init: Mapping[str, Any] | None, joined: bool
) -> list[dict[Any, Any]]:
    """Natural parameters of all blocks to begin with: those of the global ones fitted to some of the rows.

    Args:
        factored: The exact ELBO of all rows.
        plate: Of the rows.
        seed: Of the starts.
        init: Given values of global latents.
        joined: Whether Gaussian sites share blocks.
    """
    whole = Batched(factored, plate, 1)
    rng = np.random.default_rng([seed, 14])
    rows = np.sort(rng.choice(whole.rows, min(_START_ROWS, whole.rows), replace=False))
    some = Batched(factored, plate, len(rows)).subset(rows)
    begin = CoordinateAscent(joined=joined, init_values=init)
    state = begin.init(seed, some, None)
    for _ in range(_START_STEPS):
        state, info = begin.step(state)
        if info.status is not None:
            break
    found = begin.output(state)
    out = [dict(b.start(rng, 1.0)) for b in factored.blocks]
    for i in whole.shared:
        out[i] = found[i]
    return out


#: Rows that a start is fitted to, and steps of that fit.
_START_ROWS, _START_STEPS = 600, 4


def _axes_of(t: Any) -> set[Axis]:
    out = {a for c in t.constants for a in c.axes}
    out |= {a for _, i in t.moments for a in index_axes(i)}
    return out | set(t.exponent_axes)


def _restricted_index(index: Sequence[Index], axis: Axis, new: Axis, rows: Any, local: bool) -> tuple[Index, ...]:
    out: list[Index] = []
    for i in index:
        if i is axis:
            out.append(new if local else Lookup(rows, (new,)))
        elif isinstance(i, Lookup) and axis in i.axes:
            if local:
                raise IncompatibleError("a row looks up a latent of another row, so that rows cannot be left out.")
            place = i.axes.index(axis)
            taken = jnp.take(jnp.asarray(i.array), rows, axis=place)
            out.append(Lookup(taken, (*i.axes[:place], new, *i.axes[place + 1 :])))
        else:
            out.append(i)
    return tuple(out)


def _restricted_const(c: Const, axis: Axis, new: Axis, rows: Any) -> Const:
    if axis not in c.axes:
        return c
    place = c.axes.index(axis)
    return Const(jnp.take(jnp.asarray(c.array), rows, axis=place), (*c.axes[:place], new, *c.axes[place + 1 :]))


def _restricted(t: Contraction, axis: Axis, new: Axis, rows: Any, local: set[str]) -> Contraction:
    def swap(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(new if a is axis else a for a in axes)

    exponents = t.exponents
    if exponents is not None:
        first, second = (_restricted_expectation(e, axis, new, rows, local) for e in exponents)
        exponents = first, second
    return Contraction(
        tuple(_restricted_const(c, axis, new, rows) for c in t.constants),
        tuple((m, _restricted_index(i, axis, new, rows, m.latents[-1] in local)) for m, i in t.moments),
        exponents,
        swap(t.exponent_axes),
        swap(t.axes),
    )


def _restricted_expectation(e: Expectation, axis: Axis, new: Axis, rows: Any, local: set[str]) -> Expectation:
    axes = tuple(new if a is axis else a for a in e.axes)
    return Expectation(axes, tuple(_restricted(p, axis, new, rows, local) for p in e.parts))


def _restricted_bound(b: BoundExpectation, axis: Axis, new: Axis, rows: Any, local: set[str]) -> BoundExpectation:
    return BoundExpectation(
        b.name,
        b.function,
        tuple(_restricted_expectation(e, axis, new, rows, local) for e in b.inputs),
        _restricted_expectation(b.weight, axis, new, rows, local),
        tuple((m, _restricted_index(i, axis, new, rows, m.latents[-1] in local)) for m, i in b.indicators),
        tuple(new if a is axis else a for a in b.axes),
    )
