r"""Optimal transport between draws on the line, with the dual potentials that give its standard error.

The cost T = min E|X - Y|^r of moving one sample to another is on the line that of moving quantiles to quantiles. If
φ(x) + ψ(y) <= |x - y|^r are the optimal potentials, T changes by the mean of φ over a change of p and that of ψ over a
change of q, so that var(φ)/n + var(ψ)/m is its variance (del Barrio & Loubes 2019; Hundrieser, Klatt & Munk 2024).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Transport(NamedTuple):
    """The cost T, and potentials of the draws of p ``[n]`` and q ``[m]``, each up to a constant."""

    cost: float
    of_p: np.ndarray
    of_q: np.ndarray

    @property
    def se(self) -> float:
        n, m = len(self.of_p), len(self.of_q)
        return float(np.sqrt(self.of_p.var(ddof=1) / n + self.of_q.var(ddof=1) / m))


def on_the_line(x: np.ndarray, y: np.ndarray, order: float) -> Transport:
    """Exact transport between draws ``[n]`` and ``[m]``."""
    i, j = np.argsort(x, kind="stable"), np.argsort(y, kind="stable")
    a, b = x[i], y[j]
    n, m = len(a), len(b)
    # Levels as whole numbers of 1/(n m), so that those of both samples meet without rounding.
    levels = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    steps = np.diff(levels, prepend=0) / (n * m)
    at_x, at_y = (levels - 1) // m, (levels - 1) // n
    cost = float(steps @ np.abs(a[at_x] - b[at_y]) ** order)
    of_p, of_q = np.empty(n), np.empty(m)
    # From one point to the next a potential changes by what moving costs to where the level between them goes. Where
    # levels of both samples meet, p moves first: φ looks at q's point before, ψ at p's after (or they are no pair).
    of_p[i] = _potential(a, b[(np.arange(1, n) * m - 1) // n], order)
    of_q[j] = _potential(b, a[np.arange(1, m) * n // m], order)
    return Transport(cost, of_p, of_q)


def _potential(a: np.ndarray, to: np.ndarray, order: float) -> np.ndarray:
    """At sorted points ``[n]``, from where the levels between them go ``[n - 1]``."""
    change = np.abs(a[1:] - to) ** order - np.abs(a[:-1] - to) ** order
    return np.concatenate([[0.0], np.cumsum(change)])


def root(cost: float, se: float, order: float) -> tuple[float, float]:
    """W = T^(1/r) and its standard error; where T is zero, that has no derivative."""
    if cost <= 0:
        return 0.0, se ** (1 / order)
    w = cost ** (1 / order)
    return w, se * w / (order * cost)
