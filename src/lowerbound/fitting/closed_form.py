"""Fits whose expectations are exact: from a model to its blocks, their optimum, and the check of what came out.

The ELBO has no sampling noise here, and q is a product of exponential families on the constrained space.
"""

from __future__ import annotations

import dataclasses
import time

from lowerbound.algorithms.conjugate_computation import ConjugateComputationVI
from lowerbound.algorithms.factored import Factored
from lowerbound.algorithms.marginal import marginal, summable
from lowerbound.closed_form import ClosedAlgorithm, factored_of
from lowerbound.diagnostics.assessment import itself
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.expectations.factors import support_kind
from lowerbound.families import FactoredBlock, Place
from lowerbound.fitting.assembly import Found
from lowerbound.fitting.block_check import CUT_SHORT, checked, comparable, completed, coupled, not_checked
from lowerbound.fitting.loop import run
from lowerbound.fitting.session import Session
from lowerbound.kernel import Kernel
from lowerbound.model.base import Model

#: Arithmetic that one evaluation of the log density may cost for q to be checked against it.
_PRICE = 2e7


def fit_closed_form(
    model: Model, algorithm: ClosedAlgorithm, session: Session, *, factored: Factored | None = None
) -> Found:
    """Run an algorithm on exact expectations, and judge what comes out.

    Args:
        model: Bound to its data.
        algorithm: With its options.
        session: Of the fit.
        factored: The exact ELBO to maximise, where it is not the model's own, or is known already.

    Raises:
        IncompatibleError: a factor has no closed form.
        ModelError: no distribution is the optimum.
    """
    options = session.options
    session.say("deriving the updates")
    algorithm = options.limited(algorithm)
    if factored is None:
        draws = algorithm.num_draws if isinstance(algorithm, ConjugateComputationVI) else None
        factored = factored_of(model, joined=algorithm.joined, num_draws=draws, seed=options.seed)
    problem = dataclasses.replace(factored, late=session.late)
    naturals, status, state, begun = run(
        algorithm, problem, seed=options.seed, record=session.record, late=session.late
    )
    places = [
        Place(n, support_kind(s), tuple(s.shape), tuple(s.unconstrained_shape), s.start) for n, s in model.sites.items()
    ]
    q = FactoredBlock(factored.blocks, naturals, places)
    ended = time.perf_counter()
    elbo = float(state.elbo)
    kernel, assessment = None, None
    if comparable(model, exact=factored.exact) and summable(factored) and status not in CUT_SHORT:
        session.say("checking q against the log density")
        kernel = Kernel(marginal(model, factored), deadline=session.deadline)
        affordable = kernel.price < _PRICE
        assessment = checked(kernel, q, status, algorithm, options, exact=factored.exact) if affordable else None
    if assessment is None and not model.dimension and status.converged and summable(factored):
        assessment = itself(status, algorithm.rule(), elbo)
    if assessment is None:
        assessment = not_checked(model, q, status, algorithm, "" if summable(factored) else coupled(model))
    # (What depends on other discrete latents given the rest is not summed out: q's own blocks are then all there is.)
    inner = marginal(model, factored) if kernel is None and summable(factored) else model
    return Found(
        model,
        inner if kernel is None else kernel.model,
        q,
        status,
        completed(assessment, model, None if factored.sampled else Estimate(elbo, 0.0)),
        "exponential",
        algorithm.name,
        ended - begun,
        time.perf_counter() - ended,
        0 if kernel is None else kernel.evaluations,
    )
