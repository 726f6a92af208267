"""Particles: q as a set of points of equal weight, with no density."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import ndtr

from lowerbound.errors import IncompatibleError
from lowerbound.families.base import Block, Family
from lowerbound.families.dense import DenseGaussian


@dataclass(frozen=True, eq=False)
class ParticleBlock(Block):
    """n points ``[n, d]``, each with mass 1/n.

    As a density its entropy is minus infinity, and so is its ELBO. Means and variances are those of the points
    (the mean of squares, not the unbiased estimate: the points are q).

    Args:
        points: ``[n, d]``, at least two.
    """

    points: Any

    @property
    def dimension(self) -> int:
        return self.points.shape[1]

    @property
    def noise_dimension(self) -> int:
        # As of a mixture: one coordinate of the noise chooses, and the others are for what is chosen, here nothing.
        return self.dimension + 1

    @property
    def has_density(self) -> bool:
        return False

    def transform(self, noise: Any) -> Any:
        n = len(self.points)
        return self.points[np.minimum((ndtr(noise[:, -1]) * n).astype(int), n - 1)]

    def log_prob(self, x: Any) -> Any:
        return np.where((np.asarray(x)[:, None] == self.points).all(-1).any(1), np.inf, -np.inf)

    def entropy(self) -> float:
        return -np.inf

    @property
    def mean(self) -> Any:
        return self.points.mean(0)

    def variance(self) -> Any:
        return self.points.var(0)

    def covariance(self) -> Any:
        """The covariance ``[d, d]``; singular where there are no more particles than dimensions."""
        centred = self.points - self.mean
        return centred.T @ centred / len(self.points)

    @cached_property
    def gaussian(self) -> DenseGaussian:
        """The Gaussian with their mean and covariance, which has a density.

        Directions in which they have no spread (all are within fewer dimensions than d) get a thousandth of the
        largest variance, relative to each coordinate's own.
        """
        covariance = self.covariance()
        sd = np.sqrt(np.maximum(np.diagonal(covariance), 1e-300))
        w, v = np.linalg.eigh(covariance / np.outer(sd, sd))
        half = sd[:, None] * v * np.sqrt(np.maximum(w, 1e-3 * w[-1]))
        return DenseGaussian(self.mean, np.linalg.cholesky(half @ half.T))

    def arrays(self) -> dict[str, np.ndarray]:
        return {"points": np.asarray(self.points)}


@dataclass(frozen=True)
class Particles(Family):
    """Sets of points, moved by :class:`~lowerbound.algorithms.SVGD`.

    Args:
        num_particles: n.
    """

    num_particles: int = 100
    name = "particles"

    def __post_init__(self) -> None:
        n = self.num_particles
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 2:
            raise IncompatibleError(f"Particles(num_particles={n!r}): needed: an integer of at least 2.")

    def build(self, mean: np.ndarray, covariance: np.ndarray) -> ParticleBlock:
        from lowerbound.expectations.noise import matched_normals

        n, d = self.num_particles, len(mean)
        noise = matched_normals(np.random.default_rng(0), n + n % 2, d)[:n]
        root = np.sqrt(covariance) if covariance.ndim == 1 else np.linalg.cholesky(covariance)
        return ParticleBlock(mean + (noise * root if root.ndim == 1 else noise @ root.T))

    def parameters(self, block: ParticleBlock) -> dict[str, Any]:
        return {"points": block.points}

    def elbo_gradient(self, block: ParticleBlock, noise: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        raise IncompatibleError("particles have no ELBO: use algorithm='svgd', or leave algorithm out.")

    def from_parameters(self, parameters: dict[str, Any]) -> ParticleBlock:
        return ParticleBlock(parameters["points"])
