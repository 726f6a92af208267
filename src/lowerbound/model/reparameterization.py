r"""Centred, non-centred, and anything between: the same latent in other coordinates.

A site z whose distribution has a location f and a scale g that depend on other latents makes a funnel: where
g is small, z is confined. In the coordinate

    z~ ~ N(c f, g^c),        z = f + g^(1-c) (z~ - c f)                        (Gorinova et al. 2020, eq. 4)

centredness c = 1 is the site as written, and c = 0 is non-centred, in which the prior of z~ depends on nothing.
Which of them is near to a Gaussian is decided by the data: with little of it per latent c = 0, with much c = 1,
and c = 1 - Var(z~ | rest) in non-centred coordinates is where prior and data weigh alike (Papaspiliopoulos,
Roberts & Skold 2007), each element by itself. The model, its sites and their values stay as they are; only
the unconstrained vector means something else, and its Jacobian is (1 - c) log g.

Positive sites with a scale (half-normal, exponential, gamma, ...) have log z for their coordinate and log g for
their location; a multivariate normal has its Cholesky factor for g, and is taken wholly or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.extend import core as jex
from numpyro.distributions import constraints


class LocationScale(NamedTuple):
    """Where a site's unconstrained coordinate is centred, and how wide: ``log_scale`` a number per element, or
    ``factor`` a lower triangular matrix over the last axis."""

    location: Any
    log_scale: Any
    factor: Any = None


def location_scale(fn: Any) -> LocationScale | None:
    """Location and scale of a distribution in its unconstrained coordinate; None if it has none.

    Args:
        fn: A NumPyro distribution, under whatever ``expand`` and ``to_event``.
    """
    shape = tuple(fn.shape())
    masked = False
    while isinstance(fn, _WRAPPERS):
        masked = masked or isinstance(fn, dist.MaskedDistribution)
        fn = fn.base_dist

    def spread(location: Any, log_scale: Any) -> LocationScale | None:
        try:
            return LocationScale(jnp.broadcast_to(location, shape), jnp.broadcast_to(log_scale, shape))
        except ValueError:  # expanded in a way that the parameters do not follow
            return None

    if masked:  # some elements have no prior, so no scale
        return None
    if isinstance(fn, (*_REAL, dist.LogNormal)):
        return spread(fn.loc, _log(fn.scale))
    if isinstance(fn, (dist.HalfNormal, dist.HalfCauchy, dist.Weibull)):
        return spread(_log(fn.scale), 0.0)
    if isinstance(fn, (dist.Exponential, dist.Gamma)):
        return spread(-_log(fn.rate), 0.0)
    if isinstance(fn, dist.InverseGamma):
        return spread(_log(fn.rate), 0.0)
    if isinstance(fn, dist.MultivariateNormal):
        return LocationScale(jnp.broadcast_to(fn.loc, shape), None, fn.scale_tril)
    return None


_WRAPPERS = (dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)
_REAL = (dist.Normal, dist.StudentT, dist.Cauchy, dist.Laplace, dist.Logistic, dist.Gumbel)


def _log(x: Any) -> Any:
    return jnp.log(x)


def leave(at: LocationScale, c: Any, moved: Any) -> tuple[Any, Any]:
    """The site's own unconstrained value from the moved one, and log |det| of that map."""
    if at.factor is not None:
        log_det = jnp.log(jnp.diagonal(at.factor, axis1=-2, axis2=-1)).sum()
        u = at.location + jnp.einsum("...ij,...j->...i", at.factor, moved)
        whole = jnp.max(c) >= 1  # all or nothing
        return jnp.where(whole, moved, u), jnp.where(whole, 0.0, _times(at, log_det))
    log_s = (1 - c) * at.log_scale
    s = jnp.exp(log_s)
    # f + s (z~ - c f), so arranged that c = 1 is exactly the identity.
    return s * moved + (1 - s * c) * at.location, jnp.sum(log_s)


