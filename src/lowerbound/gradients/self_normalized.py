"""The gradient of an expectation under the posterior, from weighted draws of q."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from lowerbound.gradients.base import Gradient, Slope, held
from lowerbound.objectives.weighted import Weighted


@dataclass(frozen=True)
class SelfNormalized(Gradient):
    """sum_i v_i d/dphi log q(z_i), with v_i ∝ w_i^n normalised: the slope of E_pi[log q], pi ∝ p^n q^(1 - n).

    Consistent: its bias falls as 1 / num_samples. No derivative of log p is needed.

    Source: Bornschein & Bengio (2015); Dieng et al. (2017), section 3.
    """

    name = "self_normalized"
    min_samples = 2

    def surrogate(self, objective, target, build, parameters, noise) -> Slope:
        assert isinstance(objective, Weighted)  # the table sees to it
        q = build(parameters)
        z = held(q.transform(noise))
        log_q = q.log_prob(z)
        log_weights = held(objective.integrand(target, z, log_q))
        weights = jax.nn.softmax(objective.power * log_weights)
        return Slope((weights * log_q).sum(), objective.value(log_weights), log_weights.mean())
