r"""Poisson, Bernoulli, binomial, geometric and negative binomial.

    log Poisson(x | r)      = x log r - r - log x!
    log Bernoulli(x | p)    = x log p + (1 - x) log(1 - p)
    log Binomial(x | n, p)  = log C(n, x) + x log p + (n - x) log(1 - p)

A Poisson rate may be a product of gamma latents, or the exponential of anything affine in Gaussians. Random logits
have bounds: :mod:`~lowerbound.expectations.rules.logistic`.
"""

from __future__ import annotations

from typing import Any

import numpyro.distributions as dist

from lowerbound.expectations.operations import value_of
from lowerbound.expectations.rules.base import LogProb, Parameters, rule
from lowerbound.expectations.rules.logistic import log_odds, logistic_bound
from lowerbound.expectations.values import Value, lgamma, log


@rule(dist.Poisson, parameters=("rate",))
def poisson(p: Parameters, x: object) -> LogProb:
    x, r = value_of(x), p.rate
    return LogProb(x * log(r) - r - lgamma(x + 1.0))


def trials_log_prob(p: Parameters, hits: Value, misses: Value) -> LogProb:
    """hits log p + misses log(1 - p), from probabilities or logits."""
    found = log_odds(p)
    if found is not None:
        return logistic_bound(found, hits, misses)
    probs = p.probs
    return LogProb(hits * log(probs) + misses * log(1.0 - probs))


def _given(d: Any) -> dict[str, Any]:
    return {"logits": d.logits} if "logits" in d.__dict__ else {"probs": d.probs}


@rule(dist.BernoulliProbs, dist.BernoulliLogits, parameters=_given)
def bernoulli(p: Parameters, x: object) -> LogProb:
    x = value_of(x)
    return trials_log_prob(p, x, 1.0 - x)


@rule(dist.BinomialProbs, dist.BinomialLogits, parameters=lambda d: _given(d) | {"total_count": d.total_count})
def binomial(p: Parameters, x: object) -> LogProb:
    x, n = value_of(x), p.total_count
    value, bounds = trials_log_prob(p, x, n - x)
    return LogProb(value + lgamma(n + 1.0) - lgamma(x + 1.0) - lgamma(n - x + 1.0), bounds)


@rule(dist.GeometricProbs, dist.GeometricLogits, parameters=_given)
def geometric(p: Parameters, x: object) -> LogProb:
    x = value_of(x)
    return trials_log_prob(p, x * 0.0 + 1.0, x)
