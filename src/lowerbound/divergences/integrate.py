r"""Exact sums over values, and adaptive quadrature over the line.

Quadrature is in a coordinate v in which tails are exponential and singularities at an end disappear: x = c + s sinh v
on the line, x = a + s e^v on a half line, x = a + (b - a)/(1 + e^-v) on an interval. Panels begin between quantiles of
draws of both distributions, so that no mass is missed, and those whose 10- and 20-point Gauss-Legendre rules differ
are halved. The two densities are integrated beside the terms: where they do not come to one, there is no answer.
"""

from __future__ import annotations

from math import inf, isfinite
from typing import NamedTuple

import numpy as np

from lowerbound.divergences.generators import Generator
from lowerbound.divergences.laws import Law
from lowerbound.divergences.supports import MOST_VALUES, integers, interval

_REACH = 300.0  # of v: sinh(300) is 1e130, whose square is a number
_TOLERANCE = 1e-11
_MOST_PANELS = 4000
_MASS = 1e-7
_SUM_MASS = 1e-6  # log masses of compound counts have errors of 1e-7 themselves
_MOST_COUNTS = 200_000
_LEAST = -700.0  # a log density below it is no mass


class Integral(NamedTuple):
    """A sum or integral, and the sentence that says how it was found; ``note`` says why it is infinite."""

    value: float
    exact: str
    note: str = ""


def _no_overlap(log_p: np.ndarray, log_q: np.ndarray, generator: Generator, at: np.ndarray) -> str:
    """Why a divergence is infinite: where one has mass and the other has none."""
    if generator.at_infinity == inf and (bad := (log_p > _LEAST) & (log_q == -inf)).any():
        return f"p has mass where q has none, such as at {at[bad][np.argmax(log_p[bad])]:.6g}"
    if generator.at_zero == inf and (bad := (log_q > _LEAST) & (log_p == -inf)).any():
        return f"q has mass where p has none, such as at {at[bad][np.argmax(log_q[bad])]:.6g}"
    return ""


# -- sums ----------------------------------------------------------------------------------------------------


def summed(p: Law, q: Law, generator: Generator) -> Integral | None:
    """The sum over the values of two discrete distributions; None where there are too many, or none are told."""
    a, b = integers(p), integers(q)
    if a is None or b is None:
        return None
    low, high = min(a[0], b[0]), max(a[1], b[1])
    if isfinite(high):
        if high - low >= MOST_VALUES:
            return None
        at = np.arange(int(low), int(high) + 1)
        log_p, log_q = p.log_prob(at), q.log_prob(at)
        value = float(generator.terms(log_p, log_q).sum())
        note = _no_overlap(log_p, log_q, generator, at) if value == inf else ""
        return Integral(value, f"sum over {len(at)} values", note)
    at, log_p, log_q = np.empty(0, int), np.empty(0), np.empty(0)
    size = 4096
    while len(at) < _MOST_COUNTS:
        more = int(low) + np.arange(len(at), len(at) + size)
        at, size = np.concatenate([at, more]), 2 * size
        log_p, log_q = np.concatenate([log_p, p.log_prob(more)]), np.concatenate([log_q, q.log_prob(more)])
        terms = generator.terms(log_p, log_q)
        if (terms == inf).any():
            return Integral(inf, f"sum over {len(at)} values", _no_overlap(log_p, log_q, generator, at))
        rest = _remainder(terms)
        mass = abs(np.exp(log_p).sum() - 1) + abs(np.exp(log_q).sum() - 1)
        if mass < _SUM_MASS and rest < 1e-12 * max(1.0, terms.sum()):
            return Integral(float(terms.sum()), f"sum over {len(at)} values, with a remainder below {max(rest, 1e-16):.0e}")
    return None


def _remainder(terms: np.ndarray) -> float:
    """The tail that was left out, as if terms went on falling as they did over the last half.

    Tails of counts are geometric or thinner (then this is a bound), or powers k^-a: then it is k/(a - 1) times the
    last term, and terms at k and 2k give a.
    """
    last, half = float(terms[-1]), float(terms[len(terms) // 2])
    if last < 1e-300:
        return 0.0
    power = np.log2(max(half, 1e-300) / last)
    return inf if power <= 1.01 else last * len(terms) / (power - 1)


# -- quadrature ----------------------------------------------------------------------------------------------


class _Chart(NamedTuple):
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
    p_draws, q_draws = (d[np.isfinite(d) & (d > low) & (d < high)] for d in (p.sample(1000, (0, 1)), q.sample(1000, (0, 2))))
    if min(len(p_draws), len(q_draws)) < 500:
        return None
    draws = np.concatenate([p_draws, q_draws])
    centre = float(np.median(draws))
    spread = float(np.subtract(*np.quantile(draws, [0.75, 0.25])))
    half = abs(centre - (low if isfinite(low) else high))
    scale = (half if isfinite(low) or isfinite(high) else spread) or 1.0
    chart = _Chart(low, high, centre, scale)
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

    left, right = edges[:-1], edges[1:]
    done = np.zeros(3)
    missed = 0.0
    while len(left):
        middle, reach = (left + right) / 2, (right - left) / 2
        values, x = parts((middle[:, None] + reach[:, None] * _NODES).ravel())
        if np.isnan(values[0]).any():
            return Integral(np.nan, "adaptive quadrature")
        if not np.isfinite(values[0]).all():
            return _diverges(p, q, generator, x, "terms of the integral are beyond the largest number")
        values = values.reshape(3, len(left), -1)
        coarse = (values[..., :10] * _COARSE[1]).sum(-1) * reach
        fine = (values[..., 10:] * _FINE[1]).sum(-1) * reach
        error = np.abs(fine - coarse).max(0)
        size = max(abs(done[0] + fine[0].sum()), 1e-4)
        small = (error <= _TOLERANCE * size / 64) | (reach < 1e-13 * (1 + np.abs(middle)))
        done += fine[:, small].sum(1)
        missed += float(error[small].sum())
        left, middle, right = left[~small], middle[~small], right[~small]
        if len(left) > _MOST_PANELS:
            return None
        left, right = np.concatenate([left, middle]), np.concatenate([middle, right])
    if np.abs(done[1:] - 1).max() > _MASS:
        return None
    return Integral(float(done[0]), f"adaptive quadrature over ({low:g}, {high:g}), error below {max(missed, 1e-15):.0e}")


def _diverges(p: Law, q: Law, generator: Generator, x: np.ndarray, otherwise: str) -> Integral:
    x = np.concatenate([p.sample(1000, (0, 1)), q.sample(1000, (0, 2)), x])
    return Integral(inf, "adaptive quadrature", _no_overlap(p.log_prob(x), q.log_prob(x), generator, x) or otherwise)
