"""Fits of one exponential family a site, from draws on the constrained space."""

from __future__ import annotations

import time

import numpy as np

from lowerbound.algorithms.black_box_vi import BlackBox, BlackBoxVI
from lowerbound.closed_form import summed_out
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.errors import IncompatibleError
from lowerbound.fitting.assembly import Found
from lowerbound.fitting.block_check import checked, completed, coupled, not_checked, small
from lowerbound.fitting.loop import run
from lowerbound.fitting.session import Session
from lowerbound.fitting.unconstrained import started
from lowerbound.model.base import Model


def fit_black_box(model: Model, algorithm: BlackBoxVI, session: Session) -> Found:
    """Run :class:`~lowerbound.algorithms.BlackBoxVI`, and judge what comes out.

    Args:
        model: Bound to its data.
        algorithm: With its options.
        session: Of the fit.

    Raises:
        IncompatibleError: a site without a family, or a factor that names no site.
    """
    options = session.options
    algorithm = options.limited(algorithm)
    algorithm.parts(model)  # what it cannot fit is refused before anything is compiled
    summed, why = None, ""
    if small(model):
        try:
            summed = summed_out(model) if model.discrete else model
        except IncompatibleError:
            why = coupled(model)
    kernel = None
    if summed is not None:
        session.say("compiling the log density")
        kernel = started(summed, session)
    problem = BlackBox(model, kernel, session.late)
    q, status, state, begun = run(algorithm, problem, seed=options.seed, record=session.record, late=session.late)
    elbo = Estimate(float(state.elbo), float(state.elbo_se))
    ended = time.perf_counter()
    session.say("checking q against the log density")
    assessment = checked(kernel, q, status, algorithm, options) or not_checked(model, q, status, algorithm, why)
    return Found(
        model,
        model if summed is None else summed,
        q,
        status,
        completed(assessment, model, elbo if np.isfinite(elbo.value) else None),
        "exponential",
        algorithm.name,
        ended - begun,
        time.perf_counter() - ended,
        0 if kernel is None else kernel.evaluations,
    )
