r"""Moments of pi ∝ p^n q^(1 - n), by weighted draws about a Gaussian whose own moments are known.

See :mod:`~lowerbound.algorithms.moment_matching` for the estimate. Its error: with Z = b + mean(u), the moment of f is
off by about mean(u (f - E_pi f)) / Z, and a Gaussian q with wrong moments is off by

    KL = 1/2 sum_j var(mean_j) + 1/4 sum_jk var(covariance_jk)

in coordinates in which q is standard normal, the second sum over entries within the family's blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import gammaln, logsumexp

from lowerbound.algorithms.tilted import Moments
from lowerbound.expectations.noise import matched_normals, stratified_normals, student_scales
from lowerbound.families import Block
from lowerbound.kernel import Kernel
from lowerbound.pareto import effective_size, smooth

#: k-hat above which weights cannot be believed, and below which nothing is smoothed (Vehtari et al. 2024).
USABLE_K, GOOD_K = 0.7, 0.5
_DEGREES = 4.0
#: Effective draws, as a multiple of the dimension, without which no covariance is made of them.
_ENOUGH = 3
_OUTER = 8


class Measured(NamedTuple):
    """What one round found.

    Attributes:
        moments: Of pi; None where there are too few effective draws for a covariance.
        pareto_k: k-hat of the weights.
        even: Whether no draw matters, so that k-hat says nothing: over half of them effective.
        cost: The moments' Monte Carlo error, in nats.
        outer: The draws of the largest weights, and the likeliest far out ``[at most 16, p]``.
    """

    moments: Moments | None
    pareto_k: float
    even: bool
    cost: float
    outer: np.ndarray


class Drawn(NamedTuple):
    """Draws of r, the mixture of G and a Student-t about it, with the density at them.

    Attributes:
        about: G.
        factor: Root of its covariance.
        e: The draws, whitened by it ``[M, p]``.
        x: As they are.
        value: log p ``[M]``.
        log_r: log r ``[M]``; of e, as log G is: |det L| is common to both.
    """

    about: Moments
    factor: np.ndarray
    e: np.ndarray
    x: np.ndarray
    value: np.ndarray
    log_r: np.ndarray

    def log_weights(self, q: Block, power: float) -> np.ndarray:
        """log (pi / r) but for a constant ``[M]``; minus infinity where p is not finite."""
        with np.errstate(all="ignore"):
            log_pi = power * self.value + (1 - power) * q.log_prob(self.x) if power != 1 else self.value
        return np.where(np.isfinite(log_pi), log_pi - self.log_r, -np.inf)


def draw(kernel: Kernel, about: Moments, rng: np.random.Generator, draws: int) -> Drawn:
    """M draws, half of a Gaussian and half about it. Cost: M evaluations, O(M p^2)."""
    p, half = kernel.dimension, draws // 2
    factor = np.linalg.cholesky(about.covariance)
    student = student_about(rng, stratified_normals(rng, half, p))
    e = np.concatenate([matched_normals(rng, half, p), student])
    x = about.mean + e @ factor.T
    return Drawn(about, factor, e, x, kernel(x)[0], log_mixture(e))


def measure(drawn: Drawn, q: Block, power: float, groups: list[np.ndarray], *, plain: bool = False) -> Measured:
    """Mean and covariance of pi ∝ p^n q^(1 - n).

    Args:
        drawn: The draws.
        q: The Gaussian in pi.
        power: n.
        groups: Blocks of q.
        plain: Whether by the weights alone, neither smoothed nor beside G: the moments are then minus the slope of
            the draws' own chi bound.

    Cost: O(M p^2 + p^3).
    """
    about, factor, e, x, _, log_r = drawn
    p = x.shape[1]
    log_g, log_w = _normal(e), drawn.log_weights(q, power)
    smoothed, k = smooth(log_w)
    if not np.isfinite(log_w).any():
        return Measured(None, np.inf, False, np.inf, x[:0])
    # Likely ones far out are on the paths, straight or curved, along which a tail falls slowest.
    far = np.argsort((e**2).sum(1))[-max(_OUTER, len(e) // 50) :]
    outer = x[np.union1d(np.argsort(log_w)[-_OUTER:], far[np.argsort((log_w + log_r)[far])[-_OUTER:]])]
    effective = min(effective_size(smoothed), effective_size(log_w))
    if k < GOOD_K or plain:  # their variance is finite; as they are, those of a Gaussian target are exact
        smoothed = log_w - logsumexp(log_w)
    if effective < _ENOUGH * (p + 1):
        return Measured(None, k, False, np.inf, outer)
    even = bool(effective > 0.5 * len(x) and smoothed.max() < np.log(10 / len(x)))
    w, g = len(x) * np.exp(smoothed), np.exp(log_g - log_r)
    b = 0.0 if plain else max(0.0, float(np.cov(w, g)[0, 1] / g.var(ddof=1)))
    u = w - b * g
    total = b + u.mean()
    mean = u @ e / len(x) / total
    second = ((u[:, None] * e).T @ e / len(x) + b * np.eye(p)) / total
    covariance = second - np.outer(mean, mean)
    low, v = np.linalg.eigh(0.5 * (covariance + covariance.T))
    # A difference of estimates can lose definiteness where few draws carry it.
    covariance = (v * np.maximum(low, 1e-3 * low.max())) @ v.T
    cost = _cost(u / total, e - mean, covariance, factor, groups)
    return Measured(Moments(about.mean + factor @ mean, factor @ covariance @ factor.T), k, even, cost, outer)


def _cost(u: np.ndarray, e: np.ndarray, covariance: np.ndarray, factor: np.ndarray, groups: list[np.ndarray]) -> float:
    """The KL, in nats, of the moments' error: sum over blocks, each whitened by its own covariance."""
    x, s = e @ factor.T, factor @ covariance @ factor.T
    out = 0.0
    for g in groups:
        block = s[np.ix_(g, g)]
        white = np.linalg.solve(np.linalg.cholesky(block), x[:, g].T)
        square = (white**2).sum(0)
        # |ee' - I|^2 = |e|^4 - 2 |e|^2 + d
        out += (u**2 * (0.5 * square + 0.25 * (square**2 - 2 * square + len(g)))).mean()
    return float(out / len(u))


def student_about(rng: np.random.Generator, noise: np.ndarray) -> np.ndarray:
    """Standard normal rows made Student-t ones."""
    return noise * student_scales(rng, len(noise), _DEGREES)[:, None]


def log_mixture(e: np.ndarray) -> np.ndarray:
    """log r of the mixture r = (G + t) / 2 of a standard normal and a Student-t, at ``e [m, p]``."""
    p, nu = e.shape[1], _DEGREES
    constant = gammaln((nu + p) / 2) - gammaln(nu / 2) - 0.5 * p * np.log(nu * np.pi)
    student = constant - 0.5 * (nu + p) * np.log1p((e**2).sum(1) / nu)
    return np.logaddexp(_normal(e), student) - np.log(2)


def slope_of_mixture(e: np.ndarray) -> np.ndarray:
    """The gradient of :func:`log_mixture` ``[m, p]``."""
    p, nu = e.shape[1], _DEGREES
    of_normal = 0.5 * np.exp(_normal(e) - log_mixture(e))  # the share of G in r
    return -e * (of_normal + (1 - of_normal) * (nu + p) / (nu + (e**2).sum(1)))[:, None]


def _normal(e: np.ndarray) -> np.ndarray:
    return -0.5 * (e**2).sum(1) - 0.5 * e.shape[1] * np.log(2 * np.pi)
