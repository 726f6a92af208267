r"""Random logits and probits: bounds by augmentation.

*Polya-Gamma* (Polson, Scott & Windle 2013; the bound is that of Jaakkola & Jordan 2000, as Durante & Rigon 2019
show). With n trials and h hits at log-odds eta,

    log p(h | eta) = h eta - n log(1 + e^eta)
                  >= (h - n/2) eta + n [log s(c) - c/2] - n tanh(c/2) / (4c) (eta^2 - c^2),

s the logistic function, for every c; in expectation the best is c^2 = E[eta^2], where the last term is zero. The
weight tanh(c/2) / (2c) is the mean of a Polya-Gamma(1, c) variable.

*Albert & Chib* (1993), for probits: y = 1 where w ~ N(eta, 1) is positive. With the best q(w), a truncated normal,

    E[log p(y | eta)] >= log Phi(s E[eta]) - Var(eta) / 2,          s = 2y - 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.composed import Composed, source, value_of
from lowerbound.expectations.elementary import power
from lowerbound.expectations.rules.base import Bound, LogProb, Parameters
from lowerbound.expectations.tables import as_table
from lowerbound.expectations.values import Value

#: Where a function is compared with the logistic and the normal distribution function.
_PROBE = np.array([-7.3, -3.1, -1.7, -0.83, -0.21, 0.13, 0.47, 1.3, 2.9, 6.1])


def log_odds(p: Parameters) -> tuple[str, Value] | None:
    """The link and its argument, where a probability is one of something random; else None."""
    if "logits" in p:
        eta = p.logits
        return ("logistic", eta) if eta.random else None
    raw = source(p.raw("probs"))
    if not isinstance(raw, Composed):
        return None
    return link(raw)


def link(f: Composed) -> tuple[str, Value] | None:
    """Whether a function is s(a t) or Phi(a t), however it was written: by its values."""
    with jax.ensure_compile_time_eval():
        at = np.asarray(f.call(jnp.asarray(_PROBE)))
        slope = float(jax.grad(lambda t: jnp.sum(f.call(t)))(jnp.zeros(1))[0])
        if abs(slope) < 1e-12 or not np.isfinite(at).all():
            return None
        for name, g, own in (
            ("logistic", jax.nn.sigmoid, 0.25),
            ("probit", jax.scipy.special.ndtr, 1 / np.sqrt(2 * np.pi)),
        ):
            a = slope / own
            if np.allclose(at, np.asarray(g(a * jnp.asarray(_PROBE))), rtol=1e-8, atol=1e-12):
                return name, f.inner * a
    return None


def logistic_bound(found: tuple[str, Value], hits: Value, misses: Value) -> LogProb:
    """hits log p + misses log(1 - p) from below."""
    name, eta = found
    trials = hits + misses
    if trials.random:  # a latent outcome: the bound is one for each of its values, and the number of trials is known
        table = as_table(trials)
        if table is None or not table[1].known or np.ptp(table[1].array):
            raise NotClosedForm("a latent number of trials with random logits")
        trials = value_of(float(table[1].array.flat[0]))
    if name == "logistic":
        return LogProb(
            (hits - misses) * eta * 0.5, (Bound("Pólya–Gamma", (power(eta, 2), trials + eta * 0.0), _jaakkola),)
        )
    return LogProb(value_of(0.0), (Bound("Albert–Chib", (eta, power(eta, 2), hits, misses), _albert),))


def _jaakkola(square: jax.Array, trials: jax.Array) -> jax.Array:
    c = jnp.sqrt(jnp.maximum(square, 1e-300))
    # log s(c) - c / 2 = -log(2 cosh(c / 2)), even in c
    return -trials * (jnp.abs(c) / 2 + jnp.log1p(jnp.exp(-jnp.abs(c))))


def _albert(mean: jax.Array, square: jax.Array, hits: jax.Array, misses: jax.Array) -> jax.Array:
    log_ndtr = jax.scipy.special.log_ndtr
    spread = 0.5 * (square - mean**2)
    return hits * (log_ndtr(mean) - spread) + misses * (log_ndtr(-mean) - spread)
