r"""log p(x, u) and the integrands of the ELBO and of the divergence, where some latents may be discrete.

Over the continuous u and the discrete z that q has, with log p(x, u, z) = c(u) + sum_n l_{n, z_n}(u) and q(z) the
product of q_n,

    log p(x, u)                              the compiled kernel, z summed out
    gain = c + sum_n q_n . l_n + H(q(z)) - log q(u)                   its mean under q is the ELBO
    loss = log q(u) - log p(x, u) + sum_n KL(q_n ‖ p(z_n | u, x))     its mean under q is KL - log p(x)

which add up to zero: the chain rule of KL, here met by two different computations. Without such z the two have no terms
to differ in, and what sets them apart is where they are evaluated.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import entr, log_softmax, xlogy

from lowerbound.algorithms.marginal import component_log_probs
from lowerbound.closed_form import factored_of, summed_out
from lowerbound.decomposition.approximation import Approximation
from lowerbound.kernel import Kernel
from lowerbound.model.base import Model
from lowerbound.precision import float64

_ROWS = 256


class Terms(NamedTuple):
    """At points v of q: log q_v, and the integrands of the ELBO and of KL - log p(x), ``[n]`` each."""

    log_q: np.ndarray
    gain: np.ndarray
    loss: np.ndarray


class Target:
    """A model and a q over its latents.

    Args:
        model: With its discrete latents.
        q: With probabilities of all of them, or of none: they are then summed out.

    Raises:
        IncompatibleError: there are discrete latents that depend on each other given the rest.
    """

    def __init__(self, model: Model, q: Approximation):
        self.q = q
        self.kernel = Kernel(summed_out(model) if model.discrete else model)
        self._logits: Any = None
        if q.labels:
            factored = factored_of(model, num_draws=1)

            def logits(u: Any) -> Any:
                values = model.evaluate(model.unflatten(u), model.arguments, False)
                return component_log_probs(factored, {n: values.values[n] for n in model.sites}), values.log_det

            with float64():
                self._logits = jax.jit(jax.vmap(logits))

    def log_p(self, u: np.ndarray) -> np.ndarray:
        """log p(x, u) ``[n]``; -inf where it is not a number."""
        with np.errstate(all="ignore"):
            value = self.kernel(np.nan_to_num(u, posinf=1e300, neginf=-1e300))[0]
        return np.where(np.isnan(value) | ~np.isfinite(u).all(1), -np.inf, value)

    def terms(self, v: np.ndarray) -> Terms:
        """The integrands at points of q ``[n, p]``."""
        at = self.q.points(v)
        log_p = self.log_p(at.u)
        with np.errstate(all="ignore"):
            loss = at.log_q_u - log_p
            if self._logits is None:
                return Terms(at.log_q, -loss, loss)
            gain = np.empty(len(v))
            for i in range(0, len(v), _ROWS):
                u = at.u[i : i + _ROWS]
                k = len(u)
                padded = np.concatenate([u, np.repeat(u[-1:], _ROWS - k, 0)])
                with float64():
                    (constant, found), log_det = self._logits(padded)
                own = np.asarray(constant)[:k] + np.asarray(log_det)[:k]
                for n, labels in self.q.labels.items():
                    logits, probabilities = np.asarray(found[n])[:k], labels.probabilities
                    axes = tuple(range(1, logits.ndim))
                    own = (
                        own
                        + np.where(probabilities > 0, probabilities * logits, 0.0).sum(axes)
                        + entr(probabilities).sum()
                    )
                    # Of logarithms: far from a component p(z_n = k | u, x) is e^-1000, small and not impossible.
                    surprise = np.where(probabilities > 0, probabilities * -log_softmax(logits, axis=-1), 0.0)
                    loss[i : i + k] += (xlogy(probabilities, probabilities) + surprise).sum(axes)
                gain[i : i + k] = own - at.log_q_u[i : i + k]
        return Terms(at.log_q, gain, loss)
