r"""The exact ELBO of a q that factorises, and the optimum of each of its blocks.

    ELBO = sum_f E_q[log p_f] + sum_b H(q_b)

with the first sum in closed form (:mod:`lowerbound.expectations`). Block b's optimum given the others has natural
parameters d/dm_b sum_f E_q[log p_f], m_b its moments: by automatic differentiation, for any model.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from lowerbound.algorithms.blocks import blocks_of
from lowerbound.algorithms.sampled_terms import SampledTerm, factor_log_prob, natural_key
from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.axes import Axis
from lowerbound.expectations.factors import Joint, opened
from lowerbound.expectations.leaves import leaves_of, without
from lowerbound.expectations.moments import BoundExpectation, Contraction
from lowerbound.expectations.quadrature import factor_expectation
from lowerbound.expectations.structure import Moment, Structure, structure_of
from lowerbound.families.exponential import ExponentialBlock, JointGaussianBlock
from lowerbound.model.base import Model

#: Natural parameters (or moments) of all blocks, one dictionary for each.
Naturals = list[dict[Hashable, Any]]
#: Steps tried along a block's natural gradient where the bound is not linear in its moments.
_RATES = (1.0, 0.6, 0.3, 0.1, 0.03, 0.01, 0.001)


@dataclass(frozen=True, eq=False)
class Sampling:
    """How factors without a closed form are sampled: draws of fixed noise, and its seed."""

    model: Model
    num_draws: int
    seed: int


@dataclass(frozen=True, eq=False)
class Factored:
    """A model's exact ELBO over the blocks of q.

    Attributes:
        structure: Which latents share a block.
        blocks: One for each group of latents.
        terms: The terms of E_q[log p], each with the moments it needs.
        bounds: Its bounds.
        rows: Which of their axes run along which plate.
        plate_axes: Of every latent, which axis of it runs along which plate.
        late: Whether nothing more should be begun that can be left.
        begin: Natural parameters at which blocks are begun, by their places: what an earlier posterior knows.
        leaves: Discrete latents that nothing depends on, last ones first (:mod:`~lowerbound.expectations.leaves`).
        reduced: The ELBO without the first of them; None where there are none.
    """

    structure: Structure
    blocks: list[ExponentialBlock]
    terms: list[Contraction | SampledTerm]
    bounds: list[BoundExpectation]
    rows: Mapping[Axis, str] = field(default_factory=dict)
    plate_axes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    late: Callable[[], bool] = field(default=lambda: False)
    begin: Mapping[int, Any] = field(default_factory=dict)
    leaves: tuple[str, ...] = ()
    reduced: Factored | None = None

    @staticmethod
    def of(joint: Joint, *, joined: bool = True, sample: Sampling | None = None) -> Factored:
        """From the factors of a model, all of which have a closed form or a bound.

        Args:
            joint: The factors.
            joined: Whether Gaussian latents may share blocks.
            sample: How factors without either are sampled; None if they may not be.

        Raises:
            NotClosedForm: one has neither, and may not be sampled.
        """
        while True:
            try:
                return Factored._with_leaves(joint, joined, sample, leaves_of(joint))
            except NotClosedForm as e:
                # What no block gives beside the other factors is sampled as well.
                known = [f.name for f in joint.factors if f.open is None]
                if sample is None or e.factor not in known:
                    raise
                factors = [opened(f, e) if f.name == e.factor else f for f in joint.factors]
                joint = replace(joint, factors=factors)

    @staticmethod
    def _with_leaves(joint: Joint, joined: bool, sample: Sampling | None, leaves: tuple[str, ...]) -> Factored:
        """With the ELBO without its last leaf, which has that without the one before it."""
        made = Factored._of(joint, joined, sample)
        rest = without(joint, leaves[:1])
        if not leaves or not rest.latents:
            return made
        return replace(made, leaves=leaves, reduced=Factored._with_leaves(rest, joined, sample, leaves[1:]))

    @staticmethod
    def _of(joint: Joint, joined: bool, sample: Sampling | None) -> Factored:
        for f in joint.factors:
            if f.open is not None and sample is None:
                raise f.open
        structure = structure_of(joint, joined=joined, sampled=sample is not None)
        found = [factor_expectation(f, structure) for f in joint.factors]
        terms, bounds = [t for own, _ in found for t in own], [b for _, own in found for b in own]
        needed = {m for p in (*terms, *bounds) for m in p.needs}
        rows = {a: n for f in joint.factors for a, n in f.rows.items()}
        blocks = blocks_of(structure, needed)
        sampled: list[Contraction | SampledTerm] = []
        for f in joint.open:
            assert sample is not None
            mine = tuple(b for b in blocks if set(b.latents) & set(f.latents))
            log_prob = factor_log_prob(sample.model, f.name)
            sampled.append(SampledTerm(f.name, log_prob, mine, sample.num_draws, sample.seed))
        return Factored(structure, blocks, [*terms, *sampled], bounds, rows, joint.plate_axes)

    def index(self, latent: str) -> int:
        """Which block a latent is in."""
        return next(i for i, b in enumerate(self.blocks) if latent in b.latents)

    @property
    def sampled(self) -> list[SampledTerm]:
        """The terms that are estimated from draws."""
        return [t for t in self.terms if isinstance(t, SampledTerm)]

    def touching(self, i: int) -> tuple[list[Contraction | SampledTerm], list[BoundExpectation]]:
        """The terms and bounds that block i is in."""
        keys = set(self.blocks[i].keys)
        return [t for t in self.terms if t.needs & keys], [b for b in self.bounds if b.needs & keys]

    def curved(self, i: int) -> bool:
        """Whether E_q[log p] is not linear in the moments of block i, bounds apart."""
        return any(n in self.structure.curved for n in self.blocks[i].latents)

    @property
    def exact(self) -> bool:
        """Whether the optimum is the posterior itself: every term is linear in the moments of one block alone, so that
        log p(x, z) is a sum of functions of one block each, and each is of that block's family."""
        if self.bounds or self.sampled or any(self.curved(i) for i in range(len(self.blocks))):
            return False
        owner = {k: i for i, b in enumerate(self.blocks) for k in b.keys}
        return all(len({owner.get(m, -1) for m in t.needs}) <= 1 for t in self.terms)

    def with_alike(self) -> Factored:
        """The same, with Gaussian precisions that do not differ along a plate factorised once for the whole of it.

        For natural parameters that begin equal along those plates and are moved by nothing but :meth:`updated`, all
        rows at once: the coefficients of second moments are then equal too.
        """
        if self.sampled:
            return self
        blocks = []
        for i, b in enumerate(self.blocks):
            if isinstance(b, JointGaussianBlock):
                terms, bounds = self.touching(i)
                second = [k for k in b.second.values() if isinstance(k, Moment)]
                free = not any(x.needs & set(second) for x in bounds)
                terms = [t for t in terms if isinstance(t, Contraction)]
                b = b.with_alike(
                    [free and all(t.alike(k, p) for t in terms for k in second) for p in range(len(b.plate_shape))]
                )
            blocks.append(b)
        return replace(self, blocks=blocks)

    # -- traceable by JAX ----------------------------------------------------------------------------

    def moments(self, naturals: Naturals) -> dict[Moment, Any]:
        out: dict[Any, Any] = {}
        for i, n in enumerate(naturals):
            out.update(self.block_moments(i, n))
        return out

    def block_moments(self, i: int, natural: Any) -> dict[Any, Any]:
        """The moments of block i; with its natural parameters, where sampled terms ask for them."""
        block = self.blocks[i]
        return {**block.moments(natural), **({natural_key(block): natural} if self.sampled else {})}

    def energy(self, moments: Mapping[Any, Any], terms: Sequence[Any] | None = None, bounds: Any = None) -> Any:
        """E_q[log p], of all factors or of some."""
        terms = self.terms if terms is None else terms
        bounds = self.bounds if bounds is None else bounds
        total = jnp.zeros(())
        for t in terms:
            total = total + t(moments).array
        for b in bounds:
            total = total + b(moments)
        return total

    def elbo(self, naturals: Naturals) -> Any:
        moments = self.moments(naturals)
        return self.energy(moments) + sum(b.entropy(n) for b, n in zip(self.blocks, naturals, strict=True))

    def optimum(self, i: int, moments: Mapping[Any, Any]) -> dict[Hashable, Any]:
        """Natural parameters of block i given the moments of all: its optimum, where it is not curved."""
        return optimum_of(self, self.blocks[i], moments, *self.touching(i))

    def updated(self, i: int, naturals: Naturals, moments: dict[Any, Any]) -> dict[Hashable, Any]:
        """Block i's next natural parameters; never to a lower ELBO."""
        best = self.optimum(i, moments)
        if not self.curved(i):
            return best
        return damped(self, self.blocks[i], naturals[i], best, moments, *self.touching(i))


