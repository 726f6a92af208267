r"""Short Hamiltonian chains on the compiled kernel: the correction where importance weights fail.

As many chains as the kernel has places in a batch move together from weighted draws of q, so that one call
of the kernel is one leapfrog step of all of them. They start near the posterior, which is what makes
short chains enough; what they are for is the part of the posterior that q does not reach and the weights
therefore cannot either.

    u = F^{-1} (x - m),  H(u, v) = -log p(m + F u) + |v|^2 / 2,  leapfrog, accept with exp(-change of H)

F is a square root of the weighted covariance, estimated again half-way through the warm-up from the chains
themselves. The step size is adapted to an acceptance of 0.9, averaged over chains; a trajectory's length is
drawn anew for each transition, about pi/2 in units of F.

Whether they have arrived is judged as for any MCMC (Vehtari et al. 2021): split R-hat over all chains, the
effective number of draws from the autocorrelations, and few divergent trajectories. Where a second mode is
known their agreement proves nothing, since all of them may be in one, and the verdict stays as it was.

Cost: about 6 kernel calls a transition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lowerbound.algorithms.quasi_newton import root
from lowerbound.diagnostics.importance import Weighted
from lowerbound.kernel import Kernel

_WARMUP = 40
_TRANSITIONS = 100
_EXTENSIONS = 1
_ACCEPT = 0.9
_MOST_STEPS = 24
#: A larger error of the energy than this is a divergence (as in Stan).
_DIVERGENT = 1000.0
#: Share of divergent transitions from which more of them would not bring the chains below what is allowed.
_HOPELESS = 0.003
#: Dimensions above which short chains are not tried.
LARGEST = 200


@dataclass(frozen=True, eq=False)
class Chains:
    """States of the chains, and whether they can be trusted.

    Attributes:
        draws: ``[transitions, chains, p]``, after warm-up.
        r_hat: Largest split R-hat of any coordinate.
        effective: Smallest effective number of draws of any coordinate's mean or spread.
        accepted: Mean acceptance.
        divergent: Share of divergent transitions.
    """

    draws: np.ndarray
    r_hat: float
    effective: float
    accepted: float
    divergent: float

    @property
    def mixed(self) -> bool:
        """Whether the chains agree with one another and have drawn enough."""
        return bool(self.r_hat < 1.02 and self.effective >= 1000 and self.divergent < 0.001 and self.accepted > 0.5)

    @property
    def usable(self) -> bool:
        """Whether they are nearer to the posterior than q is, mixed or not."""
        return bool(self.r_hat < 1.2 and self.effective >= 100 and self.divergent < 0.02)

    def pool(self, most: int = 8000) -> np.ndarray:
        """At most so many states, evenly thinned, ``[n, p]``."""
        flat = self.draws.reshape(-1, self.draws.shape[-1])
        return flat[:: max(1, len(flat) // most)]


def run_chains(kernel: Kernel, weighted: Weighted, rng: np.random.Generator) -> Chains | None:
    """Chains from the weighted draws; None where no usable start exists.

    Args:
        kernel: The compiled log density.
        weighted: Draws of q and its mixture with weights.
        rng: Random numbers.
    """
    weight = np.exp(weighted.smoothed)
    usable = np.isfinite(weighted.log_density) & (weight > 0)
    if usable.sum() < 2:
        return None
    weight = np.where(usable, weight, 0.0)
    weight /= weight.sum()
    mean = weight @ weighted.draws
    centred = weighted.draws - mean
    covariance = (weight[:, None] * centred).T @ centred
    if not np.isfinite(covariance).all() or (np.diagonal(covariance) <= 0).any():
        return None
    count = max(32, kernel.batch)
    start = weighted.draws[rng.choice(len(weight), count, p=weight)]
    walkers = _Walkers(kernel, rng, start, mean, root(covariance))
    early = [walkers.transition(adapt=True) for _ in range(_WARMUP // 2)]
    states = np.concatenate(early[len(early) // 2 :])
    if len(states) > 4 * states.shape[1]:
        walkers.precondition(states.mean(0), root(np.cov(states.T).reshape(states.shape[1], -1)))
    for _ in range(_WARMUP // 2):
        walkers.transition(adapt=True)
    walkers.begin()
    kept: list[np.ndarray] = []
    chains: Chains | None = None
    for _ in range(_EXTENSIONS + 1):
        kept += [walkers.transition(adapt=False) for _ in range(_TRANSITIONS)]
        draws = np.stack(kept)
        r_hat, effective = mixing(draws)
        chains = Chains(draws, r_hat, effective, walkers.accepted, walkers.divergent)
        if chains.mixed or chains.divergent > _HOPELESS:
            break
    return chains


class _Walkers:
    """The chains' present states and the step size that they share."""

    def __init__(self, kernel: Kernel, rng: np.random.Generator, x: np.ndarray, mean: np.ndarray, factor: np.ndarray):
        self.kernel, self.rng = kernel, rng
        self.x = x
        self.value, self.gradient = kernel(x)
        self.log_step = np.log(0.5)
        self.count = 0
        self.precondition(mean, factor)
        self.begin()

    def precondition(self, mean: np.ndarray, factor: np.ndarray) -> None:
        self.mean, self.factor = mean, factor

    def begin(self) -> None:
        """Forget the acceptance and divergences so far."""
        self.seen, self.accepted, self.divergent = 0, 0.0, 0.0

    def transition(self, *, adapt: bool) -> np.ndarray:
        """One trajectory of every chain; returns their states ``[chains, p]``."""
        rng, step = self.rng, np.exp(self.log_step)
        length = int(np.clip(round(1.57 / step * rng.uniform(0.4, 1.6)), 1, _MOST_STEPS))
        v = rng.standard_normal(self.x.shape)
        x, value, gradient = self.x, self.value, self.gradient
        energy = -value + 0.5 * (v**2).sum(1)
        with np.errstate(all="ignore"):
            momentum = v + 0.5 * step * (gradient @ self.factor)
            for i in range(length):
                x = x + step * momentum @ self.factor.T
                # A chain that has left the numbers stays where it is refused.
                lost = ~np.isfinite(x).all(1)
                x = np.where(lost[:, None], self.x, x)
                value, gradient = self.kernel(x)
                gradient = np.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
                value = np.where(lost | ~np.isfinite(value), -np.inf, value)
                momentum = momentum + (0.5 if i == length - 1 else 1.0) * step * (gradient @ self.factor)
            error = -value + 0.5 * (momentum**2).sum(1) - energy
        error = np.where(np.isfinite(error), error, np.inf)
        chance = np.exp(-np.maximum(error, 0.0))
        take = rng.uniform(size=len(chance)) < chance
        self.x = np.where(take[:, None], x, self.x)
        self.value = np.where(take, value, self.value)
        self.gradient = np.where(take[:, None], gradient, self.gradient)
        mean = float(chance.mean())
        self.seen += 1
        self.accepted += (mean - self.accepted) / self.seen
        self.divergent += (float((error > _DIVERGENT).mean()) - self.divergent) / self.seen
        if adapt:
            # Robbins-Monro on the log step; the mean over chains is a precise signal, so the gain is large.
            self.count += 1
            self.log_step += 2.0 / np.sqrt(self.count) * (mean - _ACCEPT)
        return self.x


