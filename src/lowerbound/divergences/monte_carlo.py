r"""f-divergences by sampling: half of the draws from p, half from q.

With m = (p + q)/2, D_f = E_m[q f(p/q) / m], and terms are never larger than f(0) + f'(∞) (twice either half): under m
total variation, Jensen-Shannon and Hellinger have bounded terms whatever p and q are, and those of KL grow as the log
ratio. (p - q)/m lies between -2 and 2 and has mean zero; its regression is taken out, which near p = q removes all of
the first order. Of terms without a bound the tail is counted in the standard error
(:mod:`lowerbound.divergences.heavy`).
"""

from __future__ import annotations

from math import inf, isfinite
from typing import NamedTuple

import numpy as np

from lowerbound.divergences.generators import Generator
from lowerbound.divergences.heavy import for_skewness, third_cumulant, variance
from lowerbound.divergences.laws import Law
from lowerbound.errors import NotFiniteError


class Average(NamedTuple):
    value: float
    se: float
    note: str = ""


def sampled(p: Law, q: Law, generator: Generator, *, num_draws: int, seed: int) -> Average:
    """The estimate, its standard error, and why it is infinite where it is.

    Raises:
        NotFiniteError: draws of one lie where its own density is not a positive number.
    """
    n = num_draws // 2
    halves, sizes, controls = [], [], []
    for i, law in enumerate((p, q)):
        points = law.sample(n, (seed, i))
        log_p, log_q = p.log_prob(points), q.log_prob(points)
        own, other = (log_p, log_q) if i == 0 else (log_q, log_p)
        if not np.isfinite(own).all():
            raise NotFiniteError(
                f"{(~np.isfinite(own)).sum()} of {n} draws of {'pq'[i]}, {law.label}, have the log density "
                f"{own[~np.isfinite(own)][0]} there: they lie on the edge of its support, to rounding. A "
                "parameter is extreme, or the density is not that of the draws."
            )
        bound = generator.at_infinity if i == 0 else generator.at_zero
        if (other == -inf).any() and bound == inf:
            note = f"{(other == -inf).sum()} of {n} draws of {'pq'[i]} lie where {'qp'[i]} has density zero"
            return Average(inf, 0.0, note)
        if (other == -inf).any() and bound != bound:  # a person's f, whose limit is not known
            return Average(bound, 0.0)
        log_m = np.logaddexp(log_p, log_q) - np.log(2)
        halves.append(generator.terms(log_p - log_m, log_q - log_m))
        # P(log q/p > s) <= e^-s under p: terms that grow where the *other* density is larger have exponential tails.
        sizes.append(np.where(own > other, np.abs(halves[-1]), 0.0))
        controls.append(np.exp(log_p - log_m) - np.exp(log_q - log_m))
    if not all(np.isfinite(h).all() for h in halves):
        return Average(inf, 0.0, "terms of the average are beyond the largest number")
    within = np.concatenate([h - h.mean() for h in halves])
    beside = np.concatenate([c - c.mean() for c in controls])
    slope = within @ beside / max(beside @ beside, 1e-300)
    rests = [h - slope * c for h, c in zip(halves, controls, strict=True)]
    value = (rests[0].mean() + rests[1].mean()) / 2
    spread = [float(r.var(ddof=1)) for r in rests]
    se = np.sqrt(sum(spread) / n) / 2
    third = sum(map(third_cumulant, rests)) / 8
    for i, bound in enumerate((generator.at_infinity, generator.at_zero)):
        if isfinite(bound):
            continue
        spread[i], tail = variance(rests[i], sizes[i])
        if spread[i] == inf and tail is not None:
            what = "no mean" if tail.k - tail.error > 1 else "no variance"
            k = f"k-hat {tail.k:.2f} ± {tail.error:.2f}"
            return Average(value, inf, f"the terms may have {what} ({k}): the estimate cannot be believed")
    widened = np.sqrt(sum(spread) / n) / 2 * for_skewness(third, float(se))
    return Average(value, float(widened))
