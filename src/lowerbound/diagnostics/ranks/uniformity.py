"""Are ranks uniform? Two tests, exact or nearly so, for every quantity at once.

A rank r in {0, ..., L} of N independent ones is uniform if the posterior is exact. With u = (r + 1) / (L + 1):

* chi-square on B equal bins, (observed - N/B)^2 / (N/B) summed, against B - 1 degrees of freedom;
* the simultaneous envelope of the ECDF. At each of K - 1 points z = i / K the count R(z) = #{u <= z} is
  Binomial(N, z), so 2 min(P(X <= R), P(X >= R)) is a pointwise p-value. Its minimum over the points, gamma, is the
  statistic; P(gamma <= observed) is computed exactly. Given R(z_i), the rest of the N fall one by one:

      R(z_{i+1}) - R(z_i) ~ Binomial(N - R(z_i), (z_{i+1} - z_i) / (1 - z_i)),

  so the probability that a path stays where every pointwise p-value exceeds gamma is a product of matrices.

Source: Säilynoja, Bürkner, Vehtari (2022), Graphical test for discrete uniformity and its applications in goodness
of fit evaluation and multiple sample comparison, section 2, algorithm 2. They look for the gamma of a given level; the
same recursion is here run at the observed gamma, which gives a p-value.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

#: Bins hold this many ranks on average, so that the chi-square distribution holds (5 is the least that is usual).
PER_BIN = 10
#: Points at which the ECDF is looked at, and bins, at most.
POINTS, BINS = 64, 32


class Uniformity(NamedTuple):
    """What the two tests say of each of m quantities.

    Attributes:
        chi_square, ecdf: Their p-values ``[m]``.
        p: Smaller of the two, corrected for both and for all m (Bonferroni), at most 1 ``[m]``.
        mean: Mean of (r + 1/2) / (L + 1), 1/2 if uniform ``[m]``.
        spread: Mean squared distance from 1/2 over that of a uniform rank, 1 if uniform ``[m]``.
    """

    chi_square: np.ndarray
    ecdf: np.ndarray
    p: np.ndarray
    mean: np.ndarray
    spread: np.ndarray

    def shape(self, i: int, n: int) -> str:
        """What the posterior of quantity i is, if its n ranks are not uniform, in words."""
        # Under uniformity the mean has variance 1 / 12n, and 12 (u - 1/2)^2 has variance 4/5.
        bias = (self.mean[i] - 0.5) * math.sqrt(12 * n)
        width = (self.spread[i] - 1) * math.sqrt(n / 0.8)
        if max(abs(bias), abs(width)) < 2:
            return "wrong in shape"
        if abs(bias) > abs(width):
            return "too low" if bias > 0 else "too high"
        return "too narrow" if width > 0 else "too wide"


def uniformity(ranks: np.ndarray, largest: int) -> Uniformity:
    """Test ``ranks [n, m]``, whole numbers from 0 to ``largest``, column by column.

    Cost: n^2 m min(64, largest + 1) multiplications.

    Example:
        >>> ranks = np.stack([np.arange(64) % 16, np.full(64, 3)], 1)
        >>> np.round(uniformity(ranks, 15).p, 3).tolist()
        [1.0, 0.0]
    """
    n, m = ranks.shape
    u = (ranks + 0.5) / (largest + 1)
    bins = number_of_bins(n, largest)
    counts = np.stack([np.sum(ranks * bins // (largest + 1) == b, axis=0) for b in range(bins)])
    statistic = ((counts - n / bins) ** 2).sum(0) / (n / bins)
    chi_square = stats.chi2.sf(statistic, bins - 1)
    points = number_of_points(largest)
    below = np.stack([np.sum((ranks + 1) * points <= i * (largest + 1), axis=0) for i in range(1, points)])
    tails = _tails(n, points)
    gamma = np.take_along_axis(tails, below, axis=1).min(0)
    ecdf = 1 - _stays(tails, gamma)
    p = np.minimum(1.0, 2 * m * np.minimum(chi_square, ecdf))
    return Uniformity(chi_square, ecdf, p, u.mean(0), 12 * ((u - 0.5) ** 2).mean(0))


def envelope(n: int, largest: int, alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points z, and the least and largest ECDF there that keep the whole ECDF inside with probability 1 - alpha."""
    points = number_of_points(largest)
    tails = _tails(n, points)
    gammas = np.geomspace(1e-2 * alpha / points, 1.0, 400)
    leaves = 1 - _stays(tails, gammas)
    inside = tails > gammas[np.searchsorted(leaves, alpha, side="right") - 1]
    lower = inside.argmax(1)
    upper = n - inside[:, ::-1].argmax(1)
    return np.arange(1, points) / points, lower / n, upper / n


def number_of_bins(n: int, largest: int) -> int:
    """The largest power of two that divides L + 1 and leaves :data:`PER_BIN` ranks a bin; at least 2."""
    bins = 2
    while (largest + 1) % (2 * bins) == 0 and n >= 2 * bins * PER_BIN and 2 * bins <= BINS:
        bins *= 2
    return bins


def number_of_points(largest: int) -> int:
    """K, which divides L + 1 so that P(u <= i / K) is exactly i / K."""
    return math.gcd(largest + 1, POINTS)


def _tails(n: int, points: int) -> np.ndarray:
    """2 min(P(X <= x), P(X >= x)) of Binomial(n, i / points), ``[points - 1, n + 1]``."""
    z = np.arange(1, points)[:, None] / points
    x = np.arange(n + 1)[None]
    return 2 * np.minimum(stats.binom.cdf(x, n, z), stats.binom.sf(x - 1, n, z))


def _stays(tails: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """P(every pointwise p-value > gamma) of a uniform sample, for each gamma ``[g]``."""
    points, n = len(tails) + 1, tails.shape[1] - 1
    x = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    gained = np.maximum(x[None] - x[:, None], 0)
    log_choose = log_factorial[n - x][:, None] - log_factorial[gained] - log_factorial[n - np.maximum(x, x[:, None])]
    reached = np.zeros((len(gamma), n + 1))
    reached[:, 0] = 1
    for i, tail in enumerate(tails):
        p = 1 / (points - i)
        log_step = log_choose + gained * math.log(p) + (n - np.maximum(x, x[:, None])) * math.log1p(-p)
        step = np.where(x[None] >= x[:, None], np.exp(log_step), 0.0)
        # The observed gamma is one of these numbers: the comparison must not fail by rounding.
        reached = (reached @ step) * (tail > gamma[:, None] * (1 + 1e-12))
    return np.clip(reached.sum(1), 0.0, 1.0)
