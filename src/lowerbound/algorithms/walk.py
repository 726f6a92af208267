"""One Gaussian on its way to a local solution: the loop that decides how long a step is, when more noise is asked for,
and when to stop. What a step is comes from the :mod:`~lowerbound.algorithms.pattern`; the mathematics is told in
:mod:`~lowerbound.algorithms.score_regression`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lowerbound.algorithms.base import Status
from lowerbound.algorithms.pattern import Iterate, Pattern, Slope
from lowerbound.families import GaussianBlock
from lowerbound.kernel import Kernel

_MAX_DRAWS = 1024
#: ... and while it is still far from converged.
_EARLY_DRAWS = 256
#: Steps on fresh noise at the end, at most.
_MAX_AVERAGES = 8
#: Error of an ELBO, in nats, from which its draws are in a tail of exponentials.
_WILD = 10.0
#: Full steps in a row that widen some direction by the largest factor before it counts as flat (4^25 = 1e15).
_FLAT = 25


@dataclass(eq=False)
class _Pace:
    """The length rho of steps and its limit.

    rho may grow while steps keep their direction, and is lowered once they circle within the noise's own
    error.
    """

    rho: float = 1.0
    limit: float = 1.0
    sizes: list[float] = field(default_factory=list)
    direction: np.ndarray | None = None

    def update(self, at: Iterate, step: Slope) -> None:
        """Take note of the next full step."""
        along, size = 0.0, step.size
        if self.direction is not None:
            a, b = at.whiten(step.direction), at.whiten(self.direction)
            along = a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-300)
        self.direction = step.direction
        self.sizes.append(size)
        if along > 0.8 and (len(self.sizes) < 2 or size > 0.8 * self.sizes[-2]):
            self.limit = min(8.0, 1.5 * self.limit)
        elif self.limit > 1:
            self.limit = 1.0
        elif len(self.sizes) >= 5 and step.near and size > 0.7 * self.sizes[-5]:
            self.limit *= 0.5
            self.sizes.clear()
        self.rho = min(self.rho, self.limit)


@dataclass(frozen=True, eq=False)
class Ground:
    """What all walks of one fit share.

    Attributes:
        kernel: The compiled log density.
        rng: For noise.
        pattern: Of the precision.
        tolerance: Stop when the next full step would change q by sqrt(2 KL) below this.
        max_steps: Steps before giving up.
    """

    kernel: Kernel
    rng: np.random.Generator
    pattern: Pattern
    tolerance: float
    max_steps: int


@dataclass(eq=False)
class Walk:
    """Where a Gaussian has come to.

    Attributes:
        ground: What it walks on.
        current: Where it is.
        taken, averaged: Steps that were accepted, and steps on fresh noise.
        averages: Steps on fresh noise to be taken; 0 before it has converged on its noise.
        arrived: Whether it is done.
        status: Why it cannot go on, if it cannot.
    """

    ground: Ground
    current: Iterate
    _pace: _Pace = field(default_factory=_Pace)
    _elbos: list[float] = field(default_factory=list)
    _best: float = -np.inf
    _grown: int = 0
    _widening: float = 0.0
    steps: int = 0
    taken: int = 0
    averages: int = 0
    averaged: int = 0
    arrived: bool = False
    status: Status | None = None

    @classmethod
    def settle(cls, ground: Ground, q: GaussianBlock) -> Walk:
        """A walk from q, narrowed until the density is finite on it, and as long as that raises the ELBO.

        Where q reaches into a tail of exponentials the ELBO may be finite and of any size, and a regression on
        such scores says nothing of the other coordinates.
        """
        pattern = ground.pattern
        noise = pattern.noise(ground.rng, pattern.first_draws)
        best: Iterate | None = None
        for shrink in range(40):
            found = pattern.evaluate(ground.kernel, pattern.narrow(q, 0.5**shrink), noise)
            if best is not None and (found is None or found.elbo <= best.elbo):
                break
            best = found
            if found is not None and found.elbo_se < _WILD:
                break
        if best is not None:
            return cls(ground, best)
        # Not finite even in a tiny neighbourhood: keep the point, and say so.
        nowhere = Iterate(pattern.narrow(q, 0.5**40), noise, -np.inf, np.nan, np.zeros_like(noise))
        return cls(ground, nowhere, status=Status.NOT_FINITE)

    def step(self) -> None:
        """One step, or none where it has arrived or cannot go on."""
        if self.status is not None or self.arrived:
            return
        if self.averages:
            self._average()
            return
        c = self.current
        self.steps += 1
        found = self.ground.pattern.regress(c)
        size, cost = found.size, found.noise_cost
        self._pace.update(c, found)
        settled = min(1.0, self._pace.limit) * size
        if settled < self.ground.tolerance and (not found.affine or size < 1e-8 or self.taken >= 3):
            self._arrive(found)
            return
        if self.steps >= self.ground.max_steps:
            self.status = Status.MAX_STEPS
            return
        self._elbos.append(c.elbo)
        if len(self._elbos) > 3 and c.elbo - self._elbos[-4] < cost and self._grow(found, _EARLY_DRAWS):
            return  # what is gained now is less than what this noise costs
        self._best = max(self._best, c.elbo)
        floor = self._best - (min(0.5 * cost, 0.05) if found.near else 0.0) - 1e-10 * abs(c.elbo)
        while self._pace.rho > 1e-6:
            proposal = found.propose(self.ground.kernel, self._pace.rho)
            if proposal is not None and proposal.elbo >= floor:
                self.current = proposal
                self.taken += 1
                self._widening = self._widening + min(self._pace.rho, 1.0) if found.widening else 0
                self._pace.rho = min(self._pace.limit, 2 * self._pace.rho)
                if self._widening >= _FLAT:
                    self.status = Status.FLAT
                return
            self._pace.rho *= 0.4
        # No step of any size helps on this noise: within the noise's own error that is convergence.
        if size < 10 * self.ground.tolerance or found.near:
            self._arrive(found)
        else:
            self.status = Status.STALLED

    def _arrive(self, found: Slope) -> None:
        """Converged on this noise: go on with more of it, or average, if it costs too much."""
        if self._grow(found):
            return
        self.averages = 0 if found.excess <= 1 else int(min(_MAX_AVERAGES, np.ceil(found.excess)))
        self.arrived = self.averages == 0

    def _grow(self, found: Slope, most: int = _MAX_DRAWS) -> bool:
        """More noise, if what the fixed noise costs is too much. True if it was done."""
        m, pattern = len(self.current.noise), self.ground.pattern
        if found.excess <= 1 or 2 * m > max(most, 4 * pattern.width) or self._grown >= 3:
            return False
        self._grown += 1
        factor = 4 if found.excess > 2 and 4 * m <= most else 2
        bigger = pattern.evaluate(self.ground.kernel, self.current.q, pattern.noise(self.ground.rng, factor * m))
        if bigger is None:
            return False
        self.current, self._best = bigger, -np.inf
        self._elbos.clear()
        self._pace = _Pace(direction=self._pace.direction)
        return True

    def _average(self) -> None:
        """One step on fresh noise, of rho = 1 / (k + 1): after k of them q is the average over k + 1 noises."""
        c, pattern = self.current, self.ground.pattern
        self.averaged += 1
        fresh = pattern.evaluate(self.ground.kernel, c.q, pattern.noise(self.ground.rng, len(c.noise)))
        last = self.averaged > self.averages
        if fresh is not None:
            step = None if last else pattern.regress(fresh).propose(self.ground.kernel, 1 / (self.averaged + 1))
            self.current = step or fresh
        self.arrived = last
