r"""q(z) = prod_b q_b, each factor an exponential family on the constrained space.

As a distribution over the unconstrained vector u it has the density of its blocks times the Jacobian of z = T(u), so
that whatever weighs, checks and corrects a q does so with this one too. Discrete latents are no part of the vector: q
over it is that of the continuous latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lowerbound.expectations.noise import matched_normals
from lowerbound.families.base import Block
from lowerbound.families.coordinates import constrain, unconstrain
from lowerbound.families.dense import DenseGaussian
from lowerbound.families.diagonal import DiagonalGaussian
from lowerbound.families.exponential import CategoricalBlock, ExponentialBlock
from lowerbound.families.exponential.base import Parameters
from lowerbound.labels import Labels
from lowerbound.precision import float64

#: Draws from which moments in the unconstrained space are taken.
_DRAWS = 4096
#: Dimensions up to which the Gaussian that stands in for it is dense.
_DENSE = 300


class Place(NamedTuple):
    """Where a latent lies in the unconstrained vector."""

    name: str
    support: str
    shape: tuple[int, ...]
    unconstrained_shape: tuple[int, ...]
    start: int

    @property
    def slice(self) -> slice:
        return slice(self.start, self.start + int(np.prod(self.unconstrained_shape, dtype=int)))


class FactoredBlock(Block):
    """Exponential families side by side.

    Args:
        blocks: They; those of discrete latents are skipped where the vector is concerned.
        naturals: Natural parameters of each.
        places: Where each continuous latent lies in the unconstrained vector.
    """

    def __init__(self, blocks: Sequence[ExponentialBlock], naturals: Sequence[Parameters], places: Sequence[Place]):
        self.blocks, self.naturals, self.places = list(blocks), list(naturals), list(places)
        known = {p.name for p in self.places}
        self.continuous = [i for i, b in enumerate(self.blocks) if all(n in known for n in b.latents)]

    @property
    def dimension(self) -> int:
        return max((p.slice.stop for p in self.places), default=0)

    @property
    def noise_dimension(self) -> int:
        return sum(self.blocks[i].noise_dimension for i in self.continuous)

    def values(self, noise: np.ndarray) -> dict[str, np.ndarray]:
        """Draws of the continuous latents on the constrained space ``[s, *shape]``."""
        out: dict[str, np.ndarray] = {}
        start = 0
        with float64():
            for i in self.continuous:
                b = self.blocks[i]
                stop = start + b.noise_dimension
                out |= b.from_normal(self.naturals[i], np.asarray(noise)[:, start:stop])
                start = stop
        return out

    def transform(self, noise: Any) -> Any:
        values = self.values(noise)
        x = np.empty((len(noise), self.dimension))
        for p in self.places:
            x[:, p.slice] = unconstrain(p.support, values[p.name]).reshape(len(x), -1)
        return x

    def constrained(self, x: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The latents at ``x [s, d]``, and log |det dz/du| ``[s]``."""
        x = np.asarray(x, float)
        values, log_det = {}, np.zeros(len(x))
        for p in self.places:
            values[p.name], own = constrain(p.support, x[:, p.slice].reshape((len(x), *p.unconstrained_shape)))
            log_det = log_det + own
        return values, log_det

    def log_prob(self, x: Any) -> Any:
        values, out = self.constrained(x)
        with float64(), np.errstate(all="ignore"):
            for i in self.continuous:
                out = out + self.blocks[i].log_prob(self.naturals[i], values)
        return np.where(np.isnan(out), -np.inf, out)

    def entropy(self) -> Any:
        """Of u: that of z, less the mean log |det dz/du|, which is estimated from draws."""
        _, log_det = self.constrained(self._draws)
        with float64():
            own = sum(float(self.blocks[i].entropy(_arrays(self.naturals[i]))) for i in self.continuous)
        return own - float(log_det.mean())

    @cached_property
    def _draws(self) -> np.ndarray:
        n = max(64, min(_DRAWS, 2**24 // max(self.noise_dimension, 1) // 64 * 64))
        return self.transform(matched_normals(np.random.default_rng(0), n, self.noise_dimension))

    @property
    def mean(self) -> Any:
        return self._draws.mean(0)

    def variance(self) -> Any:
        return self._draws.var(0)

    @cached_property
    def gaussian(self) -> DenseGaussian | DiagonalGaussian:
        """The Gaussian with its mean and covariance in the unconstrained space."""
        if self.dimension > _DENSE:
            return DiagonalGaussian(self.mean, np.sqrt(self.variance()))
        covariance = np.atleast_2d(np.cov(self._draws.T))
        return DenseGaussian(self.mean, np.linalg.cholesky(covariance))

    @cached_property
    def discrete(self) -> dict[str, Labels]:
        """Values of each discrete latent, with their probabilities."""
        with float64():
            pairs = [(b, n) for b, n in zip(self.blocks, self.naturals, strict=True) if isinstance(b, CategoricalBlock)]
            return {b.latents[0]: Labels(b.values, b.probabilities(n)) for b, n in pairs}

    def sample_discrete(self, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        """Draws of the discrete latents ``[n, *shape]``."""
        out: dict[str, np.ndarray] = {}
        for b, natural in zip(self.blocks, self.naturals, strict=True):
            if isinstance(b, CategoricalBlock):
                out |= b.sample(rng, natural, n)
        return out

    def moments(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Exact means and variances of every latent on the constrained space, the discrete ones among them."""
        out: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        with float64():
            for b, n in zip(self.blocks, self.naturals, strict=True):
                out |= b.mean_and_variance(n)
        return out

    def arrays(self) -> dict[str, np.ndarray]:
        out = {}
        for i, (b, n) in enumerate(zip(self.blocks, self.naturals, strict=True)):
            out |= {f"{i}.{j}": np.asarray(n[k]) for j, k in enumerate(b.keys)}
        return out


def _arrays(natural: Parameters) -> dict[Any, Any]:
    return {k: jnp.asarray(v) for k, v in natural.items()}
