r"""Hamiltonian trajectories of many chains at once, on the compiled kernel.

As many chains as the kernel has places in a batch move together, so that one call of the kernel is one leapfrog step
of all of them:

    H(x, v) = -log p(x) + v' S^{-1} v / 2,  leapfrog, accept with exp(-change of H)

The metric S is any Gaussian's covariance. The step size is adapted to an acceptance averaged over chains; a
trajectory's length is drawn anew for each transition, about pi/2 in units of S^{1/2}. Which chains to run, for how
long, and what they say is the matter of :mod:`~lowerbound.diagnostics.chains.short`.

Where modes are images of one another under known involutions pi, one of them, or none, drawn at random, is proposed to
each chain after each trajectory, and accepted with probability min(1, p(pi x) |det pi'(x)| / p(x)). That leaves p
invariant (Green 1995: the move is its own reverse), and the chains cross between modes that no trajectory leads
between.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lowerbound.algorithms.base import Move
from lowerbound.families import GaussianBlock, TransportedBlock
from lowerbound.kernel import Kernel

#: A larger error of the energy than this is a divergence (as in Stan).
_DIVERGENT = 1000.0


class Walkers:
    """The chains' present states and the step size that they share.

    Args:
        kernel: Where the density is evaluated.
        rng: Random numbers.
        x: Where the chains start, ``[chains, p]``.
        metric: The Gaussian whose covariance is S.
        moves: Involutions that lead from mode to mode.

    Velocities w ~ N(0, S) in place of whitened momenta: w <- w + step S grad / 2, x <- x + step w, with kinetic
    energy w' S^{-1} w / 2. The same trajectories, and any form of S will do.
    """

    def __init__(
        self,
        kernel: Kernel | Transported,
        rng: np.random.Generator,
        x: np.ndarray,
        metric: GaussianBlock,
        moves: Sequence[Move] = (),
    ):
        self.kernel, self.rng, self.metric, self.moves = kernel, rng, metric, moves
        self.x = x
        self.value, self.gradient = kernel(x)
        # The largest stable step of a Gaussian falls as p^{-1/4} (Beskos et al. 2013).
        self.log_step = np.log(0.9 * x.shape[1] ** -0.25)
        self.begin()

    def pace(self, accept: float, most_steps: int) -> None:
        """Adapt anew, to this acceptance, with at most so many leapfrog steps a trajectory. To be called first."""
        self.accept, self.most_steps, self.count = accept, most_steps, 0

    def begin(self) -> None:
        """Forget the acceptance and divergences so far."""
        self.seen, self.accepted, self.divergent = 0, 0.0, 0.0

    def transition(self, *, adapt: bool) -> np.ndarray:
        """One trajectory of every chain; returns their states ``[chains, p]``."""
        rng, step, metric = self.rng, np.exp(self.log_step), self.metric
        mean = np.asarray(metric.mean)
        length = int(np.clip(round(1.57 / step * rng.uniform(0.6, 1.4)), 1, self.most_steps))
        noise = rng.standard_normal((len(self.x), metric.noise_dimension))
        v = metric.transform(noise) - mean
        x, value, gradient = self.x, self.value, self.gradient
        # Where the noise has as many dimensions as x it is v whitened, up to a rotation.
        kinetic = noise if noise.shape == x.shape else metric.whiten(v + mean)
        energy = -value + 0.5 * (kinetic**2).sum(1)
        with np.errstate(all="ignore"):
            v = v + 0.5 * step * metric.natural(gradient)
            for i in range(length):
                x = x + step * v
                # A chain that has left the numbers stays where it is refused.
                lost = ~np.isfinite(x).all(1)
                x = np.where(lost[:, None], self.x, x)
                value, gradient = self.kernel(x)
                gradient = np.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
                value = np.where(lost | ~np.isfinite(value), -np.inf, value)
                v = v + (0.5 if i == length - 1 else 1.0) * step * metric.natural(gradient)
            v = np.where(np.isfinite(v), v, 0.0)
            error = -value + 0.5 * (metric.whiten(v + mean) ** 2).sum(1) - energy
        error = np.where(np.isfinite(error), error, np.inf)
        chance = np.exp(-np.maximum(error, 0.0))
        take = rng.uniform(size=len(chance)) < chance
        self.x = np.where(take[:, None], x, self.x)
        self.value = np.where(take, value, self.value)
        self.gradient = np.where(take[:, None], gradient, self.gradient)
        if self.moves:
            self._jump()
        mean_chance = float(chance.mean())
        self.seen += 1
        self.accepted += (mean_chance - self.accepted) / self.seen
        self.divergent += (float((error > _DIVERGENT).mean()) - self.divergent) / self.seen
        if adapt:
            # Robbins-Monro on the log step; the mean over chains is a precise signal, so the gain is large.
            self.count += 1
            self.log_step += 2.0 / np.sqrt(self.count) * (mean_chance - self.accept)
        return self.x

    def _jump(self) -> None:
        """Every chain by an involution of its own, or by none, where that is accepted."""
        x, log_det = np.array(self.x), np.zeros(len(self.x))
        # Chains that all take the same would be in the same mode for ever, and one chain in the end.
        chosen = self.rng.integers(len(self.moves) + 1, size=len(x))
        with np.errstate(all="ignore"):
            for k, move in enumerate(self.moves):
                some = np.flatnonzero(chosen == k)
                if len(some):
                    x[some], log_det[some] = move(self.x[some])
            x = np.where(np.isfinite(x).all(1, keepdims=True), x, self.x)
            value, gradient = self.kernel(x)
            ratio = value + log_det - self.value
            take = np.log(self.rng.uniform(size=len(x))) < np.where(np.isfinite(ratio), ratio, -np.inf)
        take &= np.isfinite(gradient).all(1)
        self.x = np.where(take[:, None], x, self.x)
        self.value = np.where(take, value, self.value)
        self.gradient = np.where(take[:, None], gradient, self.gradient)


class Transported:
    """The log density in q's noise, with what the chains ask of a kernel."""

    def __init__(self, kernel: Kernel, q: TransportedBlock):
        self.kernel, self.q, self.batch = kernel, q, kernel.batch

    @property
    def evaluations(self) -> int:
        return self.kernel.evaluations

    @property
    def late(self) -> bool:
        return self.kernel.late

    def __call__(self, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, gradient = self.kernel(np.asarray(self.q.transform(e)))
        log_det, score = self.q.pull_back(e, gradient)
        return value + log_det, score
