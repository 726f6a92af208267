"""How far q's moments are from better ones: those under importance weights, and those of short chains.

Agreement of all coordinates within 0.05 sds is what "q is right" means to whoever uses its draws; k-hat and the gap
cannot see the part of the posterior that q does not reach (Wang, Kasprzak & Huggins 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from lowerbound.diagnostics.chains.short import Chains
from lowerbound.diagnostics.weights.importance import Weighted
from lowerbound.families import Block


@dataclass(frozen=True, eq=False)
class Shift:
    """How far importance weighting moves q's moments, per unconstrained coordinate.

    Attributes:
        mean: In q's standard deviations.
        log_sd: log ratio of the standard deviations.
        agree: Whether two independent halves of the weighted draws give the same moments.
        weighted_mean, weighted_sd: The moments under the weights, ``[p]``.
    """

    mean: np.ndarray
    log_sd: np.ndarray
    agree: bool
    weighted_mean: np.ndarray
    weighted_sd: np.ndarray


def shift_of(weighted: Weighted, q: Block) -> Shift:
    """Compare the weighted moments with q's, and two halves of the weighted draws with each other.

    q's moments are taken from the same draws, weighted by q(z) / r(z) in place of p(x, z) / r(z): where the
    two weights agree the draws' own error cancels. A half of effective size n knows a mean to about
    1/sqrt(n) sd; halves that differ by more than six times that (and by more than 0.1) saw different
    posteriors.
    """
    x = weighted.draws
    w = np.exp(weighted.smoothed)
    log_v = np.asarray(q.log_prob(x)) - (weighted.log_density - weighted.log_weights)
    v = np.exp(log_v - log_v.max()) if np.isfinite(log_v.max()) else w
    q_mean, q_sd = _moments(x, v / v.sum())
    mean, sd = _moments(x, w)
    if not (np.isfinite(mean).all() and np.isfinite(q_mean).all()):
        return Shift(np.full(q.dimension, np.inf), np.full(q.dimension, np.inf), False, mean, sd)
    halves = []
    for part in weighted.parts():
        u = w[part] / max(w[part].sum(), 1e-300)
        halves.append((*_moments(x[part], u), 1 / max((u**2).sum(), 1e-300)))
    (m1, s1, n1), (m2, s2, n2) = halves
    error = 6 * np.sqrt(1 / n1 + 1 / n2)
    agree = bool(
        np.all(np.abs(m1 - m2) / sd < max(error, 0.1)) and np.all(np.abs(np.log(s1 / s2)) < max(1.5 * error, 0.1))
    )
    return Shift((mean - q_mean) / q_sd, np.log(sd / q_sd), agree, mean, sd)


@dataclass(frozen=True, eq=False)
class Drift:
    """What the chains say about reported moments: shifts in sds, and whether they are more than noise.

    Attributes:
        mean: (chains' mean - reported mean) / sd, ``[p]``.
        log_sd: log(chains' sd / reported sd), ``[p]``.
        mean_se, log_sd_se: Their errors.
    """

    mean: np.ndarray
    log_sd: np.ndarray
    mean_se: np.ndarray
    log_sd_se: np.ndarray

    def beyond(self, allowed: float, level: float = 0.01) -> np.ndarray:
        """Coordinates that have moved by more than ``allowed``, and more than noise would at this level for all tests
        together (Bonferroni)."""
        z = -ndtri(level / (4 * len(self.mean)))  # two-sided, for the mean and for the sd of each
        mean = np.abs(self.mean) > np.maximum(allowed, z * self.mean_se)
        return mean | (np.abs(self.log_sd) > np.maximum(allowed, z * self.log_sd_se))

    def joined(self, other: Drift | None) -> Drift:
        """These numbers and others."""
        if other is None:
            return self
        names = ("mean", "log_sd", "mean_se", "log_sd_se")
        return Drift(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in names))

    @property
    def size(self) -> np.ndarray:
        """The larger of the two shifts, ``[p]``."""
        return np.maximum(np.abs(self.mean), np.abs(self.log_sd))


def drift(chains: Chains, mean: np.ndarray, sd: np.ndarray, effective: float = np.inf) -> Drift:
    """Shift from reported moments to the chains'.

    Args:
        chains: Short chains.
        mean, sd: Reported moments ``[p]``.
        effective: Independent draws behind them; infinite where they are exact.
    """
    m = chains.moments
    with np.errstate(all="ignore"):
        shift = np.nan_to_num((m.mean - mean) / m.sd, nan=np.inf)
        ratio = np.nan_to_num(np.log(m.sd / sd), nan=np.inf)
    own = 1 / effective
    return Drift(shift, ratio, np.sqrt(m.mean_se**2 + own), np.sqrt(m.log_sd_se**2 + own / 2))


def _moments(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = w @ x
    # In units of the draws' own spread, so that squares neither vanish nor overflow.
    unit = np.maximum(np.abs(x - mean).max(0), 1e-300)
    return mean, unit * np.sqrt(np.maximum(w @ ((x - mean) / unit) ** 2, 1e-300))


class Seen(NamedTuple):
    """How far what is reported on the constrained space has moved.

    Attributes:
        names: Of the numbers: ``s``, ``w[2]``.
        drift: Of each.
    """

    names: list[str]
    drift: Drift

    def moved(self, allowed: float) -> list[str]:
        """Names of those that have moved by more, beyond their errors; the worst first."""
        beyond = self.drift.beyond(allowed)
        return [self.names[i] for i in np.argsort(-self.drift.size) if beyond[i]]

    def largest(self, allowed: float) -> float:
        """The largest shift of those."""
        return float(self.drift.size[self.drift.beyond(allowed)].max(initial=0.0))