def enter(at: LocationScale, c: Any, u: Any) -> tuple[Any, Any]:
    """The inverse of :func:`leave`: the moved value, and log |det| of ``leave`` there."""
    if at.factor is not None:
        log_det = jnp.log(jnp.diagonal(at.factor, axis1=-2, axis2=-1)).sum()
        away = jnp.broadcast_to(u - at.location, jnp.shape(u))[..., None]
        factor = jnp.broadcast_to(at.factor, (*away.shape[:-1], away.shape[-2]))
        moved = jax.scipy.linalg.solve_triangular(factor, away, lower=True)[..., 0]
        whole = jnp.max(c) >= 1
        return jnp.where(whole, u, moved), jnp.where(whole, 0.0, _times(at, log_det))
    log_s = (1 - c) * at.log_scale
    s = jnp.exp(log_s)
    return (u - (1 - s * c) * at.location) / s, jnp.sum(log_s)


def log_prob(fn: Any, at: LocationScale, c: Any, moved: Any, value: Any) -> Any:
    """log density of the site's own value, without the rounding of (z - f) / g.

    Where g is below the spacing of floating-point numbers about f, z = f + g z~ rounds to f, and the density
    would come out as that of its peak wherever z~ is: without end in z~. In the moved coordinate the standardized
    value is (z~ - c f) g^-c, exactly.
    """
    while isinstance(fn, _WRAPPERS):
        fn = fn.base_dist
    if at.factor is not None:
        lp = fn.log_prob(value)
        standard = -0.5 * (moved**2).sum(-1) - 0.5 * moved.shape[-1] * jnp.log(2 * jnp.pi)
        log_det = jnp.log(jnp.diagonal(at.factor, axis1=-2, axis2=-1)).sum(-1)
        return jnp.where(jnp.max(c) >= 1, lp, standard - log_det)
    if not isinstance(fn, (*_REAL, dist.LogNormal)):
        return fn.log_prob(value)
    r = (moved - c * at.location) * jnp.exp(-c * at.log_scale)
    if isinstance(fn, dist.StudentT):
        standard = dist.StudentT(fn.df, 0.0, 1.0).log_prob(r)
    elif isinstance(fn, dist.LogNormal):
        standard = dist.Normal(0.0, 1.0).log_prob(r) - jnp.log(value)
    else:
        standard = type(fn)(0.0, 1.0).log_prob(r)
    return standard - at.log_scale


def _times(at: LocationScale, log_det: Any) -> Any:
    """One factor for several rows counts once for each."""
    rows = np.prod(jnp.shape(at.location)[:-1], dtype=int)
    factors = np.prod(jnp.shape(at.factor)[:-2], dtype=int)
    return log_det * (rows // max(factors, 1))


def depend_on_latents(fn: Any, latents: Any, arguments: Sequence[Any]) -> dict[str, bool]:
    """Which outputs of ``fn(latents, arguments) -> {name: arrays}`` depend on any latent, by the program alone."""
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(latents, arguments)
    count = len(jax.tree_util.tree_leaves(latents))
    tainted = set(map(id, closed.jaxpr.invars[:count]))
    for eqn in closed.jaxpr.eqns:
        if any(id(v) in tainted for v in eqn.invars if not isinstance(v, jex.Literal)):
            tainted.update(map(id, eqn.outvars))
    names = [path[0].key for path, _ in jax.tree_util.tree_flatten_with_path(shape)[0]]
    out: dict[str, bool] = dict.fromkeys(shape, False)
    for name, v in zip(names, closed.jaxpr.outvars, strict=True):
        out[name] = out[name] or id(v) in tainted
    return out


def is_movable(support: Any) -> bool:
    """Whether a support is one that location-scale families live on: the reals, or what is positive."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support in (constraints.real, constraints.real_vector, constraints.positive, constraints.nonnegative)
