r"""Black-box fits on the constrained space: from a model to the kernel that starts and checks them, and the verdict.

What is checked is the same as for any product of exponential families (:mod:`lowerbound.closed_form`): its continuous
part is weighed against the log density, with discrete latents summed out where the algebra can do so, and short chains
are started from it. Where it cannot, or the model is too large, the verdict says that q was not checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lowerbound.algorithms.base import Info, Status
from lowerbound.algorithms.black_box_vi import BlackBox, BlackBoxVI
from lowerbound.closed_form import checked, completed, left_out, small, summed_out
from lowerbound.diagnostics.assessment import Assessment, unchecked
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.nonfinite import check_starts
from lowerbound.errors import IncompatibleError
from lowerbound.families import FactoredBlock
from lowerbound.kernel import Kernel
from lowerbound.model.base import Model


@dataclass(frozen=True, eq=False)
class BlackBoxFit:
    """A fit by draws on the constrained space.

    Attributes:
        q: The fitted blocks.
        status: How it ended.
        elbo: In nats, of q with its discrete latents; with its standard error.
        kernel: The log density over the continuous latents; None where discrete ones cannot be summed out.
        inner: The model over the continuous latents, as far as there is one.
        assessment: The verdict, and the draws.
        seconds: Spent on tracing and compiling, the fit, and the check.
    """

    q: FactoredBlock
    status: Status
    elbo: Estimate
    kernel: Kernel | None
    inner: Model
    assessment: Assessment
    seconds: dict[str, float]


def fit_black_box(
    model: Model,
    algorithm: BlackBoxVI,
    *,
    seed: int,
    num_draws: int | None,
    record: Callable[[Info], None],
    say: Callable[[str], None],
    deadline: float | None,
) -> BlackBoxFit:
    """Run :class:`~lowerbound.algorithms.BlackBoxVI`, and judge what comes out.

    Args:
        model: Bound to its data.
        algorithm: With its options.
        seed, num_draws: Of the fit.
        record: Called with each step's :class:`~lowerbound.algorithms.Info`.
        say: Called with a few words when something begins.
        deadline: On the clock of ``time.monotonic()``.
    """
    began = time.perf_counter()
    algorithm.parts(model)  # what it cannot fit is refused before anything is compiled

    def late() -> bool:
        return deadline is not None and time.monotonic() > deadline

    summed, why = None, ""
    if small(model):
        try:
            summed = summed_out(model) if model.discrete else model
        except IncompatibleError:
            why = f"the discrete latents ({', '.join(model.discrete)}) cannot be summed out"
    kernel = None
    if summed is not None:
        say("compiling the log density")
        kernel = Kernel(summed, deadline=deadline)
        probe = np.random.default_rng([seed, 2]).uniform(-1, 1, (min(kernel.batch, 16), kernel.dimension))
        check_starts(kernel, probe * np.linspace(0, 1, len(probe))[:, None])
    state = algorithm.init(seed, BlackBox(model, kernel, late), None)
    compiled = time.perf_counter()
    try:
        while True:
            state, info = algorithm.step(state)
            record(info)
            if info.status is not None:
                status = info.status
                break
            if late() and algorithm.output(state) is not None:
                status = Status.OUT_OF_TIME
                break
    except KeyboardInterrupt:
        if algorithm.output(state) is None:
            raise
        status = Status.INTERRUPTED
    q = algorithm.output(state)
    assert q is not None
    elbo = Estimate(float(state.elbo), float(state.elbo_se))
    fitted = time.perf_counter()
    assessment = None
    if kernel is not None and status not in (Status.INTERRUPTED, Status.OUT_OF_TIME):
        say("checking q against the log density")
        assessment = checked(kernel, q, status, algorithm, seed, num_draws)
    if assessment is None:
        assessment = unchecked(q, status, algorithm.rule(), why or left_out(model, status))
    known = elbo if np.isfinite(elbo.value) else None
    assessment = completed(assessment, model, known)
    seconds = {"compile": compiled - began, "fit": fitted - compiled, "check": time.perf_counter() - fitted}
    return BlackBoxFit(q, status, elbo, kernel, model if summed is None else summed, assessment, seconds)
