"""From new data to the way in which the posterior takes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lowerbound.algorithms.base import Info
from lowerbound.diagnostics.verdict import about_parameters
from lowerbound.errors import DataError, IncompatibleError
from lowerbound.fitting import Options
from lowerbound.model.base import Model
from lowerbound.model.data import Data
from lowerbound.model.given import as_model
from lowerbound.model.log_density import LogDensity
from lowerbound.model.rows import check_data, count_rows, local_sites
from lowerbound.posterior import Posterior
from lowerbound.updating.by_naturals import by_naturals
from lowerbound.updating.by_projection import by_projection
from lowerbound.updating.record import with_record


def update(
    posterior: Posterior,
    new_data: Mapping[str, Any],
    *,
    forget: float = 1.0,
    model: Any = None,
    local: Sequence[str] | None = None,
    family: Any = None,
    algorithm: Any = None,
    seed: int = 0,
    max_steps: int | None = None,
    num_draws: int | None = None,
    escalate: bool | None = None,
    max_seconds: float | None = None,
    progress: bool | None = None,
    callback: Callable[[Info], object] | None = None,
) -> Posterior:
    """The posterior of all data so far from that of the data before and new data: :meth:`Posterior.update`."""
    options = Options(seed, max_steps, num_draws, escalate, max_seconds, progress, callback)
    if isinstance(forget, bool) or not isinstance(forget, (int, float, np.number)) or not 0 < forget <= 1:
        raise DataError(f"forget is {forget!r}; needed: a number above 0 and at most 1, which remembers everything.")
    if posterior.is_point:
        raise IncompatibleError(
            "a point mass has no density to be the next prior. Fit with another family, or leave family out."
        )
    source = _source(posterior, model)
    bound = _held(as_model(source, new_data), posterior)
    data = Data(new_data)
    check_data(bound, data, list(posterior.observed), whole=posterior._sites._model is not None)
    rows = local_sites(bound, data, _shapes(posterior), local)
    shared = tuple(n for n in (*bound.sites, *bound.discrete) if n not in rows)
    found = by_naturals(posterior, bound, shared, float(forget), family, algorithm, options)
    if found is None:
        found = by_projection(posterior, bound, shared, float(forget), family, algorithm, options)
    new, kl, said, lost = found
    if posterior.parameters:
        doubt = "whether the new rows would move the parameters: an update holds them where the fit before it left them"
        verdict = about_parameters(new.verdict, posterior.parameters, (doubt,))
        new = dataclasses.replace(new, parameters=posterior.parameters, verdict=verdict)
    return with_record(posterior, new, kl, said, lost, count_rows(data), float(forget), rows)


def _held(bound: Model, posterior: Posterior) -> Model:
    """The model with its own parameters as they were learned.

    They are held: a bound on the new rows alone would forget what the earlier ones said of them, and where the prior of
    a shared latent has them it is no longer there to be moved.

    Raises:
        IncompatibleError: one has another shape with these rows, or is not known.
    """
    if not bound.parameters:
        return bound
    names = [n.removesuffix("$params") for n in bound.parameters]
    unknown = [n for n in names if n not in posterior.parameters]
    if unknown:
        raise IncompatibleError(
            f"the parameter {unknown[0]!r} of the model is not among those that this posterior has learned "
            f"({', '.join(posterior.parameters) or 'none'}; networks are not kept in files). Update the posterior that "
            "lb.fit returned, with the model that it was fitted to."
        )
    try:
        return bound.with_parameter_values({n: posterior.parameters[n] for n in names}).held()
    except DataError as e:
        raise IncompatibleError(
            f"the parameters that were learned do not fit the model of the new rows: {e} An update holds parameters "
            "where they are; one that belongs to rows cannot be known of new ones. Make it a latent, or an amortized q."
        ) from e


def _source(posterior: Posterior, model: Any) -> Any:
    source = model
    if source is None:
        held = posterior._sites._model
        if held is None:
            raise IncompatibleError(
                "this posterior was loaded from a file, which does not hold the model. Give it: "
                "posterior.update(new_data, model=model)."
            )
        source = held.source
    if isinstance(source, Model):
        source = source.source
    if isinstance(source, LogDensity):
        raise IncompatibleError(
            "a log density is one number, in which the prior cannot be told from the likelihood, so that it cannot be "
            "updated. Write it as a NumPyro model."
        )
    if source is None:
        raise IncompatibleError("the model function is not known. Give it: posterior.update(new_data, model=model).")
    return source


def _shapes(posterior: Posterior) -> dict[str, tuple[int, ...]]:
    out = {n: tuple(s.shape) for n, s in posterior._sites.sites.items()}
    return out | {n: tuple(labels.probabilities.shape[:-1]) for n, labels in posterior._reported.labels.items()}
