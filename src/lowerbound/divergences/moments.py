r"""Whether p and q have the moments that a distance between draws needs: E‖X‖^r for a value, E‖X‖^2r for its error.

Of distributions of one number by their densities: E|X|^r has a limit where x^r p(x) falls faster than 1/x
(:mod:`lowerbound.divergences.ends`). Of other draws by the tail shape of ‖x‖^r, k-hat: a mean where k < 1, a variance
where k < 1/2.
"""

from __future__ import annotations

from math import inf, isfinite
from typing import Any

import numpy as np
from numpyro.distributions import Distribution

from lowerbound.divergences.ends import beyond, stretch
from lowerbound.divergences.heavy import tail
from lowerbound.divergences.laws import Given
from lowerbound.divergences.supports import interval

#: log x to which densities are followed: its square is a number.
_REACH = 300.0
#: Errors of k-hat by which it must be beyond 1/2, times two. (|x|² of exponential draws have k-hat 0.43 ± 0.14 from
#: 1,000.) Beyond 1 it need not be by any: the draws of a Cauchy have 1 itself.
_SURE = 3.0


def without_moment(a: Any, order: float) -> frozenset[str] | None:
    """The tails, ``"lower"`` and ``"upper"``, in which E|X|^order has no limit; None where that is not known."""
    if not isinstance(a, Distribution) or a.event_shape or a.batch_shape:
        return None
    law = Given(a)
    ends = interval(law)
    if ends is None:
        return frozenset() if law.distribution.support.is_discrete and _bounded(law) else None
    out = []
    v = stretch(_REACH)
    for name, end, sign in (("lower", ends[0], -1.0), ("upper", ends[1], 1.0)):
        if isfinite(end):
            continue
        found = beyond(v, law.log_prob(sign * np.exp(v)) + (1 + order) * v, slack=1e-6)
        if np.isnan(found.value):
            return None
        if found.value == inf:
            out.append(name)
    return frozenset(out)


def _bounded(law: Given) -> bool:
    high = getattr(law.distribution.support, "upper_bound", None)
    return high is not None and bool(np.isfinite(high).all())


def doubt(p: Any, q: Any, x: np.ndarray, y: np.ndarray, *, order: int, bounded: bool = False) -> str:
    """Why the standard error of a mean of ‖x‖^order over draws ``[n, d]`` of both cannot be believed; empty if it can.

    Args:
        p: What the draws ``x`` came from.
        q: What the draws ``y`` came from.
        x: Draws of p.
        y: Draws of q.
        order: r.
        bounded: Whether means over the other draws take the growth out, so that E‖X‖^r is all that is needed.
    """
    limit = 1.0 if bounded else 0.5
    for side, a, z in (("p", p, x), ("q", q, y)):
        known = without_moment(a, order), without_moment(a, order if bounded else 2 * order)
        if known[0]:
            return f"E|X|{power(order)} of {side} has no limit in the {' and '.join(sorted(known[0]))} tail"
        if known[1]:
            return f"E|X|^{2 * order} of {side} has no limit, so that the error is not known"
        if None not in known:
            continue
        size = np.linalg.norm(z - np.median(z, axis=0), axis=1) ** order
        found = tail(size)
        if found is not None and found.k - _SURE * (1 - limit) * found.error > limit:
            what = "may have no mean" if found.k + found.error > 1 else "seems to have no variance"
            return f"‖x‖{power(order)} of {side}'s draws {what} (k-hat {found.k:.2f} ± {found.error:.2f})"
    return ""


def power(order: int) -> str:
    return "" if order == 1 else f"^{order}"
