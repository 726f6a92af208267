r"""Which entries of the precision a score regression may fill: the contract that its loop relies on.

The loop of :mod:`~lowerbound.algorithms.score_regression` (when to step, to ask for more noise, to stop) is the same
for every Gaussian family. What differs is the *pattern* of the precision: dense, blocks on the diagonal
(:mod:`~lowerbound.algorithms.regression`), an arrow (:mod:`~lowerbound.algorithms.arrow_regression`). A pattern makes
noise whose second moments are exact where the pattern regresses, and reads a natural-gradient step from the scores on
it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from lowerbound.algorithms.search import End
from lowerbound.families.base import Block, GaussianBlock
from lowerbound.kernel import Kernel

#: Largest factor by which one step may change a variance (in whitened coordinates).
TAU = 16.0
#: Residual, relative to the scores, below which they count as affine in the noise.
AFFINE = 1e-6
#: What fixed noise may cost, in nats for every ten dimensions.
_NOISE_COST = 0.002


@dataclass(frozen=True, eq=False)
class Iterate:
    """A Gaussian under way, with the whitened scores ``[m, p]`` at its draws."""

    q: GaussianBlock
    noise: np.ndarray
    elbo: float
    elbo_se: float
    scores: np.ndarray

    def holds(self, x: np.ndarray) -> bool:
        """Whether x lies within the bulk of it."""
        d = self.q.whiten(x[None])[0]
        return bool((d**2).sum() < 9 + 3 * len(d))

    def whiten(self, direction: np.ndarray) -> np.ndarray:
        """L^{-1} times a difference of points ``[p]``."""
        centred = replace(self.q, location=np.zeros_like(direction))  # pyright: ignore[reportArgumentType]
        return centred.whiten(direction[None])[0]


class Slope(ABC):
    """The regression of an iterate's scores on its noise, and the step that follows from it.

    Attributes:
        affine: Whether the scores are affine in the noise, which makes the step exact.
        lowest: Smallest eigenvalue of A, before it is made positive.
        widening: Whether some direction is widened by the most that one step may.
        direction: The full step of the mean ``[p]``.
        size: sqrt(2 KL) between q and where a full step would take it, in the measure of the tolerance.
        noise_cost: KL, in nats, between the optimum on this noise and the optimum.
        excess: The noise's cost as a multiple of what is allowed.
        near: Whether the step is within the noise's own error.
    """

    affine: bool
    lowest: float
    widening: bool
    direction: np.ndarray
    size: float
    noise_cost: float
    excess: float
    near: bool

    @abstractmethod
    def propose(self, kernel: Kernel, rho: float) -> Iterate | None:
        """The iterate a step of length rho away, on the same noise; None if the density is not finite there."""


class Pattern(ABC):
    """See the module's docstring."""

    #: Whether coordinates are known to be groups under common scales, whose joint density may have no mode.
    hierarchical: bool = False

    @property
    @abstractmethod
    def width(self) -> int:
        """Coordinates that one regression has to tell apart: it needs at least as many pairs of draws."""

    @property
    @abstractmethod
    def first_draws(self) -> int:
        """The fewest draws, in whole batches of 64, whose second moments can be made exact."""

    @abstractmethod
    def noise(self, rng: np.random.Generator, m: int) -> np.ndarray:
        """Antithetic draws ``[m, p]`` with exact second moments wherever the pattern regresses."""

    @abstractmethod
    def localise(self, end: End) -> End:
        """The end with its curvature restricted to the pattern."""

    @abstractmethod
    def gaussian(self, mean: np.ndarray, covariance: np.ndarray) -> GaussianBlock:
        """A member from a covariance ``[p, p]`` or ``[p]``; survives one that has lost definiteness."""

    @abstractmethod
    def narrow(self, q: GaussianBlock, factor: float) -> GaussianBlock:
        """q with its scale multiplied."""

    @abstractmethod
    def pull(self, q: GaussianBlock, scores: np.ndarray) -> np.ndarray:
        """L' s for each row of the scores: slopes along the noise."""

    @abstractmethod
    def regress(self, at: Iterate) -> Slope:
        """The step from here."""

    @abstractmethod
    def output(self, q: GaussianBlock) -> Block:
        """q as the family's own block."""

    def evaluate(self, kernel: Kernel, q: GaussianBlock, noise: np.ndarray) -> Iterate | None:
        """q on this noise; None if its log density is not finite there."""
        with np.errstate(all="ignore"):
            z = q.transform(noise)
            if not np.isfinite(z).all():
                return None
            value, score = kernel(z)
            whitened = self.pull(q, score)
            entropy = q.entropy()
            if not (np.isfinite(value).all() and np.isfinite(whitened).all() and np.isfinite(entropy)):
                return None
            # log p - log q per draw, whose spread is the error of the mean
            weight = value + 0.5 * (noise**2).sum(1)
            se = float(weight.std() / np.sqrt(len(value)))
            return Iterate(q, noise, float(value.mean() + entropy), se, whitened)


def allowed(p: int) -> float:
    """What fixed noise may cost in p dimensions, in nats."""
    return _NOISE_COST * max(1.0, p / 10)


def clip(w: np.ndarray, limit: float) -> np.ndarray:
    """Eigenvalues of A, kept positive and within a factor ``limit`` of one."""
    return np.clip(w, 1 / limit, limit)
