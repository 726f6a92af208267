r"""Normal-Wishart: a Gaussian latent whose precision matrix is a multiple of a Wishart one.

    q(L, mu) = exp(a log |L| + sum_ij B_ij L_ij + g' L mu + c mu' L mu - A),

with statistics log |L|, L, L mu and mu' L mu. Given L, mu is N(m, (k L)^-1) with k = -2 c and m = g / k; with mu
integrated out, |L|^(-1/2) and k m m' / 2 go to the Wishart:

    nu = 2 (a - 1/2) + d + 1,       V = -(B + B') - k m m',
    E[L mu] = E[L] m,               E[mu' L mu] = d / k + m' E[L] m.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from lowerbound.families.exponential.base import ExponentialBlock, Parameters
from lowerbound.families.exponential.wishart import WishartBlock


class NormalWishartBlock(ExponentialBlock):
    """A positive definite latent and the vector whose precision it is, independent along plates.

    Args:
        matrix, vector: Names of the latents.
        shape: Of the matrix; the vector's is one dimension less.
        log_det, whole, product, square: The keys of log |L|, L, L mu and mu' L mu.
    """

    family = "Normal–Wishart"

    def __init__(
        self,
        matrix: str,
        vector: str,
        shape: tuple[int, ...],
        log_det: Hashable,
        whole: Hashable,
        product: Hashable,
        square: Hashable,
    ):
        self.latents, self.shape = (matrix, vector), tuple(shape)
        self.log_det, self.whole, self.product, self.square = log_det, whole, product, square
        self.keys = (log_det, whole, product, square)
        self.d = shape[-1]
        self.wishart = WishartBlock(matrix, shape, whole, log_det, inverse=False)

    def natural(self, gradient: Parameters) -> dict[Hashable, Any]:
        return dict(gradient)

    def _parts(self, natural: Parameters) -> tuple[Any, Any, dict[Hashable, Any]]:
        """k, m and the natural parameters of the Wishart."""
        k = -2 * natural[self.square]
        m = natural[self.product] / k[..., None]
        outer = 0.5 * k[..., None, None] * m[..., :, None] * m[..., None, :]
        return k, m, {self.log_det: natural[self.log_det] - 0.5, self.whole: natural[self.whole] + outer}

    def moments(self, natural: Parameters) -> dict[Hashable, Any]:
        k, m, own = self._parts(natural)
        out = self.wishart.moments(own)
        product = (out[self.whole] * m[..., None, :]).sum(-1)
        return out | {self.product: product, self.square: self.d / k + (m * product).sum(-1)}

    def entropy(self, natural: Parameters) -> Any:
        k, _, own = self._parts(natural)
        log_det = self.wishart.moments(own)[self.log_det]
        given = 0.5 * self.d * (math.log(2 * math.pi) + 1 - jnp.log(k)) - 0.5 * log_det
        return self.wishart.entropy(own) + given.sum()

    def proper(self, natural: Parameters) -> Any:
        k, _, own = self._parts(natural)
        return (k > 0).all() & self.wishart.proper(own)

    # -- on the host ---------------------------------------------------------------------------------

    def _host(self, natural: Parameters) -> tuple[np.ndarray, np.ndarray, dict[Hashable, Any]]:
        return self._parts({key: np.asarray(v, float) for key, v in natural.items()})

    @property
    def noise_dimension(self) -> int:
        return self.wishart.noise_dimension + math.prod(self.shape[:-1])

    def from_normal(self, natural: Parameters, noise: np.ndarray) -> dict[str, np.ndarray]:
        k, m, own = self._host(natural)
        split = self.wishart.noise_dimension
        out = self.wishart.from_normal(own, noise[:, :split])
        root = np.linalg.cholesky(np.linalg.inv(k[..., None, None] * out[self.latents[0]]))
        e = noise[:, split:].reshape((len(noise), *self.shape[:-1]))
        return out | {self.latents[1]: m + np.einsum("...ij,...j->...i", root, e)}

    def log_prob(self, natural: Parameters, values: Mapping[str, Any]) -> Any:
        k, m, own = self._host(natural)
        precision = k[..., None, None] * np.asarray(values[self.latents[0]], float)
        away = np.asarray(values[self.latents[1]], float) - m
        square = np.einsum("...i,...ij,...j->...", away, precision, away)
        given = 0.5 * (np.linalg.slogdet(precision)[1] - self.d * math.log(2 * math.pi) - square)
        return self.wishart.log_prob(own, values) + given.reshape(len(given), -1).sum(1)

    def mean_and_variance(self, natural: Parameters) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        k, m, own = self._host(natural)
        nu, rate = (np.asarray(x, float) for x in self.wishart.degrees_rate(own))
        # E[L^-1] = V / (nu - d - 1)
        n = nu[..., None]
        diagonal = np.diagonal(rate, axis1=-2, axis2=-1)
        with np.errstate(all="ignore"):
            variance = np.where(n > self.d + 1, diagonal / (n - self.d - 1) / k[..., None], np.inf)
        return self.wishart.mean_and_variance(own) | {self.latents[1]: (m, variance)}

    def start(self, rng: np.random.Generator, spread: float) -> dict[Hashable, Any]:
        own = self.wishart.start(rng, 0.0)
        m = spread * rng.standard_normal(self.shape[:-1])
        plates = self.shape[:-2]
        outer = 0.5 * m[..., :, None] * m[..., None, :]
        return {
            self.log_det: np.asarray(own[self.log_det]) + 0.5,
            self.whole: np.asarray(own[self.whole]) - outer,
            self.product: m,
            self.square: np.full(plates, -0.5),
        }

    def describe(self, natural: Parameters) -> dict[str, np.ndarray]:
        k, m, own = self._host(natural)
        return {**self.wishart.describe(own), "mean": m, "scale": k}
