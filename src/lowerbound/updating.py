r"""Learning as data arrive: the posterior so far is the prior of what comes next.

    p(z, w_t | x_1..x_t)  proportional to  p(z | x_1..x_{t-1}) p(w_t, x_t | z),

z the latents that all rows share (*global*), w_t those of the new rows (*local*): the model is bound to the new data
alone, and the priors of z are replaced by what is carried of the posterior before. What is carried is

* where q is a product of exponential families whose draws needed no correction: its natural parameters, to which the
  likelihood of the new rows adds (:mod:`lowerbound.algorithms.carried`). In a conjugate model this is exact;
* else a Gaussian on the unconstrained space: q's marginal if it is Gaussian, the one with the mean and covariance of
  the reported draws if it is not, or if they are corrected ones. That is the Gaussian of least KL(p || q) as far as the
  draws are right: an assumed density (Opper 1998).

With a forgetting factor f < 1 the prior is the power prior p^(1-f) q^f, normalised (Ibrahim & Chen 2000).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lowerbound.algorithms.base import Info
from lowerbound.algorithms.carried import CarriedTerm, carried, kl_divergence
from lowerbound.algorithms.conjugate_computation import ConjugateComputationVI
from lowerbound.algorithms.coordinate_ascent import CoordinateAscent
from lowerbound.algorithms.factored import Factored
from lowerbound.closed_form import factored_of
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.updates import Update, added, predictive
from lowerbound.diagnostics.verdict import VerdictStatus
from lowerbound.errors import DataError, IncompatibleError
from lowerbound.expectations.factors import random_factors
from lowerbound.families import FactoredBlock
from lowerbound.families.stand_in import gaussian_kl, widened
from lowerbound.fitting import Options, Session, assemble, fit, fit_closed_form, warn_of
from lowerbound.model.base import Model
from lowerbound.model.carried import with_prior
from lowerbound.model.data import Data
from lowerbound.model.given import as_model
from lowerbound.model.log_density import LogDensity
from lowerbound.model.rows import check_data, count_rows, local_sites
from lowerbound.posterior import Posterior
from lowerbound.projection import log_normaliser, loss_of, stand_in

#: Nats that the projection may lose: a mean is then wrong by at most sqrt(2 * 0.02) = 0.2 sd.
_LOST = 0.02


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
    bound = as_model(source, new_data)
    data = Data(new_data)
    check_data(bound, data, list(posterior.observed), whole=posterior._sites._model is not None)
    rows = local_sites(bound, data, _shapes(posterior), local)
    shared = tuple(n for n in (*bound.sites, *bound.discrete) if n not in rows)
    found = _exactly(posterior, bound, shared, float(forget), family, algorithm, options)
    if found is None:
        found = _by_projection(posterior, bound, shared, float(forget), family, algorithm, options)
    new, kl, said, lost = found
    return _with_record(posterior, new, kl, said, lost, count_rows(data), float(forget), rows)


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


# -- exactly ---------------------------------------------------------------------------------------------


def _exactly(
    posterior: Posterior,
    bound: Model,
    shared: tuple[str, ...],
    forget: float,
    family: Any,
    algorithm: Any,
    options: Options,
) -> tuple[Posterior, float, str, Estimate] | None:
    """By natural parameters; None where q is not of that kind, was corrected, or another family was asked for."""
    q = posterior.q
    if family is not None or not (algorithm is None or _is_ascent(algorithm)):
        return None
    if not isinstance(q, FactoredBlock):
        return _none(algorithm, bound, f"q is of the {posterior.family_name} family")
    if posterior.corrected and not bound.discrete and algorithm is None:
        return None
    session, asked = Session(options), algorithm
    joint = random_factors(bound)
    if not isinstance(algorithm, CoordinateAscent):
        algorithm = ConjugateComputationVI() if joint.open else CoordinateAscent()
    draws = algorithm.num_draws if isinstance(algorithm, ConjugateComputationVI) else None
    found: tuple[Factored, list[CarriedTerm]] | None = None
    for joined in (True, False) if algorithm.joined else (False,):
        full = factored_of(bound, joined=joined, num_draws=draws, seed=options.seed)
        found = carried(full, joint, q, shared, forget=forget)
        if found is not None:
            break
    if found is None:
        return _none(asked, bound, "the model has other blocks for these rows than q")
    factored, terms = found
    model = bound
    if not bound.discrete:

        def log_prior(z: Mapping[str, Any], u: Mapping[str, Any], own: Any) -> Any:
            return sum((t.log_density(z) for t in terms), jnp.zeros(()))

        model = with_prior(bound, shared, log_prior, unconstrained=False)
    with session:
        new = assemble(fit_closed_form(model, algorithm, session, factored=factored), session)
    warn_of(new.verdict)
    assert isinstance(new.q, FactoredBlock)
    before = [CarriedTerm.of(t.block, n) for t, n in zip(terms, _naturals(q, terms), strict=True)]
    return (
        new,
        kl_divergence(before, factored, new.q.naturals),
        "the natural parameters of q",
        Estimate(0.0, 0.0),
    )


def _none(algorithm: Any, bound: Model, why: str) -> None:
    """Nothing is carried exactly; an error where the algorithm that was asked for needs that."""
    if algorithm is not None and not bound.discrete:
        named = getattr(algorithm, "name", algorithm)
        raise IncompatibleError(
            f"algorithm={named!r} carries over the natural parameters of exponential families, and {why}. Leave "
            "algorithm out: a Gaussian is then carried over. Or begin with lb.fit(..., algorithm='coordinate_ascent')."
        )


def _naturals(q: FactoredBlock, terms: list[CarriedTerm]) -> list[dict[Any, Any]]:
    """Of q's blocks, by the keys of the terms' blocks."""
    out = []
    for t in terms:
        j = next(i for i, b in enumerate(q.blocks) if b.latents == t.block.latents)
        out.append({k: q.naturals[j][o] for k, o in zip(t.block.keys, q.blocks[j].keys, strict=True)})
    return out


def _is_ascent(algorithm: Any) -> bool:
    names = (CoordinateAscent.name, ConjugateComputationVI.name)
    return isinstance(algorithm, CoordinateAscent) or (isinstance(algorithm, str) and algorithm in names)


# -- by projection -----------------------------------------------------------------------------------------


def _by_projection(
    posterior: Posterior,
    bound: Model,
    shared: tuple[str, ...],
    forget: float,
    family: Any,
    algorithm: Any,
    options: Options,
) -> tuple[Posterior, float, str, Estimate]:
    """By a Gaussian on the unconstrained space."""
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


# -- the record ----------------------------------------------------------------------------------------------


def _with_record(
    before: Posterior,
    new: Posterior,
    kl: float,
    said: str,
    lost: Estimate,
    rows: int,
    forget: float,
    local: tuple[str, ...],
) -> Posterior:
    """The posterior with its record, and a verdict that says what it is relative to."""
    verdict, old = new.verdict, before.verdict
    last = before.updates[-1] if before.updates else None
    measured = added(last.kl_gap if last else old.kl_gap, verdict.kl_gap)
    gap = added(measured, lost) if np.isfinite(lost.value) else measured
    evidence = last.log_evidence if last else predictive(before.elbo, before.log_evidence)
    step = predictive(new.elbo, new.log_evidence)
    record = Update(rows, forget, said, local, Estimate(kl, 0.0), new.elbo, step, added(evidence, step), lost, gap)
    unknown = "" if np.isfinite(lost.value) else " beside what the last projection lost, which was not measured"
    relative = (
        f"relative to the posterior before it (update {len(before.updates) + 1}, prior: {said}"
        + ("" if forget == 1 else f", forget={forget:g}")
        + f"): the gaps of all fits and projections so far add up to {gap} nats{unknown}"
    )
    unseen = "errors of earlier posteriors, which are the prior of this one: compare with one fit of all data"
    verdict = dataclasses.replace(
        verdict, reasons=(*verdict.reasons, relative), not_checked=(*verdict.not_checked, unseen)
    )
    fault = ""
    if not old.trusted:
        fault = f"The posterior that was updated was not to be trusted: {old.sentence}"
    elif lost.value - 2 * lost.se > _LOST:
        fault = (
            f"The posterior that was updated is no Gaussian: what {said} lost of it moves the new one by {lost} nats."
        )
    if fault and verdict.trusted:
        advice = "Fit all data at once, or begin with more rows: a posterior of more data is nearer to a Gaussian."
        verdict = dataclasses.replace(verdict, status=VerdictStatus.NOT_TRUSTED, sentence=fault, next_step=advice)
        warn_of(verdict)
    return dataclasses.replace(new, verdict=verdict, updates=(*before.updates, record))
