"""The score-function gradient (REINFORCE; Ranganath, Gerrish & Blei 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from lowerbound.gradients.base import Gradient


@dataclass(frozen=True)
class ScoreFunction(Gradient):
    """E_q[(f(z) - b) d/dphi log q_phi(z)], with the mean of the other draws as the baseline b.

    Needs no derivative of log p, and pays with variance that grows with the dimension. The leave-one-out
    baseline keeps it unbiased (Kool, van Hoof & Welling 2019): sum_i (f_i - mean f) score_i / (s - 1).
    """

    name = "score_function"
    min_samples = 2

    def surrogate(self, objective, log_joint, build, parameters, noise) -> tuple[Any, Any]:
        q = build(parameters)
        z = jax.lax.stop_gradient(q.transform(noise))
        log_q = q.log_prob(z)
        f = jax.lax.stop_gradient(log_joint(z) - log_q)
        surrogate = ((f - f.mean()) * log_q).sum() / (len(noise) - 1)
        return surrogate, f.mean()
