r"""Beta and Dirichlet.

log Beta(x | a, b)   = (a - 1) log x + (b - 1) log(1 - x) + log Gamma(a + b) - log Gamma(a) - log Gamma(b)
log Dirichlet(x | a) = sum_k (a_k - 1) log x_k + log Gamma(sum_k a_k) - sum_k log Gamma(a_k)
"""

from __future__ import annotations

import numpyro.distributions as dist

from lowerbound.expectations.composed import value_of
from lowerbound.expectations.elementary import lgamma, log
from lowerbound.expectations.rules.base import LogProb, Parameters, rule


@rule(
    dist.Beta,
    parameters=lambda d: {"a": d._dirichlet.concentration[..., 0], "b": d._dirichlet.concentration[..., 1]},
)
def beta(p: Parameters, x: object) -> LogProb:
    x = value_of(x)
    return LogProb((p.a - 1.0) * log(x) + (p.b - 1.0) * log(1.0 - x) + lgamma(p.a + p.b) - lgamma(p.a) - lgamma(p.b))


@rule(dist.Dirichlet, parameters=("concentration",))
def dirichlet(p: Parameters, x: object) -> LogProb:
    a = p.concentration
    return LogProb((((a - 1.0) * log(value_of(x))).sum(-1)) + lgamma(a.sum(-1)) - lgamma(a).sum(-1))
