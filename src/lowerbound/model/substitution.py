"""Values in the place of latent sites: feasible ones, given ones, and those of an unconstrained vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpyro
from numpyro.distributions import biject_to

from lowerbound.model.base import bijection, is_real
from lowerbound.model.reparameterization import enter, leave, location_scale

#: Prefixes of deterministic sites that carry the log Jacobian of a site's transform, and its unconstrained value.
JACOBIAN = "_lowerbound_log_det_"
UNCONSTRAINED = "_lowerbound_unconstrained_"


def feasible(site: Any) -> Any:
    """A point inside the support of every latent, without drawing from its prior."""
    if site["type"] != "sample" or site["is_observed"]:
        return None
    fn = site["fn"]
    shape = tuple(site["kwargs"].get("sample_shape", ())) + tuple(fn.shape())
    if fn.support is None or fn.support.is_discrete:
        return jnp.zeros(shape, jnp.result_type(int))
    transform = bijection(fn.support)
    if transform is None:
        return jnp.zeros(shape)  # place() names the support
    return transform(jnp.zeros(transform.inverse_shape(shape)))


def given(latents: Mapping[str, Any], site: Any) -> Any:
    """The value of a latent site as it is; inside a scan, this turn's."""
    name = site["name"]
    if site["type"] != "sample" or name not in latents:
        return None
    value = latents[name]
    index = site["infer"].get("_scan_current_index")
    if index is not None and jnp.ndim(value) > len(site["fn"].shape()):
        value = value[index]
    return value


def substituted(params: Mapping[str, Any], site: Any, constrained: bool, centredness: Mapping[str, Any]) -> Any:
    """The value of a latent site, with the log Jacobian of its transform as a deterministic site beside it.

    Not a factor: plates repeat a factor, and ``handlers.mask`` and ``handlers.scale`` change it. Sites in
    ``centredness`` are in the coordinates of :mod:`lowerbound.model.reparameterization`.
    """
    name = site["name"]
    if site["type"] != "sample" or name not in params:
        return None
    p = params[name]
    support = site["fn"].support
    transform = biject_to(support)
    index = site["infer"].get("_scan_current_index")
    if index is not None:  # inside numpyro's scan: this step's slice of the stacked value
        event_shift = 0 if constrained else transform.codomain.event_dim - transform.domain.event_dim
        if jnp.ndim(p) > len(site["fn"].shape()) - event_shift:
            p = p[index]
    c = centredness.get(name)
    if c is not None and index is not None and jnp.ndim(c) > len(site["fn"].shape()):
        c = jnp.asarray(c)[index]
    at = location_scale(site["fn"]) if c is not None else None
    if constrained:
        u, value = transform._inverse(p), p
        moved, log_det = (u, None) if at is None else enter(at, c, u)
        numpyro.deterministic(UNCONSTRAINED + name, moved)
    else:
        u, log_det = (p, None) if at is None else leave(at, c, p)
        value = transform(u)
    if log_det is not None:
        numpyro.deterministic(JACOBIAN + "moved_" + name, log_det)
    if not is_real(support):
        numpyro.deterministic(JACOBIAN + name, jnp.sum(transform.log_abs_det_jacobian(u, value)))
    return value
