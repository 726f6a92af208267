"""What a divergence comes as: a number, its standard error, and how it was found."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from lowerbound.diagnostics.estimate import Estimate as Number


@dataclass(frozen=True)
class Estimate:
    """A divergence; converts to a float, and compares with numbers by its value.

    Attributes:
        value: The divergence.
        se: Its standard error: 0 where it is exact, infinite where the terms have no variance.
        exact: How it was found, where nothing was sampled: the closed form, the sum or the quadrature. Empty where it
            is an estimate.
        note: What a person should know: why it is infinite, what was compared.
        p_value: Of the test that the two are the same, where one was asked for.

    Example:
        >>> e = Estimate(0.25, 0.012)
        >>> e, float(e), e < 0.3
        (0.250 ± 0.012, 0.25, True)
        >>> Estimate(0.5, 0.0, exact="closed form of two Gaussians")
        0.5 (exact: closed form of two Gaussians)
    """

    value: float
    se: float
    exact: str = ""
    note: str = ""
    p_value: float | None = None

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else repr(self)

    def __lt__(self, other: Any) -> bool:
        return self.value < float(other)

    def __le__(self, other: Any) -> bool:
        return self.value <= float(other)

    def __gt__(self, other: Any) -> bool:
        return self.value > float(other)

    def __ge__(self, other: Any) -> bool:
        return self.value >= float(other)

    def __repr__(self) -> str:
        text = str(Number(self.value, self.se))
        if self.se == inf and isfinite(self.value):
            text += " ± inf"
        about = [f"exact: {self.exact}"] if self.exact else []
        about += [f"p = {self.p_value:.3g}"] if self.p_value is not None else []
        about += [self.note] if self.note else []
        return f"{text} ({'; '.join(about)})" if about else text


def finished(
    value: float, se: float, *, exact: str = "", note: str = "", low: float = -inf, high: float = inf
) -> Estimate:
    """An estimate between the least and the greatest value that the divergence can have.

    An estimate beyond them is known to be wrong by the distance, and is put on the bound; its standard error stays.
    """
    return Estimate(float(min(max(value, low), high)), float(se), exact, note)
