r"""Gaussians between a target and q: pi ∝ p^n q^(1 - n), and the q of a family that has its moments.

For a Gaussian p = N(m, P^{-1}) and q = N(mu, D^{-1}) the density pi is Gaussian too, with precision and mean

    C^{-1} = n P + (1 - n) D,        C^{-1} a = n P m + (1 - n) D mu,

provided the first is positive definite. Read backwards, moments (a, C) of pi that were *measured* at a known q imply
a Gaussian p: the *surrogate*

    P = (C^{-1} + (n - 1) D) / n,    m = P^{-1} (C^{-1} a + (n - 1) D mu) / n,

positive definite for n >= 1, whatever the errors of C. And the best q for a Gaussian p is known: its mean is m, and
its precision, restricted to the family's blocks g, minimises

    (n - 1) [-log |D| ] - log |n P + (1 - n) D|,

which is convex in D, with optimum D_g^{-1} = C_gg: the moments of pi. (Among dense ones that is D = P.)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_STEPS = 500
_TOLERANCE = 1e-10


class Moments(NamedTuple):
    """A mean ``[p]`` and a covariance ``[p, p]``."""

    mean: np.ndarray
    covariance: np.ndarray


def surrogate(pi: Moments, q: Moments, power: float) -> Moments:
    """The Gaussian p for which pi ∝ p^n q^(1 - n) has these moments; n at least 1."""
    if power == 1:
        return pi
    inverse, tilt = np.linalg.inv(pi.covariance), (power - 1) * np.linalg.inv(q.covariance)
    covariance = power * np.linalg.inv(_symmetric(inverse + tilt))
    return Moments(covariance @ (inverse @ pi.mean + tilt @ q.mean) / power, _symmetric(covariance))


def between(p: Moments, q: Moments, power: float) -> Moments | None:
    """pi ∝ p^n q^(1 - n); None where it has no finite mass."""
    if power == 1:
        return p
    own, other = power * np.linalg.inv(p.covariance), (power - 1) * np.linalg.inv(q.covariance)
    precision = _symmetric(own - other)
    if np.linalg.eigvalsh(precision)[0] <= 0:
        return None
    covariance = np.linalg.inv(precision)
    return Moments(covariance @ (own @ p.mean - other @ q.mean), _symmetric(covariance))


def best(p: Moments, groups: list[np.ndarray], power: float) -> Moments:
    """The Gaussian with a covariance of these blocks that minimises the divergence from a Gaussian p.

    Args:
        p: The target's moments.
        groups: Coordinates of each block.
        power: n; 1 for the forward KL, whose optimum has p's own blocks.

    Cost: O(p^3) a step, some tens of steps for n > 1 where there is more than one block.
    """
    blocks = restrict(p.covariance, groups)
    if power == 1 or len(groups) == 1:
        return Moments(p.mean, blocks)
    # In coordinates in which the blocks are the identity, p's precision has a smallest eigenvalue 1 / l, and
    # D = I / l is inside the domain D < n / (n - 1) P.
    root = np.linalg.cholesky(blocks)
    white = np.linalg.inv(root)
    target = np.linalg.inv(_symmetric(white @ p.covariance @ white.T))
    d = np.eye(len(blocks)) * np.linalg.eigvalsh(target)[0]

    def value(d: np.ndarray) -> float:
        try:
            inner = np.linalg.cholesky(power * target - (power - 1) * d)
            own = np.linalg.cholesky(d)
        except np.linalg.LinAlgError:
            return np.inf
        return float(-(power - 1) * np.log(np.diagonal(own)).sum() - np.log(np.diagonal(inner)).sum())

    at = value(d)
    for _ in range(_STEPS):
        wanted = np.linalg.inv(restrict(np.linalg.inv(power * target - (power - 1) * d), groups))
        # A convex function: (wanted - d) points downwards, and a step of 1 / n is Newton's where q is dense.
        step, moved, after = 1 / power, d, at
        while step > 1e-6:
            moved = d + step * (wanted - d)
            after = value(moved)
            if after <= at:
                break
            step *= 0.5
        else:
            break
        change, d, at = np.abs(moved - d).max(), moved, after
        if change < _TOLERANCE:
            break
    return Moments(p.mean, _symmetric(root @ np.linalg.inv(d) @ root.T))


def restrict(matrix: np.ndarray, groups: list[np.ndarray]) -> np.ndarray:
    """The matrix with zeros outside of the blocks."""
    out = np.zeros_like(matrix)
    for g in groups:
        out[np.ix_(g, g)] = matrix[np.ix_(g, g)]
    return out


def _symmetric(a: np.ndarray) -> np.ndarray:
    return 0.5 * (a + a.T)
