"""Distributions with symbols for parameters: a log density in SymPy, and the expectations that have a closed form.

Parameters may be numbers, SymPy expressions, or names, from which symbols are made: positive ones where only positive
numbers serve.
"""

# SymPy annotates its functions more narrowly than what they take and give.
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportReturnType=false

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import sympy as sp

from lowerbound.errors import ModelError

REAL, POSITIVE, UNIT = "real", "positive", "unit"
#: Of the sum of probabilities that are floating-point numbers.
_ROUNDING = 1e-9


def real(value: Any) -> sp.Expr:
    """A number or expression as it is; of a name, a real symbol."""
    return sp.Symbol(_name(value), real=True) if isinstance(value, str) else sp.sympify(value)


def positive(value: Any) -> sp.Expr:
    """A number or expression as it is; of a name, a positive symbol."""
    out = sp.Symbol(_name(value), positive=True) if isinstance(value, str) else sp.sympify(value)
    if out.is_number and not out > 0:
        raise ModelError(f"a parameter is {out}; needed: a positive number, an expression or a name.")
    return out


def _name(given: str) -> str:
    if given == "pi" or not given.isidentifier():
        raise ModelError(
            f"a parameter is named {given!r}, which reads as the number π or as an expression. Give another name, or "
            "make the expression with SymPy."
        )
    return given


class Distribution(ABC):
    """A distribution of one number.

    Attributes:
        support: ``"real"``, ``"positive"``, ``"unit"``, or the values it can take, where they are finitely many; None
            where they are infinitely many and separate.
        letter: How LaTeX writes it.
    """

    support: str | tuple[int, ...] | None
    letter: str

    @abstractmethod
    def log_density(self, x: Any) -> sp.Expr:
        """log p(x) in nats."""

    @abstractmethod
    def parameters(self) -> tuple[sp.Expr, ...]:
        """As given."""

    def place(self) -> tuple[sp.Expr, sp.Expr]:
        """Mean and standard deviation, where integrals have their nodes."""
        raise ModelError(f"{type(self).__name__} is no distribution of a continuous latent.")

    def moment(self, term: sp.Expr, z: sp.Symbol) -> sp.Expr | None:
        """E[term] of a term without a constant factor; None where there is no rule."""
        return None

    def takes(self, x: float) -> bool:
        """Whether a number may be a value of it."""
        if isinstance(self.support, tuple):
            return x in self.support
        if self.support is None:
            return x >= 0 and x == int(x)
        return {REAL: True, POSITIVE: x > 0, UNIT: 0 < x < 1}[self.support]

    def values(self) -> str:
        """What a value may be, in words."""
        if isinstance(self.support, tuple):
            return "one of " + ", ".join(map(str, self.support))
        return {None: "a count", REAL: "a number", POSITIVE: "a positive number", UNIT: "a number between 0 and 1"}[
            self.support
        ]

    def probabilities_of(self) -> tuple[sp.Expr, ...]:
        """Probabilities that sum to one, where there are such; at numbers each must be positive."""
        return ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(str, self.parameters()))})"

    def latex(self) -> str:
        return rf"\mathrm{{{self.letter}}}\left({', '.join(sp.latex(p) for p in self.parameters())}\right)"


class Normal(Distribution):
    """Normal(mean, sd)."""

    support, letter = REAL, "Normal"

    def __init__(self, mean: Any, sd: Any):
        self.mean, self.sd = real(mean), positive(sd)

    def parameters(self) -> tuple[sp.Expr, ...]:
        return self.mean, self.sd

    def log_density(self, x: Any) -> sp.Expr:
        return -((x - self.mean) ** 2) / (2 * self.sd**2) - sp.log(self.sd) - sp.log(2 * sp.pi) / 2

    def place(self) -> tuple[sp.Expr, sp.Expr]:
        return self.mean, self.sd

    def moment(self, term: sp.Expr, z: sp.Symbol) -> sp.Expr | None:
        power = _power(term, z)
        if power is not None and power.is_Integer and power >= 0:
            # E[z^(k+1)] = m E[z^k] + k s^2 E[z^(k-1)], Stein's identity.
            before, now = sp.Integer(0), sp.Integer(1)
            for k in range(int(power)):
                before, now = now, self.mean * now + k * self.sd**2 * before
            return now
        if isinstance(term, sp.exp) and (slope := sp.Poly(term.args[0], z)).degree() == 1:
            a, b = slope.all_coeffs()
            return sp.exp(b + a * self.mean + a**2 * self.sd**2 / 2)
        return None


class Gamma(Distribution):
    """Gamma(shape, rate)."""

    support, letter = POSITIVE, "Gamma"

    def __init__(self, shape: Any, rate: Any):
        self.shape, self.rate = positive(shape), positive(rate)

    def parameters(self) -> tuple[sp.Expr, ...]:
        return self.shape, self.rate

    def log_density(self, x: Any) -> sp.Expr:
        a, b = self.shape, self.rate
        return a * sp.log(b) - sp.loggamma(a) + (a - 1) * sp.log(x) - b * x

    def place(self) -> tuple[sp.Expr, sp.Expr]:
        return self.shape / self.rate, sp.sqrt(self.shape) / self.rate

    def moment(self, term: sp.Expr, z: sp.Symbol) -> sp.Expr | None:
        if term == sp.log(z):
            return sp.digamma(self.shape) - sp.log(self.rate)
        power = _power(term, z)
        if power is not None and power.is_Integer and power >= 0:
            return sp.rf(self.shape, power) / self.rate**power
        return None


