r"""Gamma, inverse gamma, exponential, chi-squared.

    log Gamma(x | a, b)        = a log b - log Gamma(a) + (a - 1) log x - b x
    log InverseGamma(x | a, b) = a log b - log Gamma(a) - (a + 1) log x - b / x

Shape and rate may be random: a rate enters through b and log b, so a gamma prior on it is conjugate.
"""

from __future__ import annotations

import numpyro.distributions as dist

from lowerbound.expectations.composed import value_of
from lowerbound.expectations.elementary import lgamma, log, reciprocal
from lowerbound.expectations.rules.base import LogProb, Parameters, rule
from lowerbound.expectations.values import Value


def gamma_log_prob(x: Value, a: Value, b: Value) -> Value:
    """log Gamma(x | a, b)."""
    return a * log(b) - lgamma(a) + (a - 1.0) * log(x) - b * x


@rule(dist.Gamma, parameters=("concentration", "rate"))
def gamma(p: Parameters, x: object) -> LogProb:
    return LogProb(gamma_log_prob(value_of(x), p.concentration, p.rate))


@rule(dist.InverseGamma, parameters=("concentration", "rate"))
def inverse_gamma(p: Parameters, x: object) -> LogProb:
    x, a, b = value_of(x), p.concentration, p.rate
    return LogProb(a * log(b) - lgamma(a) - (a + 1.0) * log(x) - b * reciprocal(x))


@rule(dist.Exponential, parameters=("rate",))
def exponential(p: Parameters, x: object) -> LogProb:
    return LogProb(log(p.rate) - p.rate * value_of(x))
