r"""Gamma, inverse gamma, and whatever else is a power of a gamma variable.

    q(x) = exp(a log x + b x^p - A),  x > 0.

u = x^p is Gamma(alpha, beta) with alpha = (a + 1) / p and beta = -b: p = 1 is the gamma, p = -1 the inverse gamma, and
p = -2 the distribution of a standard deviation whose inverse square is gamma.

    E[x^p] = alpha / beta,     E[log x] = (digamma(alpha) - log beta) / p,
    H = alpha - log beta + log Gamma(alpha) + (1 - alpha) digamma(alpha) - log |p| + (1 - p) E[log x].
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln
from scipy import special

from lowerbound.families.exponential.base import ExponentialBlock, Parameters


class PowerGammaBlock(ExponentialBlock):
    """A positive latent, its elements independent.

    Args:
        name, shape: Of the latent.
        power: p.
        log, raised: The keys of log x and x^p.
    """

    def __init__(self, name: str, shape: tuple[int, ...], power: float, log: Hashable, raised: Hashable):
        self.latents, self.shape, self.power = (name,), tuple(shape), float(power)
        self.log, self.raised = log, raised
        self.keys = (log, raised)
        named = {1.0: "Gamma", -1.0: "InverseGamma"}
        self.family = named.get(self.power, f"Gamma of {name}^{self.power:g}")

    def shape_rate(self, natural: Parameters) -> tuple[Any, Any]:
        """alpha and beta of u = x^p."""
        return (natural[self.log] + 1) / self.power, -natural[self.raised]

    def natural(self, gradient: Parameters) -> dict[Hashable, Any]:
        return dict(gradient)

    def moments(self, natural: Parameters) -> dict[Hashable, Any]:
        alpha, beta = self.shape_rate(natural)
        return {self.log: (digamma(alpha) - jnp.log(beta)) / self.power, self.raised: alpha / beta}

    def entropy(self, natural: Parameters) -> Any:
        alpha, beta = self.shape_rate(natural)
        log_x = (digamma(alpha) - jnp.log(beta)) / self.power
        own = alpha - jnp.log(beta) + gammaln(alpha) + (1 - alpha) * digamma(alpha)
        return (own - np.log(abs(self.power)) + (1 - self.power) * log_x).sum()

    def proper(self, natural: Parameters) -> Any:
        alpha, beta = self.shape_rate(natural)
        return ((alpha > 0) & (beta > 0)).all()

    @property
    def noise_dimension(self) -> int:
        return math.prod(self.shape)

    def from_normal(self, natural: Parameters, noise: np.ndarray) -> dict[str, np.ndarray]:
        alpha, beta = (np.asarray(x, float) for x in self.shape_rate(natural))
        e = noise.reshape((len(noise), *self.shape))
        log_u = log_gamma_quantile(alpha, e if self.power > 0 else -e)
        return {self.latents[0]: np.exp((log_u - np.log(beta)) / self.power)}

    def log_prob(self, natural: Parameters, values: Mapping[str, Any]) -> Any:
        alpha, beta = (np.asarray(x, float) for x in self.shape_rate(natural))
        x = np.asarray(values[self.latents[0]], float)
        u = x**self.power
        out = alpha * np.log(beta) - special.gammaln(alpha) + (alpha - 1) * np.log(u) - beta * u
        out = out + np.log(abs(self.power)) + (self.power - 1) * np.log(x)
        return out.reshape(len(x), -1).sum(1)

    def mean_and_variance(self, natural: Parameters) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        alpha, beta = (np.asarray(x, float) for x in self.shape_rate(natural))

        mean, square = (power_moment(alpha, beta, self.power, k) for k in (1, 2))
        with np.errstate(invalid="ignore"):  # no variance where there is no mean
            return {self.latents[0]: (mean, np.where(np.isfinite(square), square - mean**2, np.inf))}

    def start(self, rng: np.random.Generator, spread: float) -> dict[Hashable, Any]:
        # alpha = beta = 1 about one
        one = np.ones(self.shape)
        return {self.log: self.power * one - 1, self.raised: -np.exp(spread * rng.standard_normal(self.shape))}

    def describe(self, natural: Parameters) -> dict[str, np.ndarray]:
        alpha, beta = self.shape_rate(natural)
        return {"shape": np.asarray(alpha), "rate": np.asarray(beta)}


def log_gamma_quantile(alpha: np.ndarray, e: np.ndarray) -> np.ndarray:
    """log of the Gamma(alpha, 1) quantile at the probability Phi(e), from the nearer tail.

    Near zero, where the quantile underflows for small alpha: P(u) = u^alpha / Gamma(alpha + 1) (1 + O(u)).
    """
    alpha = np.broadcast_to(alpha, e.shape)
    with np.errstate(all="ignore"):
        upper = special.gammainccinv(alpha, special.ndtr(-e))
        lower = special.gammaincinv(alpha, special.ndtr(e))
        tiny = (special.log_ndtr(e) + special.gammaln(alpha + 1)) / alpha
        out = np.log(np.where(e > 0, upper, lower))
    return np.where((tiny < -40) | ~np.isfinite(out), tiny, out)


def power_moment(alpha: np.ndarray, beta: np.ndarray, power: float, order: float) -> np.ndarray:
    """E[x^order] where x^power ~ Gamma(alpha, beta): Gamma(alpha + order / power) / Gamma(alpha) beta^(-order / power),
    infinite where that Gamma's shape is not positive."""
    a = alpha + order / power
    with np.errstate(all="ignore"):
        out = np.exp(special.gammaln(a) - special.gammaln(alpha)) * beta ** (-order / power)
    return np.where(a > 0, out, np.inf)
