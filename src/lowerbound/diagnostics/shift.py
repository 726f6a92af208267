"""How far importance weighting moves q's moments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lowerbound.diagnostics.importance import Weighted
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


def _moments(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = w @ x
    # In units of the draws' own spread, so that squares neither vanish nor overflow.
    unit = np.maximum(np.abs(x - mean).max(0), 1e-300)
    return mean, unit * np.sqrt(np.maximum(w @ ((x - mean) / unit) ** 2, 1e-300))
