"""The loop: when to stop, what to report, what to return."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lowerbound.algorithms.amortized_vi import AmortizedVI
from lowerbound.algorithms.base import Algorithm, Info, Status
from lowerbound.algorithms.black_box_vi import BlackBoxVI
from lowerbound.algorithms.factored import Factored
from lowerbound.algorithms.from_gaussian import FromGaussian
from lowerbound.algorithms.marginal import marginal
from lowerbound.algorithms.score_regression import ScoreRegression, other_modes
from lowerbound.amortization import amortized_algorithm, fit_amortized
from lowerbound.assembly import assemble
from lowerbound.black_box import fit_black_box
from lowerbound.closed_form import CLOSED, ClosedAlgorithm, fit_closed_form, is_closed, summed_out
from lowerbound.diagnostics.assessment import Assessment, weigh_up
from lowerbound.diagnostics.importance import MANY
from lowerbound.diagnostics.nonfinite import check_starts
from lowerbound.diagnostics.review import review
from lowerbound.diagnostics.soundness import check_density
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus, about_parameters
from lowerbound.errors import DataError, IncompatibleError, ModelError, NotFiniteError, TrustWarning
from lowerbound.escalation import Attempt, Escalation
from lowerbound.families import Amortized, Block, Family, PointMass
from lowerbound.kernel import Kernel
from lowerbound.model.base import Model
from lowerbound.model.given import as_model
from lowerbound.objectives import Objective
from lowerbound.plan import choose, refine
from lowerbound.posterior import Posterior
from lowerbound.report.progress import Progress
from lowerbound.sites import SiteMap
from lowerbound.threads import host_threads
from lowerbound.waiting import Waiting

_ESCALATE = (
    "leave family and algorithm out, or pass escalate=True: other coordinates and richer families are then tried. Or "
    "check the parameters concerned with MCMC."
)
#: A standard deviation that only a flat direction has; arithmetic ends there before the widening does.
_ENDLESS = 1e12


def fit(
    model: Any,
    data: Mapping[str, Any] | None = None,
    *,
    family: str | Family | Amortized | None = None,
    algorithm: str | Algorithm | None = None,
    objective: str | Objective | None = None,
    seed: int = 0,
    init: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
    num_draws: int | None = None,
    escalate: bool | None = None,
    max_seconds: float | None = None,
    progress: bool | None = None,
    callback: Callable[[Info], object] | None = None,
) -> Posterior:
    """Fit an approximate posterior, and say how far it can be trusted.

    log p(x) = ELBO(q) + KL(q || p(z | x)):  q is chosen from a family to maximise the ELBO; what is left
    over is then estimated, and corrected where that is justified.

    Args:
        model: A NumPyro model (discrete latents must have finitely many values), or a :class:`lowerbound.LogDensity`.
        data: Its keyword arguments: a dictionary (or DataFrame). Arrays are traced, everything else stays
            static.
        family: An object of :mod:`lowerbound.families` or its short name (``"arrow"``, ``"dense"``, ``"diagonal"``,
            ``"low_rank"``, ``"sinh_arcsinh"``, ``"flow"``, ``"point_mass"``); None chooses by dimension and structure.
        algorithm: An object of :mod:`lowerbound.algorithms` or its short name; None chooses by family.
        objective: What to optimise in place of the ELBO: an object of :mod:`lowerbound.objectives` or its short name
            (``"importance_weighted"``, ``"forward_kl"``, ...); the algorithm is then one for it.
        seed: The same seed gives the same bits on the same machine.
        init: Where to start, from names of latents to values: labels of a discrete one (``{"z": labels}``), or its
            probabilities; for ``coordinate_ascent``.
        max_steps: Overrides the algorithm's limit.
        num_draws: Draws weighed for the verdict, a round; default 2048.
        escalate: Whether to try other coordinates and richer families where the verdict fails, as
            :mod:`lowerbound.escalation` describes; None does so unless a family or algorithm was asked for.
        max_seconds: Wall seconds after which nothing more is begun: the answer is then what there is, with status
            OUT_OF_TIME if the fit itself had not ended. A log density that does not return is given up.
        progress: True or False to force the display on or off; None shows it on a terminal.
        callback: Called with each step's :class:`~lowerbound.algorithms.Info`.

    Returns:
        A :class:`~lowerbound.Posterior`. Interrupted by Ctrl-C, the posterior so far, with status
        INTERRUPTED.

    Raises:
        ModelError, DataError, IncompatibleError, UnknownNameError: bad input, before any compilation.
        NotFiniteError: the log density is finite nowhere a fit could start; names the sites.
        GradientError, RandomDensityError: the gradient is not that of the log density, or it differs between calls.
        NotRespondingError: the log density has not returned within ``max_seconds``.

    Warns:
        TrustWarning: the verdict is NOT_TRUSTED.

    Cost: one compilation of the model's log density and gradient (0.2 to 2 seconds; kept between
    processes), then some thousand evaluations of it.

    Example:
        >>> import lowerbound as lb, numpyro, numpyro.distributions as dist
        >>> def model(y):
        ...     x = numpyro.sample("x", dist.Normal(0, 1))
        ...     numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        >>> posterior = lb.fit(model, {"y": 10.0})
        >>> round(float(posterior.mean()["x"]), 4), round(float(posterior.sd()["x"]), 4)
        (8.0, 0.4472)
        >>> posterior.verdict.status.name
        'TRUSTED'
    """
    start = time.perf_counter()
    check_options(seed, max_steps, num_draws, callback, max_seconds)
    deadline = None if max_seconds is None else time.monotonic() + float(max_seconds)
    bound = Waiting("the model", deadline)(lambda: as_model(model, data))
    if isinstance(family, Amortized):
        options = seed, max_steps, start, deadline, progress, callback
        posterior = _amortized(bound, family, amortized_algorithm(algorithm, objective), *options)
        warn_of(posterior.verdict)
        return posterior
    asked = family is not None or objective is not None
    if bound.discrete and (asked or (algorithm is not None and not _derived(algorithm))):
        bound = summed_out(bound)
    chosen_family, chosen = choose(bound, family, algorithm, objective=objective)
    if objective is not None:
        algorithm = chosen
    if isinstance(chosen, BlackBoxVI):
        if init is not None:
            raise IncompatibleError("init is not for black_box_vi, which finds its own starts. Leave init out.")
        if max_steps is not None:
            chosen = dataclasses.replace(chosen, max_steps=int(max_steps))
        posterior = _black_box_posterior(bound, chosen, seed, num_draws, start, deadline, progress, callback)
        warn_of(posterior.verdict)
        return posterior
    if isinstance(chosen, CLOSED):
        if max_steps is not None:
            chosen = dataclasses.replace(chosen, max_steps=int(max_steps))
        if init is not None and not isinstance(init, Mapping):
            raise DataError(f"init is {init!r}; needed: a dictionary from names of latents to values.")
        chosen = chosen.started_from(init)
        try:
            posterior = closed_form_posterior(bound, chosen, seed, num_draws, start, deadline, progress, callback)
            warn_of(posterior.verdict)
            return posterior
        except ModelError:
            # No distribution is the optimum. What the posterior lacks is told better by a fit that ends anywhere.
            if algorithm is not None or bound.discrete:
                raise
        chosen_family, chosen = choose(bound, closed=False)
    assert chosen_family is not None
    if init is not None:
        raise IncompatibleError(
            f"init is for coordinate_ascent, memoized_vi and stochastic_vi; {chosen.name} finds its own starts. Leave "
            "init out."
        )
    rows: list[tuple[Info, float]] = []
    with Progress(enabled=progress) as display, host_threads():
        display.update("compiling", None)
        kernel = Kernel(bound, jacobian=not isinstance(chosen_family, PointMass), deadline=deadline)
        probe = np.random.default_rng([seed, 2]).uniform(-1, 1, (min(kernel.batch, 16), kernel.dimension))
        probe *= np.linspace(0, 1, len(probe))[:, None]
        check_starts(kernel, probe)
        check_density(kernel, probe)
        if family is None and algorithm is None and not bound.parameters:
            chosen_family, chosen = refine(kernel, chosen_family, chosen)
        if max_steps is not None and hasattr(chosen, "max_steps"):
            chosen = _with_max_steps(chosen, int(max_steps))

        def record(info: Info) -> None:
            rows.append((info, time.perf_counter() - start))
            kernel.at = (info.phase, info.step)
            display.update(
                info.phase,
                {"step": info.step, "elbo": info.elbo, "elbo_se": info.elbo_se, "evaluations": kernel.evaluations},
            )
            if callback is not None:
                callback(info)

        first, learned, unlearned = None, {}, ()
        if bound.parameters:
            with np.errstate(all="ignore"):
                first = run(chosen, kernel, chosen_family, seed, record)
            learned = kernel.model.parameter_values()
            unlearned = () if first[1].converged else (f"whether {', '.join(learned)} converged: {first[1].sentence}",)
            kernel.model = kernel.model.held()
            if family is None and algorithm is None and not kernel.late and first[1] is not Status.INTERRUPTED:
                # With the parameters fixed it is a model like any other.
                chosen_family, chosen = choose(kernel.model, closed=False)
                assert chosen_family is not None
                chosen_family, chosen = refine(kernel, chosen_family, chosen)
                first = None
        if escalate is None:
            escalate = family is None and algorithm is None
        ladder = Escalation(
            lambda k: run(chosen, k, chosen_family, seed, record),
            chosen_family,
            chosen,
            seed,
            num_draws,
            escalate,
            record,
            lambda phase: display.update(phase, {"evaluations": kernel.evaluations}),
            lambda a, found: review(a.kernel, a.q, a.status, found, algorithm=chosen.name, broken=broken, seed=seed),
        )
        with np.errstate(all="ignore"):  # what is not finite is dealt with, not warned of
            q, status, modes, missing = first or run(chosen, kernel, chosen_family, seed, record)
            broken = kernel.broken
            if not isinstance(chosen, (ScoreRegression, FromGaussian)) and kernel.dimension <= MANY:
                display.update("looking for other modes", None)
                modes, missing = other_modes(kernel, q, seed)
            fitted = time.perf_counter()

            def judged(status: Status) -> tuple[Attempt, Assessment]:
                display.update("weighing draws", {"evaluations": kernel.evaluations})
                began = time.perf_counter()
                weighed = weigh_up(kernel, q, status, chosen.rule(), modes, missing, seed, num_draws)
                ladder.checking += time.perf_counter() - began
                return ladder(Attempt(kernel, chosen_family.name, chosen.name, status, weighed))

            try:
                best, assessment = judged(status)
            except KeyboardInterrupt:
                best, assessment = judged(Status.INTERRUPTED)
        if not escalate and not assessment.verdict.trusted and not assessment.verdict.fatal:
            verdict = dataclasses.replace(assessment.verdict, next_step=_ESCALATE)
            assessment = dataclasses.replace(assessment, verdict=verdict)
        if learned:
            assessment = dataclasses.replace(
                assessment, verdict=about_parameters(assessment.verdict, learned, unlearned)
            )
        verdict = assessment.verdict
    total, compiling = time.perf_counter() - start, kernel.compile_seconds
    timings = {
        "compile": compiling,
        "fit": fitted - start - compiling,
        "check": ladder.checking,
        "escalation": total - (fitted - start) - ladder.checking,
        "total": total,
    }
    sites = SiteMap(bound.sites, bound.deterministics, best.kernel.model)
    names = best.family_name, best.algorithm_name
    evaluations, trials = best.kernel.evaluations, tuple(ladder.trials)
    posterior = assemble(bound, best.q, best.status, names, sites, assessment, rows, timings, evaluations, seed, trials)
    posterior = dataclasses.replace(posterior, parameters=learned) if learned else posterior
    warn_of(verdict)
    return posterior


def closed_form_posterior(
    model: Model,
    algorithm: ClosedAlgorithm,
    seed: int,
    num_draws: int | None,
    start: float,
    deadline: float | None,
    progress: bool | None,
    callback: Callable[[Info], object] | None,
    factored: Factored | None = None,
) -> Posterior:
    """A fit whose expectations are exact: :mod:`lowerbound.closed_form`; of another exact ELBO than the model's own,
    where one is given."""
    rows: list[tuple[Info, float]] = []
    with Progress(enabled=progress) as display, host_threads():
        display.update("deriving the updates", None)

        def record(info: Info) -> None:
            rows.append((info, time.perf_counter() - start))
            display.update(info.phase, {"step": info.step, "elbo": info.elbo, "elbo_se": 0.0})
            if callback is not None:
                callback(info)

        found = fit_closed_form(
            model,
            algorithm,
            seed=seed,
            num_draws=num_draws,
            record=record,
            say=lambda phase: display.update(phase, None),
            deadline=deadline,
            factored=factored,
        )
    total = time.perf_counter() - start
    timings = {**found.seconds, "escalation": 0.0, "total": total}
    inner = marginal(model, found.factored) if found.kernel is None else found.kernel.model
    evaluations = 0 if found.kernel is None else found.kernel.evaluations
    sites = SiteMap(model.sites, model.deterministics, inner)
    return assemble(
        model,
        found.q,
        found.status,
        ("exponential", algorithm.name),
        sites,
        found.assessment,
        rows,
        timings,
        evaluations,
        seed,
        (),
    )


def _derived(algorithm: Any) -> bool:
    """Whether an algorithm, or the short name of one, has blocks of its own for discrete latents."""
    return is_closed(algorithm) or isinstance(algorithm, BlackBoxVI) or algorithm == BlackBoxVI.name


def _black_box_posterior(
    model: Model,
    algorithm: BlackBoxVI,
    seed: int,
    num_draws: int | None,
    start: float,
    deadline: float | None,
    progress: bool | None,
    callback: Callable[[Info], object] | None,
) -> Posterior:
    """A fit of exponential families from draws: :mod:`lowerbound.black_box`."""
    rows: list[tuple[Info, float]] = []
    with Progress(enabled=progress) as display, host_threads():

        def record(info: Info) -> None:
            rows.append((info, time.perf_counter() - start))
            display.update(info.phase, {"step": info.step, "elbo": info.elbo, "elbo_se": info.elbo_se})
            if callback is not None:
                callback(info)

        found = fit_black_box(
            model,
            algorithm,
            seed=seed,
            num_draws=num_draws,
            record=record,
            say=lambda phase: display.update(phase, None),
            deadline=deadline,
        )
    timings = {**found.seconds, "escalation": 0.0, "total": time.perf_counter() - start}
    evaluations = 0 if found.kernel is None else found.kernel.evaluations
    sites = SiteMap(model.sites, model.deterministics, found.inner)
    names = ("exponential", algorithm.name)
    return assemble(model, found.q, found.status, names, sites, found.assessment, rows, timings, evaluations, seed, ())


def _amortized(
    model: Model,
    family: Amortized,
    algorithm: AmortizedVI,
    seed: int,
    max_steps: int | None,
    start: float,
    deadline: float | None,
    progress: bool | None,
    callback: Callable[[Info], object] | None,
) -> Posterior:
    """A fit of a network that gives each row its block: :mod:`lowerbound.amortization`."""
    if max_steps is not None:
        algorithm = dataclasses.replace(algorithm, max_steps=int(max_steps))
    rows: list[tuple[Info, float]] = []
    with Progress(enabled=progress) as display, host_threads():
        display.update("compiling the epoch", None)

        def record(info: Info) -> None:
            rows.append((info, time.perf_counter() - start))
            display.update(info.phase, {"step": info.step, "elbo": info.elbo, "elbo_se": info.elbo_se})
            if callback is not None:
                callback(info)

        def late() -> bool:
            return deadline is not None and time.monotonic() > deadline

        say = lambda phase: display.update(phase, None)  # noqa: E731
        found = fit_amortized(model, family, algorithm, seed=seed, record=record, say=say, late=late)
    timings = {**found.seconds, "escalation": 0.0, "total": time.perf_counter() - start}
    sites = SiteMap(model.sites, model.deterministics, found.model)
    names = family.name, algorithm.name
    posterior = assemble(
        model, found.q, found.status, names, sites, found.assessment, rows, timings, found.evaluations, seed, ()
    )
    return dataclasses.replace(posterior, parameters=found.parameters, encoder=found.encoder)


def warn_of(verdict: Verdict) -> None:
    """A warning where the verdict is NOT_TRUSTED."""
    if verdict.status is VerdictStatus.NOT_TRUSTED:
        warnings.warn(f"{verdict.sentence} {verdict.next_step}".strip(), TrustWarning, stacklevel=3)


def run(
    algorithm: Algorithm, kernel: Kernel, family: Family, seed: int, record: Callable[[Info], None]
) -> tuple[Block, Status, list, float]:
    """Init, step until done, output. An interruption gives the answer so far."""
    state = None
    try:
        state = algorithm.init(seed, kernel, family)
        while True:
            state, info = algorithm.step(state)
            record(info)
            if info.status is not None:
                status = info.status
                break
            if kernel.late and algorithm.output(state) is not None:
                status = Status.OUT_OF_TIME
                break
    except KeyboardInterrupt:
        if state is None or algorithm.output(state) is None:
            raise
        status = Status.INTERRUPTED
    q = algorithm.output(state)
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
    return q, status, algorithm.modes(state), algorithm.missing_modes(state)


def check_options(seed: Any, max_steps: Any, num_draws: Any, callback: Any, max_seconds: Any) -> None:
    """Numbers that are whole, positive, or functions where they have to be.

    Raises:
        DataError: one is not.
    """

    def whole(value: Any) -> bool:
        return isinstance(value, (int, np.integer)) and not isinstance(value, bool)

    if not whole(seed) or seed < 0:
        raise DataError(f"seed is {seed!r}; needed: a whole number, zero or more.")
    if max_steps is not None and (not whole(max_steps) or max_steps < 1):
        raise DataError(f"max_steps is {max_steps!r}; needed: a positive whole number.")
    if num_draws is not None and (not whole(num_draws) or num_draws < 64):
        raise DataError(f"num_draws is {num_draws!r}; needed: a whole number, at least 64.")
    if max_seconds is not None and (
        isinstance(max_seconds, bool) or not isinstance(max_seconds, (int, float, np.number)) or not max_seconds > 0
    ):
        raise DataError(f"max_seconds is {max_seconds!r}; needed: a positive number of seconds.")
    if callback is not None and not callable(callback):
        raise DataError(f"callback is {callback!r}; needed: a function of one lowerbound.algorithms.Info.")


def _with_max_steps(algorithm: Algorithm, max_steps: int) -> Algorithm:
    return dataclasses.replace(algorithm, max_steps=max_steps)  # pyright: ignore[reportArgumentType]
