r"""The ELBO and the updates, written down: sums of products of numbers, arrays and moments, index by index.

A term of an expectation is  c sum_{ij..} X_ij <x_i> <y_j>: a :class:`Product` of operands that share axes. It is
printed by :mod:`~lowerbound.explanation.typeset` and evaluated here by ``einsum``, from the same operands, so that what
is on paper can be compared with what is computed. An update's natural parameter is the derivative with respect to one
moment: the product without it,

    d/d<x_k>  sum_{ij} X_ij <x_i> <y_j>  =  sum_j X_kj <y_j>,

and where the moment was looked up or on a diagonal, a bracket [g_n = k] says which terms count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from lowerbound.algorithms.factored import Factored
from lowerbound.expectations.axes import Axis, Index, Lookup
from lowerbound.expectations.functions import IDENTITY, INVERSE
from lowerbound.expectations.moments import BoundExpectation, Contraction, Expectation
from lowerbound.expectations.structure import Moment, Structure
from lowerbound.expectations.supports import from_real
from lowerbound.explanation.constants import Arrays
from lowerbound.explanation.derivation import Derivation
from lowerbound.explanation.operands import (
    Bracket,
    Exponential,
    MomentAt,
    Operand,
    Place,
    Product,
    Slope,
    total,
)
from lowerbound.families.exponential import ExponentialBlock, TabulatedBlock
from lowerbound.precision import float64


@dataclass(frozen=True, eq=False)
class WrittenBound:
    """A bound: weight x function(inputs), given discrete values, summed over its axes.

    Attributes:
        number: Which one, for its symbols.
        name: Of the augmentation.
        axes: Along which it runs.
        inputs: The expectations it is a function of, over its axes.
        weight: What each element counts.
        indicators: The discrete values it is given.
        function: From inputs to the bound.
    """

    number: int
    name: str
    axes: tuple[Axis, ...]
    inputs: tuple[tuple[Product, ...], ...]
    weight: tuple[Product, ...]
    indicators: tuple[MomentAt, ...]
    function: Any

    def term(self) -> Product:
        return Product(1.0, (Slope(self, None, self.axes), *self.indicators))


@dataclass(frozen=True, eq=False)
class WrittenFactor:
    """One factor's expectation."""

    name: str
    latents: tuple[str, ...]
    products: tuple[Product, ...]
    bounds: tuple[WrittenBound, ...]

    @property
    def all(self) -> tuple[Product, ...]:
        return (*self.products, *(b.term() for b in self.bounds))


@dataclass(frozen=True, eq=False)
class WrittenUpdate:
    """One block's natural parameters.

    Attributes:
        block: It.
        axes: For each statistic, the axes of its natural parameter.
        parameters: For each statistic, what each factor adds to it.
    """

    block: ExponentialBlock
    axes: dict[Moment, tuple[Axis, ...]]
    parameters: dict[Moment, dict[str, tuple[Product, ...]]]


@dataclass(frozen=True, eq=False)
class Equations:
    """Everything that is printed."""

    derivation: Derivation
    factors: tuple[WrittenFactor, ...]
    updates: tuple[WrittenUpdate, ...]
    arrays: Arrays

    @property
    def factored(self) -> Factored:
        assert self.derivation.factored is not None
        return self.derivation.factored


def written(d: Derivation) -> Equations:
    """A derivation as products of operands."""
    assert d.factored is not None
    arrays = Arrays(dict(zip(d.model.argument_names, d.model.arguments, strict=True)))
    writer = _Writer(arrays, d.structure)
    factors = tuple(
        WrittenFactor(
            f.factor.name,
            f.factor.latents,
            merged([writer.product(t) for t in f.terms]),
            tuple(writer.bound(b) for b in f.bounds),
        )
        for f in d.factors
    )
    updates = tuple(_update(b, factors, d) for b in d.factored.blocks)
    return Equations(d, factors, updates, arrays)


