r"""Normal-gamma: Gaussian latents whose precision is a multiple of a gamma variable.

    q(s, x) = exp(a log s + b u + u (eta' x + x' G x) - A),       u = s^p,

with statistics log s, u, u x and u x_i x_j. Given u, x is N(m, (u P)^-1) with P = -(G + G') and m = P^-1 eta; with x
integrated out, u^(-D/2) remains of D Gaussian dimensions, and u is Gamma(alpha, beta):

    alpha = (a + 1) / p - D / 2,        beta = -b - m' eta / 2,
    E[u x] = m E[u],   E[u x x'] = P^-1 + m m' E[u].

p = 1 is a precision, p = -2 a standard deviation. The posterior of a linear regression with a conjugate prior is of
this form, and x alone a multivariate Student-t.
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
from lowerbound.families.exponential.gaussian import JointGaussianBlock
from lowerbound.families.exponential.power_gamma import log_gamma_quantile, power_moment


class NormalGammaBlock(ExponentialBlock):
    """A positive latent and the Gaussian ones that it scales.

    Args:
        gaussian: The layout of the Gaussian latents; its keys are those of u x and u x_i x_j.
        name, shape: Of the positive latent: the plates of the Gaussian ones, or a scalar that they share.
        power: p.
        log, raised: The keys of log s and u.
    """

    family = "Normal–Gamma"

    def __init__(
        self,
        gaussian: JointGaussianBlock,
        name: str,
        shape: tuple[int, ...],
        power: float,
        log: Hashable,
        raised: Hashable,
    ):
        self.gaussian, self.name, self.shape, self.power = gaussian, name, tuple(shape), float(power)
        self.log, self.raised = log, raised
        self.latents = (name, *gaussian.latents)
        self.keys = (log, raised, *gaussian.keys)
        #: Plates of the Gaussian latents that one u is shared by.
        self.shared = len(gaussian.plate_shape) - len(shape)
        own = gaussian.plate_shape[len(shape) :] if shape else gaussian.plate_shape
        self.dimensions = gaussian.size * math.prod(own)

    def natural(self, gradient: Parameters) -> dict[Hashable, Any]:
        return dict(gradient)

    def _parts(self, natural: Parameters, xp: Any = jnp) -> tuple[Any, Any, Any, Any]:
        """alpha, beta, m and P."""
        eta, precision = self.gaussian.vectors(natural, xp)
        mean = xp.linalg.solve(precision, eta[..., None])[..., 0]
        inner = (mean * eta).sum(-1)
        if self.shared:
            inner = inner.sum(tuple(range(len(self.shape), inner.ndim)))
        alpha = (natural[self.log] + 1) / self.power - 0.5 * self.dimensions
        return alpha, -natural[self.raised] - 0.5 * inner, mean, precision

    def _along(self, u: Any) -> Any:
        """u with the Gaussian plates that share it, and one dimension more."""
        return u.reshape((*u.shape, *(1,) * (self.shared + 1)))

    def moments(self, natural: Parameters) -> dict[Hashable, Any]:
        alpha, beta, mean, precision = self._parts(natural)
        g, u = self.gaussian, alpha / beta
        out: dict[Hashable, Any] = {self.log: (digamma(alpha) - jnp.log(beta)) / self.power, self.raised: u}
        covariance = jnp.linalg.inv(precision)
        for n, k in g.first.items():
            out[k] = g._back(n, (mean * self._along(u))[..., g.slices[n]])
        scaled = covariance + mean[..., :, None] * mean[..., None, :] * self._along(u)[..., None]
        for (a, b), k in g.second.items():
            block = scaled[..., g.slices[a], g.slices[b]]
            out[k] = block.reshape((*g.plate_shape, *g.dense_shape[a], *g.dense_shape[b]))
        return out

    def entropy(self, natural: Parameters) -> Any:
        """H(s) + E[H(x | u)]."""
        alpha, beta, _, precision = self._parts(natural)
        log_u = digamma(alpha) - jnp.log(beta)
        own = alpha - jnp.log(beta) + gammaln(alpha) + (1 - alpha) * digamma(alpha)
        own = own - math.log(abs(self.power)) + (1 - self.power) * log_u / self.power
        given = 0.5 * self.dimensions * (math.log(2 * math.pi) + 1 - log_u)
        return (own + given).sum() - 0.5 * jnp.linalg.slogdet(precision)[1].sum()

    def proper(self, natural: Parameters) -> Any:
        alpha, beta, _, precision = self._parts(natural)
        return ((alpha > 0) & (beta > 0)).all() & jnp.isfinite(jnp.linalg.cholesky(precision)).all()

    # -- on the host ---------------------------------------------------------------------------------

    def _host(self, natural: Parameters) -> tuple[np.ndarray, ...]:
        return self._parts({k: np.asarray(v, float) for k, v in natural.items()}, np)

    @property
    def noise_dimension(self) -> int:
        return math.prod(self.shape) + self.gaussian.noise_dimension

    def from_normal(self, natural: Parameters, noise: np.ndarray) -> dict[str, np.ndarray]:
        alpha, beta, mean, precision = self._host(natural)
        g, n, k = self.gaussian, len(noise), math.prod(self.shape)
        e = noise[:, :k].reshape((n, *self.shape))
        log_u = log_gamma_quantile(alpha, e if self.power > 0 else -e) - np.log(beta)
        root = np.linalg.cholesky(np.linalg.inv(precision))
        away = np.einsum("...ij,n...j->n...i", root, noise[:, k:].reshape((n, *mean.shape)))
        x = mean + away * np.exp(-0.5 * self._along(log_u))
        values = {name: g._back(name, x[..., g.slices[name]]) for name in g.latents}
        return {self.name: np.exp(log_u / self.power), **values}

    def log_prob(self, natural: Parameters, values: Mapping[str, Any]) -> Any:
        alpha, beta, mean, precision = self._host(natural)
        g = self.gaussian
        s = np.asarray(values[self.name], float)
        u = s**self.power
        out = alpha * np.log(beta) - special.gammaln(alpha) + (alpha - 1) * np.log(u) - beta * u
        out = out + math.log(abs(self.power)) + (self.power - 1) * np.log(s)
        d = g.joined_draws(values) - mean
        square = np.einsum("n...i,...ij,n...j->n...", d, precision, d)
        along = self._along(u)[..., 0]
        log_det = np.linalg.slogdet(precision)[1] + g.size * np.log(along)
        given = 0.5 * (log_det - g.size * math.log(2 * math.pi) - along * square)
        return out.reshape(len(s), -1).sum(1) + given.reshape(len(s), -1).sum(1)

    def mean_and_variance(self, natural: Parameters) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        alpha, beta, mean, precision = self._host(natural)
        g = self.gaussian

        first, second = (power_moment(alpha, beta, self.power, k) for k in (1, 2))
        # E[1 / u] = beta / (alpha - 1), infinite for alpha up to one: x is a Student-t
        with np.errstate(all="ignore"):
            inverse = np.where(alpha > 1, beta / (alpha - 1), np.inf)
        variance = np.diagonal(np.linalg.inv(precision), axis1=-2, axis2=-1) * self._along(inverse)
        out = {n: (g._back(n, mean[..., s]), g._back(n, variance[..., s])) for n, s in g.slices.items()}
        return {self.name: (first, second - first**2), **out}

    def start(self, rng: np.random.Generator, spread: float) -> dict[Hashable, Any]:
        """u of mean one and alpha = 1; x of unit covariance about a random place."""
        natural = self.gaussian.start(rng, spread)
        _, _, mean, _ = self._host({**natural, self.log: np.zeros(self.shape), self.raised: np.zeros(self.shape)})
        inner = (mean**2).sum(-1)
        if self.shared:
            inner = inner.sum(tuple(range(len(self.shape), inner.ndim)))
        natural[self.log] = np.full(self.shape, self.power * (1 + 0.5 * self.dimensions) - 1)
        natural[self.raised] = -(1 + 0.5 * np.asarray(inner).reshape(self.shape))
        return natural

    def describe(self, natural: Parameters) -> dict[str, np.ndarray]:
        alpha, beta, mean, precision = self._host(natural)
        return {"shape": alpha, "rate": beta, "mean": mean, "precision": precision}
