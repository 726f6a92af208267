r"""Which latents share a block of q, and what is asked of each.

Which moments the factors of a model ask for is found by going through their terms once, and decides what the blocks
are: their sufficient statistics are the functions that occur, no more and no fewer. Real latents are Gaussian. Of an
array of them, elements are dependent along an axis if the log joint has products of elements at different places of it,
and independent otherwise; latents that occur in products with each other, and never at a degree above two together,
form one block.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lowerbound.expectations.atoms import Atom, Latent, NotClosedForm
from lowerbound.expectations.axes import same_index
from lowerbound.expectations.factors import Joint, RandomFactor
from lowerbound.expectations.functions import IDENTITY, INDICATOR, LOG, Function
from lowerbound.expectations.joint_scales import Scaled, scaled_groups
from lowerbound.expectations.supports import is_number
from lowerbound.expectations.values import Term

#: Dimensions of one dense Gaussian, and numbers in the covariances of a block.
DENSE, NUMBERS = 1500, 2**25


class Moment(NamedTuple):
    """One expectation of a block: ``E[function(latent)]``, or of a product of two Gaussian latents."""

    latents: tuple[str, ...]
    function: Function | None = None

    def __str__(self) -> str:
        first, *rest = self.latents
        own = first if self.function is None else self.function.said(first)
        gaussian = len(rest) + (self.function is None)  # E[w w'], E[tau w w']
        return f"E[{' '.join((own, *rest))}{chr(39) if gaussian > 1 else ''}]"


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
        scaled: Gaussian latents and the precisions that they occur with only, by the names of both.
    """

    latents: dict[str, Latent]
    gaussian: dict[str, GaussianGroup]
    statistics: dict[str, tuple[Function, ...]]
    curved: dict[str, str] = field(default_factory=dict)
    scaled: dict[str, Scaled] = field(default_factory=dict)

    def groups(self) -> list[GaussianGroup]:
        return list({id(g): g for g in self.gaussian.values()}.values())

    def scales(self) -> list[Scaled]:
        return list({s.scale: s for s in self.scaled.values()}.values())


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
    mixed: list[tuple[Atom, Atom]] = []  # f(x_i) x_j of one real latent
    for f in factors:
        for bound, _ in f.bounds:
            for t in (t for v in bound.inputs if bound.gaussian for t in v.terms):
                curved |= {a.latent.name: f"the bound by {bound.name}" for a in t.atoms if a.latent.support == "real"}
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
        _refuse_products(f, [a for a in t.atoms if not is_number(a.latent.support)])
        for name, count in Counter(a.latent.name for a in t.atoms if is_number(a.latent.support)).items():
            if count > sum(a.latent.name == name for a in real) + 1:
                curved.setdefault(name, "a product of functions of its elements")
        if degree:
            degrees.append(dict(degree))
        mixed += [(a, b) for a in t.atoms if a.function != IDENTITY for b in real if a.latent is b.latent]
        for n, a in enumerate(real):
            for b in real[n + 1 :]:
                first, second = sorted((a, b), key=lambda x: x.latent.name)
                pairs[first.latent.name, second.latent.name].append((first, second))
    opened = _opened(joint) if sampled else {}
    curved |= {n: f"a factor without a closed form ({name})" for n, name in opened.items()}
    for n in opened:
        if latents[n].support != "real" and not functions[n]:
            functions[n] = dict.fromkeys(_USUAL.get(latents[n].support, ()))
    vectors = {n: v for n, v in latents.items() if v.support == "real"}
    more = {n: _no_plates(joint, n) for n in opened if n in vectors}
    coupled = {p: list(own) for p, own in pairs.items()}
    for a, b in mixed:
        coupled.setdefault((a.latent.name, a.latent.name), []).append((a, b))
    gaussian = _gaussian_groups(vectors, coupled, degrees, joined, more)
    statistics = {n: tuple(fs) for n, fs in functions.items()}
    for name, fs in special.items():
        group = gaussian[name]
        if len(group.latents) > 1 or any(group.dense.values()) or name in opened:
            # Its marginal is a normal distribution: one-dimensional quadrature (:mod:`.quadrature`).
            curved.setdefault(name, f"quadrature of {next(iter(fs)).said(name)}")
            continue
        del gaussian[name]
        squares = any((name, name) == p for p in pairs)
        powers = [IDENTITY] + ([IDENTITY * IDENTITY] if squares else [])
        statistics[name] = (*powers, *fs)
    scaled: dict[str, Scaled] = {}
    if joined:
        terms = [t for _, t in all_terms(factors)]
        scaled = scaled_groups(terms, latents, gaussian, functions, curved)
    return Structure(latents, gaussian, statistics, curved, scaled)


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
                rewrite="sum a chain of discrete latents out in the model by the forward algorithm, and add its log "
                "likelihood by numpyro.factor"
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


def _group(names: Sequence[str], real: Any, dense: Any, pairs: Any) -> GaussianGroup:
    plates = _plates(names, real, dense, pairs) if len(names) > 1 else None
    if len(names) == 1:
        n = names[0]
        plates = {n: tuple(i for i in range(len(real[n].shape)) if i not in dense[n])}
    if plates is None:
        plates = {n: () for n in names}
        dense = {n: tuple(range(len(real[n].shape))) for n in names}
    own = {n: dense[n] for n in names}
    size = sum(math.prod(real[n].shape[i] for i in own[n]) for n in names)
    lead = next(iter(names))
    plate_shape = tuple(real[lead].shape[i] for i in plates[lead])
    count = math.prod(plate_shape)
    if size > 4 * DENSE or count * size**2 > 4 * NUMBERS:
        raise NotClosedForm(
            f"a dense Gaussian of {size:,} dimensions for {', '.join(names)}, whose elements all depend on each other"
        )
    return GaussianGroup(tuple(names), plates, own, plate_shape)
