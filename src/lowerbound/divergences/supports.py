"""Where a distribution of one number lives: an interval, a finite set, the counts."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
from numpyro.distributions import constraints

from lowerbound.divergences.laws import Given, Law

#: Finite supports up to this size are summed over.
MOST_VALUES = 1_000_000


def scalar(*laws: Law) -> bool:
    """Whether all are distributions of one number, that NumPyro describes."""
    return all(isinstance(a, Given) and a.distribution.event_shape == () for a in laws)


def discrete(law: Law) -> bool:
    return isinstance(law, Given) and bool(law.distribution.support.is_discrete)


def singular(p: Law, q: Law) -> bool:
    """Whether one is discrete and the other has a density, so that neither has mass where the other has."""
    return discrete(p) != discrete(q)


def interval(law: Law) -> tuple[float, float] | None:
    """The bounds of a continuous support on the line; None where NumPyro's support does not tell."""
    support: Any = law.distribution.support if isinstance(law, Given) else None
    if support is None or support.is_discrete or support.event_dim:
        return None
    if support is constraints.real:
        return -inf, inf
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None and high is None:
        return None
    return (-inf if low is None else float(low)), (inf if high is None else float(high))


def integers(law: Law) -> tuple[float, float] | None:
    """Least and greatest value of a discrete support, the latter perhaps infinite; None where it does not tell."""
    support: Any = law.distribution.support if isinstance(law, Given) else None
    if support is None or not support.is_discrete or support.event_dim:
        return None
    if support is constraints.boolean:
        return 0, 1
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None:
        return None
    return float(np.min(low)), (inf if high is None else float(np.max(high)))
