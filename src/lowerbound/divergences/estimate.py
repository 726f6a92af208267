"""What a divergence comes as: a number, its standard error, and how it was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from math import hypot, inf, isfinite
from numbers import Real
from typing import Any

import numpy as np

from lowerbound.diagnostics.estimate import Estimate as Number


@dataclass(frozen=True, eq=False)
class Estimate:
    """A divergence: compares with numbers by its value, converts to a float or an array, and is reckoned with.

    Sums, products and quotients with numbers and with other estimates have the standard error of the delta method, in
    which two estimates are independent (as those from different seeds are; ``e - e`` has √2 of the error of ``e``). A
    NumPy function gives the number: ``np.sqrt(e)``.

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
        >>> 2 * e + 1, e / Estimate(0.5, 0.03), e == 0.25
        (1.500 ± 0.024, 0.500 ± 0.038, True)
    """

    #: So that NumPy's numbers leave what they are added to, or multiplied with, to this class.
    __array_priority__ = 1000

    value: float
    se: float
    exact: str = ""
    note: str = ""
    p_value: float | None = None

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else repr(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.value, dtype)

    def __eq__(self, other: Any) -> bool:
        """Of a number, that the value is it; of an estimate, that all is the same."""
        if isinstance(other, Estimate):
            return astuple(self) == astuple(other)
        return self.value == float(other) if _is_number(other) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.value)  # equal to a number, and so its hash

    def __add__(self, other: Any) -> Estimate:
        return self._with(other, lambda a, b: a + b, lambda a, b: (1.0, 1.0))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Estimate:
        return self._with(other, lambda a, b: a - b, lambda a, b: (1.0, 1.0))

    def __rsub__(self, other: Any) -> Estimate:
        return self._with(other, lambda a, b: b - a, lambda a, b: (1.0, 1.0))

    def __mul__(self, other: Any) -> Estimate:
        return self._with(other, lambda a, b: a * b, lambda a, b: (b, a))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Estimate:
        return self._with(other, lambda a, b: a / b, lambda a, b: (1 / b, a / b**2))

    def __rtruediv__(self, other: Any) -> Estimate:
        return self._with(other, lambda a, b: b / a, lambda a, b: (b / a**2, 1 / a))

    def __neg__(self) -> Estimate:
        return -1.0 * self

    def __abs__(self) -> Estimate:
        return -self if self.value < 0 else self

    def _with(
        self,
        other: Any,
        value: Callable[[float, float], float],
        slopes: Callable[[float, float], tuple[float, float]],
    ) -> Estimate:
        """What comes of this and another, with the sizes of its derivatives for the error."""
        if isinstance(other, Estimate):
            b, se, exact = other.value, other.se, other.exact
        elif _is_number(other):
            b, se, exact = float(other), 0.0, self.exact
        else:
            return NotImplemented
        a = self.value
        out = value(a, b)
        parts = [abs(slope) * e for slope, e in zip(slopes(a, b), (self.se, se), strict=True) if e and slope]
        hows = list(dict.fromkeys(e for e in (self.exact, exact) if e)) if self.exact and exact else []
        notes = [n for n in dict.fromkeys((self.note, getattr(other, "note", ""))) if n]
        return Estimate(out, hypot(*parts) if parts else 0.0, "; ".join(hows), "; ".join(notes))

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


def _is_number(a: Any) -> bool:
    return isinstance(a, Real) or (getattr(a, "shape", None) == () and getattr(a, "dtype", None) is not None)
