"""Fits on the unconstrained space, where the posterior is one compiled log density.

The density is compiled and asked for a few values, so that what is wrong with it is said before anything is fitted.
q is fitted and judged, and, where the choice was left open and the verdict fails, fitted again with what
:mod:`lowerbound.escalation` has. Parameters of the model itself are learned first, and held while q is judged.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, NamedTuple

import numpy as np

from lowerbound.algorithms.base import Algorithm, Mode, Status
from lowerbound.algorithms.dense_start import other_modes
from lowerbound.diagnostics.assessment import Assessment
from lowerbound.diagnostics.density.nonfinite import check_starts
from lowerbound.diagnostics.density.review import review
from lowerbound.diagnostics.density.soundness import check_density
from lowerbound.diagnostics.verdict import about_parameters
from lowerbound.diagnostics.weighing import weigh_up
from lowerbound.diagnostics.weights.importance import MANY
from lowerbound.errors import NotFiniteError
from lowerbound.escalation import Attempt, Escalation
from lowerbound.families import Block, Family, PointMass
from lowerbound.fitting.assembly import Found
from lowerbound.fitting.loop import run
from lowerbound.fitting.session import Session
from lowerbound.kernel import Kernel
from lowerbound.model.base import Model
from lowerbound.plan import choose, refine

_ESCALATE = (
    "leave family and algorithm out, or pass escalate=True: other coordinates and richer families are then tried. Or "
    "check the parameters concerned with MCMC."
)
#: A standard deviation that only a flat direction has; arithmetic ends there before the widening does.
_ENDLESS = 1e12


class Fitted(NamedTuple):
    """q, how the fit ended, other local solutions, and the estimated share of searches that would find another."""

    q: Block
    status: Status
    modes: list[Mode]
    missing: float


def fit_unconstrained(model: Model, family: Family, algorithm: Algorithm, session: Session, *, free: bool) -> Found:
    """Fit, judge, and try what else there is.

    Args:
        model: Bound to its data.
        family, algorithm: The choice, checked.
        session: Of the fit.
        free: Whether the choice was left open: it may then be refined, and escalates by default.

    Raises:
        NotFiniteError, GradientError, RandomDensityError, NotRespondingError: as :func:`lowerbound.fit` has them.
    """
    options = session.options
    session.say("compiling")
    kernel = started(model, session, jacobian=not isinstance(family, PointMass))
    session.kernel = kernel
    check_density(kernel, probe(kernel, options.seed))
    if free and not model.parameters:
        family, algorithm = refine(kernel, family, algorithm)
    algorithm = options.limited(algorithm)
    with np.errstate(all="ignore"):  # what is not finite is dealt with, not warned of
        first, learned, unlearned = None, {}, ()
        if model.parameters:
            first = fitted(algorithm, kernel, family, session)
            learned = kernel.model.parameter_values()
            unlearned = () if first.status.converged else (_unlearned(learned, first.status),)
            kernel.model = kernel.model.held()
            if free and not kernel.late and first.status is not Status.INTERRUPTED:
                # With the parameters fixed it is a model like any other.
                chosen, algorithm = choose(kernel.model, closed=False)
                assert chosen is not None
                family, algorithm = refine(kernel, chosen, algorithm)
                first = None
        found = first or fitted(algorithm, kernel, family, session)
        if not algorithm.finds_modes and kernel.dimension <= MANY:
            session.say("looking for other modes")
            modes, missing = other_modes(kernel, found.q, options.seed)
            found = found._replace(modes=modes, missing=missing)
        ended = time.perf_counter()
        escalate = free if options.escalate is None else options.escalate
        best, assessment, ladder = _judged(found, kernel, family, algorithm, session, escalate)
    verdict = assessment.verdict
    if not escalate and not verdict.trusted and not verdict.fatal:
        verdict = dataclasses.replace(verdict, next_step=_ESCALATE)
    if learned:
        verdict = about_parameters(verdict, learned, unlearned)
    return Found(
        model,
        best.kernel.model,
        best.q,
        best.status,
        dataclasses.replace(assessment, verdict=verdict),
        best.family_name,
        best.algorithm_name,
        ended - session.start - kernel.compile_seconds,
        ladder.checking,
        best.kernel.evaluations,
        time.perf_counter() - ended - ladder.checking,
        tuple(ladder.trials),
        learned,
    )


def started(model: Model, session: Session, *, jacobian: bool = True) -> Kernel:
    """The compiled density, finite somewhere near the origin.

    Raises:
        NotFiniteError: it is finite nowhere a fit could start; names the sites.
    """
    kernel = Kernel(model, jacobian=jacobian, deadline=session.deadline)
    check_starts(kernel, probe(kernel, session.options.seed))
    return kernel


def probe(kernel: Kernel, seed: int) -> np.ndarray:
    """Points near the origin ``[16, p]``, the origin first."""
    points = np.random.default_rng([seed, 2]).uniform(-1, 1, (min(kernel.batch, 16), kernel.dimension))
    return points * np.linspace(0, 1, len(points))[:, None]


def fitted(algorithm: Algorithm, kernel: Kernel, family: Family, session: Session) -> Fitted:
    """The loop, and what its end means on this space.

    Raises:
        NotFiniteError: no start had a finite log density and gradient.
    """
    late = lambda: kernel.late  # noqa: E731
    q, status, state, _ = run(algorithm, kernel, family, seed=session.options.seed, record=session.record, late=late)
    if learned := algorithm.learned(state):
        kernel.learn(learned)
    if q is None:
        raise NotFiniteError(
            f"no start with a finite log density and gradient was found for {kernel.model.name!r}, near the origin of "
            "the unconstrained space or further out. Check the priors' scales and the data's units."
        )
    if status in (Status.STALLED, Status.MAX_STEPS):
        if np.sqrt(np.asarray(q.variance())).max() > _ENDLESS:
            status = Status.FLAT
        elif np.abs(np.asarray(q.mean)).max() > _ENDLESS**2:
            status = Status.UNBOUNDED
    return Fitted(q, status, algorithm.modes(state), algorithm.missing_modes(state))


def _judged(
    found: Fitted, kernel: Kernel, family: Family, algorithm: Algorithm, session: Session, escalate: bool
) -> tuple[Attempt, Assessment, Escalation]:
    """The verdict on q, and on what escalation makes of it where it fails."""
    seed, num_draws = session.options.seed, session.options.num_draws
    broken = kernel.broken
    ladder = Escalation(
        lambda k: fitted(algorithm, k, family, session),
        family,
        algorithm,
        seed,
        num_draws,
        escalate,
        session.record,
        session.say,
        lambda a, seen: review(a.kernel, a.q, a.status, seen, algorithm=algorithm.name, broken=broken, seed=seed),
    )

    def judge(status: Status) -> tuple[Attempt, Assessment]:
        session.say("weighing draws")
        began = time.perf_counter()
        weighed = weigh_up(kernel, found.q, status, algorithm.rule(), found.modes, found.missing, seed, num_draws)
        ladder.checking += time.perf_counter() - began
        return ladder(Attempt(kernel, family.name, algorithm.name, status, weighed))

    try:
        best, assessment = judge(found.status)
    except KeyboardInterrupt:
        best, assessment = judge(Status.INTERRUPTED)
    return best, assessment, ladder


def _unlearned(learned: dict[str, Any], status: Status) -> str:
    return f"whether {', '.join(learned)} converged: {status.sentence}"
