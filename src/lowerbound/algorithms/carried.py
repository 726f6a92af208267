r"""A posterior as the next prior, exactly: the natural parameters of its blocks in the place of the priors' factors.

With q_old = prod_b h exp(eta_b . t_b - A_b) over the global latents,

    E_q[log q_old] = sum_b eta_b . (m_b - m_b,old) - H(q_old,b),    m_b = E_q[t_b], m_b,old = E_q_old[t_b],

which is linear in the moments: a term of the ELBO like any other, and the block's optimum is eta_b plus what the
likelihood of the new rows gives. In a conjugate model this is Bayes' rule, whatever the order and the batches.

With a forgetting factor f the carried block has natural parameters f eta_b + (1 - f) d E_q_old[log p] / d m_b, p the
prior: the normalised power prior p^(1-f) q_old^f (Ibrahim & Chen 2000) where no two blocks are coupled in the prior,
and its mean-field form, with the other blocks at q_old, where they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from lowerbound.algorithms.factored import Factored
from lowerbound.algorithms.marginal import statistics_at
from lowerbound.errors import IncompatibleError
from lowerbound.expectations.axes import Const, of_data
from lowerbound.expectations.factors import Joint
from lowerbound.expectations.moments import Contraction
from lowerbound.expectations.quadrature import factor_expectation
from lowerbound.families import FactoredBlock
from lowerbound.families.exponential import ExponentialBlock
from lowerbound.precision import float64


@dataclass(frozen=True, eq=False)
class CarriedTerm:
    """E_q[log r] of one block but for its constant, r a member of its family.

    Attributes:
        block: It.
        natural: Natural parameters of r.
        constant: log r where all statistics are zero; a term of its own, since the update of a block reads the ELBO off
            terms that are linear in its moments.
    """

    block: ExponentialBlock
    natural: Mapping[Any, Any]
    constant: float

    @staticmethod
    def of(block: ExponentialBlock, natural: Mapping[Any, Any]) -> CarriedTerm:
        """Normalised: at q = r it is -H(r), with the constant."""
        with float64():
            natural = {k: jnp.asarray(natural[k]) for k in block.keys}
            moments = block.moments(natural)
            inner = sum((natural[k] * moments[k]).sum() for k in block.keys)
            constant = -float(block.entropy(natural)) - float(inner)
        return CarriedTerm(block, {k: np.asarray(v) for k, v in natural.items()}, constant)

    @property
    def needs(self) -> set[Any]:
        return set(self.block.keys)

    @property
    def moments(self) -> tuple[Any, ...]:
        return tuple((k, ()) for k in self.block.keys)

    def __call__(self, moments: Mapping[Any, Any]) -> Const:
        inner = [(of_data(np.asarray(self.natural[k])) * moments[k]).sum() for k in self.block.keys]
        return Const(sum(inner, jnp.zeros(())), ())

    def log_density(self, values: Mapping[str, Any]) -> Any:
        """log r at values of the block's latents."""
        return self(statistics_at(self.block, values)).array + of_data(np.asarray(self.constant))


def matched(blocks: list[ExponentialBlock], q: FactoredBlock, names: Collection[str]) -> dict[int, Any] | None:
    """Natural parameters of q by the places of the same blocks in another list; None where one is not there."""
    out: dict[int, Any] = {}
    for i, b in enumerate(blocks):
        shared = set(b.latents) & set(names)
        if not shared:
            continue
        if shared != set(b.latents):
            return None
        same = [j for j, c in enumerate(q.blocks) if type(c) is type(b) and c.latents == b.latents]
        if not same or len(q.blocks[same[0]].keys) != len(b.keys):
            return None
        old = q.naturals[same[0]]
        natural = {k: np.asarray(old[o]) for k, o in zip(b.keys, q.blocks[same[0]].keys, strict=True)}
        start = b.start(np.random.default_rng(0), 0.0)
        if any(np.shape(start[k]) != natural[k].shape for k in b.keys):
            return None
        out[i] = natural
    return out


def carried(
    full: Factored, joint: Joint, q: FactoredBlock, names: Collection[str], *, forget: float
) -> tuple[Factored, list[CarriedTerm]] | None:
    """The exact ELBO of new data with q as the prior of the global latents; None where the blocks are not q's.

    Args:
        full: The exact ELBO with the model's own priors.
        joint: The factors it was made from.
        q: Of the data before.
        names: The global latents.
        forget: The forgetting factor f.

    Raises:
        IncompatibleError: the prior of a global latent depends on a local one, or what is carried is not proper.
    """
    with float64():
        naturals = matched(full.blocks, q, names)
    if naturals is None:
        return None
    priors = [f for f in joint.factors if f.name in names]
    for f in priors:
        if set(f.latents) - set(names):
            raise IncompatibleError(
                f"the prior of {f.name!r} depends on {sorted(set(f.latents) - set(names))[0]!r}, which belongs to the "
                "rows of the data, so that it cannot be carried over. Let priors depend on what all rows share."
            )
    if forget < 1:
        naturals = _forgotten(_part(full, priors), naturals, forget)
    terms = [CarriedTerm.of(full.blocks[i], n) for i, n in naturals.items()]
    rest = _part(full, [f for f in joint.factors if f.name not in names])
    constant = Contraction((Const(np.asarray(sum(t.constant for t in terms)), ()),), (), None, (), ())
    return dataclasses.replace(rest, terms=[*rest.terms, *terms, constant], begin=naturals), terms


def _part(full: Factored, factors: list[Any]) -> Factored:
    """Some of the factors alone, over the same blocks."""
    names = {f.name for f in factors}
    drawn = [t for t in full.sampled if t.name in names]
    made = [factor_expectation(f, full.structure) for f in factors if f.name not in [t.name for t in drawn]]
    terms: list[Any] = [*(t for own, _ in made for t in own), *drawn]
    bounds = [b for _, own in made for b in own]
    return dataclasses.replace(full, terms=terms, bounds=bounds)


def _forgotten(prior: Factored, naturals: Mapping[int, Any], forget: float) -> dict[int, Any]:
    out: dict[int, Any] = {}
    with float64():
        moments: dict[Any, Any] = {}
        for i, n in naturals.items():
            moments |= prior.block_moments(i, {k: jnp.asarray(a) for k, a in n.items()})
        for i, n in naturals.items():
            own = prior.optimum(i, moments)
            block = prior.blocks[i]
            out[i] = {k: forget * n[k] + (1 - forget) * np.asarray(own[k]) for k in block.keys}
            if not bool(block.proper(out[i])):
                raise IncompatibleError(
                    f"with forget={forget} nothing proper is carried over of {', '.join(block.latents)}: their prior "
                    "is improper or nearly so. Give them a proper prior, or a larger forget."
                )
    return out


def kl_divergence(terms: list[CarriedTerm], factored: Factored, naturals: Sequence[Mapping[Any, Any]]) -> float:
    """KL(q || r) in nats over the blocks of the terms, in closed form."""
    out = 0.0
    with float64():
        for t in terms:
            n = {k: jnp.asarray(a) for k, a in naturals[factored.index(t.block.latents[0])].items()}
            out += -float(t.block.entropy(n)) - float(t(t.block.moments(n)).array) - t.constant
    return max(out, 0.0)