class _Writer:
    """From contractions of the algebra to products."""

    def __init__(self, arrays: Arrays, structure: Structure):
        self.arrays, self.structure = arrays, structure
        self.bounds, self.exponents = 0, 0

    def product(self, t: Contraction, free: Sequence[Axis] = ()) -> Product:
        number = 1.0
        operands: list[Operand] = []
        axes: dict[Axis, None] = {}
        for c in t.constants:
            axes.update(dict.fromkeys(c.axes))
            scale, found = self.arrays.written(c)
            number *= scale
            operands += found
        for m, index in t.moments:
            at = MomentAt(m, tuple(self.place(i) for i in index), symmetric(m, self.structure))
            axes.update(dict.fromkeys(at.axes))
            operands.append(at)
        if t.exponents is not None:
            self.exponents += 1
            mean, square = (self.sum(e, t.exponent_axes) for e in t.exponents)
            operands.append(Exponential(self.exponents, t.exponent_axes, mean, square, t.exponent_axes, "value"))
            axes.update(dict.fromkeys(t.exponent_axes))
        # An array that is the same all along an axis was written without it: what sums over it, counts it.
        there = {a for o in operands for a in o.axes}
        for a in axes:
            if a not in there and a not in free:
                number *= a.size
        return Product(number, tuple(operands), tuple(free))

    def sum(self, e: Expectation, free: Sequence[Axis]) -> tuple[Product, ...]:
        return merged([self.product(p, free) for p in e.parts])

    def bound(self, b: BoundExpectation) -> WrittenBound:
        self.bounds += 1
        return WrittenBound(
            self.bounds,
            b.name,
            b.axes,
            tuple(self.sum(e, b.axes) for e in b.inputs),
            self.sum(b.weight, b.axes),
            tuple(MomentAt(m, tuple(self.place(i) for i in index)) for m, index in b.indicators),
            b.function,
        )

    def place(self, i: Index) -> Axis | Place:
        if isinstance(i, Lookup):
            return Place(i.array, i.axes, self.arrays.index_name(i.array))
        return i


def symmetric(m: Moment, structure: Structure) -> int:
    """How many indices each half of a symmetric moment has; 0 where it is none."""
    if m.function is None:
        return len(structure.gaussian[m.latents[0]].dense[m.latents[0]]) if m.latents[:1] == m.latents[1:] else 0
    if len(m.latents) == 3:  # u x x'
        matrix = structure.latents[m.latents[0]].support == "matrix"
        same = m.latents[1] == m.latents[2] and not matrix
        return len(structure.gaussian[m.latents[1]].dense[m.latents[1]]) if same else 0
    if len(m.latents) == 2:
        return 0
    matrix = structure.latents[m.latents[0]].support == "matrix"
    return 1 if matrix and m.function in (IDENTITY, INVERSE) else 0


def merged(products: Sequence[Product]) -> tuple[Product, ...]:
    """Terms that differ only in their number, added up."""
    out: dict[Any, Product] = {}
    for p in products:
        key = p.key()
        out[key] = replace(out[key], number=out[key].number + p.number) if key in out else p
    return tuple(p for p in out.values() if p.number)


# -- updates -----------------------------------------------------------------------------------------


def _update(block: ExponentialBlock, factors: Sequence[WrittenFactor], d: Derivation) -> WrittenUpdate:
    axes: dict[Moment, tuple[Axis, ...]] = {}
    parameters: dict[Moment, dict[str, tuple[Product, ...]]] = {}
    with float64():
        shapes = {k: np.shape(v) for k, v in block.start(np.random.default_rng(0), 0.0).items()}
    for key in block.keys:
        assert isinstance(key, Moment)
        free = tuple(Axis(n) for n in shapes[key])
        axes[key] = free
        parameters[key] = {}
        for f in factors:
            own = merged([q for p in f.all for q in derivative(p, key, free)])
            if own:
                parameters[key][f.name] = own
    return WrittenUpdate(block, axes, parameters)


def derivative(p: Product, key: Moment, free: tuple[Axis, ...]) -> list[Product]:
    """d p / d key, as products over the axes ``free``."""
    out: list[Product] = []
    for n, o in enumerate(p.operands):
        rest = (*p.operands[:n], *p.operands[n + 1 :])
        if isinstance(o, MomentAt) and o.moment == key:
            out.append(_without(replace(p, operands=rest), o, free))
        elif isinstance(o, Exponential) and o.part == "value":
            # exp(m + (s - m^2) / 2):  d/dm = exp(..) (1 - m),  d/ds = exp(..) / 2
            turned = replace(o, part="one minus mean")
            for inner in o.mean:
                for n_, i in enumerate(inner.operands):
                    if isinstance(i, MomentAt) and i.moment == key:
                        others = (*inner.operands[:n_], *inner.operands[n_ + 1 :])
                        whole = Product(p.number * inner.number, (*rest, o, turned, *others))
                        out.append(_without(whole, i, free))
            for inner in o.square:
                for n_, i in enumerate(inner.operands):
                    if isinstance(i, MomentAt) and i.moment == key:
                        others = (*inner.operands[:n_], *inner.operands[n_ + 1 :])
                        whole = Product(0.5 * p.number * inner.number, (*rest, o, *others))
                        out.append(_without(whole, i, free))
        elif isinstance(o, Slope) and o.which is None:
            for j, terms in enumerate(o.bound.inputs):
                slope = replace(o, which=j)
                for inner in terms:
                    for n_, i in enumerate(inner.operands):
                        if isinstance(i, MomentAt) and i.moment == key:
                            others = (*inner.operands[:n_], *inner.operands[n_ + 1 :])
                            out.append(_without(Product(p.number * inner.number, (*rest, slope, *others)), i, free))
    return out


