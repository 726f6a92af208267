r"""The expectation of a term: the product of what each block of q contributes.

q factorises over *blocks*. A term c prod_a f_a(latent_a) is then, in expectation, c times one *moment* for each block
in it: E[x], E[x_i x_j], E[log tau], E[1[z = k]]. A :class:`Structure` says which latents share a block. Which moments
the factors of a model ask for is found by going through their terms once (:func:`structure_of`), and decides what the
block is: its sufficient statistics are the functions that occur, no more and no fewer. So

    E_q[log p(x, z)]  is linear in the moments of each block,

and its gradient with respect to them is the natural parameter of that block's optimum.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer

from lowerbound.expectations.atoms import Atom, NotClosedForm
from lowerbound.expectations.axes import Axis, Const, Index, contract, gather, index_axes, of_data, same_index, spread
from lowerbound.expectations.functions import IDENTITY, INDICATOR
from lowerbound.expectations.joint_scales import joint_moment
from lowerbound.expectations.rules.base import Bound
from lowerbound.expectations.structure import GaussianGroup, Moment, Structure
from lowerbound.expectations.tables import conditioned
from lowerbound.expectations.values import Term, Value, align

Moments = Mapping[Moment, Any]


@dataclass(frozen=True, eq=False)
class Contraction:
    """The expectation of a term, as constants and moments to be multiplied and summed."""

    constants: tuple[Const, ...]
    moments: tuple[tuple[Moment, tuple[Index, ...]], ...]
    exponents: tuple[Expectation, Expectation] | None
    exponent_axes: tuple[Axis, ...]
    axes: tuple[Axis, ...]

    @property
    def needs(self) -> set[Moment]:
        out = {m for m, _ in self.moments}
        if self.exponents is not None:
            out |= self.exponents[0].needs | self.exponents[1].needs
        return out

    def alike(self, moment: Moment, dimension: int) -> bool:
        """Whether the coefficient of a moment is the same all along a dimension: nothing else has its axis."""
        if self.exponents is not None:
            return moment not in self.needs
        seen = [a for c in self.constants for a in c.axes] + list(self.axes)
        seen += [a for _, index in self.moments for i in index for a in index_axes([i])]
        own = [index[dimension] for m, index in self.moments if m == moment]
        return all(isinstance(a, Axis) and seen.count(a) == 1 for a in own)

    def __call__(self, moments: Moments) -> Const:
        traced = any(isinstance(m, Tracer) for m in moments.values())
        operands = [Const(of_data(c.array), c.axes) for c in self.constants] if traced else list(self.constants)
        for m, index in self.moments:
            operands.append(gather(moments[m], index))
        if self.exponents is not None:
            first, second = (e(moments) for e in self.exponents)
            axes = self.exponent_axes
            mean, square = spread(first, axes), spread(second, axes)
            # log E exp(a) = E a + Var(a) / 2 for a Gaussian a
            operands.append(_held(jnp.exp(mean + 0.5 * (square - mean**2)), axes))
        if not operands:
            return Const(jnp.ones(()), ())
        return contract(operands, self.axes)


def _held(array: Any, axes: tuple[Axis, ...]) -> Const:
    """An array over axes, without those along which it has size one for want of dependence."""
    keep = [n for n, a in enumerate(axes) if array.shape[n] == a.size]
    return Const(array.reshape([array.shape[n] for n in keep]), tuple(axes[n] for n in keep))


@dataclass(frozen=True, eq=False)
class Expectation:
    """The expectation of a value, a function of moments."""

    axes: tuple[Axis, ...]
    parts: tuple[Contraction, ...]

    @property
    def needs(self) -> set[Moment]:
        return {m for p in self.parts for m in p.needs}

    def __call__(self, moments: Moments) -> Const:
        total: Const | None = None
        for p in self.parts:
            c = p(moments)
            if total is None:
                total = c
                continue
            axes = tuple(a for a in self.axes if a in total.axes or a in c.axes)
            total = Const(spread(total, axes) + spread(c, axes), axes)
        return Const(jnp.zeros(()), ()) if total is None else total

    def full(self, moments: Moments, axes: Sequence[Axis]) -> Any:
        """As an array that broadcasts along ``axes``."""
        return spread(self(moments), axes)


def expectation(value: Value, structure: Structure) -> Expectation:
    """E_q[value] as a function of the moments of a structure."""
    axes = tuple(a for a in value.axes if a is not None)
    return Expectation(axes, tuple(contraction(t, axes, structure) for t in value.terms))


def contraction(t: Term, axes: tuple[Axis, ...], structure: Structure) -> Contraction:
    """The expectation of one term, along ``axes``; summed over all others."""
    moments: list[tuple[Moment, tuple[Index, ...]]] = []
    real: dict[int, list[Atom]] = defaultdict(list)
    tabled: dict[str, list[Atom]] = defaultdict(list)
    scales: dict[str, Atom] = {}
    if structure.scaled:
        inside = {a.latent.name for a in t.atoms}
        for a in t.atoms:
            s = structure.scaled.get(a.latent.name)
            if s is not None and s.scale == a.latent.name and inside & set(s.group.latents):
                scales[a.latent.name] = a
    for a in t.atoms:
        name = a.latent.name
        if name in scales:
            continue
        if name in structure.gaussian:
            if a.function != IDENTITY:
                raise NotClosedForm(f"{a.function.said(name)} inside of another function, {name!r} being Gaussian")
            real[id(structure.gaussian[name])].append(a)
        elif a.latent.support == "real":
            tabled[name].append(a)
        else:
            moments.append((Moment((name,), a.function), a.index))
    for name, atoms in tabled.items():
        first = atoms[0]
        f = first.function
        for a in atoms[1:]:
            if not first.same_place(a):
                raise NotClosedForm(f"a product of functions of different elements of {name!r}")
            f = f * a.function
        moments.append((Moment((name,), f), first.index))
    for atoms in real.values():
        s = structure.scaled.get(atoms[0].latent.name)
        if s is not None:
            names, index = joint_moment(s, scales[s.scale], atoms)
            moments.append((Moment(names, s.function), index))
            continue
        moments.append(gaussian_moment(structure.gaussian[atoms[0].latent.name], atoms))
    exponents, exponent_axes = None, ()
    if t.exponent is not None:
        inside = {a.latent.name for s in t.exponent.terms for a in s.atoms}
        if any(a.latent.name in structure.gaussian and _shares(structure, a.latent.name, inside) for a in t.atoms):
            raise NotClosedForm("the exponential of a Gaussian times that Gaussian")
        for n in sorted(inside - set(structure.gaussian)):  # another function of it has made it something else
            raise NotClosedForm(f"the exponential of {n!r}, which is not Gaussian in the posterior")
        exponents = expectation(t.exponent, structure), expectation(t.exponent * t.exponent, structure)
        exponent_axes = tuple(a for a in t.exponent.axes if a is not None)
    return Contraction(_together(t.constants), tuple(moments), exponents, exponent_axes, axes)


#: Numbers of a product of constants that is kept, to be computed once.
_KEPT = 2**22


def _together(constants: tuple[Const, ...]) -> tuple[Const, ...]:
    """Known constants multiplied, where the product is not too large: an outer product of rows with themselves."""
    axes = tuple(dict.fromkeys(a for c in constants for a in c.axes))
    if len(constants) < 2 or not all(c.known for c in constants) or math.prod(a.size for a in axes) > _KEPT:
        return constants
    return (contract(constants, axes),)


def _shares(structure: Structure, name: str, others: set[str]) -> bool:
    return any(structure.gaussian.get(o) is structure.gaussian[name] for o in others)


def gaussian_moment(group: GaussianGroup, atoms: Sequence[Atom]) -> tuple[Moment, tuple[Index, ...]]:
    """E[x_i] or E[x_i y_j]."""
    if len(atoms) == 1:
        (a,) = atoms
        return Moment((a.latent.name,)), a.index
    if len(atoms) > 2:
        raise NotClosedForm(f"a moment of degree {len(atoms)} of {', '.join(group.latents)}")
    order = {n: i for i, n in enumerate(group.latents)}
    a, b = sorted(atoms, key=lambda x: order[x.latent.name])
    n, m = a.latent.name, b.latent.name
    for i, j in zip(group.plates[n], group.plates[m], strict=True):
        if not same_index(a.index[i], b.index[j]):
            raise NotClosedForm(f"a product of independent elements of {n!r} and {m!r}")
    index = [a.index[i] for i in group.plates[n]]
    index += [a.index[i] for i in group.dense[n]] + [b.index[j] for j in group.dense[m]]
    return Moment((n, m)), tuple(index)


@dataclass(frozen=True, eq=False)
class BoundExpectation:
    """The contribution of a bound: weights times a function of expectations, given each discrete value."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[Expectation, ...]
    weight: Expectation
    indicators: tuple[tuple[Moment, tuple[Index, ...]], ...]
    axes: tuple[Axis, ...]

    @property
    def needs(self) -> set[Moment]:
        return {m for e in (*self.inputs, self.weight) for m in e.needs} | {m for m, _ in self.indicators}

    def __call__(self, moments: Moments) -> Any:
        arrays = [e.full(moments, self.axes) for e in self.inputs]
        out = self.function(*arrays) * self.weight.full(moments, self.axes)
        shape = [a.size for a in self.axes]
        whole = Const(jnp.broadcast_to(out, shape), self.axes)
        return contract([whole, *(gather(moments[m], i) for m, i in self.indicators)], ()).array


