r"""Whether pi ∝ p^n q^(1 - n) has any mass to speak of: whether the chi bound of q is finite, and of which q it is.

For n > 1 and a Gaussian q = N(mu, D^{-1}), log pi = n log p - (n - 1) log q has (n - 1)/2 times a squared distance in
it. Where p falls more slowly than that along a path, straight or curved, log pi rises there without end, and the
integral of p^n q^(1-n) is infinite: for exponential tails, for Student-t ones, and along a ridge that bends away from
q. Weighted draws never say so. They see as far as they reach, and the wider they reach, the wider is the q that looks
best.

So log pi is climbed from the heaviest draws, along its gradient in whitened coordinates of pi, with steps that double
while they rise. If one climb is a hundred standard deviations away and higher than pi is anywhere about its centre, the
bound is infinite. (A climb that comes to rest proves nothing: there may be such paths where no draw was.)

*Of which q it is finite, then.* The end mu + u of an endless climb has a log p that is known, lower than at the centre
by l. Log pi is below its centre there if (n - 1)/2 u'Du < n l: with the *reach* v = u sqrt((n - 1) / (2 n l)), if

    v' D v < 1.

That is linear in D, and while p falls like a Gaussian along u it does not depend on how long u is. A q that has some
reaches outside is widened, least as the divergence counts it, by S + t [v v'], [.] the family's blocks
(:func:`covering`). Where p's tail is heavier than any Gaussian's, v grows with u, and every wider q has another. So p
is looked at further out on the same line: v'Dv ~ |u|^a has a = 0 for a Gaussian's tail, 1 for an exponential one, close
to 2 for a Student-t's, and -2 where the path bends away from the line like a parabola.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerbound.algorithms.climb import climb
from lowerbound.algorithms.tilted import Moments, restrict
from lowerbound.kernel import Kernel

#: Standard deviations away, and nats above the centre, that only an endless rise has.
_AWAY, _ABOVE = 100.0, 10.0
#: How many times as far p is looked at, and the power of |u| up to which v'Dv counts as constant between.
_NEARER, _FURTHER, _CONSTANT = 10.0, 100.0, 0.25
_HALVINGS = 60


class Endless(NamedTuple):
    """Rises without end; none where ``ends`` is empty.

    Attributes:
        ends: Where they had come to ``[k, p]``.
        reaches: Their v ``[k, p]``.
        heavier: Whether one of them is no Gaussian's tail further out on its line: no q is known to have a bound.
    """

    ends: np.ndarray
    reaches: np.ndarray
    heavier: bool


def endless(kernel: Kernel, pi: Moments, q: Moments, starts: np.ndarray, *, power: float) -> Endless:
    """Follow log pi where it rises without end.

    Args:
        kernel: log p.
        pi: Moments of pi as far as it was seen.
        q: The Gaussian in it.
        starts: Points to climb from ``[m, p]``.
        power: n > 1.

    Cost: at most 91 (m + 1) evaluations, O(m p^2) each.
    """
    factor, precision = np.linalg.cholesky(pi.covariance), np.linalg.inv(q.covariance)

    def log_pi(e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = pi.mean + e @ factor.T
        value, score = kernel(x)
        off = (x - q.mean) @ precision
        slope = (power * score + (power - 1) * off) @ factor
        value = power * value + (power - 1) / 2 * ((x - q.mean) * off).sum(1)
        return np.where(np.isfinite(value) & np.isfinite(slope).all(1), value, -np.inf), slope

    e = np.linalg.solve(factor, (starts - pi.mean).T).T
    e = np.concatenate([e, np.zeros((1, e.shape[1]))])
    # Of where the draws are, and not of the ends of other climbs.
    near = np.linalg.norm(e, axis=1) < _AWAY
    centre = log_pi(e[near])[0].max()

    def gone(e: np.ndarray, value: np.ndarray) -> np.ndarray:
        return (np.linalg.norm(e, axis=1) > _AWAY) & (value > centre + _ABOVE)

    found = climb(log_pi, e, stop=lambda e, value: bool(gone(e, value).any()))
    u = pi.mean + found.e[gone(found.e, found.value)] @ factor.T - q.mean
    own = (power - 1) / 2 * np.einsum("ki,ij,kj->k", u, precision, u)
    shares = []  # 1 / (v'Dv), where p is lower than about the centre
    for times in (_NEARER, _FURTHER):
        value = log_pi(np.linalg.solve(factor, (q.mean + times * u - pi.mean).T).T)[0]
        shares.append(np.maximum(1 - (value - centre) / (times**2 * own), 0.0))
    with np.errstate(all="ignore"):
        power_of = np.log(shares[0] / shares[1]) / np.log(_FURTHER / _NEARER)
        reaches = u * np.sqrt((power - 1) / 2 / (own * shares[1]))[:, None]
    constant = np.abs(power_of) < _CONSTANT
    return Endless(q.mean + u, reaches, not constant.all())


def covering(q: Moments, reaches: np.ndarray, groups: list[np.ndarray], *, margin: float) -> Moments:
    """q widened by the least that leaves v'Dv at most 1 - margin for every reach v ``[k, p]``.

    Where q is dense, with one reach beyond it, that is the KL's own projection, as D and the mean's product with it
    are q's natural parameters; to first order it is so among blocks.

    Cost: O(k p^3), and as much sixty times over where there are several blocks.
    """
    covariance, most = q.covariance, 1 - margin

    def length(t: float, v: np.ndarray) -> float:
        return float(v @ np.linalg.solve(covariance + t * restrict(np.outer(v, v), groups), v))

    for v in sorted(reaches, key=lambda v: -length(0.0, v)):
        now = length(0.0, v)
        if now <= most:
            continue
        # Dense: v'(S + t vv')^{-1} v = a / (1 + t a). Fewer blocks take away less, so that t is at most this.
        low, high = 0.0, 1 / most - 1 / now
        while length(high, v) > most:
            low, high = high, 2 * high
        for _ in range(_HALVINGS if len(groups) > 1 else 0):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if length(middle, v) > most else (low, middle)
        covariance = covariance + high * restrict(np.outer(v, v), groups)
    return Moments(q.mean, covariance)
