r"""Sinh-arcsinh from a fitted Gaussian: the ELBO on fixed noise, by L-BFGS in whitened coordinates.

With N(m, L L') fitted already and x = m + L v, the family starts at the identity in v, where a Gaussian posterior
would have the Hessian -I: so L-BFGS (:mod:`~lowerbound.algorithms.quasi_newton`) with a backtracking line search needs
no scales. All of q moves: shapes, mean and covariance, since the best Gaussian's covariance is not that of the best
skew q. That is d^2 + 3d numbers on M draws, so M is 1,024 or eight times d, and as in
:mod:`~lowerbound.algorithms.sample_average` q is scored on fresh noise at the end: while it loses too much there, M
grows fourfold and the ascent goes on.

Cost: M gradients and O(M d^2) a step; ten to fifty steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lowerbound.algorithms.base import Info, Status
from lowerbound.algorithms.quasi_newton import LimitedInverse
from lowerbound.expectations.noise import matched_normals
from lowerbound.families import SinhArcsinh, SinhArcsinhBlock
from lowerbound.kernel import Kernel

#: Dimensions up to which it is meant: 2 d^2 numbers are searched for.
SHAPE_LIMIT = 300
_MAX_DRAWS = 4096
#: Steps whose gain is compared with the tolerance.
_WINDOW = 10
_FAMILY = SinhArcsinh()


@dataclass(eq=False)
class ShapeAscent:
    """One ascent. ``step`` until ``status``; ``block`` is the answer so far.

    Args:
        kernel: The compiled log density.
        gaussian: A fitted Gaussian: anything with ``mean`` and ``covariance()``.
        rng: Random numbers.
        num_samples: Draws at first; None for 8 d, at least 1,024.
        tolerance: Stop when ten steps gain less than this, in nats for each ten dimensions.
        overfit: Largest loss of ELBO from the fixed to fresh noise, in nats for each dimension.
        max_steps: Steps before giving up.
    """

    kernel: Kernel
    gaussian: Any
    rng: np.random.Generator
    num_samples: int | None = None
    tolerance: float = 0.01
    overfit: float = 0.005
    max_steps: int = 500
    status: Status | None = None
    elbo: float = np.nan
    elbo_se: float = np.nan
    steps: int = 0
    _vector: np.ndarray = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        d = self.kernel.dimension
        self._mean = np.asarray(self.gaussian.mean)
        self._root = np.linalg.cholesky(np.asarray(self.gaussian.covariance()))
        parameters = _FAMILY.parameters(_FAMILY.build(np.zeros(d), np.eye(d)))
        self._layout = [(k, np.shape(v)) for k, v in parameters.items()]
        self._vector = np.concatenate([np.ravel(v) for v in parameters.values()])
        self._curvature = LimitedInverse(len(self._vector))
        size = self.num_samples or max(1024, 8 * d)
        found = None
        for _ in range(3):  # noise on which the Gaussian's draws are all finite
            self._noise = matched_normals(self.rng, min(size, _MAX_DRAWS) // 2 * 2, d)
            found = self._evaluate(self._vector, self._noise)
            if found is not None:
                break
        if found is None:
            self.status = Status.NOT_FINITE
            return
        self.elbo, self.elbo_se, self._gradient = found
        self._path = [self.elbo]

    @property
    def block(self) -> SinhArcsinhBlock:
        b = self._whitened(self._vector)
        return SinhArcsinhBlock(
            self._mean + self._root @ b.location, self._root @ b.scale, np.array(b.skewness), np.array(b.tail)
        )

    def _whitened(self, vector: np.ndarray) -> SinhArcsinhBlock:
        parts, at = {}, 0
        for name, shape in self._layout:
            size = int(np.prod(shape))
            parts[name] = vector[at : at + size].reshape(shape)
            at += size
        return _FAMILY.from_parameters(parts)

    def _evaluate(self, vector: np.ndarray, noise: np.ndarray) -> tuple[float, float, np.ndarray] | None:
        """ELBO, its standard error and gradient; None if not finite."""
        with np.errstate(all="ignore"):
            b = self._whitened(vector)
            v = b.transform(noise)
            x = self._mean + v @ self._root.T
            if not np.isfinite(x).all():
                return None
            value, score = self.kernel(x)
            log_det = np.log(np.diagonal(self._root)).sum()
            elbo = value.mean() + float(b.entropy()) + log_det
            se = float((value - b.log_prob(v)).std() / np.sqrt(len(value)))
            parts = _FAMILY.elbo_gradient(b, noise, score @ self._root)
            gradient = np.concatenate([np.ravel(parts[k]) for k, _ in self._layout])
        return (float(elbo), se, gradient) if np.isfinite(elbo) and np.isfinite(gradient).all() else None

    def step(self) -> Info:
        """One step of the ascent."""
        if self.status is None:
            self._improve()
        return Info("fitting skewness and tails", self.steps, self.elbo, self.elbo_se, status=self.status)

    def _improve(self) -> None:
        if self.steps >= self.max_steps:
            self.status = Status.MAX_STEPS
            return
        g = self._gradient
        direction = self._curvature.times(g)
        slope = float(g @ direction)
        if not slope > 0:
            self._curvature.reset()
            direction, slope = g, float(g @ g)
        # The L-BFGS model promises slope / 2, but skewness begins slowly: a hundredth of what ten steps must gain.
        if self._small(50 * slope) or (len(self._path) > _WINDOW and self._small(self.elbo - self._path[-1 - _WINDOW])):
            self._refresh()
            return
        self.steps += 1
        # No number moves by more than one at once: means by a standard deviation, scales by a factor of e.
        size = min(1.0, 1.0 / np.abs(direction).max())
        for _ in range(30):
            trial = self._vector + size * direction
            found = self._evaluate(trial, self._noise)
            if found is not None and found[0] >= self.elbo + 1e-4 * size * slope:
                self._curvature.update(size * direction, g - found[2])
                self._vector = trial
                self.elbo, self.elbo_se, self._gradient = found
                self._path.append(self.elbo)
                return
            size *= 0.3
        if self._curvature.updates:
            self._curvature.reset()
        else:
            self._refresh()

    def _small(self, gain: float) -> bool:
        return gain < self.tolerance * max(1.0, len(self._mean) / 10)

    def _refresh(self) -> None:
        """Score q on fresh noise; if it lost too much, go on with four times as much."""
        m, d = self._noise.shape
        fresh = self._evaluate(self._vector, matched_normals(self.rng, m, d))
        lost = np.inf if fresh is None else self.elbo - fresh[0]
        if lost > self.overfit * max(d, 3) and m < _MAX_DRAWS:
            noise = matched_normals(self.rng, min(4 * m, _MAX_DRAWS), d)
            found = self._evaluate(self._vector, noise)
            if found is not None:
                self._noise = noise
                self.elbo, self.elbo_se, self._gradient = found
                self._path = [self.elbo]
                return
        if fresh is not None:
            self.elbo, self.elbo_se = fresh[:2]
        self.status = Status.CONVERGED if lost <= self.overfit * max(d, 3) else Status.NOISY


def fit_sinh_arcsinh(
    kernel: Kernel,
    gaussian: Any,
    rng: np.random.Generator,
    *,
    max_steps: int = 500,
    record: Callable[[Info], object] | None = None,
) -> SinhArcsinhBlock | None:
    """The sinh-arcsinh q with the highest ELBO, from a fitted Gaussian; None where its draws are not finite.

    Args:
        kernel: The compiled log density; nothing else is compiled.
        gaussian: A fitted Gaussian, up to 300 dimensions.
        rng: Random numbers.
        max_steps: Steps before giving up; the answer is then the best so far.
        record: Called with the Info of each step.
    """
    ascent = ShapeAscent(kernel, gaussian, rng, max_steps=max_steps)
    while ascent.status is None:
        info = ascent.step()
        if record is not None:
            record(info)
    return None if ascent.status is Status.NOT_FINITE else ascent.block
