"""A row for each latent: its block of q, its update, and why that one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lowerbound.algorithms.factored import Factored
from lowerbound.expectations.moments import Contraction
from lowerbound.expectations.quadrature import QUADRATURE
from lowerbound.expectations.structure import Moment, Structure
from lowerbound.explanation.derivation import Derivation, DerivedFactor
from lowerbound.families.exponential import (
    DirichletBlock,
    ExponentialBlock,
    JointGaussianBlock,
    NormalGammaBlock,
    NormalWishartBlock,
    TabulatedBlock,
    WishartBlock,
)
from lowerbound.model.base import Model

EXACT = "exact, in closed form"
DAMPED = "closed form, damped ({reason})"
_EXP = "exp of an affine function"
GRID = "free form on a grid"
LEFT_OUT = "at the end, given the others"


#: Of each family, the distributions (by the beginning of their names) that are of it.
_PRIORS = {
    "Gaussian": ("Normal", "MultivariateNormal"),
    "Gamma": ("Gamma", "Exponential", "Chi2"),
    "InverseGamma": ("InverseGamma",),
    "Beta": ("Beta",),
    "Dirichlet": ("Dirichlet",),
    "Categorical": ("Categorical", "Bernoulli", "Binomial", "DiscreteUniform"),
    "LogNormal": ("LogNormal",),
    "Wishart": ("Wishart",),
    "InverseWishart": ("InverseWishart",),
}


@dataclass(frozen=True)
class Row:
    """What one latent gets.

    Attributes:
        latent: Its name.
        shape: Of its value.
        plates: Names of the plates it is in.
        family: Of its block.
        shared: Names of the other latents in its block.
        independent: Plates (or axes) along which the block's elements are independent.
        kind: ``"exact"``, ``"damped"``, ``"bound"``, ``"grid"``, ``"sampled"``, or ``"none"`` where discrete latents
            leave nothing but closed forms, and there is none.
        update: The update in words.
        statistics: The expectations that the factors ask for.
        factors: Names of the factors that do, its own first.
        conjugate: Whether its own factor asks for all of them, so that the others leave its family as it is.
        why: The reason in words.
    """

    latent: str
    shape: tuple[int, ...]
    plates: tuple[str, ...]
    family: str
    shared: tuple[str, ...]
    independent: tuple[str, ...]
    kind: str
    update: str
    statistics: tuple[str, ...]
    factors: tuple[str, ...]
    conjugate: bool
    why: str

    @property
    def block(self) -> str:
        """The block in words."""
        parts = [self.family]
        if self.shared:
            parts.append("with " + ", ".join(self.shared))
        out = " ".join(parts)
        return out + (f"; independent along {', '.join(self.independent)}" if self.independent else "")


def rows_of(d: Derivation, fallback: str, drawn: Factored | None = None) -> tuple[Row, ...]:
    """The rows of a model.

    Args:
        d: What was derived from it.
        fallback: The Gaussian fit that takes latents without a closed form, in words.
        drawn: The ELBO with its open factors drawn, where the fit keeps the blocks.
    """
    sites: list[Any] = [*d.model.sites.values(), *d.model.discrete.values()]
    place = {n: i for i, n in enumerate(d.latents)}
    sites.sort(key=lambda s: place.get(s.name, -1))
    return tuple(_row(d, s, fallback, drawn) for s in sites)


def _row(d: Derivation, site: Any, fallback: str, drawn: Factored | None) -> Row:
    name, shape = site.name, tuple(site.shape)
    known = plate_axes(d.model, name)
    plates = (*known.values(), *(p for p in site.plates if p not in known.values()))
    if name in d.leaves:
        why = "not observed, and nothing depends on it: it is summed out of the ascent, and drawn given the others"
        along = axes_named(d.model, name, tuple(range(len(shape))))
        return Row(name, shape, plates, "Categorical", (), along, "exact", LEFT_OUT, (), (name,), False, why)
    problems = [o for o in d.open if name in o.latents]
    block = None
    if d.factored is not None:
        block = next((b for b in d.factored.blocks if name in b.latents), None)
    if problems or block is None:
        o = problems[0] if problems else None
        why = "no factor in closed form asks for it"
        if o is not None:
            why = ("in " + ", ".join(o.factors) + ": " if o.factors else "") + o.operation
        if drawn is not None:
            block = drawn.blocks[drawn.index(name)]
            return Row(
                name,
                shape,
                plates,
                block.family,
                tuple(n for n in block.latents if n != name),
                axes_named(d.model, name, independent_axes(block, name)),
                "sampled",
                "sampled: natural gradient on fixed noise",
                (),
                o.factors if o is not None else (),
                False,
                why,
            )
        # A Gaussian over the continuous latents is no choice beside discrete ones.
        none = bool(d.model.discrete)
        return Row(
            name,
            shape,
            plates,
            "none" if none else "Gaussian (unconstrained)",
            (),
            (),
            "none" if none else "sampled",
            "none: no closed form" if none else f"sampled: {fallback}",
            (),
            o.factors if o is not None else (),
            False,
            why,
        )
    structure = d.structure
    asking = [f for f in d.factors if any(name in m.latents for m in f.needs)]
    asking.sort(key=lambda f: f.factor.name != name)
    asked = {f.factor.name: _asked(f, name, structure) for f in asking}
    statistics = tuple(dict.fromkeys(s for own in asked.values() for s in own))
    others = [f for f in asked if f != name]
    kind, update = _update(d, block)
    own = next((f.factor.kind for f in d.factors if f.factor.name == name), "")
    kept = own.startswith(_PRIORS.get(block.family, ())) or set(statistics) <= set(asked.get(name, ()))
    conjugate = kind == "exact" and kept
    return Row(
        name,
        shape,
        plates,
        block.family,
        tuple(n for n in block.latents if n != name),
        axes_named(d.model, name, independent_axes(block, name)),
        kind,
        update,
        statistics,
        tuple(asked),
        conjugate,
        _why(asked, statistics, conjugate, others) + ("; nothing else depends on it" if name in d.unused else ""),
    )


def _update(d: Derivation, block: ExponentialBlock) -> tuple[str, str]:
    assert d.factored is not None
    i = d.factored.blocks.index(block)
    _, bounds = d.factored.touching(i)
    names = list(dict.fromkeys(b.name for b in bounds if b.name != QUADRATURE))
    curved = d.factored.curved(i)
    reasons = [d.factored.structure.curved.get(n, "") for n in block.latents]
    if names:
        damped = f"; damped ({_EXP})" if any(r.startswith("the exp") for r in reasons) else "; damped"
        return "bound", f"bound: {', '.join(names)}" + (damped if curved else "")
    if curved:
        reason = next(r for r in reasons if r)
        return "damped", DAMPED.format(reason=_EXP if reason.startswith("the exp") else reason)
    if isinstance(block, TabulatedBlock):
        return "grid", GRID
    return "exact", EXACT


def _why(asked: dict[str, list[str]], statistics: Sequence[str], conjugate: bool, others: Sequence[str]) -> str:
    if conjugate:
        said = f"{', '.join(statistics)} in {_factors(list(asked))}"
        return said + (f"; conjugate with {', '.join(others)}" if others else "")
    groups: dict[tuple[str, ...], list[str]] = {}
    for f, own in asked.items():
        groups.setdefault(tuple(own), []).append(f)
    return "; ".join(f"{', '.join(own)} in {_factors(fs)}" for own, fs in groups.items())


def _factors(names: Sequence[str]) -> str:
    return ("factor " if len(names) == 1 else "factors ") + ", ".join(names)


def _asked(f: DerivedFactor, name: str, structure: Structure) -> list[str]:
    """The statistics of a latent that a factor asks for, in words."""
    out: dict[str, None] = {}
    for t in f.terms:
        inside = _exponential_needs(t)
        for m, _ in t.moments:
            if name in m.latents:
                out[said(m, structure)] = None
        if any(name in m.latents for m in inside):
            out["E[exp(affine)]"] = None
    for b in f.bounds:
        for m in sorted(b.needs, key=str):
            if name in m.latents:
                out[said(m, structure)] = None
    return sorted(out, key=lambda s: (len(s), s))


def _exponential_needs(t: Contraction) -> set[Moment]:
    return set() if t.exponents is None else t.exponents[0].needs | t.exponents[1].needs


# -- words -------------------------------------------------------------------------------------------


def said(m: Moment, structure: Structure) -> str:
    """E[w w'], E[log tau], E[1[z = k]]."""
    if m.function is None:
        if len(m.latents) == 1:
            return f"E[{m.latents[0]}]"
        a, b = m.latents
        dense = structure.gaussian[a].dense
        if a == b:
            return f"E[{a} {a}']" if dense[a] else f"E[{a}^2]"
        return f"E[{a} {b}']" if dense[a] and dense[b] else f"E[{a} {b}]"
    rest = "".join(f" {n}" for n in m.latents[1:])  # of a precision and the Gaussian latents that it scales
    return f"E[{m.function.said(m.latents[0])}{rest}]"


def independent_axes(block: ExponentialBlock, name: str) -> tuple[int, ...]:
    """The axes of a latent along which its elements are independent in q."""
    if isinstance(block, JointGaussianBlock):
        return tuple(block.plates[name])
    if isinstance(block, NormalGammaBlock) and name != block.name:
        return tuple(block.gaussian.plates[name])
    if isinstance(block, NormalWishartBlock):
        return tuple(range(len(block.shape) - 2))
    n = len(getattr(block, "shape", ()))
    inside = 1 if isinstance(block, DirichletBlock) else 2 if isinstance(block, WishartBlock) else 0
    return tuple(range(n - inside))


def plate_axes(model: Model, name: str) -> dict[int, str]:
    """Which axis of a latent is which plate: left to right, by size."""
    site = model.sites.get(name) or model.discrete[name]
    out: dict[int, str] = {}
    left = list(site.plates)
    for axis, size in enumerate(site.shape):
        plate = next((p for p in left if model.plate_sizes.get(p) == size), None)
        if plate is not None:
            out[axis] = plate
            left.remove(plate)
    return out


def axes_named(model: Model, name: str, axes: Sequence[int]) -> tuple[str, ...]:
    """Axes by their plates; by number where they have none, or where another axis might be meant."""
    site = model.sites.get(name) or model.discrete[name]
    plates = plate_axes(model, name)
    return tuple(plates.get(i, f"axis {i}") for i in axes if site.shape[i] != 1)
