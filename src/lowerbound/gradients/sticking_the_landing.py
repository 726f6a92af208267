"""The path-derivative gradient, "sticking the landing" (Roeder, Wu & Duvenaud 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from lowerbound.gradients.base import Gradient


@dataclass(frozen=True)
class StickingTheLanding(Gradient):
    """As the reparameterised gradient, without the term E_q[d/dphi log q_phi(z)].

    That term is zero in expectation (the score has mean zero) but not in any one sample; without it every
    draw's gradient vanishes where q equals the posterior, so the iterates come to rest there.
    """

    name = "sticking_the_landing"

    def surrogate(self, objective, log_joint, build, parameters, noise) -> tuple[Any, Any]:
        z = build(parameters).transform(noise)
        fixed = build(jax.lax.stop_gradient(parameters))
        value = objective.value(log_joint(z), fixed.log_prob(z))
        return value, value
