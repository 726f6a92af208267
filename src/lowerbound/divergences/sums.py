"""Exact sums over the values of discrete distributions."""

from __future__ import annotations

from math import inf, isfinite
from typing import NamedTuple

import numpy as np

from lowerbound.divergences.generators import Generator
from lowerbound.divergences.laws import Law
from lowerbound.divergences.supports import MOST_VALUES, integers

_MASS = 1e-6  # log masses of compound counts have errors of 1e-7 themselves
_MOST_COUNTS = 200_000
#: A log density below it is no mass.
LEAST = -700.0


class Integral(NamedTuple):
    """A sum or integral, and the sentence that says how it was found; ``note`` says why it is infinite."""

    value: float
    exact: str
    note: str = ""


def no_overlap(log_p: np.ndarray, log_q: np.ndarray, generator: Generator, at: np.ndarray) -> str:
    """Why a divergence is infinite: where one has mass and the other has none."""
    if generator.at_infinity == inf and (bad := (log_p > LEAST) & (log_q == -inf)).any():
        return f"p has mass where q has none, such as at {at[bad][np.argmax(log_p[bad])]:.6g}"
    if generator.at_zero == inf and (bad := (log_q > LEAST) & (log_p == -inf)).any():
        return f"q has mass where p has none, such as at {at[bad][np.argmax(log_q[bad])]:.6g}"
    return ""


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
        note = no_overlap(log_p, log_q, generator, at) if value == inf else ""
        return Integral(value, f"sum over {len(at)} values", note)
    at, log_p, log_q = np.empty(0, int), np.empty(0), np.empty(0)
    size = 4096
    while len(at) < _MOST_COUNTS:
        more = int(low) + np.arange(len(at), len(at) + size)
        at, size = np.concatenate([at, more]), 2 * size
        log_p, log_q = np.concatenate([log_p, p.log_prob(more)]), np.concatenate([log_q, q.log_prob(more)])
        terms = generator.terms(log_p, log_q)
        if (terms == inf).any():
            return Integral(inf, f"sum over {len(at)} values", no_overlap(log_p, log_q, generator, at))
        rest = _remainder(terms)
        mass = abs(np.exp(log_p).sum() - 1) + abs(np.exp(log_q).sum() - 1)
        if mass < _MASS and rest < 1e-12 * max(1.0, terms.sum()):
            return Integral(
                float(terms.sum()), f"sum over {len(at)} values, with a remainder below {max(rest, 1e-16):.0e}"
            )
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
