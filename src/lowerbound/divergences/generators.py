r"""f-divergences: D_f(p ‖ q) = E_q[f(p/q)], with f convex and f(1) = 0.

Where q is zero and p is not, a mass P counts f'(∞) P, with f'(∞) = lim f(u)/u; where p is zero and q is not, f(0) Q
(Ali & Silvey 1966; Csiszár 1967). A generator gives *terms*, q f(p/q), from the two log densities, so that nothing
overflows that need not: with t = log(p/q),

    q f(e^t)  where t <= 0,        p [e^-t f(e^t)]  where t > 0.

Terms are homogeneous of degree one: those of (p/m, q/m) are those of (p, q) over m, by which one function serves sums
(densities are masses), quadrature, and sampling from a mixture m.

c (u - 1) may be added to f without changing the divergence. KL's f is u log u - u + 1 here, so that each term is
nonnegative and, where p and q are near, of the second order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import inf, log
from typing import Any

import numpy as np

from lowerbound.errors import IncompatibleError
from lowerbound.precision import float64

LOG_2 = log(2.0)
#: Beyond it exp overflows.
_LARGEST = 700.0


class Generator(ABC):
    """A convex f, as terms.

    Attributes:
        at_zero: f(0).
        at_infinity: f'(∞) = lim f(u)/u.
    """

    at_zero: float
    at_infinity: float

    @abstractmethod
    def terms(self, log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
        """q f(p/q) ``[n]`` from log densities ``[n]``, of which minus infinity is one."""

    def log_terms(self, log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
        """log |q f(p/q)| ``[n]``, where the terms themselves may be too small or too large for a number.

        By the first degree: log m more than those of (p/m, q/m), m the larger of the two.
        """
        top = np.maximum(log_p, log_q)
        top = np.where(np.isfinite(top), top, 0.0)
        with np.errstate(divide="ignore"):
            return top + np.log(np.abs(self.terms(log_p - top, log_q - top)))


class Smooth(Generator):
    """f from stable functions of the log ratio t: ``left`` is f(e^t) for t <= 0, ``right`` e^-t f(e^t) for t >= 0."""

    def __init__(
        self,
        left: Callable[[np.ndarray], np.ndarray],
        right: Callable[[np.ndarray], np.ndarray],
        *,
        at_zero: float,
        at_infinity: float,
    ):
        self.left, self.right, self.at_zero, self.at_infinity = left, right, at_zero, at_infinity

    def terms(self, log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
        p, q = np.exp(log_p), np.exp(log_q)
        with np.errstate(invalid="ignore", over="ignore"):
            t = np.where((p == 0) & (q == 0), 0.0, log_p - log_q)
            below = self.left(np.clip(t, -_LARGEST, 0.0))
            above = self.right(np.clip(t, 0.0, inf))
            below = np.where(t == -inf, self.at_zero, np.where(t < -_LARGEST, self._far_below(t, below), below))
            above = np.where(t == inf, self.at_infinity, above)
            # A weight that underflows is zero, however large the factor: a density of e^-800 has no mass.
            return np.where(t <= 0, np.where(q > 0, q * below, 0.0), np.where(p > 0, p * above, 0.0))

    def _far_below(self, t: np.ndarray, clipped: np.ndarray) -> np.ndarray:
        # f(u) with f(0) = inf grows as -log u in all generators here: linear in t.
        if self.at_zero != inf:
            return clipped
        near = self.left(np.array([-_LARGEST, 1 - _LARGEST]))
        return clipped + (near[0] - near[1]) * np.where(t < -_LARGEST, -_LARGEST - t, 0.0)


class Power(Generator):
    """u^λ: no divergence itself (f(1) = 1), but the integral M(λ) of p^λ q^(1-λ), of which several are functions."""

    def __init__(self, order: float):
        self.order = float(order)
        self.at_zero = 0.0 if order > 0 else inf
        self.at_infinity = 0.0 if order < 1 else inf

    def terms(self, log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
        λ = self.order
        with np.errstate(invalid="ignore", over="ignore"):
            # 0 ** positive is 0 and 0 ** negative is infinite, but nothing where both are zero.
            out = np.exp(np.where(log_p == -inf, -inf if λ > 0 else inf, λ * log_p) + (1 - λ) * log_q)
            out = np.where(log_q == -inf, np.exp(log_p) * self.at_infinity if λ > 1 else 0.0, out)
            out = np.where(log_p == -inf, np.exp(log_q) * self.at_zero if λ < 0 else 0.0, out)
            return np.where((log_p == -inf) & (log_q == -inf), 0.0, out)

    def log_terms(self, log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
        both = np.isfinite(log_p) & np.isfinite(log_q)
        with np.errstate(invalid="ignore"):
            return np.where(both, self.order * log_p + (1 - self.order) * log_q, super().log_terms(log_p, log_q))


KL = Smooth(
    lambda t: np.exp(t) * t - np.expm1(t),
    lambda t: t + np.expm1(-t),
    at_zero=1.0,
    at_infinity=inf,
)
REVERSE_KL = Smooth(
    lambda t: np.expm1(t) - t,
    lambda t: -np.expm1(-t) - np.exp(-t) * t,
    at_zero=inf,
    at_infinity=1.0,
)
JEFFREYS = Smooth(
    lambda t: np.expm1(t) * t,
    lambda t: -np.expm1(-t) * t,
    at_zero=inf,
    at_infinity=inf,
)
TOTAL_VARIATION = Smooth(
    lambda t: -0.5 * np.expm1(t),
    lambda t: -0.5 * np.expm1(-t),
    at_zero=0.5,
    at_infinity=0.5,
)


def _half(t: np.ndarray) -> np.ndarray:
    # f(u) = 1/2 [u log u - (1 + u) log((1 + u)/2)] = 1/2 [e^t (t - L) - L] with L = log((1 + e^t)/2); t <= 0.
    middle = np.log1p(np.exp(t)) - LOG_2
    return 0.5 * (np.exp(t) * (t - middle) - middle)


#: Symmetric in p and q: e^-t f(e^t) = f(e^-t).
JENSEN_SHANNON = Smooth(_half, lambda t: _half(-np.minimum(t, _LARGEST)), at_zero=LOG_2 / 2, at_infinity=LOG_2 / 2)


def user(f: Callable[[Any], Any], at_zero: float | None, at_infinity: float | None) -> Smooth:
    """A generator from a person's f, checked: f(1) = 0, and slopes that never fall.

    Raises:
        IncompatibleError: f is no function of arrays, f(1) is not 0, f is not convex, or is not finite.
    """
    grid = np.concatenate([np.geomspace(1e-6, 1, 121), np.geomspace(1, 1e6, 121)[1:]])

    def values(u: np.ndarray) -> np.ndarray:
        try:
            with float64():
                out = np.asarray(f(u), np.float64)
        except Exception as e:
            raise IncompatibleError(
                f"f failed at an array of ratios ({type(e).__name__}: {e}). Needed: a function of an array u = p/q, "
                "elementwise, such as lambda u: u * np.log(u)."
            ) from e
        if out.shape != u.shape:
            raise IncompatibleError(f"f gave shape {out.shape} at ratios of shape {u.shape}; needed: elementwise.")
        return out

    at = values(grid)
    one = float(values(np.ones(1))[0])
    if not abs(one) < 1e-9:
        raise IncompatibleError(
            f"f(1) is {one:.6g}; an f-divergence needs f(1) = 0, so that it is zero where p = q. Subtract {one:.6g}."
        )
    if not np.isfinite(at).all():
        u = grid[~np.isfinite(at)][0]
        raise IncompatibleError(f"f({u:.3g}) is {at[~np.isfinite(at)][0]}; needed: finite for all 0 < u < ∞.")
    slope = np.diff(at) / np.diff(grid)
    rounding = 1e-12 * (np.abs(at[:-1]) + np.abs(at[1:])) / np.diff(grid)
    worst = np.diff(slope) + rounding[:-1] + rounding[1:] + 1e-9 * np.abs(slope[1:])
    if (worst < 0).any():
        i = int(np.argmax(worst < 0))
        raise IncompatibleError(
            f"f is not convex: its slope falls from {slope[i]:.8g} to {slope[i + 1]:.8g} about u = {grid[i + 1]:.3g}. "
            "For a concave f take -f; a sum of convex functions is convex."
        )
    if at_zero is None:
        with np.errstate(all="ignore"):
            at_zero = float(values(np.zeros(1))[0])
    if at_infinity is None:
        at_infinity = np.nan

    def left(t: np.ndarray) -> np.ndarray:
        return values(np.exp(t))

    def over_ratio(t: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            u = np.exp(t)
            return values(u) / u

    def right(t: np.ndarray) -> np.ndarray:
        out = over_ratio(np.minimum(t, _LARGEST))
        if not (t > _LARGEST).any():
            return out
        # Beyond the largest u, f(u)/u goes on as the power of t = log u that it is before it: the first of u log u.
        middle, last = over_ratio(np.array([_LARGEST / 2, _LARGEST]))
        with np.errstate(all="ignore"):
            power = np.log2(last / middle)
            growth = (np.maximum(t, _LARGEST) / _LARGEST) ** (power if np.isfinite(power) else 0.0)
            return out * growth

    return Smooth(left, right, at_zero=float(at_zero), at_infinity=float(at_infinity))
