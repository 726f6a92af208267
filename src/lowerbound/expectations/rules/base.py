"""Rules: the log density of a distribution whose parameters and value are random.

A rule is a function ``rule(p, x) -> LogProb`` for one class of distributions: ``p`` has its parameters, ``x`` is where
it is evaluated, both random values. What it returns is a value again, whose expectation is that of the log density
exactly; or bounds, where a known augmentation gives one. A class without a rule is not lost: its own ``log_prob`` is
then interpreted as any other code is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from numpyro.distributions import Distribution

from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.composed import value_of
from lowerbound.expectations.values import Value


@dataclass(frozen=True, eq=False)
class Bound:
    """A lower bound of an expectation that is a function of other expectations, elementwise.

    Given q(z), an auxiliary variable w with a density p(y, w | z) and its own q(w), at the best q(w), contributes
    log sum_w exp E_q[log p(y, w | z)]: a function of E_q of the statistics of z in log p(y, w | z).

    Args:
        name: Of the augmentation.
        inputs: The values whose expectations it is a function of, over the same axes.
        function: From their expectations to the bound.
        gaussian: Whether it holds where the latents in the inputs are Gaussian alone. It is then no linear function of
            the moments from below either, so that a step to the optimum of its slope is tried before it is taken.
        inside: How many of the inputs' last dimensions are inside of one element of the factor.
    """

    name: str
    inputs: tuple[Value, ...]
    function: Callable[..., Any]
    gaussian: bool = False
    inside: int = 0


class LogProb(NamedTuple):
    """A log density: a value, plus bounds."""

    value: Value
    bounds: tuple[Bound, ...] = ()


class Parameters:
    """The parameters of a distribution by name, as random values."""

    def __init__(self, raw: dict[str, Any]):
        self._raw = raw

    @property
    def all(self) -> dict[str, Any]:
        """Every one, in or outside of the algebra."""
        return self._raw

    def raw(self, name: str) -> Any:
        """As it is, in or outside of the algebra."""
        found = self._raw[name]
        if isinstance(found, NotClosedForm):
            raise found
        return found

    def __getattr__(self, name: str) -> Value:
        if name.startswith("__"):
            raise AttributeError(name)
        return value_of(self.raw(name))

    def __contains__(self, name: str) -> bool:
        return name in self._raw


Rule = Callable[[Parameters, Any], LogProb]


class Entry(NamedTuple):
    """A rule, and how it gets the parameters of a distribution."""

    rule: Rule
    parameters: Callable[[Any], dict[str, Any]]


#: From classes of distributions to their rules.
RULES: dict[type, Entry] = {}
#: From classes of distributions that are made of others to what makes their rules.
MAKERS: dict[type, Callable[[Any], Entry | None]] = {}


def rule(*classes: Any, parameters: Any) -> Callable[[Rule], Rule]:
    """Register a rule. ``parameters`` are names of attributes, or a function from the distribution to a dictionary."""

    def given(d: Any) -> dict[str, Any]:
        found: Any = parameters(d) if callable(parameters) else {n: getattr(d, n) for n in parameters}
        return found

    def register(f: Rule) -> Rule:
        for c in classes:
            RULES[c] = Entry(f, given)
        return f

    return register


def rule_for(distribution: Distribution) -> Entry | None:
    """The rule of a distribution's class, or of the nearest class it is derived from."""
    if type(distribution) in MAKERS:
        return MAKERS[type(distribution)](distribution)
    for c in type(distribution).__mro__:
        if c in RULES:
            return RULES[c]
    return None
