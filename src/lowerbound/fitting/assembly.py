"""The end of every fit: a posterior from what was found, and the warning where it is not to be trusted."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lowerbound.algorithms.base import Status
from lowerbound.diagnostics.assessment import Assessment
from lowerbound.diagnostics.discrete import judge_discrete
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus
from lowerbound.encoder import Encoder
from lowerbound.errors import TrustWarning
from lowerbound.escalation import Trial
from lowerbound.families import Block, FactoredBlock
from lowerbound.fitting.session import Session
from lowerbound.model.base import Model
from lowerbound.model.sites import SiteMap
from lowerbound.posterior import Posterior, Trace


@dataclass(frozen=True, eq=False)
class Found:
    """What one of the ways through a fit has found.

    Attributes:
        model: The model as it was given, bound to its data.
        inner: The one whose coordinates q has: moved, with parameters held, or with discrete latents summed out.
        q: The fitted approximation.
        status: How the fit ended.
        assessment: The verdict, and the draws.
        family, algorithm: Short names.
        fit, check: Seconds spent on either; what is left over of the total was spent on tracing and compiling.
        evaluations: Of the log density and its gradient.
        escalation: Seconds spent on what was tried beyond.
        trials: What that was.
        parameters: What the model has learned.
        encoder: Of an amortized q.
    """

    model: Model
    inner: Model
    q: Block
    status: Status
    assessment: Assessment
    family: str
    algorithm: str
    fit: float
    check: float
    evaluations: int
    escalation: float = 0.0
    trials: tuple[Trial, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    encoder: Encoder | None = None


def assemble(found: Found, session: Session) -> Posterior:
    """Everything that a person gets, in one object."""
    from lowerbound import __version__

    model, assessment, total = found.model, found.assessment, session.seconds
    spent = {"fit": found.fit, "check": found.check, "escalation": found.escalation}
    infos = [i for i, _ in session.rows]
    trace = Trace(
        tuple(i.phase for i in infos),
        np.array([i.elbo for i in infos], float),
        np.array([i.elbo_se for i in infos], float),
        np.array([s for _, s in session.rows], float),
    )
    observed = dict(zip(model.argument_names, model.arguments, strict=True))
    versions = {n: importlib.metadata.version(n) for n in ("jax", "numpyro", "numpy")}
    posterior = Posterior(
        q=found.q,
        status=found.status,
        verdict=assessment.verdict,
        log_evidence=assessment.log_evidence,
        evidence=assessment.evidence,
        pareto_k=assessment.pareto_k,
        log_weights=assessment.log_weights,
        trace=trace,
        timings={"compile": total - sum(spent.values()), **spent, "total": total},
        counts={"steps": max((i.step for i in infos), default=0), "evaluations": found.evaluations},
        seed=session.options.seed,
        versions=versions | {"lowerbound": __version__},
        model_name=model.name,
        family_name=found.family,
        algorithm_name=found.algorithm,
        observed=observed if model.observed is None else dict(model.observed),
        source=assessment.source,
        effective=assessment.effective,
        corrections=assessment.corrections,
        trials=found.trials,
        _sites=SiteMap(model.sites, model.deterministics, found.inner),
        _pool=assessment.draws,
        _pool_weights=assessment.weights,
        parameters=found.parameters,
        encoder=found.encoder,
    )
    if found.status in (Status.INTERRUPTED, Status.OUT_OF_TIME) or not isinstance(found.q, FactoredBlock):
        return posterior
    verdict = judge_discrete(posterior.verdict, found.q.discrete, posterior._reported.summed)
    return dataclasses.replace(posterior, verdict=verdict)


def warn_of(verdict: Verdict) -> None:
    """A warning where the verdict is NOT_TRUSTED."""
    if verdict.status is VerdictStatus.NOT_TRUSTED:
        warnings.warn(f"{verdict.sentence} {verdict.next_step}".strip(), TrustWarning, stacklevel=3)
