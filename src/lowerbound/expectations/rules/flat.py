"""Uniform, improper uniform, and terms of the log density that are given as they are (``numpyro.factor``)."""

from __future__ import annotations

import numpyro.distributions as dist

from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.composed import value_of
from lowerbound.expectations.elementary import log
from lowerbound.expectations.rules.base import LogProb, Parameters, rule
from lowerbound.expectations.rules.mixture import log_prob_of


@rule(dist.Uniform, parameters=("low", "high"))
def uniform(p: Parameters, x: object) -> LogProb:
    """-log(high - low) inside, where the latent's support keeps it."""
    low, high = p.low, p.high
    if low.random or high.random:
        raise NotClosedForm("a uniform distribution with random ends")
    return LogProb(value_of(x) * 0.0 - log(high - low))


@rule(dist.ImproperUniform, parameters=())
def improper_uniform(p: Parameters, x: object) -> LogProb:
    return LogProb(value_of(0.0))


@rule(dist.Unit, parameters=("log_factor",))
def factor(p: Parameters, x: object) -> LogProb:
    return log_prob_of(p.raw("log_factor"))
