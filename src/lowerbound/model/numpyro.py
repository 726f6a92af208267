"""NumPyro models: bound to data, checked, and evaluated in either space."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.errors import ModelError
from lowerbound.model.base import Evaluation, Factor, Model, abstract, place
from lowerbound.model.calling import check_arguments, left_out, name_of
from lowerbound.model.data import Data
from lowerbound.model.discovery import sites_of
from lowerbound.model.discrete import discrete_site
from lowerbound.model.parameters import read_parameters
from lowerbound.model.reparameterization import depend_on_latents, is_movable, location_scale
from lowerbound.model.reparameterization import log_prob as moved_log_prob
from lowerbound.model.running import Run, log_prob_of, plates_of, stands_in, unmasked
from lowerbound.model.substitution import JACOBIAN, UNCONSTRAINED, feasible, given, substituted
from lowerbound.precision import float64


def from_numpyro(model: Callable, data: Mapping[str, Any] | None = None) -> Model:
    """Bind a NumPyro model to data and check both, without compiling anything.

    Args:
        model: The model function.
        data: Its keyword arguments. Arrays are traced, everything else stays static.

    Raises:
        ModelError: missing or unknown arguments, no latent site, data left out, a discrete latent, an unusable
            support, or an error inside the model.
        DataError: data that are empty, not finite, or outside the support of the distribution they
            are observed under.
    """
    bound = Data(data)
    check_arguments(model, bound.names)

    run = Run(model, bound)
    with float64():
        sites = sites_of(run, bound)
        name = name_of(model)
        if not sites.latent:
            only = (
                f" (it has parameters, {', '.join(sites.learnable)}: give them priors, or maximise the likelihood with "
                "optax)"
            )
            raise ModelError(
                f"the model {name!r} has no latent sites, so there is nothing to infer"
                f"{only if sites.learnable else ''}. Add numpyro.sample sites without obs=."
            )
        forgotten = left_out(model, bound.names)
        if not sites.observed and forgotten:
            raise ModelError(
                f"the model {name!r} has no observed sites, so its posterior would be its prior, and was not given "
                f"{', '.join(forgotten)}. Pass the data that the model observes."
            )
        discrete = {
            n: discrete_site(s, sites.finite.get(n), dynamic=sites.dynamic[n])
            for n, s in sites.latent.items()
            if s.support.is_discrete
        }
        placed = place({n: s for n, s in sites.latent.items() if n not in discrete})
        starts: list[np.ndarray] = []
        if sites.learnable:
            read, starts = read_parameters(run(bound.arrays, feasible), sites.learnable, len(bound.arrays))
            run.parameters |= read
    parameters, deterministics = run.parameters, sites.deterministics

    # What every evaluation is given: the data, and the parameters as unconstrained numbers.
    first = [*bound.arrays, *starts]
    names = [*bound.array_names, *(leaf for p in parameters.values() for leaf in p.leaf_names)]
    count = len(first)
    if discrete:

        def of_discrete(values: Mapping[str, Any], arguments: Sequence[Any]) -> dict[str, Any]:
            trace = run(arguments, lambda site: values.get(site["name"], feasible(site)))
            return {n: trace[n]["value"] for n in deterministics}

        with float64():
            stand_in = {n: np.zeros(d.shape, np.int64) for n, d in discrete.items()}
            moved_by = depend_on_latents(of_discrete, stand_in, abstract(first)) if deterministics else {}
        # Their value differs with that of a discrete latent, which the map from the vector does not have.
        deterministics = {n: s for n, s in deterministics.items() if not moved_by.get(n)}

    def evaluate(
        params: Mapping[str, Any], arguments: Sequence[Any], constrained: bool, moved: Sequence[str] = ()
    ) -> Evaluation:
        centredness = dict(zip(moved, arguments[count:], strict=True))
        trace = run(arguments[:count], lambda site: substituted(params, site, constrained, centredness))
        values: dict[str, Any] = {}
        found: dict[str, Any] = {}
        factors: list[Factor] = []
        log_det, log_dets = jnp.zeros(()), {}
        for n, site in trace.items():
            if stands_in(n, trace):
                site["fn"] = unmasked(site["fn"])
            if site["type"] == "deterministic":
                # (handlers.scope puts its prefix before these names too.)
                if JACOBIAN in n:
                    log_dets[n.split(JACOBIAN)[1]] = jnp.sum(site["value"])
                    log_det = log_det + log_dets[n.split(JACOBIAN)[1]]
                elif UNCONSTRAINED in n:
                    values[n.split(UNCONSTRAINED)[1]] = site["value"]
                else:
                    found[n] = site["value"]
            elif site["type"] == "sample":
                if n in centredness and (at := location_scale(site["fn"])) is not None:
                    own = values[n] if constrained else params[n]
                    log_prob = moved_log_prob(site["fn"], at, centredness[n], own, site["value"])
                    log_prob = log_prob if site["scale"] is None else site["scale"] * log_prob
                else:
                    log_prob = log_prob_of(site)
                factors.append(
                    Factor(n, site["fn"], site["value"], site["scale"], log_prob, site["is_observed"], plates_of(site))
                )
                if n in placed and not constrained:
                    values[n] = site["value"]
        return Evaluation(values, found, factors, log_det, log_dets)

    def movable() -> list[str]:
        """Sites whose location or scale depends on other latents."""
        candidates = [n for n, s in placed.items() if not sites.dynamic[n] and is_movable(s.support)]
        if not candidates:
            return []

        def depends(params: Mapping[str, Any], arguments: Sequence[Any]) -> dict[str, Any]:
            where: dict[str, Any] = {}

            def note(site: Any) -> Any:
                if site["name"] in candidates and (at := location_scale(site["fn"])) is not None:
                    where[site["name"]] = [v for v in at if v is not None]
                return substituted(params, site, False, {})

            run(arguments, note)
            return where

        with float64():
            latents = {n: jnp.zeros(s.unconstrained_shape) for n, s in placed.items()}
            try:
                found = depend_on_latents(depends, latents, abstract(first))
            except jax.errors.JAXTypeError:  # what happens inside a scan stays there
                return []
        return [n for n in candidates if found.get(n)]

    def reparameterize(centredness: Mapping[str, np.ndarray]) -> Model:
        moved = list(centredness)
        arrays = [
            np.array(np.broadcast_to(np.asarray(centredness[n], np.float64), placed[n].unconstrained_shape))
            for n in moved
        ]

        def elsewhere(params: Mapping[str, Any], arguments: Sequence[Any], constrained: bool) -> Evaluation:
            return evaluate(params, arguments, constrained, moved)

        all_names = [*names, *(f"centredness of {n}" for n in moved)]
        return dataclasses.replace(
            base, arguments=[*first, *arrays], argument_names=all_names, evaluate=elsewhere, elsewhere=tuple(moved)
        )

    def distributions(latents: Mapping[str, Any], arguments: Sequence[Any]) -> list[Factor]:
        trace = run(arguments[:count], lambda site: given(latents, site))
        out = []
        for n, site in trace.items():
            if site["type"] != "sample":
                continue
            if stands_in(n, trace):
                site["fn"] = unmasked(site["fn"])
            own = site["fn"], site["value"], site["scale"], log_prob_of(site)
            out.append(Factor(n, *own, site["is_observed"], plates_of(site)))
        return out

    base = Model(
        name,
        placed,
        dict(deterministics),
        first,
        names,
        evaluate,
        movable,
        reparameterize,
        distributions=distributions,
        discrete=discrete,
        plate_sizes=dict(sites.plate_sizes),
        plate_axes={n: dict(a) for n, a in sites.plate_axes.items()},
        parameters=parameters,
        observed={n: bound.arrays[i] for i, n in enumerate(bound.array_names)},
        traced=bound.traced,
        source=model,
    )
    return base
