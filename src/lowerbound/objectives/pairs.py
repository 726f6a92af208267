r"""The kernel of discrepancies over pairs of draws, and Stein's, for NumPy and JAX alike.

k(x, y) = (1 + |x - y|^2 / h^2)^(-1/2), the inverse multiquadric, whose slow tails see what is far away (Gorham &
Mackey 2017). With the score s = grad log p, functions f of its space have E_p[s f + grad f] = 0, and

    u(x, y) = s(x)'s(y) k + s(x)' grad_y k + s(y)' grad_x k + trace(grad_x grad_y' k)

has the mean zero over pairs of independent draws of p, and over those of q the mean KSD^2(q, p) >= 0, the kernel Stein
discrepancy (Liu, Lee & Jordan 2016; Chwialkowski, Strathmann & Gretton 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_ROWS = 1024


def squares(x: Any, y: Any) -> Any:
    """|x - y|^2 ``[n, m]`` of points ``[n, d]`` and ``[m, d]``."""
    out = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * x @ y.T
    return out * (out > 0)


def multiquadric(x: Any, y: Any, width: Any) -> Any:
    """k ``[n, m]``, of bandwidth h."""
    return (1 + squares(x, y) / width**2) ** -0.5


def stein_kernel(x: Any, s: Any, y: Any, t: Any, width: Any) -> Any:
    """u ``[n, m]`` of points ``x``, ``y`` with their scores ``s``, ``t``.

    With g = 1 + r^2 / h^2: grad_y k = (x - y) g^(-3/2) / h^2, grad_x k its opposite, and the trace is
    d g^(-3/2) / h^2 - 3 r^2 g^(-5/2) / h^4.
    """
    square = squares(x, y)
    k = (1 + square / width**2) ** -0.5
    slope = k * k * k / width**2
    across = (s * x).sum(1)[:, None] - s @ y.T - x @ t.T + (t * y).sum(1)  # s(x)'(x - y) - t(y)'(x - y)
    return s @ t.T * k + (across + x.shape[1] - 3 * square * k * k / width**2) * slope


class PairMean(NamedTuple):
    """The mean over pairs i != j of n draws, its standard error, and the mean over i = j."""

    value: float
    se: float
    diagonal: float


def pair_mean(block: Callable[[slice], np.ndarray], n: int) -> PairMean:
    """From some rows at a time of a symmetric matrix ``[n, n]``, on the host.

    The variance of the mean over pairs is (Hoeffding 1948) 4 var(a)/n + 2 zeta/n^2, a the mean of a row and zeta the
    variance that is left when the means over either index are taken out. var(a) has zeta in it twice already.
    """
    rows, diagonal, square = np.empty(n), np.empty(n), 0.0
    for i in range(0, n, _ROWS):
        some = np.array(block(slice(i, i + _ROWS)))
        own = (np.arange(len(some)), i + np.arange(len(some)))
        diagonal[i : i + _ROWS] = some[own]
        some[own] = 0.0
        rows[i : i + _ROWS] = some.sum(1)
        square += float((some * some).sum())
    means = rows / (n - 1)
    value = float(means.mean())
    rest = max(square / (n * (n - 1)) - 2 * float((means**2).mean()) + value**2, 0.0)
    se = float(np.sqrt(max(4 * means.var(ddof=1) / n - 2 * rest / n**2, 2 * rest / n**2)))
    return PairMean(value, se, float(diagonal.mean()))


def stein_v_statistic(x: np.ndarray, scores: np.ndarray, width: float) -> tuple[float, float]:
    """KSD^2 of n points as they are, 1/n^2 sum_ij u(x_i, x_j), and what it is on average of n independent draws of p:
    that of its diagonal alone, E[u(x, x)] / n.

    Args:
        x: Points ``[n, d]``.
        scores: grad log p at them ``[n, d]``.
        width: h.
    """
    u = stein_kernel(x, scores, x, scores, width)
    return float(u.mean()), float(np.diagonal(u).mean() / len(x))


def usual_width(dimension: int) -> float:
    """h: the median distance of two draws of a standard normal (the median heuristic, where that is about the scale).

    r^2 is twice a chi-squared variable, whose median is d (1 - 2 / (9 d))^3 (Wilson & Hilferty 1931).
    """
    return float(np.sqrt(2 * dimension * (1 - 2 / (9 * dimension)) ** 3))
