"""The regression of scores on noise, from which a Gaussian's natural-gradient step is read.

At a Gaussian N(mu, L L') with draws z = mu + L e, the whitened scores G = L' grad log p(z) are regressed on
the noise: their mean gb and slope -A estimate L' E_q[grad log p] and L' E_q[Hess log p] L.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lowerbound.algorithms.quasi_newton import lower
from lowerbound.families.linalg import LOG_2PI
from lowerbound.kernel import Kernel

#: Largest factor by which one step may change a variance (in whitened coordinates).
TAU = 16.0
#: Residual, relative to the scores, below which they count as affine in the noise.
_AFFINE = 1e-6


@dataclass(frozen=True, eq=False)
class Iterate:
    """A Gaussian under way, with the whitened scores ``[m, p]`` at its draws."""

    mean: np.ndarray
    factor: np.ndarray
    noise: np.ndarray
    elbo: float
    elbo_se: float
    scores: np.ndarray

    def holds(self, x: np.ndarray) -> bool:
        """Whether x lies within the bulk of it."""
        d = np.linalg.solve(self.factor, x - self.mean)
        return bool((d**2).sum() < 9 + 3 * len(d))


def evaluate(kernel: Kernel, mean: np.ndarray, factor: np.ndarray, noise: np.ndarray) -> Iterate | None:
    """The Gaussian N(mean, factor factor') on this noise; None if its log density is not finite there."""
    with np.errstate(all="ignore"):
        z = mean + noise @ factor.T
        if not np.isfinite(z).all():
            return None
        value, score = kernel(z)
        whitened = score @ factor
        log_det = np.log(np.abs(np.diagonal(factor))).sum()
        entropy = log_det + 0.5 * len(mean) * (1 + LOG_2PI)
        if not (np.isfinite(value).all() and np.isfinite(whitened).all() and np.isfinite(entropy)):
            return None
        # log p - log q per draw, whose spread is the error of the mean
        weight = value + 0.5 * (noise**2).sum(1)
        return Iterate(
            mean, factor, noise, float(value.mean() + entropy), float(weight.std() / np.sqrt(len(value))), whitened
        )


class Regression:
    """gb, A = V w V' (w clipped to [1/tau, tau]) and the residual R = G - gb + E A at an iterate.

    Args:
        at: The iterate.
        groups: Coordinates of each block of the family; one group is the dense Gaussian.
    """

    def __init__(self, at: Iterate, groups: list[np.ndarray]):
        self.at, self.groups = at, groups
        self.gradient = at.scores.mean(0)
        slope = -(at.noise.T @ at.scores) / len(at.noise)
        self.slope = 0.5 * (slope + slope.T)
        self.residual = at.scores - self.gradient + at.noise @ self.slope
        # Affine scores make gb and A exact: then nothing need be held back.
        self.affine = bool(np.linalg.norm(self.residual) <= _AFFINE * np.linalg.norm(at.scores - at.scores.mean(0)))
        self.limit = 1e12 if self.affine else TAU
        w, self.v = np.linalg.eigh(self.slope)
        self.lowest = float(w[0])
        self.w = np.clip(w, 1 / self.limit, self.limit)
        if len(groups) > 1:
            # A factorised q is narrow along correlations: small w are then no sign of a flat direction,
            # and the mean has far to go.
            self.w_mean = np.clip(w, 1e-6, self.limit)
            inner = np.concatenate([np.linalg.eigvalsh(self.slope[np.ix_(g, g)]) for g in groups])
            self.spread = self._clip(inner)
        else:
            self.w_mean = self.spread = self.w

    @cached_property
    def move(self) -> np.ndarray:
        """A^{-1} gb, the full step of the mean in whitened coordinates."""
        return self.v @ ((self.v.T @ self.gradient) / self.w_mean)

    @cached_property
    def size(self) -> float:
        """sqrt(2 KL) between q and where a full step would take it."""
        spread = np.log(self.spread)
        return float(np.sqrt((self.move**2).sum() + 0.5 * (spread**2).sum()))

    @cached_property
    def noise_cost(self) -> float:
        """KL, in nats, between the optimum on this noise and the optimum."""
        m, r2 = len(self.at.noise), self.residual**2
        return float(0.5 * r2.sum() / m**2 + 0.25 * ((self.at.noise**2).T @ r2).sum() / m**2)

    def propose(self, kernel: Kernel, rho: float) -> Iterate | None:
        """The iterate a step of length rho away, on the same noise."""
        c, groups = self.at, self.groups
        move = rho * self.move
        norm, cap = np.linalg.norm(move), 3 * np.sqrt(len(move))
        if norm > cap and not self.affine:
            move = move * (cap / norm)
        if len(groups) == 1:
            factor = lower(c.factor @ (self.v * self.w ** (-rho / 2)))
        elif len(groups) == len(c.mean):
            factor = np.diag(np.diagonal(c.factor) * self._clip(np.diagonal(self.slope)) ** (-rho / 2))
        else:
            factor = np.zeros_like(c.factor)
            for g in groups:
                block = np.ix_(g, g)
                w, v = np.linalg.eigh(self.slope[block])
                factor[block] = lower(c.factor[block] @ (v * self._clip(w) ** (-rho / 2)))
        return evaluate(kernel, c.mean + c.factor @ move, factor, c.noise)

    def _clip(self, w: np.ndarray) -> np.ndarray:
        return np.clip(w, 1 / self.limit, self.limit)
