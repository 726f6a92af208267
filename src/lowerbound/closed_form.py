r"""Fits whose expectations are exact: from a model to its blocks, their optimum, and the check of what came out.

The ELBO has no sampling noise here, and q is a product of exponential families on the constrained space. What is
checked is the same as for any q: its continuous part is weighed against the log density, with discrete latents summed
out (:mod:`lowerbound.algorithms.marginal`), and short chains are started from it. Where a model is too large for that,
the verdict says so.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowerbound.algorithms.base import Algorithm, Info, Status
from lowerbound.algorithms.conjugate_computation import ConjugateComputationVI
from lowerbound.algorithms.coordinate_ascent import CoordinateAscent, starts_of
from lowerbound.algorithms.factored import Factored, Sampling
from lowerbound.algorithms.marginal import marginal, summable
from lowerbound.algorithms.memoized_vi import MemoizedVI
from lowerbound.algorithms.stochastic_vi import StochasticVI
from lowerbound.diagnostics.assessment import Assessment, assess, itself, unchecked, weigh_up
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.review import review
from lowerbound.diagnostics.verdict import NEXT
from lowerbound.errors import IncompatibleError
from lowerbound.expectations.factors import random_factors, support_kind
from lowerbound.expectations.values import NotClosedForm
from lowerbound.families import FactoredBlock, Place
from lowerbound.kernel import Kernel
from lowerbound.model.base import Model, is_real

#: Algorithms on closed forms, which derive the family from the model.
CLOSED = (CoordinateAscent, MemoizedVI, StochasticVI)
ClosedAlgorithm = CoordinateAscent | MemoizedVI | StochasticVI


def is_closed(algorithm: Any) -> bool:
    """Whether an algorithm, or the short name of one, works on closed forms."""
    return isinstance(algorithm, CLOSED) or algorithm in [a.name for a in (*CLOSED, ConjugateComputationVI)]


#: Unconstrained dimensions, and discrete values in all, up to which q is checked against the log density.
_DIMENSIONS, _VALUES = 1000, 2_000_000
#: What to try where the verdict has no better advice: there is no escalation from a closed form.
_NEXT = "Leave algorithm out: other coordinates and families are then tried. Or check the parameters named with MCMC."
_NEXT_DISCRETE = (
    "Take fewer components, tighten vague priors on the parameters named, begin elsewhere (another seed, or init=), or "
    "pass family='dense': discrete latents are then summed out, and q holds correlations."
)
#: Arithmetic that one evaluation of the log density may cost for that.
_PRICE = 2e7


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """A fit whose expectations are exact.

    Attributes:
        factored: The exact ELBO.
        q: The fitted blocks.
        status: How it ended.
        elbo: In nats; exact unless factors were sampled.
        kernel: The log density over the continuous latents; None where it was not needed.
        assessment: The verdict, and the draws.
        seconds: Spent on tracing and compiling, the fit, and the check.
    """

    factored: Factored
    q: FactoredBlock
    status: Status
    elbo: float
    kernel: Kernel | None
    assessment: Assessment
    seconds: dict[str, float]


def factored_of(model: Model, *, joined: bool = True, num_draws: int | None = None, seed: int = 0) -> Factored:
    """The exact ELBO of a model.

    Args:
        model: Bound to its data.
        joined: Whether Gaussian sites share blocks.
        num_draws: Draws of fixed noise for each factor without a closed form; None refuses such.
        seed: Of that noise.

    Raises:
        IncompatibleError: a factor has no closed form; names the operation, the line and the rewrite.
    """
    sample = None if num_draws is None else Sampling(model, num_draws, seed)
    joint = None
    try:
        joint = random_factors(model)
        return Factored.of(joint, joined=joined, sample=sample)
    except NotClosedForm as e:
        drawn = joint is not None and bool(joint.open) and sample is None
        advice = [] if model.discrete else ["leave algorithm out"]
        advice += ["rewrite that line"]
        advice += ["use algorithm='conjugate_computation', which draws such factors"] if drawn else []
        advice += ["sum the discrete latents out by hand"] if model.discrete and not drawn else []
        said = f"{', '.join(advice[:-1])}, or {advice[-1]}."
        raise IncompatibleError(
            f"{model.name!r} has an expectation without a closed form"
            f"{'' if sample is None else ', which cannot be sampled'}: {e}. {said[0].upper()}{said[1:]}"
        ) from e


def summed_out(model: Model) -> Model:
    """The same model with its discrete latents summed out exactly, for families over continuous ones.

    Raises:
        IncompatibleError: they cannot be, or nothing is left.
    """
    if not model.dimension:
        raise IncompatibleError(
            f"{model.name!r} has discrete latents alone ({', '.join(model.discrete)}); families and algorithms for "
            "continuous ones do not apply. Leave family and algorithm out."
        )
    factored = factored_of(model, num_draws=1)
    if not summable(factored):
        raise IncompatibleError(
            f"the discrete latents {list(model.discrete)} of {model.name!r} depend on each other given the rest, so "
            "that they are not summed out. Leave family and algorithm out."
        )
    return marginal(model, factored)


def algorithm_for(model: Model) -> ClosedAlgorithm:
    """Coordinate ascent where every factor has a closed form or a bound; with sampled factors where one has neither."""
    return ConjugateComputationVI() if random_factors(model).open else CoordinateAscent()


def exact(model: Model) -> Factored | None:
    """The model's exact ELBO where a single block of q is the posterior itself; None where it is not, or may not be.

    Asked of models with one latent that is not real: of real ones a Gaussian is found as exactly, and sooner.
    """
    if model.discrete or len(model.sites) != 1 or any(is_real(s.support) for s in model.sites.values()):
        return None
    try:
        factored = Factored.of(random_factors(model))
    except NotClosedForm:
        return None
    return factored if len(factored.blocks) == 1 and not factored.bounds and not factored.curved(0) else None


def multiplied(model: Model) -> bool:
    """Whether real latents in different blocks multiply each other (factors and loadings, users and items), all else
    being in closed form: in thousands of dimensions no Gaussian over all of them is as near as the blocks are."""
    if model.discrete:
        return False
    try:
        factored = Factored.of(random_factors(model))
    except NotClosedForm:
        return False
    return not factored.bounds and starts_of(factored) > 1


def fit_closed_form(
    model: Model,
    algorithm: ClosedAlgorithm,
    *,
    seed: int,
    num_draws: int | None,
    record: Callable[[Info], None],
    say: Callable[[str], None],
    deadline: float | None,
    factored: Factored | None = None,
) -> ClosedForm:
    """Run an algorithm on closed forms, and judge what comes out.

    Args:
        model: Bound to its data.
        algorithm: With its options.
        seed, num_draws: Of the fit.
        record: Called with each step's :class:`~lowerbound.algorithms.Info`.
        say: Called with a few words when something begins.
        deadline: On the clock of ``time.monotonic()``.
        factored: The model's exact ELBO, where it is known already.
    """
    began = time.perf_counter()

    def late() -> bool:
        return deadline is not None and time.monotonic() > deadline

    if factored is None:
        draws = algorithm.num_draws if isinstance(algorithm, ConjugateComputationVI) else None
        factored = factored_of(model, joined=algorithm.joined, num_draws=draws, seed=seed)
    state: Any = algorithm.init(seed, dataclasses.replace(factored, late=late), None)
    compiled = time.perf_counter()
    status = Status.CONVERGED
    try:
        while True:
            state, info = algorithm.step(state)
            record(info)
            if info.status is not None:
                status = info.status
                break
            if late():
                status = Status.OUT_OF_TIME
                break
    except KeyboardInterrupt:
        if algorithm.output(state) is None:
            raise
        status = Status.INTERRUPTED
    naturals = algorithm.output(state)
    places = [
        Place(n, support_kind(s), tuple(s.shape), tuple(s.unconstrained_shape), s.start) for n, s in model.sites.items()
    ]
    q = FactoredBlock(factored.blocks, naturals, places)
    fitted = time.perf_counter()
    exact = None if factored.sampled else Estimate(float(state.elbo), 0.0)
    kernel, assessment = None, None
    if _checkable(model, factored, status):
        say("checking q against the log density")
        kernel = Kernel(marginal(model, factored), deadline=deadline)
        if kernel.price < _PRICE:
            assessment = checked(kernel, q, status, algorithm, seed, num_draws)
    if assessment is None and not model.dimension and len(factored.blocks) == 1 and summable(factored):
        assessment = itself(status, algorithm.rule(), float(state.elbo))
    if assessment is None:
        assessment = unchecked(q, status, algorithm.rule(), left_out(model, status))
    assessment = completed(assessment, model, exact)
    seconds = {"compile": compiled - began, "fit": fitted - compiled, "check": time.perf_counter() - fitted}
    return ClosedForm(factored, q, status, float(state.elbo), kernel, assessment, seconds)


def completed(assessment: Assessment, model: Model, elbo: Estimate | None) -> Assessment:
    """With q's own ELBO, where it is known better than from weighing, and what is to be said of discrete latents."""
    verdict = assessment.verdict
    if elbo is not None:
        verdict = dataclasses.replace(verdict, elbo=elbo)
    if verdict.next_step == NEXT:
        verdict = dataclasses.replace(verdict, next_step=_NEXT_DISCRETE if model.discrete else _NEXT)
    if model.discrete:
        summed = (f"{r} (discrete latents summed out)" if r.startswith("ELBO ") else r for r in verdict.reasons)
        relabelled = "a relabelling of exchangeable components, which is as probable as this one"
        unseen = (*verdict.not_checked, relabelled)
        verdict = dataclasses.replace(verdict, reasons=tuple(summed), not_checked=unseen)
    return dataclasses.replace(assessment, verdict=verdict)


