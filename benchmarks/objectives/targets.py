"""Targets for the races, written once for NumPy, JAX, autograd and torch: ``log_density(z, xp)`` of ``z [..., d]``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Target:
    """A log density on R^d; mean and sd where they are known, else None."""

    name: str
    dimension: int
    log_density: Callable[[Any, Any], Any]
    mean: np.ndarray | None = None
    sd: np.ndarray | None = None


def _gaussian() -> Target:
    """Ten dimensions, correlations of 0.8, scales from 0.1 to 10."""
    scale = np.logspace(-1, 1, 10)
    covariance = (0.8 + 0.2 * np.eye(10)) * np.outer(scale, scale)
    precision, mean = np.linalg.inv(covariance), scale * np.linspace(-2, 2, 10)

    def log_density(z: Any, xp: Any) -> Any:
        off = z - xp.asarray(mean)
        return -0.5 * xp.sum(xp.dot(off, precision) * off, axis=-1)

    return Target("Gaussian, 10-d", 10, log_density, mean, scale)


def _bent() -> Target:
    """a ~ N(0, 1), b given a ~ N(0.3 a^2, 1): var b = 1 + 0.09 * 2."""

    def log_density(z: Any, xp: Any) -> Any:
        return -0.5 * z[..., 0] ** 2 - 0.5 * (z[..., 1] - 0.3 * z[..., 0] ** 2) ** 2

    return Target("bent, 2-d", 2, log_density, np.array([0.0, 0.3]), np.sqrt([1.0, 1.18]))


def _schools() -> Target:
    """Eight schools, non-centred (Rubin 1981): mu ~ N(0, 5), tau ~ half-Cauchy(5) by its log."""
    y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    s = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

    def log_density(z: Any, xp: Any) -> Any:
        mu, log_tau, e = z[..., 0], z[..., 1], z[..., 2:]
        tau = xp.exp(log_tau)
        theta = mu[..., None] + tau[..., None] * e
        prior = -0.5 * (mu / 5) ** 2 - xp.log(1 + (tau / 5) ** 2) + log_tau - 0.5 * xp.sum(e**2, axis=-1)
        return prior - 0.5 * xp.sum(((xp.asarray(y) - theta) / xp.asarray(s)) ** 2, axis=-1)

    return Target("eight schools, 10-d", 10, log_density)


def _logistic() -> Target:
    """Twenty coefficients with N(0, 2.5) priors, 200 rows, correlated predictors."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((200, 20)) @ (0.6 * np.eye(20) + 0.4 * rng.standard_normal((20, 20)) / np.sqrt(20))
    x = x + 0.5 * rng.standard_normal((200, 1))
    y = (rng.uniform(size=200) < 1 / (1 + np.exp(-x @ rng.standard_normal(20)))) * 1.0

    def log_density(z: Any, xp: Any) -> Any:
        eta = xp.dot(z, x.T)
        return xp.sum(xp.asarray(y) * eta - xp.logaddexp(0.0, eta), axis=-1) - 0.5 * xp.sum((z / 2.5) ** 2, axis=-1)

    return Target("logistic, 20-d", 20, log_density)


TARGETS = {t.name: t for t in (_gaussian(), _bent(), _schools(), _logistic())}


def _correlated(z: Any, xp: Any) -> Any:
    """A unit normal with a correlation of 0.8."""
    return -0.5 * (z[..., 0] ** 2 + (z[..., 1] - 0.8 * z[..., 0]) ** 2 / 0.36)


def _wave(z: Any, xp: Any) -> Any:
    """b ~ N(sin 1.5 a, 0.5): bent within bounds, so that the chi bound is finite."""
    return -0.5 * z[..., 0] ** 2 - 2 * (z[..., 1] - xp.sin(1.5 * z[..., 0])) ** 2


def _skewed(z: Any, xp: Any) -> Any:
    """A normal times a logistic cdf."""
    return _correlated(z, xp) - xp.logaddexp(0.0, -6 * z[..., 0])


def _mixture(z: Any, xp: Any) -> Any:
    """Two normals of unlike widths that overlap."""
    wide = -0.5 * ((z[..., 0] - 1) ** 2 + (z[..., 1] - 1) ** 2)
    narrow = -0.5 * ((z[..., 0] + 1) ** 2 + (z[..., 1] + 0.5) ** 2) / 0.49 - np.log(0.49)
    return xp.logaddexp(wide, narrow)


def _quartic(z: Any, xp: Any) -> Any:
    """exp(-a^4 / 4), tails lighter than a normal's."""
    return -0.25 * z[..., 0] ** 4 - 0.5 * (z[..., 1] - 0.5 * z[..., 0]) ** 2


#: Two dimensions, and tails so light that a normal q has a finite chi bound.
BOUNDED = {
    name: Target(name, 2, f)
    for name, f in [
        ("correlated", _correlated),
        ("wave", _wave),
        ("skewed", _skewed),
        ("mixture", _mixture),
        ("quartic", _quartic),
    ]
}
