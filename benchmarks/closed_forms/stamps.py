"""A child's clock: process start, then a stamp after one sweep or several.

Nothing is imported before it but the interpreter itself and packages that import nothing, so that the zero of both
clocks is the start of the process, and each tool's own imports are inside.
"""

from __future__ import annotations

import time

from benchmarks.memory import peak_memory


class Stamps:
    """CPU seconds of all threads and wall seconds, since this was made, after sweeps and at what came before."""

    def __init__(self) -> None:
        self._zero = time.process_time(), time.perf_counter()
        self.phases: dict[str, tuple[float, float]] = {}
        self.sweeps: list[tuple[float, float]] = []
        self.counts: list[int] = []
        self.bounds: list[float] = []
        self.memory = 0.0

    def read(self) -> tuple[float, float]:
        return time.process_time() - self._zero[0], time.perf_counter() - self._zero[1]

    def phase(self, name: str) -> None:
        """What is called ``name`` ends here."""
        self.phases[name] = self.read()

    def sweep(self, bound: float, count: int) -> None:
        """The bound after ``count`` sweeps; not every one need be seen."""
        self.counts.append(int(count))
        self.bounds.append(float(bound))
        self.sweeps.append(self.read())
        self.memory = peak_memory()

    def row(self) -> dict:
        return {
            "memory_of_sweeps": self.memory,
            "phases": self.phases,
            "sweeps": self.sweeps,
            "counts": self.counts,
            "bounds": self.bounds,
        }