class Exponential(Distribution):
    """Exponential(rate)."""

    support, letter = POSITIVE, "Exponential"

    def __init__(self, rate: Any):
        self.rate = positive(rate)

    def parameters(self) -> tuple[sp.Expr, ...]:
        return (self.rate,)

    def log_density(self, x: Any) -> sp.Expr:
        return sp.log(self.rate) - self.rate * x

    def place(self) -> tuple[sp.Expr, sp.Expr]:
        return 1 / self.rate, 1 / self.rate

    def moment(self, term: sp.Expr, z: sp.Symbol) -> sp.Expr | None:
        return Gamma(1, self.rate).moment(term, z)


class Beta(Distribution):
    """Beta(a, b)."""

    support, letter = UNIT, "Beta"

    def __init__(self, a: Any, b: Any):
        self.a, self.b = positive(a), positive(b)

    def parameters(self) -> tuple[sp.Expr, ...]:
        return self.a, self.b

    def log_density(self, x: Any) -> sp.Expr:
        a, b = self.a, self.b
        normaliser = sp.loggamma(a + b) - sp.loggamma(a) - sp.loggamma(b)
        return normaliser + (a - 1) * sp.log(x) + (b - 1) * sp.log(1 - x)

    def place(self) -> tuple[sp.Expr, sp.Expr]:
        a, b = self.a, self.b
        return a / (a + b), sp.sqrt(a * b / (a + b + 1)) / (a + b)

    def moment(self, term: sp.Expr, z: sp.Symbol) -> sp.Expr | None:
        a, b = self.a, self.b
        if term == sp.log(z):
            return sp.digamma(a) - sp.digamma(a + b)
        if term == sp.log(1 - z):
            return sp.digamma(b) - sp.digamma(a + b)
        power = _power(term, z)
        if power is not None and power.is_Integer and power >= 0:
            return sp.rf(a, power) / sp.rf(a + b, power)
        return None


class Categorical(Distribution):
    """Values 0 .. k - 1 with these probabilities, the last of which may be left to the others: ``["pi", None]``."""

    letter = "Categorical"

    def __init__(self, probabilities: Sequence[Any]):
        given = list(probabilities)
        if len(given) < 2 or None in given[:-1]:
            raise ModelError(f"Categorical({given!r}): needed: two probabilities or more; only the last may be None.")
        found = [positive(p) for p in given if p is not None]
        self.probabilities = tuple(found if given[-1] is not None else [*found, 1 - sum(found)])
        total, rest = sum(self.probabilities), self.probabilities[-1]
        if total.is_number and not abs(total - 1) < _ROUNDING:
            raise ModelError(
                f"Categorical({given!r}): the probabilities sum to {total}; needed: 1. Leave the last to the others: "
                "None."
            )
        if rest.is_number and not rest > 0:
            raise ModelError(f"Categorical({given!r}): the last probability is {rest}; needed: a positive number.")
        self.support = tuple(range(len(self.probabilities)))

    def parameters(self) -> tuple[sp.Expr, ...]:
        return self.probabilities

    def probabilities_of(self) -> tuple[sp.Expr, ...]:
        return self.probabilities

    def log_density(self, x: Any) -> sp.Expr:
        return sp.log(self.probabilities[int(x)])


class Bernoulli(Distribution):
    """1 with probability p, else 0."""

    support, letter = (0, 1), "Bernoulli"

    def __init__(self, p: Any):
        self.p = positive(p)
        if self.p.is_number and not self.p < 1:
            raise ModelError(f"Bernoulli({self.p}): needed: a probability below 1.")

    def parameters(self) -> tuple[sp.Expr, ...]:
        return (self.p,)

    def probabilities_of(self) -> tuple[sp.Expr, ...]:
        return self.p, 1 - self.p

    def log_density(self, x: Any) -> sp.Expr:
        return x * sp.log(self.p) + (1 - x) * sp.log(1 - self.p)


class Binomial(Distribution):
    """Successes in n trials, each with probability p."""

    support, letter = None, "Binomial"

    def __init__(self, n: Any, p: Any):
        self.n, self.p = positive(n), positive(p)

    def parameters(self) -> tuple[sp.Expr, ...]:
        return self.n, self.p

    def takes(self, x: float) -> bool:
        return super().takes(x) and not (self.n.is_number and x > self.n)

    def probabilities_of(self) -> tuple[sp.Expr, ...]:
        return self.p, 1 - self.p

    def log_density(self, x: Any) -> sp.Expr:
        ways = sp.loggamma(self.n + 1) - sp.loggamma(x + 1) - sp.loggamma(self.n - x + 1)
        return ways + x * sp.log(self.p) + (self.n - x) * sp.log(1 - self.p)


class Poisson(Distribution):
    """Poisson(rate)."""

    support, letter = None, "Poisson"

    def __init__(self, rate: Any):
        self.rate = positive(rate)

    def parameters(self) -> tuple[sp.Expr, ...]:
        return (self.rate,)

    def log_density(self, x: Any) -> sp.Expr:
        return x * sp.log(self.rate) - self.rate - sp.loggamma(x + 1)


def _power(term: sp.Expr, z: sp.Symbol) -> sp.Expr | None:
    """k of z^k; 0 of 1."""
    if term == 1:
        return sp.Integer(0)
    if term == z:
        return sp.Integer(1)
    return term.exp if isinstance(term, sp.Pow) and term.base == z else None
