r"""Categorical and multinomial.

    log Categorical(x | pi) = sum_k 1[x = k] log pi_k

with x data or a discrete latent; pi a simplex latent, an element of one (``theta[doc]``, ``phi[z]``), or constant.
"""

from __future__ import annotations

from typing import Any

import numpyro.distributions as dist

from lowerbound.expectations.composed import Composed, value_of
from lowerbound.expectations.elementary import exp, lgamma, log
from lowerbound.expectations.rearranging import index
from lowerbound.expectations.rules.base import LogProb, Parameters, rule
from lowerbound.expectations.values import IDENTITY, NotClosedForm, Value


def log_probabilities(p: Parameters) -> Value:
    """log pi, normalised."""
    if "probs" in p:
        probs = p.probs
        if probs.random and not _normalised(probs):
            raise NotClosedForm(
                "a probability vector that is not one simplex latent, so that its sum is random",
                rewrite="give it a Dirichlet prior",
            )
        out = log(probs)
        return out if probs.random else out - log(probs.sum(-1).expand(probs.ndim - 1))
    raw = p.raw("logits")
    logits = value_of(raw)
    if not logits.random:
        return logits - log(exp(logits).sum(-1).expand(logits.ndim - 1))
    if not _normalised(logits, of_logs=True):
        raise NotClosedForm(
            "the normalising constant of random logits", rewrite="give the probabilities a Dirichlet prior"
        )
    return logits


def _normalised(v: Value, *, of_logs: bool = False) -> bool:
    """Whether the last axis runs along the whole of one simplex latent."""
    if len(v.terms) != 1:
        return False
    (t,) = v.terms
    own = [a for a in t.atoms if a.latent.support == "simplex"]
    if v.axes[-1] is None:  # of one value alone
        return len(own) == 1 and own[0].latent.shape[-1] == 1 and not t.constants
    fine = len(own) == 1 and own[0].index[-1] is v.axes[-1] and not t.constants and t.exponent is None
    if not fine or own[0].latent.shape[-1] != v.axes[-1].size:
        return False
    return own[0].function.is_log if of_logs else own[0].function == IDENTITY


def _given(d: Any) -> dict[str, Any]:
    return {"logits": d.logits} if "logits" in d.__dict__ else {"probs": d.probs}


@rule(dist.CategoricalProbs, dist.CategoricalLogits, parameters=_given)
def categorical(p: Parameters, x: object) -> LogProb:
    if isinstance(x, Composed):
        raise NotClosedForm("a categorical value that is computed")
    return LogProb(index(log_probabilities(p), -1, value_of(x)))


@rule(
    dist.MultinomialProbs,
    dist.MultinomialLogits,
    parameters=_given,
)
def multinomial(p: Parameters, x: object) -> LogProb:
    """log n! - sum_k log x_k! + sum_k x_k log pi_k."""
    x = value_of(x)
    if x.random:
        raise NotClosedForm("a latent multinomial count")
    counts = lgamma(x.sum(-1) + 1.0) - lgamma(x + 1.0).sum(-1)
    return LogProb(counts + (x * log_probabilities(p)).sum(-1))
