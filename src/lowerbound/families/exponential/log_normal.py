r"""Log-normal: a positive latent with statistics log x and (log x)^2.

q(x) = exp(a log x + b (log x)^2 - A);  log x is normal with variance s^2 = -1 / (2 b) and mean m = (a + 1) s^2,
H = m + log s + 1/2 log 2 pi e.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from lowerbound.families.exponential.base import ExponentialBlock, Parameters


class LogNormalBlock(ExponentialBlock):
    """A positive latent, its elements independent.

    Args:
        name, shape: Of the latent.
        log, squared: The keys of log x and (log x)^2.
    """

    family = "LogNormal"

    def __init__(self, name: str, shape: tuple[int, ...], log: Hashable, squared: Hashable):
        self.latents, self.shape, self.log, self.squared = (name,), tuple(shape), log, squared
        self.keys = (log, squared)

    def location_variance(self, natural: Parameters) -> tuple[Any, Any]:
        variance = -0.5 / natural[self.squared]
        return (natural[self.log] + 1) * variance, variance

    def natural(self, gradient: Parameters) -> dict[Hashable, Any]:
        return dict(gradient)

    def moments(self, natural: Parameters) -> dict[Hashable, Any]:
        m, v = self.location_variance(natural)
        return {self.log: m, self.squared: m**2 + v}

    def entropy(self, natural: Parameters) -> Any:
        m, v = self.location_variance(natural)
        return (m + 0.5 * jnp.log(v) + 0.5 * (1 + math.log(2 * math.pi))).sum()

    def proper(self, natural: Parameters) -> Any:
        return (natural[self.squared] < 0).all()

    @property
    def noise_dimension(self) -> int:
        return math.prod(self.shape)

    def from_normal(self, natural: Parameters, noise: np.ndarray) -> dict[str, np.ndarray]:
        m, v = (np.asarray(x) for x in self.location_variance(natural))
        return {self.latents[0]: np.exp(m + np.sqrt(v) * noise.reshape((len(noise), *self.shape)))}

    def log_prob(self, natural: Parameters, values: Mapping[str, Any]) -> Any:
        m, v = (np.asarray(x) for x in self.location_variance(natural))
        y = np.log(np.asarray(values[self.latents[0]], float))
        out = -0.5 * ((y - m) ** 2 / v + np.log(2 * math.pi * v)) - y
        return out.reshape(len(y), -1).sum(1)

    def mean_and_variance(self, natural: Parameters) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        m, v = (np.asarray(x) for x in self.location_variance(natural))
        mean = np.exp(m + v / 2)
        return {self.latents[0]: (mean, np.expm1(v) * mean**2)}

    def start(self, rng: np.random.Generator, spread: float) -> dict[Hashable, Any]:
        return {self.log: spread * rng.standard_normal(self.shape) - 1, self.squared: np.full(self.shape, -0.5)}

    def describe(self, natural: Parameters) -> dict[str, np.ndarray]:
        m, v = self.location_variance(natural)
        return {"location": np.asarray(m), "scale": np.sqrt(np.asarray(v))}
