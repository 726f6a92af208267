"""One fit while it runs: its clock, what is shown, and what happened step by step."""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType

from lowerbound.algorithms.base import Info
from lowerbound.fitting.options import Options
from lowerbound.kernel import Kernel
from lowerbound.report.progress import Progress
from lowerbound.threads import host_threads


class Session:
    """The clock starts when it is made; the display when it is entered.

    Args:
        options: Of the fit.

    Attributes:
        start: When it was made, on the clock of ``time.perf_counter()``.
        deadline: When the time is up, on the clock of ``time.monotonic()``; None for never.
        rows: Every step's :class:`~lowerbound.algorithms.Info`, and the seconds since the start.
        kernel: The compiled density, once there is one: its evaluations are shown, and it knows the step it is at.
    """

    def __init__(self, options: Options):
        self.options = options
        self.start = time.perf_counter()
        self.deadline = None if options.max_seconds is None else time.monotonic() + float(options.max_seconds)
        self.rows: list[tuple[Info, float]] = []
        self.kernel: Kernel | None = None
        self._display = Progress(enabled=options.progress)
        self._open = ExitStack()

    def __enter__(self) -> Session:
        self._open.enter_context(self._display)
        self._open.enter_context(host_threads())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._open.__exit__(kind, error, trace)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.start

    def late(self) -> bool:
        """Whether the time is up."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def say(self, phase: str) -> None:
        """Show what begins, in a few words."""
        self._display.update(phase, None if self.kernel is None else {"evaluations": self.kernel.evaluations})

    def record(self, info: Info) -> None:
        """A step: kept, shown, and told to whoever asked for it."""
        self.rows.append((info, self.seconds))
        shown = {"step": info.step, "elbo": info.elbo, "elbo_se": info.elbo_se}
        if self.kernel is not None:
            self.kernel.at = (info.phase, info.step)
            shown["evaluations"] = self.kernel.evaluations
        self._display.update(info.phase, shown)
        if self.options.callback is not None:
            self.options.callback(info)
