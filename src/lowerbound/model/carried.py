r"""A model in which another density has taken the place of the priors of some latents.

    p'(x, z) = r(z_S) p(x, z) / p(z_S),   S the latents whose priors are replaced,

in either space, and in other coordinates of the rest. What r is, is the caller's affair: a posterior of earlier data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from lowerbound.model.base import Evaluation, Factor, Model, total

#: From latents, their unconstrained values and log p + log |det| of their own prior there, to log r(z).
LogPrior = Callable[[Mapping[str, Any], Mapping[str, Any], Any], Any]


def with_prior(model: Model, names: Collection[str], log_density: LogPrior, *, unconstrained: bool) -> Model:
    """The model with the priors of some of its continuous latents replaced.

    Args:
        model: Bound to its data.
        names: Of those latents.
        log_density: log r, from dictionaries of their constrained and unconstrained values and their own prior's log
            density on the unconstrained space.
        unconstrained: Whether r is a density of the unconstrained values.
    """

    def evaluate(params: Mapping[str, Any], arguments: Sequence[Any], constrained: bool) -> Evaluation:
        e = model.evaluate(params, arguments, constrained)
        z, u = (params, e.values) if constrained else (e.values, params)
        own = prior_log_density(e, names)
        value = log_density({n: jnp.asarray(z[n]) for n in names}, {n: jnp.asarray(u[n]) for n in names}, own)
        if unconstrained:
            value = value - _log_det(e, names)
        factors = [f for f in e.factors if f.site not in names]
        return e._replace(factors=[*factors, Factor("carried", None, None, None, value, False)])

    def distributions(latents: Mapping[str, Any], arguments: Sequence[Any]) -> list[Factor]:
        log_prob = total(evaluate(latents, arguments, True).factors)
        return [Factor("log_density", None, None, None, log_prob, True)]

    def reparameterize(centredness: Mapping[str, Any]) -> Model:
        return with_prior(model.moved(centredness), names, log_density, unconstrained=unconstrained)

    return dataclasses.replace(
        model,
        evaluate=evaluate,
        movable=lambda: [n for n in model.movable() if n not in names],
        reparameterize=None if model.reparameterize is None else reparameterize,
        distributions=distributions,
    )


def prior_log_density(e: Evaluation, names: Collection[str]) -> Any:
    """log p(z_S) + log |det dz_S/du_S| at an evaluation of the model."""
    own = [jnp.sum(f.log_prob) for f in e.factors if f.site in names]
    return sum(own, jnp.zeros(())) + _log_det(e, names)


def _log_det(e: Evaluation, names: Collection[str]) -> Any:
    held = e.log_dets or {}
    return sum((held[n] for n in names if n in held), jnp.zeros(()))
