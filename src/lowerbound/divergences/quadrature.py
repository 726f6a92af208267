r"""Adaptive quadrature over the line.

It is in a coordinate v in which tails are exponential and singularities at an end disappear: x = c + s sinh v
on the line, x = a + s e^v on a half line, x = a + (b - a)/(1 + e^-v) on an interval. Panels begin between quantiles of
draws of both distributions, so that no mass is missed, and those whose 10- and 20-point Gauss-Legendre rules differ
are halved. Beyond v = 300, x about 1e130, each is continued as its tail falls (:mod:`lowerbound.divergences.ends`), or
found to have no limit. The two densities are integrated beside the terms: where they do not come to one, there is no
answer.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite
from typing import NamedTuple

import numpy as np

from lowerbound.divergences.ends import beyond, stretch
from lowerbound.divergences.generators import Generator
from lowerbound.divergences.laws import Law
from lowerbound.divergences.sums import LEAST, Integral, no_overlap
from lowerbound.divergences.supports import interval

_REACH = 300.0  # of v: sinh(300) is 1e130, whose square is a number
_TOLERANCE = 1e-11
_WORST = 1e-6  # relative: near an end that is not zero, x has no more digits
_MOST_PANELS = 1000
_MASS = 1e-7
#: What slopes must exceed: a few times the rounding of parameters that were float32; where x has four digits, theirs.
_SLACK, _SLACK_OF_FEW_DIGITS = 1e-6, 1e-3


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
    widths = 2.0 ** np.arange(-2, 12)
    tails = [e for a in inner for e in (a[0] - (a[-1] - a[0]) * widths, a[-1] + (a[-1] - a[0]) * widths)]
    edges = np.concatenate([*inner, *tails, chart.v(ends[(ends > low) & (ends < high)])])
    lower, upper = _reach(chart, -1.0), _reach(chart, 1.0)
    steps = np.concatenate([[1.0, 2.0, 4.0, 8.0, 16.0], np.linspace(32, _REACH, 12)])
    edges = np.concatenate([edges, inner[0][0] - steps, inner[0][-1] + steps])
    edges = edges[np.isfinite(edges) & (edges > -lower.distance) & (edges < upper.distance)]
    # Bounds of either support stay where they are to the last digit: a jump inside a panel costs fifty halvings.
    edges = np.unique(np.concatenate([np.round(edges, 14), [-lower.distance, upper.distance]]))

    def logs(v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, jacobian = chart.x(v)
        return p.log_prob(x) + jacobian, q.log_prob(x) + jacobian, x

    def parts(v: np.ndarray) -> np.ndarray:
        log_p, log_q, _ = logs(v)
        return np.stack([generator.terms(log_p, log_q), np.exp(log_p), np.exp(log_q)])

    rest, missed = np.zeros(3), 0.0
    for side, reach in ((-1.0, lower), (1.0, upper)):
        v = stretch(reach.distance)
        log_p, log_q, x = logs(side * v)
        signs = np.sign(generator.terms(log_p, log_q))
        if np.isnan(signs[-1]):
            return Integral(np.nan, "adaptive quadrature")
        terms = generator.log_terms(log_p, log_q)
        # Where both densities are e^-700 there is no mass, however large their ratio.
        terms = np.where((terms == inf) & (np.maximum(log_p, log_q) < LEAST), -inf, terms)
        found = [beyond(v, row, slack=reach.slack) for row in (terms, log_p, log_q)]
        if found[0].value == inf:
            name = "lower" if side < 0 else "upper"
            return _diverges(p, q, generator, x, f"the integral has no limit in the {name} tail")
        sign = -1.0 if signs[-1] < 0 else 1.0
        rest += [sign * found[0].value, found[1].value, found[2].value]
        missed += found[0].error
    if not np.isfinite(rest).all():
        return None

    done, error = adaptive(parts, edges)
    if np.isnan(done[0]):
        return Integral(np.nan, "adaptive quadrature")
    if not np.isfinite(done[0]):
        x = logs(edges)[2]
        return _diverges(p, q, generator, x, "terms of the integral are beyond the largest number")
    missed, done = missed + error, done + rest
    if np.abs(done[1:] - 1).max() > _MASS or not missed <= _WORST * max(abs(done[0]), 1e-4):
        return None
    share = abs(rest[0]) / max(abs(done[0]), 1e-300)
    far = f", {share:.1%} of it continued as powers of x" if share > 1e-3 else ""
    return Integral(
        float(done[0]), f"adaptive quadrature over ({low:g}, {high:g}){far}, error below {max(missed, 1e-15):.0e}"
    )


class Reach(NamedTuple):
    """How far v goes to a side, and how exact slopes of logarithms are there."""

    distance: float
    slack: float


def _reach(chart: Chart, side: float) -> Reach:
    """To x of 1e130 or 1e-130; next to an end other than 0, to where x has four digits beyond the end's own."""
    both = isfinite(chart.low) and isfinite(chart.high)
    if both:
        end, width = (chart.low if side < 0 else chart.high), chart.high - chart.low
    else:  # the end of a half line is at v = -inf, whichever it is
        end, width = (chart.low if isfinite(chart.low) else chart.high) if side < 0 else inf, chart.scale
    if not isfinite(end) or end == 0:
        return Reach(_REACH, _SLACK)
    digits = -np.log(np.finfo(float).eps * abs(end) / width)
    return Reach(float(min(max(digits - 9, 0.6 * digits, 1.0), _REACH)), _SLACK_OF_FEW_DIGITS)


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
