"""The dense (full-rank) Gaussian: every correlation, d(d+1)/2 numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lowerbound.families.base import Family, GaussianBlock
from lowerbound.families.linalg import LOG_2PI, namespace, solve_lower, standard_normal_log_prob


@dataclass(frozen=True, eq=False)
class DenseGaussian(GaussianBlock):
    """N(mean, L L') with ``scale_tril`` L lower triangular.

    Args:
        location: The mean ``[d]``.
        scale_tril: L ``[d, d]``, positive on the diagonal.

    Cost: O(d^2) a draw, O(d^2) memory.
    """

    location: Any
    scale_tril: Any

    def transform(self, noise: Any) -> Any:
        return self.location + noise @ self.scale_tril.T

    def whiten(self, x: Any) -> Any:
        return solve_lower(self.scale_tril, (x - self.location).T).T

    def log_det(self) -> Any:
        xp = namespace(self.scale_tril)
        return xp.log(xp.abs(xp.diagonal(self.scale_tril))).sum()

    def log_prob(self, x: Any) -> Any:
        return standard_normal_log_prob(self.whiten(x)) - self.log_det()

    def entropy(self) -> Any:
        # H = log |L| + d/2 (1 + log 2 pi): an affine map adds its log determinant.
        return self.log_det() + 0.5 * self.dimension * (1 + LOG_2PI)

    def variance(self) -> Any:
        return (self.scale_tril**2).sum(-1)

    def covariance(self) -> Any:
        return self.scale_tril @ self.scale_tril.T

    def natural(self, gradient: Any) -> Any:
        return (gradient @ self.scale_tril) @ self.scale_tril.T

    def rescale(self, shift: np.ndarray, scale: np.ndarray) -> DenseGaussian:
        return DenseGaussian(shift + scale * self.location, scale[:, None] * self.scale_tril)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"location": np.asarray(self.location), "scale_tril": np.asarray(self.scale_tril)}


@dataclass(frozen=True)
class Dense(Family):
    """All Gaussians. The default up to 1,000 dimensions."""

    name = "dense"

    def build(self, mean: np.ndarray, covariance: np.ndarray) -> DenseGaussian:
        if covariance.ndim == 1:
            return DenseGaussian(mean, np.diag(np.sqrt(covariance)))
        return DenseGaussian(mean, np.linalg.cholesky(covariance))

    def parameters(self, block: DenseGaussian) -> dict[str, Any]:
        # L = strictly lower + exp(log_diagonal): positive without a constraint.
        return {
            "location": block.location,
            "lower": np.tril(block.scale_tril, -1),
            "log_diagonal": np.log(np.diagonal(block.scale_tril)),
        }

    def elbo_gradient(self, block: DenseGaussian, noise: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        # d/dL mean log p(m + L e) = mean g e'; the entropy adds 1 / L_ii, so 1 to d/d log L_ii.
        slope = scores.T @ noise / len(noise)
        return {
            "location": scores.mean(0),
            "lower": np.tril(slope, -1),
            "log_diagonal": np.diagonal(slope) * np.diagonal(block.scale_tril) + 1,
        }

    def from_parameters(self, parameters: dict[str, Any]) -> DenseGaussian:
        xp = namespace(*parameters.values())
        scale = xp.tril(parameters["lower"], -1) + xp.diag(xp.exp(parameters["log_diagonal"]))
        return DenseGaussian(parameters["location"], scale)
