"""A posterior from what a fit has found."""

from __future__ import annotations

import importlib.metadata

import numpy as np

from lowerbound.algorithms.base import Info, Status
from lowerbound.diagnostics.assessment import Assessment
from lowerbound.escalation import Trial
from lowerbound.families import Block
from lowerbound.model.base import Model
from lowerbound.posterior import Posterior, Trace
from lowerbound.sites import SiteMap


def assemble(
    model: Model,
    q: Block,
    status: Status,
    names: tuple[str, str],
    sites: SiteMap,
    assessment: Assessment,
    rows: list[tuple[Info, float]],
    timings: dict[str, float],
    evaluations: int,
    seed: int,
    trials: tuple[Trial, ...],
) -> Posterior:
    """Everything that a person gets, in one object."""
    infos = [i for i, _ in rows]
    trace = Trace(
        tuple(i.phase for i in infos),
        np.array([i.elbo for i in infos], float),
        np.array([i.elbo_se for i in infos], float),
        np.array([s for _, s in rows], float),
    )
    steps = max((i.step for i in infos), default=0)
    versions = {n: importlib.metadata.version(n) for n in ("jax", "numpyro", "numpy")}
    from lowerbound import __version__

    return Posterior(
        q,
        status,
        assessment.verdict,
        assessment.log_evidence,
        assessment.evidence,
        assessment.pareto_k,
        assessment.log_weights,
        trace,
        timings,
        {"steps": steps, "evaluations": evaluations},
        seed,
        versions | {"lowerbound": __version__},
        model.name,
        *names,
        dict(zip(model.argument_names, model.arguments, strict=True) if model.observed is None else model.observed),
        assessment.source,
        assessment.effective,
        assessment.corrections,
        trials,
        sites,
        assessment.draws,
        assessment.weights,
    )
