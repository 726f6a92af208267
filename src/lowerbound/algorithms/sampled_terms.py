r"""Factors without a closed form, by Monte Carlo on fixed noise, as functions of the moments of q.

E_q[log p_f] is estimated from draws x = T(e; moments) of the blocks that f depends on, e fixed for the whole fit, so
that the ELBO stays a deterministic function and a step can be taken only if it raises it. Its derivative in
the moments of a block is what the natural gradient asks for (Khan & Lin 2017):

* a Gaussian is drawn as m + L e, with m and L L' = E[x x'] - m m' functions of its moments;
* a gamma, a log-normal or a beta from its natural parameters lambda, which follow their moments through
  lambda = lambda_0 + J^-1 (moments - moments_0), J = dmoments/dlambda: exact to first order, which is all that a
  derivative sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.axes import Const
from lowerbound.expectations.noise import matched_normals
from lowerbound.families.exponential import (
    BetaBlock,
    ExponentialBlock,
    JointGaussianBlock,
    LogNormalBlock,
    PowerGammaBlock,
)
from lowerbound.model.base import Model

_DRAWN = (JointGaussianBlock, PowerGammaBlock, LogNormalBlock, BetaBlock)


def natural_key(block: ExponentialBlock) -> tuple[str, tuple[str, ...]]:
    """The key under which a block's natural parameters stand beside its moments."""
    return "natural", block.latents


@dataclass(frozen=True, eq=False)
class SampledTerm:
    """One factor on fixed noise.

    Args:
        name: Of the factor.
        log_prob: Its log density at values of its latents, summed.
        blocks: That it depends on.
        num_draws: Of the noise.
        seed: Of the noise.

    Raises:
        NotClosedForm: a block that cannot be drawn from by a differentiable map.
    """

    name: str
    log_prob: Callable[[Mapping[str, Any]], Any]
    blocks: tuple[ExponentialBlock, ...]
    num_draws: int
    seed: int
    noise: dict[int, np.ndarray] = field(init=False)
    #: No einsum: it has no moments over axes.
    moments: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        for b in self.blocks:
            if not isinstance(b, _DRAWN):
                raise NotClosedForm(f"factor {self.name!r} is sampled, and {b.latents[0]!r} ({b.family}) cannot be")
        rng = np.random.default_rng([self.seed, 15])
        noise = {
            i: matched_normals(rng, self.num_draws, math.prod(b.plate_shape) * b.size)
            for i, b in enumerate(self.blocks)
            if isinstance(b, JointGaussianBlock)
        }
        object.__setattr__(self, "noise", noise)

    @property
    def needs(self) -> set[Any]:
        return {k for b in self.blocks for k in b.keys}

    def __call__(self, moments: Mapping[Any, Any]) -> Const:
        draws: dict[str, Any] = {}
        for i, b in enumerate(self.blocks):
            if isinstance(b, JointGaussianBlock):
                draws |= _gaussian(b, moments, jnp.asarray(self.noise[i]))
            else:
                key = jax.random.fold_in(jax.random.PRNGKey(self.seed), i)
                natural = _followed(b, moments[natural_key(b)], moments)  # pyright: ignore[reportArgumentType]
                draws |= _drawn(b, natural, key, self.num_draws)
        return Const(jax.vmap(self.log_prob)(draws).mean(), ())

    def at(self, values: Mapping[str, Any]) -> Any:
        """The factor itself at a point."""
        return self.log_prob({n: values[n] for b in self.blocks for n in b.latents})


