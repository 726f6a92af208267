r"""The exact ELBO of a q that factorises, and the optimum of each of its blocks.

    ELBO = sum_f E_q[log p_f] + sum_b H(q_b)

with the first sum in closed form (:mod:`lowerbound.expectations`). Block b's optimum given the others has natural
parameters d/dm_b sum_f E_q[log p_f], m_b its moments: by automatic differentiation, for any model.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from lowerbound.algorithms.blocks import blocks_of
from lowerbound.expectations.axes import Axis
from lowerbound.expectations.factors import Joint
from lowerbound.expectations.moments import (
    BoundExpectation,
    Contraction,
    Moment,
    Structure,
    bound_expectation,
    expectation,
    structure_of,
)
from lowerbound.families.exponential import ExponentialBlock

#: Natural parameters (or moments) of all blocks, one dictionary for each.
Naturals = list[dict[Hashable, Any]]
#: Steps tried along a block's natural gradient where the bound is not linear in its moments.
_RATES = (1.0, 0.6, 0.3, 0.1, 0.03, 0.01, 0.001)


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
    """

    structure: Structure
    blocks: list[ExponentialBlock]
    terms: list[Contraction]
    bounds: list[BoundExpectation]
    rows: Mapping[Axis, str] = field(default_factory=dict)
    plate_axes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @staticmethod
    def of(joint: Joint, *, joined: bool = True) -> Factored:
        """From the factors of a model, all of which have a closed form or a bound.

        Raises:
            NotClosedForm: one has neither.
        """
        for f in joint.factors:
            if f.open is not None:
                raise f.open
        structure = structure_of(joint, joined=joined)
        terms = [c for f in joint.factors for c in expectation(f.value, structure).parts]
        bounds = [bound_expectation(b, w, structure) for f in joint.factors for b, w in f.bounds]
        needed = {m for p in (*terms, *bounds) for m in p.needs}
        rows = {a: n for f in joint.factors for a, n in f.rows.items()}
        return Factored(structure, blocks_of(structure, needed), terms, bounds, rows, joint.plate_axes)

    def index(self, latent: str) -> int:
        """Which block a latent is in."""
        return next(i for i, b in enumerate(self.blocks) if latent in b.latents)

    def touching(self, i: int) -> tuple[list[Contraction], list[BoundExpectation]]:
        """The terms and bounds that block i is in."""
        keys = set(self.blocks[i].keys)
        return [t for t in self.terms if t.needs & keys], [b for b in self.bounds if b.needs & keys]

    def curved(self, i: int) -> bool:
        """Whether E_q[log p] is not linear in the moments of block i, bounds apart."""
        return any(n in self.structure.curved for n in self.blocks[i].latents)

    # -- traceable by JAX ----------------------------------------------------------------------------

    def moments(self, naturals: Naturals) -> dict[Moment, Any]:
        out: dict[Any, Any] = {}
        for b, n in zip(self.blocks, naturals, strict=True):
            out.update(b.moments(n))
        return out

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
        terms, bounds = self.touching(i)
        block = self.blocks[i]
        own = {k: moments[k] for k in block.keys}

        def part(mine: Mapping[Any, Any]) -> Any:
            return self.energy({**moments, **mine}, terms, bounds)

        return block.natural(_by_key(jax.grad(_flat(part, block.keys))([own[k] for k in block.keys]), block.keys))

    def updated(self, i: int, naturals: Naturals, moments: dict[Any, Any]) -> dict[Hashable, Any]:
        """Block i's next natural parameters; never to a lower ELBO."""
        best = self.optimum(i, moments)
        if not self.curved(i):
            return best
        block, old = self.blocks[i], naturals[i]
        terms, bounds = self.touching(i)

        def value(rate: Any) -> Any:
            new = {k: (1 - rate) * old[k] + rate * best[k] for k in block.keys}
            out = self.energy({**moments, **block.moments(new)}, terms, bounds) + block.entropy(new)
            return jnp.where(block.proper(new) & jnp.isfinite(out), out, -jnp.inf)

        rates = jnp.asarray((*_RATES, 0.0))
        found = jnp.stack([value(r) for r in rates])
        rate = rates[jnp.argmax(found)]
        return {k: (1 - rate) * old[k] + rate * best[k] for k in block.keys}


def _flat(f: Any, keys: Sequence[Hashable]) -> Any:
    """A function of a dictionary as one of a list: JAX sorts the keys of dictionaries."""
    return lambda values: f(dict(zip(keys, values, strict=True)))


def _by_key(values: Sequence[Any], keys: Sequence[Hashable]) -> dict[Hashable, Any]:
    return dict(zip(keys, values, strict=True))
