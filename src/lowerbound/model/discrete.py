"""Discrete latents of a NumPyro model: the values that each can take."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import numpyro.distributions
from jax.core import Tracer

from lowerbound.errors import ModelError
from lowerbound.model.base import DiscreteSite, Site


def values_of(fn: Any) -> np.ndarray | None:
    """The values that a discrete distribution can take, as far as they are finitely many numbers."""
    between = fn.support
    if isinstance(between, type(numpyro.distributions.constraints.integer_interval(0, 1))) and fn.has_enumerate_support:
        low, high = between.lower_bound, between.upper_bound
        if isinstance(low, int) and isinstance(high, int):
            return None if fn.event_dim else np.arange(low, high + 1)
    try:
        with jax.ensure_compile_time_eval():
            support = fn.enumerate_support(expand=False)
    except (NotImplementedError, jax.errors.JAXTypeError):  # infinitely many, or a number that a latent decides
        return None
    return None if fn.event_dim or isinstance(support, Tracer) else np.asarray(support).reshape(-1)


def discrete_site(site: Site, values: np.ndarray | None, *, dynamic: bool) -> DiscreteSite:
    """A discrete latent with the values that its elements can take.

    Args:
        site: As it was found.
        values: Of :func:`values_of`.
        dynamic: Whether its support depends on another latent.

    Raises:
        ModelError: there is no list of them; says why, and what to write.
    """
    if values is not None:
        return DiscreteSite(site.name, site.shape, values, site.plates)
    named = f"the discrete latent site {site.name!r}"
    if isinstance(site.support, numpyro.distributions.constraints.independent):
        raise ModelError(
            f"{named} is one event of several elements. Leave .to_event() out, and put them in a numpyro.plate: each "
            "is summed over by itself."
        )
    if site.support.event_dim:
        raise ModelError(
            f"{named} has support {site.support}, whose values are vectors, so that there is no finite list of values "
            "to sum over element by element. Write a Categorical for each trial, in a numpyro.plate, and count them."
        )
    low, high = (getattr(site.support, e, None) for e in ("lower_bound", "upper_bound"))
    if dynamic or (low is not None and high is not None):
        raise ModelError(
            f"{named} takes values up to an end that another latent decides, or that differs between its elements, so "
            "that there is no finite list of values to sum over for all. Give it the widest range that there can be: a "
            "Categorical with probabilities that depend on the end, 0 beyond it."
        )
    raise ModelError(
        f"{named} can take infinitely many values ({site.support}): there is no finite list of values to sum over. "
        "Needed: Categorical, Bernoulli, Binomial or DiscreteUniform. Cut it off where nothing is left: "
        "k ~ DiscreteUniform(0, 99) with numpyro.factor('poisson', k * jnp.log(rate) - rate - gammaln(k + 1) + "
        "jnp.log(100)) is a Poisson below 100. Or sum it out by hand: a Poisson with a gamma rate is a GammaPoisson."
    )
