r"""What lies beyond the last node of an integral, and whether it has a limit at all.

In coordinates in which tails are exponential, f(v) → e^A e^(-c v) v^a: the powers x^-ν of a density are exponentials,
and its logarithms are the powers v^a. A, c and a are read off log f over the last stretch before the end, and

    ∫_V^∞ f dv = f(V)/c ∫_0^∞ e^-y (1 + y/(c V))^a dy        where c > 0,        infinite where c <= 0 (and a >= -1).

They are read off twice, over all of the stretch and over its outer half: what the two differ by is the error, and where
that is as large as c, whether there is a limit is not known.
"""

from __future__ import annotations

from math import exp, inf, log, nan
from typing import NamedTuple

import numpy as np

#: Share of the way to the end at which the stretch begins, and its nodes.
_BEGIN, _NODES = 0.4, 32
#: log(f V) below which nothing is left.
_NOTHING = -50.0
#: Error of log f from rounding, as it comes out in c.
_ROUNDING = 1e-12
#: Largest |a| that is believed.
_STEEPEST = 20.0
_LAGUERRE = np.polynomial.laguerre.laggauss(48)


class Beyond(NamedTuple):
    """An integral beyond the last node, infinite where it has no limit; its error, infinite where that is not known."""

    value: float
    error: float


def stretch(end: float) -> np.ndarray:
    """Nodes on the way to an end at the distance v = ``end``, rising ``[n]``."""
    return np.linspace(_BEGIN * end, end, _NODES)


def beyond(v: np.ndarray, log_f: np.ndarray, *, slack: float) -> Beyond:
    """The integral of f from the last v on.

    Args:
        v: Distances from the middle, of :func:`stretch` ``[n]``.
        log_f: log f there ``[n]``; minus infinity where it is zero, plus infinity where f is.
        slack: What c must exceed to be believed to be positive.
    """
    if log_f[-1] == inf or np.isnan(log_f[-1]):
        return Beyond(inf if log_f[-1] == inf else nan, inf)
    if log_f[-1] == -inf or (log_f[-1] + log(v[-1]) < _NOTHING and log_f[-1] < log_f[0]):
        return Beyond(0.0, 0.0)
    half = len(v) // 2
    if not np.isfinite(log_f).all():
        return Beyond(nan, inf)
    rise = np.diff(log_f[half:])
    if (rise > 0).all() and log_f[-1] - log_f[half] > slack * (v[-1] - v[half]):
        return Beyond(inf, 0.0)
    first, second = _fit(v, log_f), _fit(v[half:], log_f[half:])
    c, apart = second[0], abs(first[0] - second[0])
    if c + 3 * apart <= slack:
        return Beyond(inf, 0.0) if c < -slack or second[1] > -1 + slack else Beyond(nan, inf)
    if c - 3 * apart <= slack or abs(second[1]) > _STEEPEST:
        return Beyond(nan, inf)
    last = log_f[-1]
    value, other = _tail(last, v[-1], *second[:2]), _tail(last, v[-1], *first[:2])
    return Beyond(value, abs(value - other) + value * (max(first[2], second[2]) + _ROUNDING * (1 + v[-1] + 1 / c)))


def _fit(v: np.ndarray, log_f: np.ndarray) -> tuple[float, float, float]:
    """c and a of A - c v + a log v by least squares, and the largest residual."""
    design = np.stack([np.ones_like(v), -(v - v[-1]), np.log(v / v[-1])], 1)
    found = np.linalg.lstsq(design, log_f, rcond=None)[0]
    return float(found[1]), float(found[2]), float(np.abs(design @ found - log_f).max())


def _tail(log_f: float, v: float, c: float, a: float) -> float:
    if c <= 0:
        return inf
    y, weight = _LAGUERRE
    return exp(min(log_f, 700.0)) / c * float(weight @ (1 + y / (c * v)) ** a)