def mixing(draws: np.ndarray) -> tuple[float, float]:
    """Largest split R-hat and smallest effective number, over coordinates, of ``draws [n, chains, p]``.

    Both for the draws and for their absolute deviations from the median, which see a chain that has the
    right place but the wrong spread.
    """
    centre = np.median(draws, axis=(0, 1))
    worst_r, worst_n = 1.0, np.inf
    for values in (draws, np.abs(draws - centre)):
        n = len(values) // 2
        halves = np.concatenate([values[:n], values[n : 2 * n]], axis=1)
        within = halves.var(0, ddof=1).mean(0)
        between = halves.mean(0).var(0, ddof=1)
        total = within * (n - 1) / n + between
        with np.errstate(all="ignore"):
            r = np.sqrt(total / within)
        worst_r = max(worst_r, float(np.nan_to_num(r, nan=np.inf).max()))
        worst_n = min(worst_n, float(_effective(halves, within, total).min()))
    return worst_r, worst_n


def _effective(halves: np.ndarray, within: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Effective draws of each coordinate's mean: Geyer's initial positive sequence on pooled autocorrelations."""
    n, m, p = halves.shape
    centred = halves - halves.mean(0)
    size = 2 ** int(np.ceil(np.log2(2 * n)))
    f = np.fft.rfft(centred, size, axis=0)
    covariance = np.fft.irfft(f * np.conj(f), size, axis=0)[:n].mean(1) / n
    with np.errstate(all="ignore"):
        rho = 1 - (within - covariance * n / (n - 1)) / total
    rho = np.nan_to_num(rho, nan=1.0)
    pairs = rho[: n // 2 * 2].reshape(n // 2, 2, p).sum(1)
    positive = np.cumprod(pairs > 0, axis=0).astype(bool)
    pairs = np.minimum.accumulate(np.where(positive, pairs, 0.0), axis=0)
    tau = np.maximum(2 * pairs.sum(0) - 1, 1 / np.log10(n * m))
    return n * m / tau