def optimum_of(
    f: Factored, block: ExponentialBlock, moments: Mapping[Any, Any], terms: Sequence[Any], bounds: Sequence[Any]
) -> dict[Hashable, Any]:
    """The natural parameters of a block that ``terms`` and ``bounds`` give it: their slope in its moments."""
    own = {k: moments[k] for k in block.keys}

    def part(mine: Mapping[Any, Any]) -> Any:
        return f.energy({**moments, **mine}, terms, bounds)

    return block.natural(_by_key(jax.grad(_flat(part, block.keys))([own[k] for k in block.keys]), block.keys))


def damped(
    f: Factored,
    block: ExponentialBlock,
    old: Mapping[Any, Any],
    best: Mapping[Any, Any],
    moments: Mapping[Any, Any],
    terms: Sequence[Any],
    bounds: Sequence[Any],
) -> dict[Hashable, Any]:
    """Of some steps from ``old`` towards ``best`` the one with the highest ELBO; none at all where all lower it."""

    def value(rate: Any) -> Any:
        new = {k: (1 - rate) * old[k] + rate * best[k] for k in block.keys}
        extra = {natural_key(block): new} if f.sampled else {}
        out = f.energy({**moments, **block.moments(new), **extra}, terms, bounds) + block.entropy(new)
        return jnp.where(block.proper(new) & jnp.isfinite(out), out, -jnp.inf)

    rates = jnp.asarray((*_RATES, 0.0))
    found = jax.lax.map(value, rates)  # one copy of the program, not one for each rate
    rate = rates[jnp.argmax(found)]
    return {k: (1 - rate) * old[k] + rate * best[k] for k in block.keys}


def _flat(f: Any, keys: Sequence[Hashable]) -> Any:
    """A function of a dictionary as one of a list: JAX sorts the keys of dictionaries."""
    return lambda values: f(dict(zip(keys, values, strict=True)))


def _by_key(values: Sequence[Any], keys: Sequence[Hashable]) -> dict[Hashable, Any]:
    return dict(zip(keys, values, strict=True))
