"""The diagonal Gaussian: mean field, no correlations, 2d numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lowerbound.families.base import Family, GaussianBlock
from lowerbound.families.linalg import LOG_2PI, namespace, standard_normal_log_prob


@dataclass(frozen=True, eq=False)
class DiagonalGaussian(GaussianBlock):
    """N(mean, diag(scale^2)).

    Args:
        location: The mean ``[d]``.
        scale: Standard deviations ``[d]``, positive.

    Cost: O(d) a draw.
    """

    location: Any
    scale: Any

    def transform(self, noise: Any) -> Any:
        return self.location + self.scale * noise

    def whiten(self, x: Any) -> Any:
        return (x - self.location) / self.scale

    def log_det(self) -> Any:
        return namespace(self.scale).log(self.scale).sum()

    def log_prob(self, x: Any) -> Any:
        return standard_normal_log_prob(self.whiten(x)) - self.log_det()

    def entropy(self) -> Any:
        return self.log_det() + 0.5 * self.dimension * (1 + LOG_2PI)

    def variance(self) -> Any:
        return self.scale**2

    def covariance(self) -> Any:
        return namespace(self.scale).diag(self.scale**2)

    def natural(self, gradient: Any) -> Any:
        return self.scale**2 * gradient

    def rescale(self, shift: np.ndarray, scale: np.ndarray) -> DiagonalGaussian:
        return DiagonalGaussian(shift + scale * self.location, scale * self.scale)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"location": np.asarray(self.location), "scale": np.asarray(self.scale)}


@dataclass(frozen=True)
class Diagonal(Family):
    """Gaussians with independent coordinates. Its standard deviations are those of each coordinate
    *given* the others, so too small wherever the posterior is correlated."""

    name = "diagonal"

    def build(self, mean: np.ndarray, covariance: np.ndarray) -> DiagonalGaussian:
        # The reverse-KL optimum for N(m, S) has variances 1 / (S^{-1})_ii.
        if covariance.ndim == 1:
            return DiagonalGaussian(mean, np.sqrt(covariance))
        return DiagonalGaussian(mean, 1 / np.sqrt(np.diagonal(np.linalg.inv(covariance))))

    def parameters(self, block: DiagonalGaussian) -> dict[str, Any]:
        return {"location": block.location, "log_scale": np.log(block.scale)}

    def elbo_gradient(self, block: DiagonalGaussian, noise: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        return {"location": scores.mean(0), "log_scale": (scores * noise).mean(0) * block.scale + 1}

    def from_parameters(self, parameters: dict[str, Any]) -> DiagonalGaussian:
        xp = namespace(*parameters.values())
        return DiagonalGaussian(parameters["location"], xp.exp(parameters["log_scale"]))
