"""The low-rank plus diagonal Gaussian: the strongest k directions of correlation, d(k+2) numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lowerbound.families.base import Family, GaussianBlock, check_rank
from lowerbound.families.linalg import LOG_2PI, namespace, solve_lower


@dataclass(frozen=True, eq=False)
class LowRankGaussian(GaussianBlock):
    """N(mean, diag(scale^2) + F F').

    Args:
        location: The mean ``[d]``.
        scale: The diagonal part ``[d]``, positive.
        factor: F ``[d, k]``.

    With W = diag(1/scale) F and C = I + W'W (``[k, k]``), the matrix determinant lemma and Woodbury
    give log|S| = 2 sum log scale + log|C| and x'S^{-1}x = |y|^2 - |C^{-1/2} W'y|^2, y = x / scale.

    Cost: O(dk) a draw, O(dk^2) a density.
    """

    location: Any
    scale: Any
    factor: Any

    @property
    def rank(self) -> int:
        return self.factor.shape[-1]

    @property
    def noise_dimension(self) -> int:
        return self.dimension + self.rank

    def transform(self, noise: Any) -> Any:
        d = self.dimension
        return self.location + self.scale * noise[..., :d] + noise[..., d:] @ self.factor.T

    def _capacitance(self) -> tuple[Any, Any]:
        xp = namespace(self.factor)
        w = self.factor / self.scale[:, None]
        return w, xp.linalg.cholesky(xp.eye(self.rank) + w.T @ w)

    def whiten(self, x: Any) -> Any:
        # (I + WW')^{-1/2} y = y - Q (1 - (1+s^2)^{-1/2}) Q'y with W = Q s V'.
        xp = namespace(self.factor, x)
        y = (x - self.location) / self.scale
        q, s, _ = xp.linalg.svd(self.factor / self.scale[:, None], full_matrices=False)
        return y - ((y @ q) * (1 - 1 / xp.sqrt(1 + s * s))) @ q.T

    def log_det(self) -> Any:
        xp = namespace(self.factor)
        _, c = self._capacitance()
        return xp.log(self.scale).sum() + xp.log(xp.diagonal(c)).sum()

    def log_prob(self, x: Any) -> Any:
        xp = namespace(self.factor, x)
        w, c = self._capacitance()
        y = (x - self.location) / self.scale
        inside = solve_lower(c, (y @ w).T)
        quadratic = (y * y).sum(-1) - (inside * inside).sum(0)
        log_det = xp.log(self.scale).sum() + xp.log(xp.diagonal(c)).sum()
        return -0.5 * quadratic - log_det - 0.5 * self.dimension * LOG_2PI

    def entropy(self) -> Any:
        return self.log_det() + 0.5 * self.dimension * (1 + LOG_2PI)

    def variance(self) -> Any:
        return self.scale**2 + (self.factor**2).sum(-1)

    def covariance(self) -> Any:
        return namespace(self.factor).diag(self.scale**2) + self.factor @ self.factor.T

    def natural(self, gradient: Any) -> Any:
        return self.scale**2 * gradient + (gradient @ self.factor) @ self.factor.T

    def rescale(self, shift: np.ndarray, scale: np.ndarray) -> LowRankGaussian:
        return LowRankGaussian(shift + scale * self.location, scale * self.scale, scale[:, None] * self.factor)

    def arrays(self) -> dict[str, np.ndarray]:
        return {k: np.asarray(getattr(self, k)) for k in ("location", "scale", "factor")}


@dataclass(frozen=True)
class LowRank(Family):
    """Gaussians whose covariance is a diagonal plus ``rank`` directions.

    Args:
        rank: k, the number of directions.
    """

    rank: int = 10
    name = "low_rank"

    def __post_init__(self) -> None:
        check_rank(self.rank)

    def build(self, mean: np.ndarray, covariance: np.ndarray) -> LowRankGaussian:
        d = mean.shape[0]
        k = min(self.rank, d)
        if covariance.ndim == 1:
            return LowRankGaussian(mean, np.sqrt(covariance), np.zeros((d, k)))
        # Principal factors of the correlation matrix; what they leave over goes to the diagonal.
        sd = np.sqrt(np.diagonal(covariance))
        w, v = np.linalg.eigh(covariance / np.outer(sd, sd))
        w, v = w[::-1][:k], v[:, ::-1][:, :k]
        loadings = v * np.sqrt(np.clip(w - 1, 0, None))
        rest = np.clip(1 - (loadings**2).sum(1), 1e-3, None)
        return LowRankGaussian(mean, sd * np.sqrt(rest), sd[:, None] * loadings)

    def parameters(self, block: LowRankGaussian) -> dict[str, Any]:
        factor = np.asarray(block.factor)
        if not factor.any():  # zero is a saddle of the ELBO: the gradient there is zero too
            rng = np.random.default_rng(0)
            factor = 0.1 * np.asarray(block.scale)[:, None] * rng.standard_normal(factor.shape) / np.sqrt(self.rank)
        return {"location": block.location, "log_scale": np.log(block.scale), "factor": factor}

    def elbo_gradient(self, block: LowRankGaussian, noise: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        # H = log|S| / 2 + const with S = D^2 + FF', so dH/dF = S^{-1} F and dH/d log s_i = s_i^2 (S^{-1})_ii.
        # With W = D^{-1} F, C = I + W'W:  S^{-1} F = D^{-1} W C^{-1}  and  s_i^2 (S^{-1})_ii = 1 - (W C^{-1} W')_ii.
        d, m = block.dimension, len(noise)
        w = block.factor / block.scale[:, None]
        wc = np.linalg.solve(np.eye(block.rank) + w.T @ w, w.T).T
        return {
            "location": scores.mean(0),
            "log_scale": (scores * noise[:, :d]).mean(0) * block.scale + 1 - (wc * w).sum(1),
            "factor": scores.T @ noise[:, d:] / m + wc / block.scale[:, None],
        }

    def from_parameters(self, parameters: dict[str, Any]) -> LowRankGaussian:
        xp = namespace(*parameters.values())
        return LowRankGaussian(parameters["location"], xp.exp(parameters["log_scale"]), parameters["factor"])
