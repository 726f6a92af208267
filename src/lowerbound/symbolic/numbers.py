"""Sides of a line at numbers for the symbols: closed forms evaluated, integrals by quadrature, to 20 digits."""

# SymPy annotates its functions more narrowly than what they take and give.
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mpmath
import sympy as sp

from lowerbound.errors import DataError
from lowerbound.symbolic.distributions import POSITIVE, REAL, Distribution
from lowerbound.symbolic.joint import Joint

_DIGITS = 20
#: Of the other rule: 1 - z of a z next to 1 needs more; nodes on each side, and per unit of s; and |T^-1(z)| at most.
_FINER, _NODES, _PER_UNIT, _FAR = 45, 240, 48, 90
#: Scales from the middle of q or of the posterior at which integrals are cut into parts.
_CUTS = (-8, -3, 0, 3, 8)


class Numbers:
    """A model and q at numbers for their symbols.

    Args:
        model, q: They.
        values: A number for each symbol, by name.

    Raises:
        DataError: a number is missing, belongs to no symbol, or is not what the symbol may be.
    """

    zero = mpmath.mpf(0)

    def __init__(self, model: Joint, q: Distribution, values: Mapping[str, float]):
        self.model, self.q = model, q
        at = model.values[0] if model.discrete else model.z
        used = sp.Add(*(model.log_joint(k) for k in model.values or (at,)))
        mine = sp.Add(*(q.log_density(k) for k in model.values or (at,)))
        symbols = sorted(
            (used.free_symbols | mine.free_symbols) - {model.z}, key=lambda s: (s.name, str(s.assumptions0))
        )
        names = [s.name for s in symbols]
        missing = [n for n in names if n not in values]
        extra = [n for n in values if n not in names]
        if missing or extra:
            raise DataError(
                f"values has {list(values)}; the symbols are {sorted(set(names))}."
                + (f" Missing: {missing}." if missing else "")
                + (f" Unknown: {extra}." if extra else "")
            )
        for s in symbols:
            if s.is_positive and not values[s.name] > 0:
                raise DataError(f"{s.name} = {values[s.name]!r}; needed: a positive number.")
        # The shortest decimals that are these numbers, so that 0.3 is three tenths to 20 digits.
        self._at = {s: sp.Float(repr(float(values[s.name])), _DIGITS) for s in symbols}
        self._programs: dict[tuple[Any, bool], Any] = {}
        self._edges: list[Any] | None = None
        self._check_values(values)

    def _check_values(self, values: Mapping[str, float]) -> None:
        """Raise where the data cannot have come from the likelihood, or a probability is none."""
        m = self.model
        likelihoods = [m.likelihood(k) for k in m.values or (m.z,)]
        for d in (self.q, m.prior, *likelihoods):
            for p in d.probabilities_of():
                at = p.subs(self._at)
                if at.is_number and not 0 < at < 1:
                    raise DataError(
                        f"{d!r} has the probability {p} = {float(at):g} at {dict(values)}; needed: one between 0 and 1."
                    )
        for x in m.data:
            for d in likelihoods:
                if x.name in values and not d.takes(float(values[x.name])):
                    raise DataError(f"{x.name} = {values[x.name]!r}, and p(x | z) is {d!r}; needed: {d.values()}.")

    def log(self, x: Any) -> Any:
        """In nats."""
        return mpmath.log(x)

    def value(self, e: sp.Expr | None) -> Any:
        """A closed form."""
        assert e is not None
        with mpmath.workdps(_DIGITS):
            return mpmath.mpmathify(sp.N(e.subs(self._at), _DIGITS))

    def integral(self, f: Callable[[Any], sp.Expr], *, other: bool = False) -> Any:
        """The integral of f(z): tanh-sinh over its parts, or with ``other`` the trapezoidal rule on a stretched line.

        Of a discrete latent, the sum.
        """
        m = self.model
        if m.discrete:
            return sum((self.value(f(k)) for k in m.values), self.zero)
        key = (f(m.z), other)
        if key not in self._programs:
            with mpmath.workdps(_FINER if other else _DIGITS):
                g = sp.lambdify(m.z, key[0].subs(self._at), "mpmath")
                self._programs[key] = self._stretched(g) if other else mpmath.quad(g, self._cuts())
        return self._programs[key]

    def _stretched(self, g: Callable[[Any], Any]) -> Any:
        """The integral over z = T(c + w sinh s), T onto the support, by the trapezoidal rule in s."""
        support, (low, high) = self.model.prior.support, self._ends()

        def stretch(mean: Any, sd: Any) -> tuple[Any, Any]:
            if support == REAL:
                return mean, sd
            if support == POSITIVE:
                return mpmath.log(mean), sd / mean
            return mpmath.log(mean / (1 - mean)), sd / (mean * (1 - mean))

        c, w = max((stretch(*p) for p in self._places()), key=lambda p: p[1])
        total = self.zero
        for i in range(-_NODES, _NODES + 1):
            s = mpmath.mpf(i) / _PER_UNIT
            t, weight = c + w * mpmath.sinh(s), w * mpmath.cosh(s) / _PER_UNIT
            if abs(t) > _FAR and support != REAL:  # z is 0, 1 or infinite to all digits
                continue
            z = {REAL: t, POSITIVE: mpmath.exp(t)}.get(str(support), 1 / (1 + mpmath.exp(-t)))
            if low < z < high:
                slope = {REAL: 1, POSITIVE: z}.get(str(support), z * (1 - z))
                total += g(z) * weight * slope
        return total

    def _places(self) -> list[tuple[Any, Any]]:
        """Mean and sd of q, and of the posterior or, where it is unknown, the prior."""
        both = (self.q, self.model.posterior or self.model.prior)
        return [(self.value(m), self.value(s)) for m, s in (d.place() for d in both)]

    def _ends(self) -> tuple[Any, Any]:
        """Where integrals end: what is left of a Gaussian's tail at 30 sds, or a gamma's at 120, is nothing."""
        places, support = self._places(), self.model.prior.support
        if support == REAL:
            return min(m - 30 * s for m, s in places), max(m + 30 * s for m, s in places)
        return self.zero, max(m + 120 * s for m, s in places) if support == POSITIVE else mpmath.mpf(1)

    def _cuts(self) -> list[Any]:
        """Places at which integrals are cut: about q, and about the posterior or, where it is unknown, the prior."""
        if self._edges is None:
            low, high = self._ends()
            found = {m + c * s for m, s in self._places() for c in _CUTS}
            self._edges = [low, *sorted(e for e in found if low < e < high), high]
        return self._edges
