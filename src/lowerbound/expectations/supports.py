r"""Supports of one number, by name: ``"real"``, ``"positive"``, ``"unit"``, and ``"[a, b]"`` for any other bounds.

Of the unconstrained u, with s the logistic function, NumPyro's maps are

    a + (b - a) s(u)  between two ends,        a + e^u  above one,        b - e^u  below one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

#: The ends of those that have names.
_NAMED = {"real": (-math.inf, math.inf), "positive": (0.0, math.inf), "unit": (0.0, 1.0)}


def between(low: float, high: float) -> str:
    """The name of the support from ``low`` to ``high``."""
    named = (n for n, e in _NAMED.items() if e == (low, high))
    return next(named, f"[{float(low)!r}, {float(high)!r}]")


def ends(support: str) -> tuple[float, float] | None:
    """The ends of a support of numbers; None for others (simplices, matrices, discrete values)."""
    if support in _NAMED:
        return _NAMED[support]
    if not support.startswith("["):
        return None
    low, high = support[1:-1].split(",")
    return float(low), float(high)


def signed(support: str) -> bool:
    """Whether numbers on both sides of zero, or below it, are in a support."""
    found = ends(support)
    return found is not None and found[0] < 0


def is_number(support: str) -> bool:
    """Whether it is a support of numbers, each on its own."""
    return ends(support) is not None


def probes(support: str) -> np.ndarray:
    """Numbers all over a support."""
    found = ends(support)
    assert found is not None, support
    u = np.linspace(-6.0, 6.0, 49)
    if support == "real":
        return np.sinh(u / 1.5)
    return from_real(support, u, 1 / (1 + np.exp(-u)), np)


def from_real(support: str, u: Any, logistic: Any, xp: Any) -> Any:
    """The number at u; ``logistic`` is s(u)."""
    found = ends(support)
    assert found is not None, support
    low, high = found
    if support == "real":
        return u
    if math.isinf(high):
        return low + xp.exp(u) if low else xp.exp(u)
    if math.isinf(low):
        return high - xp.exp(u)
    return logistic if support == "unit" else low + (high - low) * logistic


def log_slope(support: str, u: Any, log_logistic: Any) -> Any:
    """log dx/du; ``log_logistic`` is the function log s."""
    found = ends(support)
    assert found is not None, support
    low, high = found
    if support == "real":
        return 0.0 * u
    if math.isinf(high) or math.isinf(low):
        return u
    own = log_logistic(u) + log_logistic(-u)
    return own if high - low == 1 else own + math.log(high - low)