def bound_expectation(bound: Bound, weight: Value, structure: Structure) -> BoundExpectation:
    """The expectation of a bound, weighted (by masks and scales), and summed over its elements."""
    inputs: list[Value] = [weight]
    for a in (a for v in bound.inputs if bound.gaussian for t in v.terms for a in t.atoms):
        if a.latent.values is None and a.latent.name not in structure.gaussian:
            raise NotClosedForm(
                f"the bound by {bound.name}, of {a.latent.name!r}, which is not Gaussian in the posterior"
            )
    for v in bound.inputs:
        a, b = align(inputs[0], v)
        inputs = [Value(a.axes, w.terms) for w in inputs] + [b]
    lead = inputs[0]
    # Conditional on the discrete latents inside, all at once: they are added up as one value for each.
    held, parts = _conditioned_together(inputs[1:])
    extra = tuple(h.index[-1] for h in held)
    axes = tuple(a for a in lead.axes if a is not None) + extra  # pyright: ignore[reportOperatorIssue]
    indicators = tuple((Moment((h.latent.name,), INDICATOR), h.index) for h in held)
    return BoundExpectation(
        bound.name,
        bound.function,
        tuple(expectation(p, structure) for p in parts),
        expectation(lead, structure),
        indicators,
        axes,  # pyright: ignore[reportArgumentType]
    )


def _conditioned_together(values: Sequence[Value]) -> tuple[tuple[Atom, ...], list[Value]]:
    """:func:`~lowerbound.expectations.values.conditioned`, of several values by the same indicators."""
    held: list[Atom] = []
    out: list[Value] = []
    for v in values:
        own, given = conditioned(v)
        names: dict[Axis, Axis] = {}
        for h in own:
            same = next((g for g in held if g.latent is h.latent and all(map(same_index, g.place, h.place))), None)
            if same is None:
                held.append(h)
            else:
                names[h.index[-1]] = same.index[-1]  # pyright: ignore
        out.append(given.renamed(names) if names else given)
    extra = tuple(h.index[-1] for h in held)
    whole = []
    for v, given in zip(values, out, strict=True):
        lead = given.axes[: len(v.axes)]
        whole.append(Value((*lead, *extra), given.terms))  # pyright: ignore[reportArgumentType]
    return tuple(held), whole
