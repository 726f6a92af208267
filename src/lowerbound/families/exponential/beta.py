r"""Beta: a latent in the unit interval with statistics log x and log(1 - x).

q(x) = exp(a log x + b log(1 - x) - A) = Beta(x | a + 1, b + 1),
E[log x] = digamma(a + 1) - digamma(a + b + 2).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from jax.scipy.special import digamma, gammaln
from scipy import special

from lowerbound.families.exponential.base import ExponentialBlock, Parameters


class BetaBlock(ExponentialBlock):
    """A latent in (0, 1), its elements independent.

    Args:
        name, shape: Of the latent.
        log, complement: The keys of log x and log(1 - x).
    """

    family = "Beta"

    def __init__(self, name: str, shape: tuple[int, ...], log: Hashable, complement: Hashable):
        self.latents, self.shape, self.log, self.complement = (name,), tuple(shape), log, complement
        self.keys = (log, complement)

    def concentrations(self, natural: Parameters) -> tuple[Any, Any]:
        return natural[self.log] + 1, natural[self.complement] + 1

    def natural(self, gradient: Parameters) -> dict[Hashable, Any]:
        return dict(gradient)

    def moments(self, natural: Parameters) -> dict[Hashable, Any]:
        a, b = self.concentrations(natural)
        both = digamma(a + b)
        return {self.log: digamma(a) - both, self.complement: digamma(b) - both}

    def entropy(self, natural: Parameters) -> Any:
        a, b = self.concentrations(natural)
        log_norm = gammaln(a) + gammaln(b) - gammaln(a + b)
        return (log_norm - (a - 1) * digamma(a) - (b - 1) * digamma(b) + (a + b - 2) * digamma(a + b)).sum()

    def proper(self, natural: Parameters) -> Any:
        a, b = self.concentrations(natural)
        return ((a > 0) & (b > 0)).all()

    @property
    def noise_dimension(self) -> int:
        return math.prod(self.shape)

    def from_normal(self, natural: Parameters, noise: np.ndarray) -> dict[str, np.ndarray]:
        a, b = (np.asarray(x, float) for x in self.concentrations(natural))
        e = noise.reshape((len(noise), *self.shape))
        x, rest = beta_quantile(a, b, e)
        return {self.latents[0]: np.where(x < 0.5, x, 1 - rest)}

    def log_prob(self, natural: Parameters, values: Mapping[str, Any]) -> Any:
        a, b = (np.asarray(x, float) for x in self.concentrations(natural))
        x = np.asarray(values[self.latents[0]], float)
        out = (a - 1) * np.log(x) + (b - 1) * np.log1p(-x) - special.betaln(a, b)
        return out.reshape(len(x), -1).sum(1)

    def mean_and_variance(self, natural: Parameters) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        a, b = (np.asarray(x, float) for x in self.concentrations(natural))
        s = a + b
        return {self.latents[0]: (a / s, a * b / (s**2 * (s + 1)))}

    def start(self, rng: np.random.Generator, spread: float) -> dict[Hashable, Any]:
        return {k: np.exp(spread * rng.standard_normal(self.shape)) for k in self.keys}

    def describe(self, natural: Parameters) -> dict[str, np.ndarray]:
        a, b = self.concentrations(natural)
        return {"concentration1": np.asarray(a), "concentration0": np.asarray(b)}


def beta_quantile(a: np.ndarray, b: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and 1 - x of the Beta(a, b) quantile at the probability Phi(e), each without cancellation."""
    a, b = np.broadcast_to(a, e.shape), np.broadcast_to(b, e.shape)
    tiny = 1e-300
    x = np.maximum(special.betaincinv(a, b, special.ndtr(e)), tiny)
    rest = np.maximum(special.betaincinv(b, a, special.ndtr(-e)), tiny)
    return x, rest
