"""The loop that runs every algorithm: begin, step until it is done, and what there is then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from lowerbound.algorithms.base import Algorithm, Info, Status


class Ended(NamedTuple):
    """How an algorithm ended.

    Attributes:
        output: What it found, as :meth:`Algorithm.output` gives it; None where no q was ever finite.
        status: How.
        state: Its last state.
        begun: When its first state was there, on the clock of ``time.perf_counter()``.
    """

    output: Any
    status: Status
    state: Any
    begun: float


def run(
    algorithm: Algorithm,
    problem: Any,
    family: Any = None,
    *,
    seed: int = 0,
    record: Callable[[Info], object] = lambda info: None,
    late: Callable[[], bool] = lambda: False,
) -> Ended:
    """Init, then step until the algorithm's own rule, the clock or the person ends it.

    Args:
        algorithm: With its options.
        problem: What it optimises: a kernel, exact expectations, factors or rows, whichever it takes.
        family: Of q; None where the algorithm derives its own.
        seed: Of its random numbers.
        record: Called with each step's :class:`~lowerbound.algorithms.Info`.
        late: Whether the time is up. An algorithm that has no answer yet goes on until it has one.

    Raises:
        KeyboardInterrupt: before there was an answer; afterwards the answer so far is returned, INTERRUPTED.
    """
    state, begun = None, time.perf_counter()
    try:
        state = algorithm.init(seed, problem, family)
        begun = time.perf_counter()
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
        if state is None or algorithm.output(state) is None:
            raise
        status = Status.INTERRUPTED
    return Ended(algorithm.output(state), status, state, begun)
