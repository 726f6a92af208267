r"""The expectation of a term: the product of what each block of q contributes.

q factorises over *blocks*. A term c prod_a f_a(latent_a) is then, in expectation, c times one *moment* for each block
in it: E[x], E[x_i x_j], E[log tau], E[1[z = k]]. A :class:`Structure` says which latents share a block. Which moments
the factors of a model ask for is found by going through their terms once (:func:`structure_of`), and decides what the
block is: its sufficient statistics are the functions that occur, no more and no fewer. So

    E_q[log p(x, z)]  is linear in the moments of each block,

and its gradient with respect to them is the natural parameter of that block's optimum.

Real latents are Gaussian. Of an array of them, elements are dependent along an axis if the log joint has products of
elements at different places of it, and independent otherwise; latents that occur in products with each other, and never
at a degree above two together, form one block.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp

from lowerbound.expectations.axes import Axis, Const, Index, contract, gather, same_index, spread
from lowerbound.expectations.factors import Joint, RandomFactor
from lowerbound.expectations.functions import IDENTITY, INDICATOR, LOG, Function
from lowerbound.expectations.rules.base import Bound
from lowerbound.expectations.values import Atom, Latent, NotClosedForm, Term, Value, align, conditioned

#: Dimensions of one dense Gaussian, and numbers in the covariances of a block.
DENSE, NUMBERS = 1500, 2**25


class Moment(NamedTuple):
    """One expectation of a block: ``E[function(latent)]``, or of a product of two Gaussian latents."""

    latents: tuple[str, ...]
    function: Function | None = None

    def __str__(self) -> str:
        if self.function is None:
            return "E[" + " ".join(self.latents) + "']" if len(self.latents) == 2 else f"E[{self.latents[0]}]"
        return f"E[{str(self.function).replace('x', self.latents[0])}]"


@dataclass(frozen=True, eq=False)
class GaussianGroup:
    """Real latents in one Gaussian block.

    Attributes:
        latents: Their names.
        plates: For each, the axes along which elements are independent (in the same order in all of them).
        dense: For each, the axes along which they are not.
        plate_shape: Sizes of the former.
    """

    latents: tuple[str, ...]
    plates: dict[str, tuple[int, ...]]
    dense: dict[str, tuple[int, ...]]
    plate_shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Structure:
    """Which latents share a block of q, and what is asked of each.

    Attributes:
        latents: Of the model, by name.
        gaussian: The Gaussian groups, by the names of their latents.
        statistics: Of every other latent, the functions whose expectations occur.
        curved: Names of latents in which E_q[log p] is not linear in the moments, with the reason.
    """

    latents: dict[str, Latent]
    gaussian: dict[str, GaussianGroup]
    statistics: dict[str, tuple[Function, ...]]
    curved: dict[str, str] = field(default_factory=dict)

    def groups(self) -> list[GaussianGroup]:
        return list({id(g): g for g in self.gaussian.values()}.values())


# -- which latents are in one block ------------------------------------------------------------------


def all_terms(factors: Iterable[RandomFactor]) -> Iterable[tuple[RandomFactor, Term]]:
    """Every term of every factor, those inside bounds and exponentials among them."""
    for f in factors:
        for t in f.value.terms:
            yield f, t
            yield from ((f, s) for s in _inner(t))
        for bound, weight in f.bounds:
            for v in (*bound.inputs, weight):
                for t in v.terms:
                    yield f, t
                    yield from ((f, s) for s in _inner(t))


def _inner(t: Term) -> Iterable[Term]:
    """exp(a) is a function of the mean and variance of a: of a and of a^2."""
    if t.exponent is not None:
        yield from t.exponent.terms
        yield from (t.exponent * t.exponent).terms


def structure_of(joint: Joint, *, joined: bool = True, sampled: bool = False) -> Structure:
    """Go through all terms once.

    Args:
        joint: The factors of a model; those that are open are left out.
        joined: Whether Gaussian latents may share a block. Otherwise each has its own: mean field between sites.

        sampled: Whether factors without a closed form will be sampled: what they depend on is then curved, a real
            latent among it dense along all axes that are no plates, and a latent that nothing else asks for
            statistics of has those of its usual family.

    Raises:
        NotClosedForm: a moment that no block gives.
    """
    factors = [f for f in joint.factors if f.open is None]
    latents = joint.latents
    pairs: dict[tuple[str, str], list[tuple[Atom, Atom]]] = defaultdict(list)
    degrees: list[dict[str, int]] = []
    functions: dict[str, dict[Function, None]] = {n: {} for n, v in latents.items() if v.support != "real"}
    curved: dict[str, str] = {}
    special: dict[str, dict[Function, None]] = defaultdict(dict)
    for f, t in all_terms(factors):
        if t.exponent is not None:
            for s in t.exponent.terms:
                for a in s.atoms:
                    curved.setdefault(a.latent.name, "the exponential of an affine function of it")
        degree: dict[str, int] = defaultdict(int)
        real: list[Atom] = []
        for a in t.atoms:
            if a.latent.support == "real":
                if a.function != IDENTITY:
                    special[a.latent.name][a.function] = None
                    continue
                degree[a.latent.name] += 1
                real.append(a)
            else:
                functions[a.latent.name][a.function] = None
        _refuse_products(f, [a for a in t.atoms if a.latent.support != "real"])
        if degree:
            degrees.append(dict(degree))
        for n, a in enumerate(real):
            for b in real[n + 1 :]:
                first, second = sorted((a, b), key=lambda x: x.latent.name)
                pairs[first.latent.name, second.latent.name].append((first, second))
    opened = _opened(joint) if sampled else {}
    curved |= {n: f"a factor without a closed form ({name})" for n, name in opened.items()}
    for n in opened:
        if latents[n].support != "real" and not functions[n]:
            functions[n] = dict.fromkeys(_USUAL.get(latents[n].support, ()))
    real = {n: v for n, v in latents.items() if v.support == "real"}
    more = {n: _no_plates(joint, n) for n in opened if n in real}
    gaussian = _gaussian_groups(real, pairs, degrees, joined, more)
    statistics = {n: tuple(fs) for n, fs in functions.items()}
    for name, fs in special.items():
        group = gaussian.pop(name)
        if len(group.latents) > 1 or any(group.dense.values()):
            raise NotClosedForm(f"{next(iter(fs))} of {name!r}, which depends on other elements in the posterior")
        squares = any((name, name) == p for p in pairs)
        powers = [IDENTITY] + ([IDENTITY * IDENTITY] if squares else [])
        statistics[name] = (*powers, *fs)
    return Structure(latents, gaussian, statistics, curved)


#: Statistics of a latent that only a sampled factor has in it.
_USUAL: dict[str, tuple[Function, ...]] = {
    "positive": (IDENTITY, LOG),
    "unit": (LOG, IDENTITY.log_complement()),
}
#: Elements of a latent in a sampled factor up to which it is dense.
_SAMPLED = 300


def _opened(joint: Joint) -> dict[str, str]:
    """The latents of factors without a closed form, each with the name of one."""
    out: dict[str, str] = {}
    for f in joint.open:
        for n in f.latents:
            if joint.latents[n].values is not None:
                assert f.open is not None
                raise f.open  # a discrete latent has no draws to differentiate through
            out.setdefault(n, f.name)
    return out


def _no_plates(joint: Joint, name: str) -> tuple[int, ...]:
    shape = joint.latents[name].shape
    plates = set(joint.plate_axes.get(name, {}).values())
    axes = tuple(i for i in range(len(shape)) if i not in plates)
    return axes if math.prod(shape[i] for i in axes) <= _SAMPLED else ()


def _refuse_products(f: RandomFactor, atoms: Sequence[Atom]) -> None:
    names = [a.latent.name for a in atoms]
    for n in set(names):
        if names.count(n) > 1:
            e = NotClosedForm(
                f"a product of functions of different elements of {n!r}",
                rewrite="a chain of discrete latents needs its transitions summed together"
                if atoms[names.index(n)].function is INDICATOR
                else "",
            )
            e.factor = f.name
            raise e


def _gaussian_groups(
    real: Mapping[str, Latent],
    pairs: Mapping[tuple[str, str], list[tuple[Atom, Atom]]],
    degrees: Sequence[Mapping[str, int]],
    joined: bool,
    more: Mapping[str, tuple[int, ...]],
) -> dict[str, GaussianGroup]:
    dense = {n: tuple(sorted({*_dense_axes(v, pairs.get((n, n), [])), *more.get(n, ())})) for n, v in real.items()}
    group: dict[str, tuple[str, ...]] = {n: (n,) for n in real}
    if joined:
        for a, b in pairs:
            if a == b or group[a] is group[b]:
                continue
            union = tuple(dict.fromkeys((*group[a], *group[b])))
            if all(sum(d.get(n, 0) for n in union) <= 2 for d in degrees) and _fits(union, real, dense, pairs):
                for n in union:
                    group[n] = union
    out: dict[str, GaussianGroup] = {}
    for n in real:
        if n not in out:
            made = _group(group[n], real, dense, pairs)
            out.update(dict.fromkeys(group[n], made))
    return out


def _dense_axes(latent: Latent, pairs: Sequence[tuple[Atom, Atom]]) -> tuple[int, ...]:
    return tuple(i for i in range(len(latent.shape)) if any(not same_index(a.index[i], b.index[i]) for a, b in pairs))


def _plates(names: Sequence[str], real: Any, dense: Any, pairs: Any) -> dict[str, tuple[int, ...]] | None:
    """Independent axes that all latents of a group have in common; None if they have not the same ones."""
    plates = {n: tuple(i for i in range(len(real[n].shape)) if i not in dense[n]) for n in names}
    first = plates[names[0]]
    sizes = [real[names[0]].shape[i] for i in first]
    for n in names[1:]:
        if [real[n].shape[i] for i in plates[n]] != sizes:
            return None
    for a in names:
        for b in names:
            for x, y in pairs.get((a, b), []):
                if a != b and not all(
                    same_index(x.index[i], y.index[j]) for i, j in zip(plates[a], plates[b], strict=True)
                ):
                    return None
    return plates


def _fits(names: Sequence[str], real: Any, dense: Any, pairs: Any) -> bool:
    plates = _plates(names, real, dense, pairs)
    if plates is None:
        size, count = sum(math.prod(real[n].shape) for n in names), 1
    else:
        size = sum(math.prod(real[n].shape[i] for i in dense[n]) for n in names)
        count = math.prod(real[names[0]].shape[i] for i in plates[names[0]])
    return size <= DENSE and count * size**2 <= NUMBERS


def _group(names: tuple[str, ...], real: Any, dense: Any, pairs: Any) -> GaussianGroup:
    plates = _plates(names, real, dense, pairs) if len(names) > 1 else None
    if len(names) == 1:
        n = names[0]
        plates = {n: tuple(i for i in range(len(real[n].shape)) if i not in dense[n])}
    if plates is None:
        plates = {n: () for n in names}
        dense = {n: tuple(range(len(real[n].shape))) for n in names}
    own = {n: dense[n] for n in names}
    size = sum(math.prod(real[n].shape[i] for i in own[n]) for n in names)
    count = math.prod(real[names[0]].shape[i] for i in plates[names[0]])
    if size > 4 * DENSE or count * size**2 > 4 * NUMBERS:
        raise NotClosedForm(
            f"a dense Gaussian of {size:,} dimensions for {', '.join(names)}, whose elements all depend on each other"
        )
    return GaussianGroup(names, plates, own, tuple(real[names[0]].shape[i] for i in plates[names[0]]))


# -- the expectation itself --------------------------------------------------------------------------

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

    def __call__(self, moments: Moments) -> Const:
        operands = list(self.constants)
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
    return Expectation(axes, tuple(_contraction(t, axes, structure) for t in value.terms))


def _contraction(t: Term, axes: tuple[Axis, ...], structure: Structure) -> Contraction:
    moments: list[tuple[Moment, tuple[Index, ...]]] = []
    real: dict[int, list[Atom]] = defaultdict(list)
    tabled: dict[str, list[Atom]] = defaultdict(list)
    for a in t.atoms:
        name = a.latent.name
        if name in structure.gaussian:
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
        moments.append(_gaussian_moment(structure.gaussian[atoms[0].latent.name], atoms))
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


def _gaussian_moment(group: GaussianGroup, atoms: Sequence[Atom]) -> tuple[Moment, tuple[Index, ...]]:
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
