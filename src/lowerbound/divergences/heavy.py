r"""Means of draws with heavy tails: whether they have a variance, and what a standard error makes of it.

The largest terms are taken as draws of a generalised Pareto distribution of shape k (Zhang & Stephens 2009; Vehtari et
al. 2024). A mean has a variance where k < 1/2 and exists where k < 1. k-hat has itself an error of (1 + k)/√M from M
terms, and where k is near 1/2 those samples in which it comes out low are those that have missed the tail, so that a
standard error of the terms that were met is too small just there. Hence the second moment of the largest terms is
taken from the distribution at k-hat and one of its errors more.
"""

from __future__ import annotations

from math import inf, sqrt
from typing import NamedTuple

import numpy as np

from lowerbound.pareto import generalized_pareto

#: Least number of largest terms from which a shape is read.
_FEWEST = 10
#: Largest excess over their mean up to which there is no tail: 2 for evenly spread terms, about 5 for an exponential
#: tail of a hundred. Terms that crowd at a greatest one, of which the fit's k-hat means nothing, have less.
_NO_TAIL = 3.0
#: z⁴ + 2 z² - 3 over 18, at z = 1.96.
_BY_SKEWNESS = 1.08


class Tail(NamedTuple):
    """The largest terms: shape k with its error, scale σ, the cut above which they lie, and where they are."""

    k: float
    error: float
    scale: float
    cut: float
    above: np.ndarray


def tail(size: np.ndarray) -> Tail | None:
    """The tail of terms ``[n]``; None where there are too few, or it is no tail."""
    n = len(size)
    count = int(np.ceil(min(0.2 * n, 3 * sqrt(n))))
    if count < _FEWEST or not np.isfinite(size).all():
        return None
    order = np.argsort(size, kind="stable")
    cut = float(size[order[n - count - 1]])
    above = order[n - count :]
    above = above[size[above] > cut]  # of counts many are equal
    excess = size[above] - cut
    if len(above) < _FEWEST or excess[0] == excess[-1] or excess[-1] < _NO_TAIL * excess.mean():
        return None
    k, scale = generalized_pareto(excess)
    return Tail(k, (1 + k) / sqrt(len(above)), scale, cut, above) if np.isfinite([k, scale]).all() else None


def variance(terms: np.ndarray, size: np.ndarray) -> tuple[float, Tail | None]:
    """The variance of terms ``[n]``, the tail of their ``size`` counted as it falls on beyond the draws, and that tail.

    Terms may be what a regression has left: above the cut they are taken as linear in the size. Never less than the
    variance of the draws; infinite where k may be 1/2.
    """
    found, own = tail(size), float(terms.var(ddof=1))
    if found is None:
        return own, None
    k = found.k + found.error
    if k >= 0.5:
        return inf, found
    x, r = size[found.above] - found.cut, terms - terms.mean()
    far = r[found.above]
    apart = x - x.mean()
    slope = float(apart @ far / (apart @ apart))
    rest = float(((far - far.mean() - slope * apart) ** 2).mean())
    # Of the excess: mean σ/(1 - k), variance σ²/((1 - k)² (1 - 2 k)).
    mean, spread = found.scale / (1 - k), found.scale**2 / ((1 - k) ** 2 * (1 - 2 * k))
    middle = far.mean() + slope * (mean - x.mean())
    near = float((r**2).sum() - (far**2).sum())
    return max(own, (near + len(far) * (slope**2 * spread + middle**2 + rest)) / (len(r) - 1)), found


def for_skewness(third: float, se: float) -> float:
    """By how much a standard error is widened, so that ± 1.96 of it holds what that of a normal mean would.

    Args:
        third: Third cumulant of the estimate.
        se: Its standard error.

    With skewness γ of the estimate the interval's ends move by γ² (z⁴ + 2 z² - 3)/18 of themselves, the first term in
    Edgeworth's expansion of the studentised mean (Hall 1988).
    """
    return 1 + _BY_SKEWNESS * (third / se**3) ** 2 if se > 0 and np.isfinite(se) else 1.0


def third_cumulant(terms: np.ndarray) -> float:
    """Of the mean of terms ``[n]``."""
    return float(((terms - terms.mean()) ** 3).mean() / len(terms) ** 2)
