"""A number with its Monte Carlo error."""

from __future__ import annotations

from typing import NamedTuple


class Estimate(NamedTuple):
    """``value`` with standard error ``se``; converts to a float.

    Example:
        >>> e = Estimate(-31.5, 0.02)
        >>> float(e), f"{e:.1f}", str(e)
        (-31.5, '-31.5', '-31.500 ± 0.020')
    """

    value: float
    se: float

    def __float__(self) -> float:
        return float(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    def __str__(self) -> str:
        if not 1e-10 * max(1.0, abs(self.value)) < self.se < float("inf"):
            return f"{self.value:.9g}"
        # Two digits of the error say how many of the value mean anything.
        from math import floor, log10

        digits = max(0, 1 - floor(log10(self.se)))
        return f"{self.value:.{min(digits, 9)}f} ± {self.se:.{min(digits, 9)}f}"
