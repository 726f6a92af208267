r"""Wishart and inverse Wishart, for precision and covariance matrices.

    log W(L | nu, V)        = (nu - d - 1)/2 log |L| - 1/2 tr(V L) + nu/2 log |V| - nu d/2 log 2 - log G_d(nu/2)
    log IW(S | nu, Psi)     = log W(S^-1 | nu, Psi) - (d + 1) log |S|

V is the rate matrix, the inverse of the scale matrix; G_d the multivariate gamma function.
"""

from __future__ import annotations

import math
from typing import Any

import numpyro.distributions as dist

from lowerbound.expectations.composed import value_of
from lowerbound.expectations.elementary import lgamma
from lowerbound.expectations.matrices import inverse, log_det
from lowerbound.expectations.rules.base import LogProb, Parameters, rule
from lowerbound.expectations.values import Value


def _given(d: Any) -> dict[str, Any]:
    base = d.base_dist
    if "rate_matrix" in base.__dict__:
        return {"nu": base.concentration, "rate": base.rate_matrix}
    return {"nu": base.concentration, "scale_tril": base.scale_tril}


def _rate(p: Parameters) -> Value:
    """The rate matrix V of a Wishart."""
    if "rate" in p:
        return p.rate
    root = p.scale_tril
    return inverse((root.expand(root.ndim - 1) * root.expand(root.ndim - 2)).sum(-1))


def wishart_log_prob(matrix: Value, log_det_matrix: Value, nu: Value, rate: Value) -> Value:
    """log W(matrix | nu, rate)."""
    d = matrix.shape[-1]
    trace = (rate * matrix).sum(-1, -2)
    multi = value_of(0.25 * d * (d - 1) * math.log(math.pi))
    for j in range(d):
        multi = multi + lgamma(nu * 0.5 - 0.5 * j)
    return (
        (nu - (d + 1.0)) * log_det_matrix * 0.5
        - trace * 0.5
        + nu * log_det(rate) * 0.5
        - nu * (0.5 * d * math.log(2))
        - multi
    )


@rule(dist.Wishart, parameters=_given)
def wishart(p: Parameters, x: object) -> LogProb:
    x = value_of(x)
    return LogProb(wishart_log_prob(x, log_det(x), p.nu, _rate(p)))


def _inverse_given(d: Any) -> dict[str, Any]:
    base = d.base_dist
    return {"nu": base.concentration, "scale_tril": base.scale_tril}


@rule(dist.InverseWishart, parameters=_inverse_given)
def inverse_wishart(p: Parameters, x: object) -> LogProb:
    x, root = value_of(x), p.scale_tril
    psi = (root.expand(root.ndim - 1) * root.expand(root.ndim - 2)).sum(-1)
    own = log_det(x)
    d = x.shape[-1]
    return LogProb(wishart_log_prob(inverse(x), own * -1.0, p.nu, psi) - own * (d + 1.0))
