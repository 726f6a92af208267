r"""Wishart: a positive definite latent with statistics L_ij and log |L|.

    q(L) = exp(a log |L| + sum_ij B_ij L_ij - A) = W(L | nu, V),   nu = 2 a + d + 1,  V = -(B + B')  (rate matrix),
    E[L] = nu V^-1,   E[log |L|] = sum_j digamma((nu - j) / 2) + d log 2 - log |V|,  j = 0 .. d - 1.

With the inverse as its statistic the latent itself is inverse Wishart: S = L^-1, whose density has the Jacobian
|S|^-(d + 1) and so nu = -2 a - d - 1 with a the coefficient of log |S|.
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
from lowerbound.families.exponential.power_gamma import log_gamma_quantile
from lowerbound.families.linalg import inverse_of, log_det_of


class WishartBlock(ExponentialBlock):
    """Positive definite matrices along the last two axes, independent along the others.

    Args:
        name, shape: Of the latent.
        matrix, log_det: The keys of the matrix (or its inverse) and of log |x|.
        inverse: Whether the statistic is the inverse of the latent.
    """

    def __init__(self, name: str, shape: tuple[int, ...], matrix: Hashable, log_det: Hashable, *, inverse: bool):
        self.latents, self.shape, self.matrix, self.log_det = (name,), tuple(shape), matrix, log_det
        self.keys = (matrix, log_det)
        self.inverse = inverse
        self.family = "InverseWishart" if inverse else "Wishart"
        self.d = shape[-1]

    def degrees_rate(self, natural: Parameters) -> tuple[Any, Any]:
        """nu and V of the Wishart matrix."""
        a, b = natural[self.log_det], natural[self.matrix]
        nu = -2 * a - self.d - 1 if self.inverse else 2 * a + self.d + 1
        return nu, -(b + b.swapaxes(-1, -2))

    def natural(self, gradient: Parameters) -> dict[Hashable, Any]:
        return dict(gradient)

    def _log_det_mean(self, nu: Any, log_v: Any) -> Any:
        return digamma((nu[..., None] - np.arange(self.d)) / 2).sum(-1) + self.d * math.log(2) - log_v

    def moments(self, natural: Parameters) -> dict[Hashable, Any]:
        nu, rate = self.degrees_rate(natural)
        root = jnp.linalg.cholesky(rate)
        log_det = self._log_det_mean(nu, log_det_of(root))
        return {
            self.matrix: nu[..., None, None] * inverse_of(root),
            self.log_det: -log_det if self.inverse else log_det,
        }

    def entropy(self, natural: Parameters) -> Any:
        nu, rate = self.degrees_rate(natural)
        d, j = self.d, np.arange(self.d)
        log_v = log_det_of(jnp.linalg.cholesky(rate))
        multi = 0.25 * d * (d - 1) * math.log(math.pi) + gammaln((nu[..., None] - j) / 2).sum(-1)
        log_norm = 0.5 * nu * (d * math.log(2) - log_v) + multi
        log_det = self._log_det_mean(nu, log_v)
        own = log_norm - 0.5 * (nu - d - 1) * log_det + 0.5 * nu * d
        if self.inverse:  # H(S) = H(L) + E log |dS/dL| = H(L) - (d + 1) E log |L|
            own = own - (d + 1) * log_det
        return own.sum()

    def proper(self, natural: Parameters) -> Any:
        nu, rate = self.degrees_rate(natural)
        return (nu > self.d - 1).all() & jnp.isfinite(jnp.linalg.cholesky(rate)).all()

    @property
    def noise_dimension(self) -> int:
        return math.prod(self.shape[:-2]) * self.d * (self.d + 1) // 2

    def from_normal(self, natural: Parameters, noise: np.ndarray) -> dict[str, np.ndarray]:
        """By Bartlett's decomposition: L = R A A' R', R R' = V^-1, A lower triangular, its squared diagonal
        chi-squared and its other elements normal."""
        nu, rate = (np.asarray(x, float) for x in self.degrees_rate(natural))
        root = np.linalg.cholesky(np.linalg.inv(rate))
        e = noise.reshape((len(noise), *self.shape[:-2], -1))
        rows, columns = np.tril_indices(self.d)
        a = np.zeros((len(noise), *self.shape))
        a[..., rows, columns] = e
        for j in range(self.d):
            a[..., j, j] = np.exp(0.5 * (log_gamma_quantile(np.asarray((nu - j) / 2), a[..., j, j]) + math.log(2)))
        b = root @ a
        if self.inverse:
            back = np.linalg.inv(b)
            return {self.latents[0]: np.swapaxes(back, -1, -2) @ back}
        return {self.latents[0]: b @ np.swapaxes(b, -1, -2)}

    def log_prob(self, natural: Parameters, values: Mapping[str, Any]) -> Any:
        """With respect to the elements on and below the diagonal."""
        nu, rate = (np.asarray(x, float) for x in self.degrees_rate(natural))
        d = self.d
        x = np.asarray(values[self.latents[0]], float)
        own = np.linalg.inv(x) if self.inverse else x
        log_det = np.linalg.slogdet(own)[1]
        out = 0.5 * (nu - d - 1) * log_det - 0.5 * np.einsum("...ij,n...ij->n...", rate, own)
        out = out + 0.5 * nu * (np.linalg.slogdet(rate)[1] - d * math.log(2)) - _multigammaln(nu / 2, d)
        if self.inverse:
            out = out + (d + 1) * log_det
        return out.reshape(len(x), -1).sum(1)

    def mean_and_variance(self, natural: Parameters) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        nu, rate = (np.asarray(x, float) for x in self.degrees_rate(natural))
        d = self.d
        n = nu[..., None, None]
        if not self.inverse:
            s = np.linalg.inv(rate)
            diagonal = np.diagonal(s, axis1=-2, axis2=-1)
            return {self.latents[0]: (n * s, n * (s**2 + diagonal[..., :, None] * diagonal[..., None, :]))}
        diagonal = np.diagonal(rate, axis1=-2, axis2=-1)
        outer = diagonal[..., :, None] * diagonal[..., None, :]
        with np.errstate(all="ignore"):
            mean = np.where(n > d + 1, rate / (n - d - 1), np.inf)
            variance = ((n - d + 1) * rate**2 + (n - d - 1) * outer) / ((n - d) * (n - d - 1) ** 2 * (n - d - 3))
        return {self.latents[0]: (mean, np.where(n > d + 3, variance, np.inf))}

    def start(self, rng: np.random.Generator, spread: float) -> dict[Hashable, Any]:
        d, plates = self.d, self.shape[:-2]
        nu = d + 2.0
        a = -0.5 * (nu + d + 1) if self.inverse else 0.5 * (nu - d - 1)
        scale = np.exp(spread * rng.standard_normal(plates))[..., None, None]
        return {self.log_det: np.full(plates, a), self.matrix: -0.5 * nu * np.eye(d) * scale}

    def describe(self, natural: Parameters) -> dict[str, np.ndarray]:
        nu, rate = self.degrees_rate(natural)
        return {"concentration": np.asarray(nu), "rate_matrix": np.asarray(rate)}


def _multigammaln(a: np.ndarray, d: int) -> np.ndarray:
    j = np.arange(d)
    return 0.25 * d * (d - 1) * math.log(math.pi) + special.gammaln(a[..., None] - j / 2).sum(-1)
