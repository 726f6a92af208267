r"""Free-form: a scalar latent whose optimum has no name, on a grid.

    q(x) = exp(sum_j a_j t_j(x) - A)

for any statistics t_j that a model asks for: {log s, s^-2, s}, {x, x^2, exp x}, {lgamma(nu / 2), ...}. In one dimension
the normaliser and the moments are integrals, taken by the trapezoidal rule in the unconstrained coordinate u, which for
smooth densities that vanish at both ends converges faster than any power of the spacing (Trefethen & Weideman 2014).
Two grids: a coarse one over all that numbers reach finds where the mass is, a fine one of 256 points covers it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit, log_expit, ndtr

from lowerbound.expectations.supports import ends, from_real, log_slope
from lowerbound.families.exponential.base import ExponentialBlock, Parameters

#: Points of the two grids, and by how many nats below the peak the density may be left out.
_COARSE, _FINE, _DEPTH = 600, 256, 42.0


class TabulatedBlock(ExponentialBlock):
    """A scalar latent, its elements independent.

    Args:
        name, shape: Of the latent.
        support: ``"real"``, ``"positive"``, ``"unit"`` or ``"[a, b]"``.
        statistics: From keys to functions ``t(x, xp)``.
    """

    def __init__(self, name: str, shape: tuple[int, ...], support: str, statistics: Mapping[Hashable, Any]):
        self.latents, self.shape, self.support = (name,), tuple(shape), support
        self.statistics = dict(statistics)
        self.keys = tuple(self.statistics)
        self._compiled: Any = None
        self._begin: dict[Hashable, Any] | None = None
        self.family = "free form on a grid"

    # -- coordinates ---------------------------------------------------------------------------------

    def _coarse(self) -> np.ndarray:
        if self.support == "real":
            return np.sinh(np.linspace(-32.0, 32.0, _COARSE))
        reach = 80.0 if math.isfinite(sum(ends(self.support) or ())) else 90.0
        return np.linspace(-reach, reach, _COARSE)

    def _constrain(self, u: Any) -> tuple[Any, Any]:
        """x and log dx/du."""
        return from_real(self.support, u, jax.nn.sigmoid(u), jnp), log_slope(self.support, u, jax.nn.log_sigmoid)

    def _log_density(self, natural: Parameters, u: Any) -> Any:
        """Unnormalised, at ``u [*shape, m]``."""
        x, out = self._constrain(u)
        for k, t in self.statistics.items():
            a = natural[k][..., None]
            term = a * t(x, jnp)
            out = out + jnp.where(a == 0, 0.0, term)
        return jnp.where(jnp.isnan(out), -jnp.inf, out)

    def grid(self, natural: Parameters) -> tuple[Any, Any, Any]:
        """Places u ``[*shape, m]``, their log weights (which sum to one) and log A ``[*shape]``."""
        natural = {k: jnp.asarray(v) for k, v in natural.items()}
        coarse = jnp.asarray(self._coarse())
        whole = jnp.broadcast_to(coarse, (*self.shape, _COARSE))
        at = self._log_density(natural, whole)
        low, high = self._ends(coarse, at)
        for _ in range(2):  # the coarse grid may be far wider than the mass
            u = low[..., None] + (high - low)[..., None] * jnp.linspace(0, 1, _FINE)
            log_q = self._log_density(natural, u)
            low, high = self._ends_of(u, log_q)
        u = low[..., None] + (high - low)[..., None] * jnp.linspace(0, 1, _FINE)
        log_q = self._log_density(natural, u)
        log_step = jnp.log((high - low) / (_FINE - 1))
        log_a = jax.scipy.special.logsumexp(log_q, axis=-1)
        return u, log_q - log_a[..., None], log_a + log_step

    def _ends(self, coarse: Any, at: Any) -> tuple[Any, Any]:
        return self._ends_of(jnp.broadcast_to(coarse, at.shape), at)

    def _ends_of(self, u: Any, at: Any) -> tuple[Any, Any]:
        """The places beyond which the density is negligible."""
        inside = at > at.max(-1, keepdims=True) - _DEPTH
        m = at.shape[-1]
        first = jnp.maximum(inside.argmax(-1) - 1, 0)
        last = jnp.minimum(m - inside[..., ::-1].argmax(-1), m - 1)
        low = jnp.take_along_axis(u, first[..., None], -1)[..., 0]
        high = jnp.take_along_axis(u, last[..., None], -1)[..., 0]
        return low, high

    # -- parameters ----------------------------------------------------------------------------------

    def natural(self, gradient: Parameters) -> dict[Hashable, Any]:
        return dict(gradient)

    def moments(self, natural: Parameters) -> dict[Hashable, Any]:
        u, log_w, _ = self.grid(natural)
        x, _ = self._constrain(u)
        w = jnp.exp(log_w)
        return {k: jnp.where(w > 0, w * t(x, jnp), 0.0).sum(-1) for k, t in self.statistics.items()}

    def entropy(self, natural: Parameters) -> Any:
        """A - sum_j a_j E[t_j]."""
        _, _, log_a = self.grid(natural)
        moments = self.moments(natural)
        return log_a.sum() - sum((natural[k] * moments[k]).sum() for k in self.keys)

    def proper(self, natural: Parameters) -> Any:
        """Whether the density vanishes at both ends of all that numbers reach."""
        natural = {k: jnp.asarray(v) for k, v in natural.items()}
        at = self._log_density(natural, jnp.broadcast_to(jnp.asarray(self._coarse()), (*self.shape, _COARSE)))
        top = at.max(-1)
        return (jnp.isfinite(top) & (at[..., 0] < top - _DEPTH) & (at[..., -1] < top - _DEPTH)).all()

    # -- on the host ---------------------------------------------------------------------------------

    @property
    def noise_dimension(self) -> int:
        return math.prod(self.shape)

    def from_normal(self, natural: Parameters, noise: np.ndarray) -> dict[str, np.ndarray]:
        """By inverting the distribution function, linear between the points of the grid."""
        u, log_w, _ = self._table(natural)
        u, w = u.reshape(-1, _FINE), np.exp(log_w).reshape(-1, _FINE)
        p = ndtr(noise.reshape(len(noise), -1))
        out = np.empty((len(noise), len(u)))
        for j in range(len(u)):
            mass = np.concatenate([[0.0], np.cumsum(0.5 * (w[j, 1:] + w[j, :-1]))])
            out[:, j] = np.interp(p[:, j] * mass[-1], mass, u[j])
        return {self.latents[0]: self._values(out).reshape(len(noise), *self.shape)}

    def _values(self, u: np.ndarray) -> np.ndarray:
        return from_real(self.support, u, expit(u), np)

    def _table(self, natural: Parameters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The grid, in one compiled program."""
        if self._compiled is None:
            self._compiled = jax.jit(lambda values: self.grid(dict(zip(self.keys, values, strict=True))))
        u, log_w, log_a = self._compiled([np.asarray(natural[k]) for k in self.keys])
        return np.asarray(u), np.asarray(log_w), np.asarray(log_a)

    def log_prob(self, natural: Parameters, values: Mapping[str, Any]) -> Any:
        natural = {k: np.asarray(v) for k, v in natural.items()}
        x = np.asarray(values[self.latents[0]], float)
        _, _, log_a = self._table(natural)
        out = sum(natural[k] * np.asarray(t(x, np)) for k, t in self.statistics.items()) - np.asarray(log_a)
        return np.asarray(out).reshape(len(x), -1).sum(1)

    def mean_and_variance(self, natural: Parameters) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        u, log_w, _ = self._table(natural)
        x, w = self._values(u), np.exp(log_w)
        mean = (w * x).sum(-1)
        return {self.latents[0]: (mean, (w * (x - mean[..., None]) ** 2).sum(-1))}

    def start(self, rng: np.random.Generator, spread: float) -> dict[Hashable, Any]:
        """What is nearest to a standard normal u, by least squares on the log densities; the same at every call.

        Of all statistics if that is a distribution, else of as many as give one: far out, a combination of several may
        grow.
        """
        if self._begin is None:
            count = len(self.keys)
            tried = (s for m in range(count, 0, -1) for s in itertools.combinations(range(count), m))
            found = (self._fitted(s) for s in tried)
            nothing = {k: np.zeros(self.shape) for k in self.keys}
            self._begin = next((out for out in found if bool(self.proper(out))), nothing)
        return dict(self._begin)

    def _fitted(self, places: tuple[int, ...]) -> dict[Hashable, Any]:
        """Natural parameters nearest to a standard normal u; those of other statistics than the given ones are 0."""
        u = np.linspace(-4.0, 4.0, 101)
        x = self._values(u)
        slope = log_slope(self.support, u, log_expit)
        functions = list(self.statistics.values())
        columns = [np.asarray(functions[j](x, np), float) for j in places]
        design = np.stack([*columns, np.ones_like(u)], axis=1)
        weight = np.exp(-0.25 * u**2)[:, None]
        scale = np.abs(design * weight).max(0)
        found = np.linalg.lstsq(design * weight / scale, (-0.5 * u**2 - slope) * weight[:, 0], rcond=1e-10)[0]
        # What rounding alone has left may be large far out, with the wrong sign.
        found = np.where(np.abs(found) > 1e-6, found, 0.0) / scale
        out = {k: np.zeros(self.shape) for k in self.keys}
        return out | {self.keys[j]: np.full(self.shape, a) for j, a in zip(places, found[:-1], strict=True)}
