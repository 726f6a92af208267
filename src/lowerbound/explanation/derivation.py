"""What can be derived from a model: every factor in closed form that has one, and why the others have none.

A fit by coordinate ascent needs all of them (:meth:`~lowerbound.algorithms.factored.Factored.of`); an explanation goes
on without those that have none, so that it can name all of them at once and say what the rest comes to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lowerbound.algorithms.blocks import blocks_of
from lowerbound.algorithms.factored import Factored
from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.factors import Joint, RandomFactor, random_factors
from lowerbound.expectations.leaves import leaves_of, without
from lowerbound.expectations.moments import BoundExpectation, Contraction
from lowerbound.expectations.quadrature import factor_expectation
from lowerbound.expectations.structure import Moment, Structure, structure_of
from lowerbound.model.base import Model


@dataclass(frozen=True)
class Open:
    """An expectation without a closed form.

    Attributes:
        factors: Names of the factors that ask for it.
        latents: Names of the latents in them.
        operation: What has none, in words.
        line: The line of the model it stands on, where known.
        rewrite: What would give it one, where something would.
    """

    factors: tuple[str, ...]
    latents: tuple[str, ...]
    operation: str
    line: str = ""
    rewrite: str = ""

    def __str__(self) -> str:
        where = (", ".join(self.factors) + ": ") if self.factors else ""
        line = f", at {self.line}" if self.line else ""
        return f"{where}{self.operation}{line}" + (f"; {self.rewrite}" if self.rewrite else "")


@dataclass(frozen=True, eq=False)
class DerivedFactor:
    """One factor in closed form: its expectation as terms, and as bounds."""

    factor: RandomFactor
    terms: tuple[Contraction, ...]
    bounds: tuple[BoundExpectation, ...]

    @property
    def needs(self) -> set[Moment]:
        return {m for p in (*self.terms, *self.bounds) for m in p.needs}


@dataclass(frozen=True, eq=False)
class Derivation:
    """A model, taken apart.

    Attributes:
        model: It.
        factored: The exact ELBO of the factors in closed form; None where there is none of them.
        factors: These factors.
        open: What has no closed form.
        latents: Of every factor, by name, the latents in it; in the order of the model.
        leaves: The discrete latents that nothing depends on, which take no part in the ascent.
        unused: These, and the continuous ones that nothing depends on, which do.
    """

    model: Model
    factored: Factored | None
    factors: tuple[DerivedFactor, ...]
    open: tuple[Open, ...]
    latents: dict[str, tuple[str, ...]]
    leaves: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def opened(self) -> tuple[str, ...]:
        """Names of the factors without a closed form."""
        return tuple(n for o in self.open for n in o.factors)

    @property
    def structure(self) -> Structure:
        """Which latents share a block."""
        assert self.factored is not None
        return self.factored.structure


def derive(model: Model) -> Derivation:
    """Trace a model and derive what can be derived; nothing is compiled."""
    if model.distributions is None:
        why = Open((), tuple(model.sites), "a log density is one function, with no factors to take apart")
        rewrite = "write it as a NumPyro model"
        return Derivation(model, None, (), (replace(why, rewrite=rewrite),), {})
    whole = random_factors(model)
    leaves = leaves_of(whole)
    leaves = leaves if len(leaves) < len(whole.latents) else ()
    joint = without(whole, leaves)
    refused: dict[str, NotClosedForm] = {f.name: f.open for f in joint.factors if f.open is not None}
    while True:
        left = [f for f in joint.factors if f.name not in refused]
        found = _attempt(joint, left)
        if isinstance(found, tuple):
            break
        refused |= found
    factored, derived = found
    by_name = {f.name: f for f in whole.factors}
    latents = {n: f.latents for n, f in by_name.items()}
    return Derivation(
        model, factored, derived, _listed(refused, by_name), latents, leaves, leaves_of(whole, discrete=False)
    )


def _attempt(
    joint: Joint, factors: Sequence[RandomFactor]
) -> tuple[Factored | None, tuple[DerivedFactor, ...]] | dict[str, NotClosedForm]:
    """The ELBO of some factors, or those of them that must be left out, with the reason."""
    if not factors:
        return None, ()
    part = Joint(joint.latents, list(factors))
    try:
        structure = structure_of(part)
    except NotClosedForm as e:
        return {_culprit(part, e): e}
    derived, refused = [], {}
    for f in factors:
        try:
            terms, bounds = factor_expectation(f, structure)
        except NotClosedForm as e:
            refused[f.name] = e
            continue
        derived.append(DerivedFactor(f, terms, bounds))
    if refused:
        return refused
    needed = {m for d in derived for m in d.needs}
    kept = dict(structure.statistics)
    for name in structure.statistics:
        own = replace(structure, gaussian={}, statistics={name: structure.statistics[name]})
        try:
            blocks_of(own, needed)
        except NotClosedForm as e:
            # Nothing gives this latent's moments, so no factor that asks for one has a closed form.
            asking = [d.factor.name for d in derived if any(name in m.latents for m in d.needs)]
            if not asking and name in {d.factor.name for d in derived}:
                asking = [name]
            if asking:
                return dict.fromkeys(asking, e)
            del kept[name]
    structure = replace(structure, statistics=kept)
    terms = [t for d in derived for t in d.terms]
    bounds = [b for d in derived for b in d.bounds]
    return Factored(structure, blocks_of(structure, needed), terms, bounds), tuple(derived)


def _culprit(joint: Joint, error: NotClosedForm) -> str:
    """The first factor, in the model's order, with which the structure cannot be found."""
    if error.factor:
        return error.factor
    for n in range(1, len(joint.factors)):
        try:
            structure_of(Joint(joint.latents, joint.factors[:n]))
        except NotClosedForm:
            return joint.factors[n - 1].name
    return joint.factors[-1].name


def _listed(refused: dict[str, NotClosedForm], factors: dict[str, RandomFactor]) -> tuple[Open, ...]:
    """One for each reason; factors that share one are named together."""
    out: dict[tuple[str, str], Open] = {}
    for name, f in factors.items():
        e = refused.get(name)
        if e is None:
            continue
        key = (e.operation, e.line)
        o = out.get(key, Open((), (), e.operation, e.line, e.rewrite))
        latents = tuple(dict.fromkeys((*o.latents, *f.latents)))
        out[key] = replace(o, factors=(*o.factors, name), latents=latents)
    return tuple(out.values())
