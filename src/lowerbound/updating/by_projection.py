"""The next prior as a Gaussian on the unconstrained space."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from lowerbound.diagnostics.estimate import Estimate
from lowerbound.errors import IncompatibleError
from lowerbound.families.stand_in import gaussian_kl, widened
from lowerbound.fitting import Options, fit
from lowerbound.model.base import Model
from lowerbound.model.carried import with_prior
from lowerbound.posterior import Posterior
from lowerbound.updating.stand_in import log_normaliser, loss_of, stand_in


def by_projection(
    posterior: Posterior,
    bound: Model,
    shared: tuple[str, ...],
    forget: float,
    family: Any,
    algorithm: Any,
    options: Options,
) -> tuple[Posterior, float, str, Estimate]:
    """By a Gaussian on the unconstrained space."""
    if bound.discrete and posterior.parameters:
        raise IncompatibleError(
            f"a model with parameters that were learned ({', '.join(posterior.parameters)}) beside discrete latents "
            f"({', '.join(bound.discrete)}) cannot be updated: q is a Gaussian over the others, the labels summed out. "
            "Fit all rows at once; or give the parameters priors: numpyro.sample in place of numpyro.param."
        )
    if bound.discrete:
        raise IncompatibleError(
            f"the discrete latents {list(bound.discrete)} are carried over with exponential families alone, one block "
            "for what all rows share and one for what they do not. Fit with "
            "algorithm=lb.algorithms.CoordinateAscent(joined=False), and leave family out."
        )
    before, said = stand_in(posterior, shared, bound)
    names = [n for n in posterior._sites.sites if n in shared]
    prior = widened(before, forget)
    constant = Estimate(0.0, 0.0) if forget == 1 else log_normaliser(bound, names, prior, 1 - forget)

    def log_prior(z: Mapping[str, Any], u: Mapping[str, Any], own: Any) -> Any:
        at = jnp.concatenate([jnp.ravel(u[n]) for n in names])
        value = prior.log_prob(at[None])[0]
        return value if forget == 1 else value + (1 - forget) * own - constant.value

    new = fit(
        with_prior(bound, shared, log_prior, unconstrained=True),
        family=family,
        algorithm=algorithm,
        **{f.name: getattr(options, f.name) for f in dataclasses.fields(options)},
    )
    new = _with_error(new, constant.se)
    kl = gaussian_kl(stand_in(new, names, bound)[0], before)
    return new, kl, said, loss_of(posterior, before, new, forget=forget)


def _with_error(posterior: Posterior, se: float) -> Posterior:
    """The posterior with the error of its prior's normaliser in every number that has it."""

    def wider(e: Estimate) -> Estimate:
        return e._replace(se=float(np.hypot(e.se, se))) if se else e

    evidence = posterior.evidence
    return dataclasses.replace(
        posterior,
        verdict=dataclasses.replace(posterior.verdict, elbo=wider(posterior.elbo)),
        log_evidence=wider(posterior.log_evidence),
        evidence=dataclasses.replace(
            evidence, lower=wider(evidence.lower), upper=None if evidence.upper is None else wider(evidence.upper)
        ),
    )
