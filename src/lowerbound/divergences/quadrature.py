r"""Adaptive quadrature over the line.

It is in a coordinate v in which tails are exponential and singularities at an end disappear: x = c + s sinh v
on the line, x = a + s e^v on a half line, x = a + (b - a)/(1 + e^-v) on an interval. Panels begin between quantiles of
draws of both distributions, so that no mass is missed, and those whose 10- and 20-point Gauss-Legendre rules differ
are halved. The two densities are integrated beside the terms: where they do not come to one, there is no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite
from typing import NamedTuple

import numpy as np

from lowerbound.divergences.generators import Generator
from lowerbound.divergences.laws import Law
from lowerbound.divergences.sums import Integral, no_overlap
from lowerbound.divergences.supports import interval

_REACH = 300.0  # of v: sinh(300) is 1e130, whose square is a number
_TOLERANCE = 1e-11
_WORST = 1e-6  # relative: near an end that is not zero, x has no more digits
_MOST_PANELS = 1000
_MASS = 1e-7


class Chart(NamedTuple):
    """A coordinate v of an interval, and back."""

    low: float
    high: float
    centre: float
    scale: float

    def x(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x, and log dx/dv."""
        if isfinite(self.low) and isfinite(self.high):
            width = self.high - self.low
            x = self.low + width / (1 + np.exp(-v))
            return self._inside(x), np.log(width) - np.logaddexp(0, v) - np.logaddexp(0, -v)
        if isfinite(self.low):
            return self._inside(self.low + self.scale * np.exp(v)), np.log(self.scale) + v
        if isfinite(self.high):
            return self._inside(self.high - self.scale * np.exp(v)), np.log(self.scale) + v
        return self.centre + self.scale * np.sinh(v), np.log(self.scale) + np.logaddexp(v, -v) - np.log(2)

    def _inside(self, x: np.ndarray) -> np.ndarray:
        # Rounding puts points on the end itself, where the density may be zero or infinite.
        return np.clip(x, np.nextafter(self.low, inf), np.nextafter(self.high, -inf))

    def v(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            if isfinite(self.low) and isfinite(self.high):
                return np.log(x - self.low) - np.log(self.high - x)
            if isfinite(self.low):
                return np.log((x - self.low) / self.scale)
            if isfinite(self.high):
                return np.log((self.high - x) / self.scale)
            return np.arcsinh((x - self.centre) / self.scale)


_COARSE, _FINE = np.polynomial.legendre.leggauss(10), np.polynomial.legendre.leggauss(20)
_NODES = np.concatenate([_COARSE[0], _FINE[0]])


def quadrature(p: Law, q: Law, generator: Generator) -> Integral | None:
    """The integral over the line; None where it does not converge, or the supports are not told."""
    a, b = interval(p), interval(q)
    if a is None or b is None:
        return None
    low, high = min(a[0], b[0]), max(a[1], b[1])
    p_draws, q_draws = (
        d[np.isfinite(d) & (d > low) & (d < high)] for d in (p.sample(1000, (0, 1)), q.sample(1000, (0, 2)))
    )
    if min(len(p_draws), len(q_draws)) < 500:
        return None
    draws = np.concatenate([p_draws, q_draws])
    centre = float(np.median(draws))
    spread = float(np.subtract(*np.quantile(draws, [0.75, 0.25])))
    half = abs(centre - (low if isfinite(low) else high))
    scale = (half if isfinite(low) or isfinite(high) else spread) or 1.0
    chart = Chart(low, high, centre, scale)
    levels = np.concatenate([[0.001, 0.01], np.linspace(0.05, 0.95, 19), [0.99, 0.999]])
    ends = np.array([e for e in (*a, *b) if isfinite(e)])
    inner = [np.sort(chart.v(np.quantile(d, levels))) for d in (p_draws, q_draws)]
    # The tails of the narrower one begin as panels of its own width, or the wide panels there would step over them.
    beyond = np.concatenate([2.0 ** np.arange(-2, 12)])
    tails = [e for a in inner for e in (a[0] - (a[-1] - a[0]) * beyond, a[-1] + (a[-1] - a[0]) * beyond)]
    edges = np.concatenate([*inner, *tails, chart.v(ends[(ends > low) & (ends < high)])])
    steps = np.concatenate([[1.0, 2.0, 4.0, 8.0, 16.0], np.linspace(32, _REACH, 12)])
    edges = np.concatenate([edges, inner[0][0] - steps, inner[0][-1] + steps])
    edges = np.unique(np.round(edges[np.isfinite(edges) & (np.abs(edges) <= _REACH)], 14))
    # Bounds of either support stay where they are to the last digit: a jump inside a panel costs fifty halvings.

    def parts(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, jacobian = chart.x(v)
        log_p, log_q = p.log_prob(x) + jacobian, q.log_prob(x) + jacobian
        return np.stack([generator.terms(log_p, log_q), np.exp(log_p), np.exp(log_q)]), x

    far = np.array([-_REACH, -_REACH / 2, _REACH / 2, _REACH])
    values, x = parts(far)
    if np.isnan(values[0]).any():
        return Integral(np.nan, "adaptive quadrature")
    if not (values[0, 0] < max(values[0, 1], 1e-250) and values[0, 3] < max(values[0, 2], 1e-250)):
        side = "lower" if not values[0, 0] < max(values[0, 1], 1e-250) else "upper"
        return _diverges(p, q, generator, x, f"the integral has no limit in the {side} tail")

    done, missed = adaptive(lambda v: parts(v)[0], edges)
    if np.isnan(done[0]):
        return Integral(np.nan, "adaptive quadrature")
    if not np.isfinite(done[0]):
        return _diverges(p, q, generator, x, "terms of the integral are beyond the largest number")
    missed += _rounding(lambda v: parts(v)[0][0], chart)
    if np.abs(done[1:] - 1).max() > _MASS or missed > _WORST * max(abs(done[0]), 1e-4):
        return None
    return Integral(
        float(done[0]), f"adaptive quadrature over ({low:g}, {high:g}), error below {max(missed, 1e-15):.0e}"
    )


def _rounding(f: Callable[[np.ndarray], np.ndarray], chart: Chart) -> float:
    """What lies so near an end other than 0 that x has no digits there: a tail in v, continued as it falls."""
    both = isfinite(chart.low) and isfinite(chart.high)
    width = chart.high - chart.low if both else chart.scale
    out = 0.0
    for end, sign in ((chart.low, -1.0), (chart.high, 1.0 if both else -1.0)):
        if isfinite(end) and end != 0:
            v = -np.log(np.finfo(float).eps * abs(end) / width) - 2
            near, far = f(sign * np.array([v - 4, v]))
            if far > 0 and v < _REACH:
                out += far * 4 / np.log(near / far) if near > far else inf
    return float(out)


def adaptive(f: Callable[[np.ndarray], np.ndarray], edges: np.ndarray) -> tuple[np.ndarray, float]:
    """Integrals of several functions at once, and their error, which is large where they do not converge.

    Args:
        f: From points ``[n]`` to values ``[m, n]``. The first is the one whose size sets the tolerance; where it is
            not finite the integrals are ``nan`` or infinite.
        edges: Of the first panels, rising.
    """
    left, right = edges[:-1], edges[1:]
    done: np.ndarray = np.zeros(1)
    missed = 0.0
    while len(left):
        middle, reach = (left + right) / 2, (right - left) / 2
        values = f((middle[:, None] + reach[:, None] * _NODES).ravel())
        if not np.isfinite(values[0]).all():
            return np.full(len(values), np.nan if np.isnan(values[0]).any() else inf), inf
        values = values.reshape(len(values), len(left), -1)
        coarse = (values[..., :10] * _COARSE[1]).sum(-1) * reach
        fine = (values[..., 10:] * _FINE[1]).sum(-1) * reach
        error = np.abs(fine - coarse).max(0)
        size = max(abs(done[0] + fine[0].sum()), 1e-4)
        small = (error <= _TOLERANCE * size / 64) | (reach < 1e-13 * (1 + np.abs(middle)))
        done = done + fine[:, small].sum(1)
        missed += float(error[small].sum())
        left, middle, right = left[~small], middle[~small], right[~small]
        if len(left) > _MOST_PANELS:
            return done + fine[:, ~small].sum(1), missed + float(error[~small].sum())
        left, right = np.concatenate([left, middle]), np.concatenate([middle, right])
    return done, missed


def _diverges(p: Law, q: Law, generator: Generator, x: np.ndarray, otherwise: str) -> Integral:
    x = np.concatenate([p.sample(1000, (0, 1)), q.sample(1000, (0, 2)), x])
    return Integral(inf, "adaptive quadrature", no_overlap(p.log_prob(x), q.log_prob(x), generator, x) or otherwise)
