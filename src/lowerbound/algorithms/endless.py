r"""Whether pi ∝ p^n q^(1 - n) has any mass to speak of: whether the chi bound of q is finite.

For n > 1 and a Gaussian q, log pi = n log p - (n - 1) log q has (n - 1)/2 times a squared distance in it. Where p falls
more slowly than that along a path, straight or curved, log pi rises there without end, and the integral of p^n q^(1-n)
is infinite: for exponential tails, for Student-t ones, and along a ridge that bends away from q. Weighted draws never
say so. They see as far as they reach, and the wider they reach, the wider is the q that looks best.

So log pi is climbed from the heaviest draws, along its gradient in whitened coordinates of pi, with steps that double
while they rise. If one climb is a hundred standard deviations away and higher than pi is anywhere about its centre, the
bound is infinite. (A climb that comes to rest proves nothing: there may be such paths where no draw was.)
"""

from __future__ import annotations

import numpy as np

from lowerbound.algorithms.tilted import Moments
from lowerbound.kernel import Kernel

#: Standard deviations away, and nats above the centre, that only an endless rise has.
_AWAY, _ABOVE = 100.0, 10.0
_STEPS = 90


def endless(kernel: Kernel, pi: Moments, q: Moments, starts: np.ndarray, *, power: float) -> bool:
    """Whether log pi rises without end from one of some points.

    Args:
        kernel: log p.
        pi: Moments of pi as far as it was seen.
        q: The Gaussian in it.
        starts: Points to climb from ``[m, p]``.
        power: n > 1.

    Cost: at most 90 (m + 1) evaluations, O(m p^2) each.
    """
    factor, precision = np.linalg.cholesky(pi.covariance), np.linalg.inv(q.covariance)

    def at(e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = pi.mean + e @ factor.T
        value, score = kernel(x)
        off = (x - q.mean) @ precision
        slope = (power * score + (power - 1) * off) @ factor
        value = power * value + (power - 1) / 2 * ((x - q.mean) * off).sum(1)
        return np.where(np.isfinite(value) & np.isfinite(slope).all(1), value, -np.inf), slope

    e = np.linalg.solve(factor, (starts - pi.mean).T).T
    e = np.concatenate([e, np.zeros((1, e.shape[1]))])
    value, slope = at(e)
    top, step = value.max() + _ABOVE, np.ones(len(e))
    far, ago = np.ones(len(e)), e.copy()
    for t in range(_STEPS):
        ahead = t % 3 == 2  # in a narrow valley the gradient goes to and fro; two steps of it go along
        if ahead:
            moved, ago = e + far[:, None] * (e - ago), e.copy()
        else:
            moved = e + (step / np.maximum(np.linalg.norm(slope, axis=1), 1e-300))[:, None] * slope
        there, new = at(moved)
        rises = there > value
        e[rises], value[rises], slope[rises] = moved[rises], there[rises], new[rises]
        if ahead:
            far = np.where(rises, 2 * far, np.maximum(far / 4, 1.0))
        else:
            step = np.where(rises, 2 * step, step / 4)
        if ((np.linalg.norm(e, axis=1) > _AWAY) & (value > top)).any():
            return True
        if step.max() < 1e-3:
            return False
    return False
