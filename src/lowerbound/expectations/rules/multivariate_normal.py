r"""Multivariate normal, with a precision matrix, a covariance matrix or a Cholesky factor.

    log N(x | mu, P^-1) = -1/2 (x - mu)' P (x - mu) + 1/2 log |P| - d/2 log 2 pi

P may be a Wishart latent (or ``Lambda[z]``); its inverse where the latent is the covariance.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist

from lowerbound.expectations.composed import value_of
from lowerbound.expectations.matrices import inverse, log_det
from lowerbound.expectations.rules.base import LogProb, Parameters, rule
from lowerbound.expectations.values import Value


def _given(d: Any) -> dict[str, Any]:
    if "precision_matrix" in d.__dict__:
        return {"loc": d.loc, "precision_matrix": d.precision_matrix}
    if "covariance_matrix" in d.__dict__:
        return {"loc": d.loc, "covariance_matrix": d.covariance_matrix, "scale_tril": d.scale_tril}
    return {"loc": d.loc, "scale_tril": d.scale_tril}


def mvn_log_prob(x: Value, loc: Value, precision: Value, log_det_precision: Value) -> Value:
    """log N(x | loc, precision^-1)."""
    d = x - loc
    size = max(d.shape[-1], precision.shape[-1])
    quadratic = (d.expand(d.ndim - 1) * d.expand(d.ndim) * precision).sum(-1, -2)
    return quadratic * -0.5 + log_det_precision * 0.5 - 0.5 * size * math.log(2 * math.pi)


@rule(dist.MultivariateNormal, parameters=_given)
def multivariate_normal(p: Parameters, x: object) -> LogProb:
    x = value_of(x)
    if "precision_matrix" in p:
        precision = p.precision_matrix
        return LogProb(mvn_log_prob(x, p.loc, precision, log_det(precision)))
    if "covariance_matrix" in p and p.covariance_matrix.random:
        covariance = p.covariance_matrix
        return LogProb(mvn_log_prob(x, p.loc, inverse(covariance), log_det(covariance) * -1.0))
    root = p.scale_tril
    if not root.random:
        covariance = (root.expand(root.ndim - 1) * root.expand(root.ndim - 2)).sum(-1)
        return LogProb(mvn_log_prob(x, p.loc, inverse(covariance), log_det(covariance) * -1.0))
    from lowerbound.expectations.atoms import NotClosedForm

    raise NotClosedForm(
        "a random Cholesky factor", rewrite="give the precision matrix a Wishart prior, and pass precision_matrix="
    )


__all__ = ["jnp", "multivariate_normal", "mvn_log_prob"]
