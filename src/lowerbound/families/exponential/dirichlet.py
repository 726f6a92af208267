r"""Dirichlet: a simplex latent with statistics log x_k.

q(x) = exp(sum_k a_k log x_k - A) = Dirichlet(x | a + 1),    E[log x_k] = digamma(a_k + 1) - digamma(sum (a + 1)).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from jax.scipy.special import digamma, gammaln
from scipy import special

from lowerbound.families.exponential.base import ExponentialBlock, Parameters
from lowerbound.families.exponential.beta import beta_quantile


class DirichletBlock(ExponentialBlock):
    """Simplexes along the last axis, independent along the others.

    Args:
        name, shape: Of the latent.
        log: The key of log x.
    """

    family = "Dirichlet"

    def __init__(self, name: str, shape: tuple[int, ...], log: Hashable):
        self.latents, self.shape, self.log = (name,), tuple(shape), log
        self.keys = (log,)

    def concentration(self, natural: Parameters) -> Any:
        return natural[self.log] + 1

    def natural(self, gradient: Parameters) -> dict[Hashable, Any]:
        return dict(gradient)

    def moments(self, natural: Parameters) -> dict[Hashable, Any]:
        a = self.concentration(natural)
        return {self.log: digamma(a) - digamma(a.sum(-1, keepdims=True))}

    def entropy(self, natural: Parameters) -> Any:
        a = self.concentration(natural)
        s = a.sum(-1)
        log_norm = gammaln(a).sum(-1) - gammaln(s)
        return (log_norm + (s - a.shape[-1]) * digamma(s) - ((a - 1) * digamma(a)).sum(-1)).sum()

    def proper(self, natural: Parameters) -> Any:
        return (self.concentration(natural) > 0).all()

    @property
    def noise_dimension(self) -> int:
        return math.prod(self.shape[:-1]) * (self.shape[-1] - 1)

    def from_normal(self, natural: Parameters, noise: np.ndarray) -> dict[str, np.ndarray]:
        """By breaking sticks: v_k ~ Beta(a_k, sum_{j > k} a_j), x_k = v_k prod_{j < k} (1 - v_j)."""
        a = np.asarray(self.concentration(natural), float)
        e = noise.reshape((len(noise), *self.shape[:-1], self.shape[-1] - 1))
        later = np.cumsum(a[..., ::-1], axis=-1)[..., ::-1][..., 1:]
        v, rest = beta_quantile(a[..., :-1], later, e)
        left = np.cumsum(np.log(rest), axis=-1)
        zero = np.zeros((*left.shape[:-1], 1))
        log_x = np.concatenate([np.log(v), zero], -1) + np.concatenate([zero, left], -1)
        return {self.latents[0]: np.exp(log_x)}

    def log_prob(self, natural: Parameters, values: Mapping[str, Any]) -> Any:
        """With respect to the first k - 1 coordinates."""
        a = np.asarray(self.concentration(natural), float)
        x = np.asarray(values[self.latents[0]], float)
        out = ((a - 1) * np.log(x)).sum(-1) + special.gammaln(a.sum(-1)) - special.gammaln(a).sum(-1)
        return out.reshape(len(x), -1).sum(1)

    def mean_and_variance(self, natural: Parameters) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        a = np.asarray(self.concentration(natural), float)
        s = a.sum(-1, keepdims=True)
        mean = a / s
        return {self.latents[0]: (mean, mean * (1 - mean) / (s + 1))}

    def start(self, rng: np.random.Generator, spread: float) -> dict[Hashable, Any]:
        return {self.log: np.exp(spread * rng.standard_normal(self.shape))}

    def describe(self, natural: Parameters) -> dict[str, np.ndarray]:
        return {"concentration": np.asarray(self.concentration(natural))}
