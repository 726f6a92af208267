"""Fits of a network that gives each row its q, with the model's parameters; judged row by row."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from lowerbound import registry
from lowerbound.algorithms.amortized_vi import AmortizedVI
from lowerbound.algorithms.base import Algorithm
from lowerbound.algorithms.row_weights import RowWeights
from lowerbound.diagnostics.rows.assessment import assess_rows
from lowerbound.diagnostics.verdict import about_parameters
from lowerbound.encoder import Encoder
from lowerbound.errors import IncompatibleError, NotFiniteError
from lowerbound.families import Amortized
from lowerbound.fitting.assembly import Found
from lowerbound.fitting.loop import run
from lowerbound.fitting.session import Session
from lowerbound.model.base import Model
from lowerbound.model.by_row import RowModel
from lowerbound.objectives import Objective
from lowerbound.precision import float32


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
    algorithm = algorithm.told_of(rows.shared)
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
    assessment = assess_rows(problem, learned, status, algorithm.rule(), location, scale, seed, session.late)
    parameters = model.with_parameters(learned[1]).parameter_values()
    verdict = about_parameters(assessment.verdict, ["of the network", *parameters])
    encoder = Encoder(problem, learned)
    compiled = session.start + session.rows[0][1]  # the first epoch is the one that compiles
    return Found(
        model,
        encoder.model,
        problem.whole(learned, location, scale),
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