def _gaussian(block: JointGaussianBlock, moments: Mapping[Any, Any], noise: Any) -> dict[str, Any]:
    mean = block._join({n: moments[k] for n, k in block.first.items()}, jnp)
    rows = []
    for a in block.latents:
        row = []
        for b in block.latents:
            k, turned = block.second.get((a, b)), False
            if k is None:
                k, turned = block.second.get((b, a)), True
            outer = mean[..., block.slices[a], None] * mean[..., None, block.slices[b]]
            if k is None:
                row.append(jnp.zeros_like(outer))
                continue
            sizes = (block.sizes[b], block.sizes[a]) if turned else (block.sizes[a], block.sizes[b])
            second = moments[k].reshape((*block.plate_shape, *sizes))
            row.append((jnp.swapaxes(second, -1, -2) if turned else second) - outer)
        rows.append(jnp.concatenate(row, axis=-1))
    covariance = jnp.concatenate(rows, axis=-2)
    covariance = 0.5 * (covariance + jnp.swapaxes(covariance, -1, -2))
    root = jnp.sqrt(covariance) if block.size == 1 else jnp.linalg.cholesky(covariance)
    x = mean + jnp.einsum("...ij,n...j->n...i", root, noise.reshape((len(noise), *mean.shape)))
    return {n: block._back(n, x[..., block.slices[n]]) for n in block.latents}


def _followed(block: ExponentialBlock, natural: Mapping[Any, Any], moments: Mapping[Any, Any]) -> dict[Any, Any]:
    """Natural parameters as functions of moments, to first order about where they are."""
    keys = list(block.keys)
    at = [jax.lax.stop_gradient(jnp.asarray(natural[k])) for k in keys]

    def of(values: Sequence[Any]) -> list[Any]:
        out = block.moments(dict(zip(keys, values, strict=True)))
        return [out[k] for k in keys]

    columns = []
    for i in range(len(keys)):  # elements are independent: one direction serves them all
        tangent = [jnp.ones_like(a) if i == j else jnp.zeros_like(a) for j, a in enumerate(at)]
        columns.append(jnp.stack(jax.jvp(of, (at,), (tangent,))[1], axis=-1))
    jacobian = jax.lax.stop_gradient(jnp.stack(columns, axis=-1))
    away = jnp.stack([moments[k] - jax.lax.stop_gradient(moments[k]) for k in keys], axis=-1)
    step = jnp.linalg.solve(jacobian, away[..., None])[..., 0]
    return {k: a + step[..., i] for i, (k, a) in enumerate(zip(keys, at, strict=True))}


def _drawn(block: ExponentialBlock, natural: Mapping[Any, Any], key: Any, n: int) -> dict[str, Any]:
    name = block.latents[0]
    if isinstance(block, PowerGammaBlock):
        alpha, beta = block.shape_rate(natural)
        log_u = jax.random.loggamma(key, jnp.broadcast_to(alpha, (n, *block.shape)))
        return {name: jnp.exp((log_u - jnp.log(beta)) / block.power)}
    if isinstance(block, LogNormalBlock):
        m, v = block.location_variance(natural)
        return {name: jnp.exp(m + jnp.sqrt(v) * jax.random.normal(key, (n, *block.shape)))}
    assert isinstance(block, BetaBlock)
    a, b = block.concentrations(natural)
    first, second = jax.random.split(key)
    log_a = jax.random.loggamma(first, jnp.broadcast_to(a, (n, *block.shape)))
    log_b = jax.random.loggamma(second, jnp.broadcast_to(b, (n, *block.shape)))
    return {name: jax.nn.sigmoid(log_a - log_b)}


def factor_log_prob(model: Model, name: str) -> Callable[[Mapping[str, Any]], Any]:
    """The log density of one factor of a model, summed, at values of its latents; the others do not matter to it."""

    def log_prob(values: Mapping[str, Any]) -> Any:
        assert model.distributions is not None
        given = {n: jnp.ones(s.shape) for n, s in model.sites.items() if n not in values}
        given |= {n: jnp.full(d.shape, d.values[0]) for n, d in model.discrete.items()}
        for f in model.distributions({**given, **values}, model.arguments):
            if f.site == name:
                return jnp.sum(f.log_prob)
        raise KeyError(name)

    return log_prob
