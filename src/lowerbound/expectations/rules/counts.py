r"""Poisson, Bernoulli, binomial, geometric and negative binomial (gamma-Poisson).

    log Poisson(x | r)      = x log r - r - log x!
    log Bernoulli(x | p)    = x log p + (1 - x) log(1 - p)
    log Binomial(x | n, p)  = log C(n, x) + x log p + (n - x) log(1 - p)

    log GammaPoisson(x | a, b) = log G(a + x) - log G(a) - log x! + x log m - (a + x) log(1 + m),     m = 1 / b

A gamma-Poisson with log m affine in Gaussians has log-odds eta = log m in x eta - (a + x) log(1 + e^eta), and so the
bound of a binomial; with m in the algebra, -log(1 + m) is convex and E -log(1 + m) >= -log(1 + E m), a gamma mixture of
Poissons.

A Poisson rate may be a product of gamma latents, or the exponential of anything affine in Gaussians. Random logits
have bounds: :mod:`~lowerbound.expectations.rules.logistic`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist

from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.composed import value_of
from lowerbound.expectations.elementary import apply, lgamma, log, reciprocal
from lowerbound.expectations.rules.base import Bound, LogProb, Parameters, rule
from lowerbound.expectations.rules.logistic import log_odds, logistic_bound
from lowerbound.expectations.tables import as_table
from lowerbound.expectations.values import Value


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
    if as_table(misses) is not None:
        # 1 - z as sum_k 1[z = k] (1 - k): so that an element without weight counts nothing (where a fit starts).
        misses = apply(misses, "misses", lambda f: None, lambda a: a)
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


@rule(dist.GammaPoisson, parameters=("concentration", "rate"))
def gamma_poisson(p: Parameters, x: object) -> LogProb:
    x, a, b = value_of(x), p.concentration, p.rate
    if x.random:
        raise NotClosedForm("a latent count")
    eta = log(b) * -1.0
    constant = lgamma(a + x) - lgamma(a) - lgamma(x + 1.0)
    if not b.random:
        return LogProb(constant + x * eta - (a + x) * log(reciprocal(b) + 1.0))
    if a.random:
        raise NotClosedForm("a random concentration beside a random rate")
    if any(t.exponent is not None for t in b.terms):
        bound = logistic_bound(("logistic", eta), x, a)
        return LogProb(constant + bound.value, bound.bounds)
    tail = Bound("gamma mixture of Poissons", (reciprocal(b), a + x), lambda m, n: -n * jnp.log1p(m))
    return LogProb(constant + x * eta, (tail,))