def _without(p: Product, moment: MomentAt, free: tuple[Axis, ...]) -> Product:
    """A product that a moment was taken out of, with that moment's index as its free axes."""
    names: dict[Axis, Axis] = {}
    brackets: list[Operand] = []
    for i, f in zip(moment.index, free, strict=True):
        if isinstance(i, Axis):
            if i in names:
                brackets.append(Bracket(names[i], f))
            else:
                names[i] = f
        else:
            brackets.append(Bracket(i, f))
    operands = tuple(o.renamed(names) for o in (*p.operands, *brackets))
    return Product(p.number, operands, free)


# -- the comparison ----------------------------------------------------------------------------------


def largest_difference(e: Equations, seed: int) -> float:
    """Of what is written from what is computed, relative to the largest number of each array.

    Of symmetric statistics the sum of a coefficient and its transpose is compared, which is all that they have.
    """
    rng = np.random.default_rng(seed)
    f = e.factored
    with float64():
        moments = random_moments(f.blocks, rng)
        keys = list(moments)

        @jax.jit
        def computed(values: list[Any]) -> Any:
            own = dict(zip(keys, values, strict=True))
            best = [f.optimum(i, own) for i in range(len(f.blocks))]
            return f.energy(own), [[n[k] for k in b.keys] for b, n in zip(f.blocks, best, strict=True)]

        energy, best = computed([moments[k] for k in keys])
        parts = [float(total(w.all, (), moments)) for w in e.factors]
        worst = abs(sum(parts) - float(energy)) / max(1.0, *map(abs, parts))
        for update, exacts in zip(e.updates, best, strict=True):
            for (key, axes), exact in zip(update.axes.items(), exacts, strict=True):
                sums = [total(own, axes, moments) for own in update.parameters[key].values()]
                mine = sum(sums, np.zeros(np.shape(exact)))
                size = max([1e-12, float(np.abs(exact).max()), *(float(np.abs(s).max()) for s in sums)])
                off = _both(mine - np.asarray(exact), symmetric(key, f.structure))
                worst = max(worst, float(np.abs(off).max()) / size)
    return worst


def _both(x: np.ndarray, half: int) -> np.ndarray:
    """x plus its transpose."""
    n = x.ndim
    order = [*range(n - 2 * half), *range(n - half, n), *range(n - 2 * half, n - half)]
    return x + x.transpose(order) if half else x


def random_moments(blocks: Sequence[ExponentialBlock], rng: np.random.Generator) -> dict[Any, np.ndarray]:
    """Moments of some distribution in each block's family; of a free form, of three random points."""
    out: dict[Any, np.ndarray] = {}
    closed, naturals = [], []
    for b in blocks:
        if isinstance(b, TabulatedBlock):
            u = rng.standard_normal((3, *b.shape))
            x = from_real(b.support, u, 1 / (1 + np.exp(-u)), np)
            out |= {k: np.asarray(t(x, np)).mean(0) for k, t in b.statistics.items()}
        else:
            start = b.start(rng, 0.3)
            closed.append(b)
            naturals.append([np.asarray(start[k], float) for k in b.keys])

    @jax.jit  # in one program: JAX would compile every operation by itself
    def moments(values: list[Any]) -> list[Any]:
        found = [b.moments(dict(zip(b.keys, v, strict=True))) for b, v in zip(closed, values, strict=True)]
        return [[m[k] for k in b.keys] for b, m in zip(closed, found, strict=True)]

    for b, values in zip(closed, moments(naturals), strict=True):
        out |= {k: np.asarray(v) for k, v in zip(b.keys, values, strict=True)}
    return out
