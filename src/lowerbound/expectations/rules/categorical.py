r"""Categorical and multinomial.

    log Categorical(x | pi) = sum_k 1[x = k] log pi_k

with x data or a discrete latent; pi a simplex latent, an element of one (``theta[doc]``, ``phi[z]``), or constant.

Of random logits eta the normaliser is bounded by Jensen's inequality (Braun & McAuliffe 2010): of Gaussian eta

    E[-log sum_k exp(eta_k)]  >=  -log sum_k E[exp(eta_k)]  =  -log sum_k exp(E[eta_k] + Var(eta_k) / 2).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.axes import Axis, Const, Index, Lookup
from lowerbound.expectations.composed import Composed, value_of
from lowerbound.expectations.elementary import exp, lgamma, log, power
from lowerbound.expectations.rearranging import index, taken
from lowerbound.expectations.rules.base import Bound, LogProb, Parameters, rule
from lowerbound.expectations.tables import conditioned
from lowerbound.expectations.values import IDENTITY, Term, Value, as_value, constant_of


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
    logits = p.logits
    if not logits.random:
        return logits - log(exp(logits).sum(-1).expand(logits.ndim - 1))
    return logits


def normaliser(p: Parameters, times: Value) -> tuple[Bound, ...]:
    """The bound of -n log sum_k exp(eta_k), ``times`` n; nothing where the logits are normalised."""
    if "probs" in p or not p.logits.random or _is_log_simplex(p.logits):
        return ()
    eta = p.logits
    n = eta.shape[-1]
    _, given = conditioned(eta)
    affine = all(
        t.exponent is None
        and len(t.atoms) <= 1
        and all(a.latent.support == "real" and a.function == IDENTITY for a in t.atoms)
        for t in given.terms
    )
    if not affine or n > _CLASSES:
        many = "" if affine else ", which are not affine in Gaussians"
        raise NotClosedForm(
            f"the normalising constant of random logits{many or f', over {n} values'}",
            rewrite="give the probabilities a Dirichlet prior",
        )
    each = [taken(eta, eta.ndim - 1, np.array([k])).squeeze(eta.ndim - 1) for k in range(n)]
    inputs = tuple(v for e in each for v in (e, power(e, 2)))
    return (Bound("Jensen's inequality", (*inputs, times + each[0] * 0.0), _log_sum, gaussian=True),)


#: Values up to which random logits have a bound: each has two expectations of its own.
_CLASSES = 64


def _log_sum(*parts: jax.Array) -> jax.Array:
    *moments, times = parts
    pairs = zip(moments[::2], moments[1::2], strict=True)
    upper = jnp.broadcast_arrays(*(m + 0.5 * (s - m**2) for m, s in pairs))
    return -times * jax.scipy.special.logsumexp(jnp.stack(upper), axis=0)


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
    return LogProb(index(log_probabilities(p), -1, value_of(x)), normaliser(p, as_value(1.0)))


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
    return LogProb(counts + (x * log_probabilities(p)).sum(-1), normaliser(p, x.sum(-1)))
