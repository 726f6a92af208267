"""Whether observed values go with the distributions that they are observed under, before anything is computed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions
from jax.core import Tracer

from lowerbound.errors import DataError, ModelError
from lowerbound.model.data import check_array
from lowerbound.model.running import log_prob_of


def check_shape(name: str, site: Any) -> None:
    """Observed values must fit their distribution without multiplying each other's rows."""
    fn, shape = site["fn"], tuple(jnp.shape(site["value"]))
    if isinstance(fn, numpyro.distributions.Unit):
        return
    plates = ", ".join(f"{f.name!r} of {f.size}" for f in site["cond_indep_stack"])
    came = f"observed {name!r} has shape {shape}, but its distribution {_inner(fn)} has shape {tuple(fn.shape())}" + (
        f" (in plate {plates})" if plates else ""
    )
    try:
        got = tuple(jnp.shape(log_prob_of(site)))
    except (TypeError, ValueError) as e:
        raise ModelError(f"{came}: they do not broadcast together.") from e
    of_value = shape[: len(shape) - fn.event_dim]
    if got not in (tuple(fn.batch_shape), of_value):
        raise ModelError(
            f"{came}: together they give {got} log probabilities, each row counted many times. "
            f"Reshape one to the other, for example {name}.reshape({tuple(fn.shape())})."
        )


def _inner(fn: Any) -> str:
    """The name of a distribution under its masks and expansions."""
    while isinstance(fn, (numpyro.distributions.MaskedDistribution, numpyro.distributions.ExpandedDistribution)):
        fn = fn.base_dist
    return type(fn).__name__


def check_support(name: str, fn: Any, value: Any) -> None:
    """Observed values must lie in the support of their distribution, where that is known beforehand."""
    while isinstance(fn, (numpyro.distributions.MaskedDistribution, numpyro.distributions.ExpandedDistribution)):
        if isinstance(fn, numpyro.distributions.MaskedDistribution):
            return  # a masked value may be anything
        fn = fn.base_dist
    if isinstance(fn, numpyro.distributions.Unit):  # numpyro.factor
        return
    value = check_array(name, value)
    support = getattr(fn, "support", None)
    if support is None or any(isinstance(v, Tracer) for v in jax.tree_util.tree_leaves(support)):
        return
    try:
        with jax.ensure_compile_time_eval():
            inside = np.asarray(support(value))
    except Exception:  # a support that cannot be checked outside a trace is checked by its log probability
        return
    if inside.all():
        return
    first = tuple(int(i) for i in np.argwhere(~inside)[0]) if inside.ndim else ()
    row = f", the first in row {first[0]}" if first else ""
    culprit = np.broadcast_to(value, (*inside.shape, *value.shape[inside.ndim :]))[first]
    raise DataError(
        f"observed {name!r} has {int((~inside).sum())} of {inside.size} values outside the support of "
        f"{type(fn).__name__} ({support}){row}: {culprit}."
    )