def small(model: Model) -> bool:
    """Whether a model has continuous latents, and few enough latents for q to be checked against the log density."""
    values = sum(math.prod(d.shape) * len(d.values) for d in model.discrete.values())
    return 0 < model.dimension <= _DIMENSIONS and values <= _VALUES


def _checkable(model: Model, factored: Factored, status: Status) -> bool:
    return small(model) and summable(factored) and status not in (Status.INTERRUPTED, Status.OUT_OF_TIME)


def left_out(model: Model, status: Status) -> str:
    if status in (Status.INTERRUPTED, Status.OUT_OF_TIME):
        return "somebody is waiting for the answer"
    if not model.dimension:
        return "every latent is discrete, and chains need a gradient"
    return f"{model.dimension:,} dimensions and the discrete latents are too many to weigh draws of q"


def checked(
    kernel: Kernel, q: FactoredBlock, status: Status, algorithm: Algorithm, seed: int, num_draws: int | None
) -> Assessment:
    """q weighed against the log density, and chains started from it."""
    with np.errstate(all="ignore"):
        weighed = weigh_up(kernel, q, status, algorithm.rule(), [], 0.0, seed, num_draws)
        # The fit is no measure of what the chains may cost: it has not evaluated the density once.
        return review(kernel, q, status, assess(weighed, seed), algorithm=algorithm.name, seed=seed)
