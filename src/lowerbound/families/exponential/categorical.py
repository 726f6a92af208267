r"""Categorical: a discrete latent with finitely many values, its statistics their indicators.

q(z = k) = exp(a_k) / sum_j exp(a_j),        H = -sum_k q_k log q_k.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax, ndtr, softmax

from lowerbound.families.exponential.base import ExponentialBlock, Parameters


class CategoricalBlock(ExponentialBlock):
    """A discrete latent, its elements independent.

    Args:
        name, shape: Of the latent.
        values: The values it can take ``[k]``.
        indicator: The key of the indicators ``[*shape, k]``.
    """

    family = "Categorical"

    def __init__(self, name: str, shape: tuple[int, ...], values: np.ndarray, indicator: Hashable):
        self.latents, self.shape, self.values, self.indicator = (name,), tuple(shape), values, indicator
        self.keys = (indicator,)

    def natural(self, gradient: Parameters) -> dict[Hashable, Any]:
        return dict(gradient)

    def moments(self, natural: Parameters) -> dict[Hashable, Any]:
        return {self.indicator: jax.nn.softmax(natural[self.indicator], axis=-1)}

    def entropy(self, natural: Parameters) -> Any:
        log_q = jax.nn.log_softmax(natural[self.indicator], axis=-1)
        q = jnp.exp(log_q)
        return -jnp.where(q > 0, q * log_q, 0.0).sum()

    def proper(self, natural: Parameters) -> Any:
        a = natural[self.indicator]
        return (jnp.isfinite(a) | (a == -jnp.inf)).all() & jnp.isfinite(a).any(-1).all()

    def probabilities(self, natural: Parameters) -> np.ndarray:
        return softmax(np.asarray(natural[self.indicator]), axis=-1)

    @property
    def noise_dimension(self) -> int:
        return math.prod(self.shape)

    def from_normal(self, natural: Parameters, noise: np.ndarray) -> dict[str, np.ndarray]:
        edges = np.cumsum(self.probabilities(natural), axis=-1)
        u = ndtr(noise.reshape((len(noise), *self.shape)))[..., None] * edges[..., -1:]
        return {self.latents[0]: self.values[np.minimum((u > edges).sum(-1), len(self.values) - 1)]}

    def log_prob(self, natural: Parameters, values: Mapping[str, Any]) -> Any:
        log_q = log_softmax(np.asarray(natural[self.indicator]), axis=-1)
        x = np.asarray(values[self.latents[0]])
        place = np.searchsorted(self.values, x)
        out = np.take_along_axis(np.broadcast_to(log_q, (*x.shape, len(self.values))), place[..., None], -1)[..., 0]
        return out.reshape(len(x), -1).sum(1)

    def mean_and_variance(self, natural: Parameters) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        q = self.probabilities(natural)
        mean = q @ self.values
        return {self.latents[0]: (mean, q @ self.values.astype(float) ** 2 - mean**2)}

    def start(self, rng: np.random.Generator, spread: float) -> dict[Hashable, Any]:
        return {self.indicator: spread * rng.standard_normal((*self.shape, len(self.values)))}

    def describe(self, natural: Parameters) -> dict[str, np.ndarray]:
        return {"probabilities": self.probabilities(natural)}
