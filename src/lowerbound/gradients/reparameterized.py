"""The reparameterisation gradient (Kingma & Welling 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lowerbound.gradients.base import Gradient


@dataclass(frozen=True)
class Reparameterized(Gradient):
    """Differentiate through the draw z = T_phi(e) and through log q_phi(z)."""

    name = "reparameterized"

    def surrogate(self, objective, log_joint, build, parameters, noise) -> tuple[Any, Any]:
        q = build(parameters)
        z = q.transform(noise)
        value = objective.value(log_joint(z), q.log_prob(z))
        return value, value
