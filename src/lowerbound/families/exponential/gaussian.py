r"""Gaussian blocks over one or several real latents, dense within and independent along plates.

    q(x) = exp(eta' x + x' G x - A),        precision = -(G + G'),      mean = precision^-1 eta,

with statistics x and x_i y_j, one array of them for each pair of latents. H = 1/2 log |2 pi e S|.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lowerbound.families.exponential.base import ExponentialBlock, Parameters
from lowerbound.families.linalg import inverse_of, log_det_of


class JointGaussianBlock(ExponentialBlock):
    """A Gaussian.

    Args:
        shapes: Of the latents, by name.
        plates, dense: For each latent, its axes along which elements are independent, and along which they are not.
        keys: ``first[name]`` and ``second[a, b]`` of the statistics x and x_i y_j; of a pair, the one order there is.
    """

    family = "Gaussian"

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        plates: Mapping[str, tuple[int, ...]],
        dense: Mapping[str, tuple[int, ...]],
        first: Mapping[str, Hashable],
        second: Mapping[tuple[str, str], Hashable],
    ):
        self.latents = tuple(shapes)
        self.shapes, self.plates, self.dense = dict(shapes), dict(plates), dict(dense)
        self.first, self.second = dict(first), dict(second)
        self.keys = (*self.first.values(), *self.second.values())
        lead = self.latents[0]
        self.plate_shape = tuple(shapes[lead][i] for i in plates[lead])
        self.dense_shape = {n: tuple(shapes[n][i] for i in dense[n]) for n in self.latents}
        self.sizes = {n: math.prod(s) for n, s in self.dense_shape.items()}
        starts = np.cumsum([0, *self.sizes.values()])
        self.slices = {n: slice(int(a), int(b)) for n, a, b in zip(self.latents, starts, starts[1:], strict=False)}
        self.size = int(starts[-1])
        self.alike = (False,) * len(self.plate_shape)

    def with_alike(self, alike: Sequence[bool]) -> JointGaussianBlock:
        """The same where the precision is known not to differ along some plates, and is factorised once for them all.

        Args:
            alike: Of each plate, whether natural parameters of second moments are equal along it.
        """
        out = copy.copy(self)
        out.alike = tuple(alike)
        return out

    # -- between arrays of the latents' shapes and vectors [*plates, size] ----------------------------

    def _flat(self, name: str, x: Any) -> Any:
        order = (*self.plates[name], *self.dense[name])
        return x.transpose(order).reshape((*self.plate_shape, self.sizes[name]))

    def _back(self, name: str, x: Any) -> Any:
        order = (*self.plates[name], *self.dense[name])
        whole = x.reshape((*x.shape[: x.ndim - 1 - len(self.plate_shape)], *self.plate_shape, *self.dense_shape[name]))
        lead = whole.ndim - len(order)
        inverse = [lead + i for i in np.argsort(order)]
        return whole.transpose([*range(lead), *inverse])

    def _join(self, values: Mapping[str, Any], xp: Any) -> Any:
        return xp.concatenate([self._flat(n, values[n]) for n in self.latents], axis=-1)

    # -- parameters ----------------------------------------------------------------------------------

    def natural(self, gradient: Parameters) -> dict[Hashable, Any]:
        return dict(gradient)

    def vectors(self, natural: Parameters, xp: Any = jnp) -> tuple[Any, Any]:
        """eta ``[*plates, size]`` and the precision ``[*plates, size, size]``, plates alike along it of size one."""
        once = tuple(slice(1) if alike else slice(None) for alike in self.alike)
        plates = tuple(1 if alike else n for alike, n in zip(self.alike, self.plate_shape, strict=True))
        eta = self._join({n: natural[k] for n, k in self.first.items()}, xp)
        rows = []
        for a in self.latents:
            row = []
            for b in self.latents:
                k = self.second.get((a, b))
                turned = k is None
                if turned:
                    k = self.second.get((b, a))
                if k is None:
                    row.append(xp.zeros((*plates, self.sizes[a], self.sizes[b]), eta.dtype))
                    continue
                shape = (self.sizes[b], self.sizes[a]) if turned else (self.sizes[a], self.sizes[b])
                g = natural[k][once].reshape((*plates, *shape))
                g = xp.swapaxes(g, -1, -2) if turned else g
                row.append(-(g + xp.swapaxes(g, -1, -2)) if a == b else -g)
            rows.append(xp.concatenate(row, axis=-1))
        return eta, xp.concatenate(rows, axis=-2)

    def mean_covariance(self, natural: Parameters) -> tuple[Any, Any]:
        """Mean ``[*plates, size]`` and covariance ``[*plates, size, size]``, plates alike along it of size one."""
        eta, precision = self.vectors(natural)
        if self.size == 1:
            covariance = 1 / precision
            return eta * covariance[..., 0], covariance
        covariance = inverse_of(jnp.linalg.cholesky(precision))
        return jnp.einsum("...ij,...j->...i", covariance, eta), covariance

    def moments(self, natural: Parameters) -> dict[Hashable, Any]:
        mean, covariance = self.mean_covariance(natural)
        out: dict[Hashable, Any] = {k: self._back(n, mean[..., self.slices[n]]) for n, k in self.first.items()}
        for (a, b), k in self.second.items():
            s, t = self.slices[a], self.slices[b]
            second = covariance[..., s, t] + mean[..., s, None] * mean[..., None, t]
            out[k] = second.reshape((*self.plate_shape, *self.dense_shape[a], *self.dense_shape[b]))
        return out

    def entropy(self, natural: Parameters) -> Any:
        _, precision = self.vectors(natural)
        count = math.prod(self.plate_shape) * self.size
        if self.size == 1:
            log_det = jnp.log(precision[..., 0, 0])
        else:
            log_det = log_det_of(jnp.linalg.cholesky(precision))
        each = log_det.sum() * (math.prod(self.plate_shape) / math.prod(log_det.shape))
        return 0.5 * count * (1 + math.log(2 * math.pi)) - 0.5 * each

    def proper(self, natural: Parameters) -> Any:
        _, precision = self.vectors(natural)
        if self.size == 1:
            return (precision > 0).all()
        return jnp.isfinite(jnp.linalg.cholesky(precision)).all()

    # -- on the host ---------------------------------------------------------------------------------

    def _host(self, natural: Parameters) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance, by NumPy."""
        eta, precision = self.vectors({k: np.asarray(v) for k, v in natural.items()}, np)
        covariance = np.linalg.inv(precision)
        covariance = np.broadcast_to(covariance, (*self.plate_shape, self.size, self.size))
        covariance = 0.5 * (covariance + np.swapaxes(covariance, -1, -2))
        return np.einsum("...ij,...j->...i", covariance, eta), covariance

    @property
    def noise_dimension(self) -> int:
        return math.prod(self.plate_shape) * self.size

    def from_normal(self, natural: Parameters, noise: np.ndarray) -> dict[str, np.ndarray]:
        mean, covariance = self._host(natural)
        root = np.linalg.cholesky(covariance)
        x = mean + np.einsum("...ij,n...j->n...i", root, noise.reshape((len(noise), *mean.shape)))
        return {name: self._back(name, x[..., self.slices[name]]) for name in self.latents}

    def log_prob(self, natural: Parameters, values: Mapping[str, Any]) -> Any:
        mean, covariance = self._host(natural)
        precision = np.linalg.inv(covariance)
        d = self.joined_draws(values) - mean
        square = np.einsum("n...i,...ij,n...j->n...", d, precision, d)
        log_det = np.linalg.slogdet(covariance)[1]
        out = -0.5 * (square + log_det + self.size * math.log(2 * math.pi))
        return out.reshape(len(d), -1).sum(1)

    def joined_draws(self, values: Mapping[str, Any]) -> np.ndarray:
        """Draws of all latents ``[n, *shape]`` as vectors ``[n, *plates, size]``."""
        parts = []
        for name in self.latents:
            v = np.asarray(values[name], float)
            order = [0, *(1 + i for i in (*self.plates[name], *self.dense[name]))]
            parts.append(v.transpose(order).reshape((len(v), *self.plate_shape, self.sizes[name])))
        return np.concatenate(parts, axis=-1)

    def mean_and_variance(self, natural: Parameters) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        mean, covariance = self._host(natural)
        variance = np.diagonal(covariance, axis1=-2, axis2=-1)
        return {n: (self._back(n, mean[..., s]), self._back(n, variance[..., s])) for n, s in self.slices.items()}

    def start(self, rng: np.random.Generator, spread: float) -> dict[Hashable, Any]:
        mean = spread * rng.standard_normal((*self.plate_shape, self.size))
        out: dict[Hashable, Any] = {k: self._back(n, mean[..., self.slices[n]]) for n, k in self.first.items()}
        for (a, b), k in self.second.items():
            g = -0.5 * np.eye(self.sizes[a]) if a == b else np.zeros((self.sizes[a], self.sizes[b]))
            shape = (*self.plate_shape, *self.dense_shape[a], *self.dense_shape[b])
            out[k] = np.broadcast_to(g, (*self.plate_shape, *g.shape)).reshape(shape)
        return out

    def about(self, values: Mapping[str, Any], natural: Parameters) -> dict[Hashable, Any]:
        """Natural parameters with some latents at given values, almost surely; the others as in ``natural``."""
        mean = np.array(np.broadcast_to(self._host(natural)[0], (*self.plate_shape, self.size)))
        precision = np.ones(self.size)
        for n, v in values.items():
            mean[..., self.slices[n]] = self._flat(n, np.asarray(v, float))
            precision[self.slices[n]] = 1e8 / max(float(np.var(v)), 1e-8)
        out: dict[Hashable, Any] = {
            k: self._back(n, (precision * mean)[..., self.slices[n]]) for n, k in self.first.items()
        }
        for (a, b), k in self.second.items():
            g = np.diag(-0.5 * precision[self.slices[a]]) if a == b else np.zeros((self.sizes[a], self.sizes[b]))
            shape = (*self.plate_shape, *self.dense_shape[a], *self.dense_shape[b])
            out[k] = np.broadcast_to(g, (*self.plate_shape, *g.shape)).reshape(shape)
        return out

    def describe(self, natural: Parameters) -> dict[str, np.ndarray]:
        mean, covariance = self._host(natural)
        return {"mean": mean, "covariance": covariance}
