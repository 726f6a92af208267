"""What sites a NumPyro model has, found by running it once on shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lowerbound.model.base import Site
from lowerbound.model.data import Data, trace_with_data
from lowerbound.model.discrete import values_of
from lowerbound.model.observations import check_shape, check_support
from lowerbound.model.running import Run
from lowerbound.model.substitution import feasible


@dataclass
class Sites:
    """The sites of a model.

    Attributes:
        latent: Latent sites by name, not yet placed in the vector; the discrete ones among them.
        dynamic: Of each latent, whether its support depends on another one.
        finite: Values of each discrete latent; None where there is no list of them.
        deterministics: Shapes of the deterministic sites.
        plate_sizes: Of every plate.
        plate_axes: Of every latent, which axis of its value runs along which plate.
        observed, learnable: Names of observed sites and of ``param`` sites.
    """

    latent: dict[str, Site] = field(default_factory=dict)
    dynamic: dict[str, bool] = field(default_factory=dict)
    finite: dict[str, np.ndarray | None] = field(default_factory=dict)
    deterministics: dict[str, tuple[int, ...]] = field(default_factory=dict)
    plate_sizes: dict[str, int] = field(default_factory=dict)
    plate_axes: dict[str, dict[str, int]] = field(default_factory=dict)
    observed: list[str] = field(default_factory=list)
    learnable: list[str] = field(default_factory=list)


def sites_of(run: Run, data: Data) -> Sites:
    """The sites of a model, its observed values checked against their distributions.

    Raises:
        ModelError: an error inside the model, or values and distributions of other shapes.
        DataError: values outside of the support that they are observed under.
    """
    found = Sites()

    def discover(arguments: Sequence[Any]) -> None:
        nonlocal found
        found = Sites()  # it may be run a second time, with constant data
        known = {id(a): given for a, given in zip(arguments, data.arrays, strict=True)}
        for name, site in run(arguments, feasible).items():
            if site["type"] == "deterministic":
                found.deterministics[name] = tuple(jnp.shape(site["value"]))
            elif site["type"] == "param":
                found.learnable.append(name)
            elif site["type"] == "sample" and site["is_observed"]:
                value = site["value"]
                known_value = known.get(id(value)) if isinstance(value, Tracer) else value
                if known_value is not None:
                    check_support(name, site["fn"], known_value)
                check_shape(name, site)
                found.observed.append(name)
            elif site["type"] == "plate":
                found.plate_sizes[name] = int(site["args"][0])
            elif site["type"] == "sample":
                _latent(found, name, site)

    trace_with_data(discover, data)
    return found


def _latent(found: Sites, name: str, site: Any) -> None:
    support = site["fn"].support
    plates = tuple(f.name for f in site["cond_indep_stack"])
    batch = len(site["fn"].batch_shape)
    found.plate_axes[name] = {f.name: batch + f.dim for f in site["cond_indep_stack"] if batch + f.dim >= 0}
    # A support that depends on another latent is placed with its shape alone.
    fixed = not any(isinstance(v, Tracer) for v in jax.tree_util.tree_leaves(support))
    found.dynamic[name] = not fixed
    if support.is_discrete:
        found.finite[name] = values_of(site["fn"])
    shape = tuple(int(i) for i in jnp.shape(site["value"]))
    found.latent[name] = Site(support if fixed else _static(support), shape, name, plates)


def _static(support: Any) -> Any:
    """A dynamic support with its traced bounds replaced, of the same kind and event dimension."""
    leaves, tree = jax.tree_util.tree_flatten(support)
    stand_in = [float(i) if isinstance(v, Tracer) else v for i, v in enumerate(leaves)]
    return jax.tree_util.tree_unflatten(tree, stand_in)
