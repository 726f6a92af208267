"""Fits of a network that gives each row its q, with the model's parameters; judged row by row."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from scipy.special import logsumexp

from lowerbound import registry
from lowerbound.algorithms.amortized_vi import AmortizedVI
from lowerbound.algorithms.base import Algorithm, Status
from lowerbound.algorithms.row_weights import RowWeights
from lowerbound.diagnostics.assessment import Assessment, Correction
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.evidence import Evidence
from lowerbound.diagnostics.rows import DRAWS, SAMPLED, check_rows, judge_rows
from lowerbound.diagnostics.verdict import VerdictStatus, about_parameters
from lowerbound.encoder import Encoder
from lowerbound.errors import IncompatibleError, NotFiniteError
from lowerbound.families import Amortized, DiagonalGaussian
from lowerbound.fitting.assembly import Found
from lowerbound.fitting.loop import run
from lowerbound.fitting.session import Session
from lowerbound.model.base import Model
from lowerbound.model.by_row import RowModel
from lowerbound.objectives import Objective
from lowerbound.precision import float32

#: Weighted draws of each row that a posterior keeps, as far as all of them are no more than so many numbers.
_KEPT, _NUMBERS = 200, 2**24
#: Draws that those are chosen from.
_CHOICE = 256


def amortized_algorithm(algorithm: Any, objective: Any) -> AmortizedVI:
    """The algorithm for an amortized q, as it was asked for or not.

    Raises:
        IncompatibleError: another algorithm.
    """
    if algorithm is None:
        if objective is None:
            return AmortizedVI()
        return AmortizedVI(objective=registry.resolve("objective", objective, registry.OBJECTIVES, Objective))
    if objective is None:
        algorithm = registry.resolve("algorithm", algorithm, registry.ALGORITHMS, Algorithm)
        if isinstance(algorithm, AmortizedVI):
            return algorithm
    named = getattr(algorithm, "name", algorithm)
    asked = f"algorithm={named!r}" if objective is None else f"objective={objective!r} beside an algorithm"
    raise IncompatibleError(
        f"family='amortized' with {asked}: a network that gives each row its block is trained by amortized_vi. Leave "
        "algorithm out, or write algorithm=lb.algorithms.AmortizedVI(objective=..., batch_size=...)."
    )


def fit_amortized(model: Model, family: Amortized, algorithm: AmortizedVI, session: Session) -> Found:
    """Train the network and the model's parameters, and judge what comes out, row by row.

    Args:
        model: Bound to its data.
        family, algorithm: The network, and how it is trained.
        session: Of the fit.

    Raises:
        IncompatibleError, DataError: a network, rows or options that do not go together, before anything is trained.
        NotFiniteError: no epoch ended with a finite bound.
    """
    seed = session.options.seed
    algorithm = session.options.limited(algorithm)
    rows = RowModel(model, family.site)
    session.say("compiling the epoch")
    with float32():
        problem = RowWeights(rows, family, prior_apart=algorithm.objective.needs_prior)
        algorithm.check_rows(rows.size)
        learned, status, *_ = run(algorithm, problem, seed=seed, record=session.record, late=session.late)
        if learned is None:
            raise NotFiniteError(
                f"the bound of {model.name!r} was not finite after the first epoch. Check the data's units "
                "(standardise them), the network's outputs (a log scale of hundreds overflows), and the step size."
            )
        ended = time.perf_counter()
        session.say("weighing draws of some rows")
        location, scale = problem.blocks(learned, None)
    assessment = _assess(problem, learned, status, algorithm.rule(), location, scale, seed)
    parameters = model.with_parameters(learned[1]).parameter_values()
    verdict = about_parameters(assessment.verdict, ["of the network", *parameters])
    encoder = Encoder(problem, learned)
    compiled = session.start + session.rows[0][1]  # the first epoch is the one that compiles
    return Found(
        model,
        encoder.model,
        DiagonalGaussian(rows.flat(location), rows.flat(scale)),
        status,
        dataclasses.replace(assessment, verdict=verdict),
        family.name,
        algorithm.name,
        ended - compiled,
        time.perf_counter() - ended,
        problem.evaluations,
        parameters=parameters,
        encoder=encoder,
    )


def _assess(
    problem: RowWeights,
    learned: Any,
    status: Status,
    rule: str,
    location: np.ndarray,
    scale: np.ndarray,
    seed: int,
) -> Assessment:
    """The verdict from a sample of rows; and for CORRECTED, draws of all rows resampled by their weights."""
    rows = problem.rows
    n, d = rows.size, rows.dimension
    rng = np.random.default_rng([seed, 23])
    looked = np.sort(rng.choice(n, min(SAMPLED, n), replace=False))
    with float32():
        weights, rest = problem(learned, None, looked, problem.noise(rng, len(looked), DRAWS))
    checks = check_rows(weights, sampled=len(looked) < n)
    verdict = judge_rows(status, rule, checks, n)
    verdict = dataclasses.replace(verdict, elbo=Estimate(verdict.elbo.value + rest, verdict.elbo.se))
    evidence = Estimate(n * checks.log_evidence.value + rest, n * checks.log_evidence.se)
    none = "no draw of the posterior of every row is known"
    bounds = Evidence(evidence, None, DRAWS, none)
    k = float(np.max(checks.pareto_k))
    source, draws, effective, corrections = "q", np.zeros((1, n * d)), 1.0, ()
    if verdict.status is VerdictStatus.CORRECTED and n * d * _KEPT <= _NUMBERS:
        pool = np.empty((_KEPT, n, d))
        sizes = np.empty(n)
        for i in range(0, n, SAMPLED):
            index = np.arange(i, min(i + SAMPLED, n))
            noise = problem.noise(rng, len(index), _CHOICE)
            with float32():
                w = problem(learned, None, index, noise)[0]
            w = np.exp(w - logsumexp(w, 1, keepdims=True))
            sizes[index] = 1 / (w**2).sum(1)
            # Systematic resampling, each row by itself and shuffled, so that rows stay independent.
            points = (np.arange(_KEPT) + rng.random((len(index), 1))) / _KEPT
            for r, row in enumerate(index):
                chosen = np.minimum(np.searchsorted(np.cumsum(w[r]), points[r]), _CHOICE - 1)
                pool[:, row] = location[row] + scale[row] * noise[r, rng.permutation(chosen)]
        draws, source, effective = rows.flat(pool), "importance", float(np.median(sizes))
        said = f"draws of each row resampled by their weights: {effective:.0f} of {_CHOICE} effective in the median row"
        corrections = (Correction("importance", said),)
    elif verdict.status is VerdictStatus.CORRECTED:
        verdict = dataclasses.replace(
            verdict,
            status=VerdictStatus.NOT_TRUSTED,
            next_step="a larger network, or fewer rows: these are too many to keep weighted draws of all.",
        )
    weights_of = np.full(len(draws), 1 / len(draws))
    return Assessment(verdict, source, draws, weights_of, np.empty(0), evidence, bounds, k, effective, corrections)
