r"""A mixture of Gaussians, one for each mode that was found.

    q(x) = sum_k pi_k N(x; m_k, L_k L_k'),     E_q[x] = sum_k pi_k m_k,
    Cov_q = sum_k pi_k (L_k L_k' + m_k m_k') - E_q[x] E_q[x]'

A draw takes one more standard normal than it has dimensions: the last one picks the component, by its rank, and the
others are the component's own noise. So it is a map of noise like any block's, if not a continuous one. With
r_k = pi_k N_k / q the entropy is

    H(q) = sum_k pi_k (H(N_k) - log pi_k) + sum_k pi_k E_k[log r_k],

of which only the last term, zero where the components are apart, is an average over (fixed) draws.

It is made from modes, not fitted by gradients (:mod:`lowerbound.escalation`), and so it is a block without a family. On
the host only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import logsumexp, ndtr

from lowerbound.expectations.noise import matched_normals
from lowerbound.families.base import Block
from lowerbound.families.dense import DenseGaussian

#: Draws of each component for the part of the entropy that has no closed form.
_DRAWS = 2048


@dataclass(frozen=True, eq=False)
class MixtureBlock(Block):
    """See the module.

    Args:
        shares: pi ``[k]``, positive, of sum one.
        locations: Means ``[k, d]``.
        scale_trils: Lower triangular roots of the covariances ``[k, d, d]``.

    Cost: O(d^2) a draw, O(k d^2) a density.
    """

    shares: Any
    locations: Any
    scale_trils: Any

    @classmethod
    def of(cls, components: Sequence[DenseGaussian], shares: np.ndarray) -> MixtureBlock:
        """The mixture of these Gaussians."""
        shares = np.asarray(shares, float)
        locations = np.stack([c.location for c in components])
        return cls(shares / shares.sum(), locations, np.stack([c.scale_tril for c in components]))

    @cached_property
    def components(self) -> tuple[DenseGaussian, ...]:
        return tuple(map(DenseGaussian, self.locations, self.scale_trils))

    @property
    def dimension(self) -> int:
        return self.locations.shape[1]

    @property
    def noise_dimension(self) -> int:
        return self.dimension + 1

    def transform(self, noise: Any) -> Any:
        edges = np.cumsum(self.shares)[:-1]
        which = np.searchsorted(edges, ndtr(noise[:, -1]), side="right")
        x = np.empty((len(noise), self.dimension))
        for k, component in enumerate(self.components):
            x[which == k] = component.transform(noise[which == k, :-1])
        return x

    def _joint(self, x: Any) -> np.ndarray:
        """log pi_k N_k(x), ``[k, s]``."""
        return np.stack([c.log_prob(x) for c in self.components]) + np.log(self.shares)[:, None]

    def log_prob(self, x: Any) -> Any:
        return logsumexp(self._joint(x), axis=0)

    def responsibilities(self, x: np.ndarray) -> np.ndarray:
        """r_k(x) ``[s, k]``: which component a point belongs to."""
        joint = self._joint(x)
        return np.exp(joint - logsumexp(joint, axis=0)).T

    def entropy(self) -> Any:
        noise = matched_normals(np.random.default_rng(0), _DRAWS, self.dimension)
        total = 0.0
        for k, (share, component) in enumerate(zip(self.shares, self.components, strict=True)):
            joint = self._joint(component.transform(noise))
            apart = component.entropy() - np.log(share)
            total += share * (apart + float((joint[k] - logsumexp(joint, axis=0)).mean()))
        return total

    @property
    def mean(self) -> Any:
        return self.shares @ self.locations

    def covariance(self) -> Any:
        """The covariance ``[d, d]``."""
        centred = self.locations - self.mean
        within = np.einsum("k,kij,klj->il", self.shares, self.scale_trils, self.scale_trils)
        return within + (self.shares[:, None] * centred).T @ centred

    def variance(self) -> Any:
        within = (self.scale_trils**2).sum(-1)
        return self.shares @ (within + (self.locations - self.mean) ** 2)

    def rescale(self, shift: np.ndarray, scale: np.ndarray) -> MixtureBlock:
        """The distribution of ``shift + scale * x``, for positive ``scale``."""
        rows = np.asarray(scale)[:, None] * self.scale_trils
        return MixtureBlock(self.shares, shift + scale * self.locations, rows)

    def arrays(self) -> dict[str, np.ndarray]:
        return {n: np.asarray(getattr(self, n)) for n in ("shares", "locations", "scale_trils")}
