r"""Normal, log-normal and half-normal.

    log N(x | mu, sigma) = -1/2 sigma^-2 (x - mu)^2 - log sigma - 1/2 log 2 pi

Any scale whose inverse square and logarithm are in the algebra will do: sigma, 1 / sqrt(tau), exp(h / 2),
s / sqrt(w tau).
"""

from __future__ import annotations

import math

import numpyro.distributions as dist

from lowerbound.expectations.composed import value_of
from lowerbound.expectations.elementary import log, power
from lowerbound.expectations.rules.base import LogProb, Parameters, rule
from lowerbound.expectations.values import Value

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def normal_log_prob(x: Value, loc: Value, scale: Value) -> Value:
    """log N(x | loc, scale)."""
    return power(x - loc, 2) * power(scale, -2) * -0.5 - log(scale) - _HALF_LOG_2PI


@rule(dist.Normal, parameters=("loc", "scale"))
def normal(p: Parameters, x: object) -> LogProb:
    return LogProb(normal_log_prob(value_of(x), p.loc, p.scale))


@rule(dist.LogNormal, parameters=("loc", "scale"))
def log_normal(p: Parameters, x: object) -> LogProb:
    """y = log x is normal, and dy / dx = 1 / x."""
    y = log(value_of(x))
    return LogProb(normal_log_prob(y, p.loc, p.scale) - y)


@rule(dist.HalfNormal, parameters=("scale",))
def half_normal(p: Parameters, x: object) -> LogProb:
    """Twice the density of a normal, above zero."""
    return LogProb(power(value_of(x), 2) * power(p.scale, -2) * -0.5 - log(p.scale) + (math.log(2) - _HALF_LOG_2PI))
