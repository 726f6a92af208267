r"""Categorical and multinomial.

    log Categorical(x | pi) = sum_k 1[x = k] log pi_k

with x data or a discrete latent; pi a simplex latent, an element of one (``theta[doc]``, ``phi[z]``), or constant.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpyro.distributions as dist

from lowerbound.expectations.axes import Axis, Const, Index, Lookup
from lowerbound.expectations.composed import Composed, value_of
from lowerbound.expectations.elementary import exp, lgamma, log
from lowerbound.expectations.rearranging import index
from lowerbound.expectations.rules.base import LogProb, Parameters, rule
from lowerbound.expectations.tables import conditioned
from lowerbound.expectations.values import IDENTITY, NotClosedForm, Term, Value, as_value, constant_of


def log_probabilities(p: Parameters) -> Value:
    """log pi, normalised."""
    if "probs" in p:
        probs = p.probs
        total = sums(probs)
        if total is None:
            raise NotClosedForm(
                "a probability vector that is not one simplex latent, so that its sum is random",
                rewrite="give it a Dirichlet prior",
            )
        return log(probs) - log(total).expand(probs.ndim - 1)
    raw = p.raw("logits")
    logits = value_of(raw)
    if not logits.random:
        return logits - log(exp(logits).sum(-1).expand(logits.ndim - 1))
    if not _is_log_simplex(logits):
        raise NotClosedForm(
            "the normalising constant of random logits", rewrite="give the probabilities a Dirichlet prior"
        )
    return logits


def sums(v: Value) -> Value | None:
    """The sums over the last axis of constants; one, where that is the sum given any discrete latents; else None.

    A term that runs along the whole of a simplex latent, and nothing else of it does, sums to what is left of it.
    """
    _, given = conditioned(v)
    last = v.axes[-1]
    out: list[Term] = []
    for t in given.terms:
        own = [a for a in t.atoms if a.latent.support == "simplex"]
        if not own and not t.atoms and t.exponent is None:
            out.append(t)
            continue
        if len(own) != 1 or len(t.atoms) != 1 or t.exponent is not None or own[0].function != IDENTITY:
            return None
        (a,) = own
        whole = a.latent.shape[-1] == 1 if last is None else a.latent.shape[-1] == last.size and a.index[-1] is last
        if not whole or any(last in c.axes for c in t.constants) or any(_runs(i, last) for i in a.index[:-1]):
            return None
        share = Const(np.asarray(1.0 / a.latent.shape[-1]), ())  # so that the sum over the axis is one
        out.append(replace(t, constants=(*t.constants, share), atoms=()))
    total = constant_of(Value(given.axes, tuple(out)).sum(v.ndim - 1))
    if not v.random:
        return Value(v.axes[:-1], (Term((total,)),))
    return as_value(1.0) if total.known and np.allclose(total.array, 1.0, rtol=1e-12, atol=0.0) else None


def _runs(i: Index, axis: Axis | None) -> bool:
    """Whether an index differs along an axis."""
    if not isinstance(i, Lookup) or axis not in i.axes:
        return i is axis
    if not isinstance(i.array, np.ndarray):
        return True
    return bool(np.ptp(i.array, axis=i.axes.index(axis)).any())


def _is_log_simplex(v: Value) -> bool:
    """Whether a value is the logarithms of the whole of one simplex latent, along the last axis."""
    if len(v.terms) != 1 or v.axes[-1] is None:
        return False
    (t,) = v.terms
    own = [a for a in t.atoms if a.latent.support == "simplex"]
    fine = len(own) == 1 and own[0].index[-1] is v.axes[-1] and not t.constants and t.exponent is None
    return fine and own[0].latent.shape[-1] == v.axes[-1].size and own[0].function.is_log


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
