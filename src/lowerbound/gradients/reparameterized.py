"""The reparameterisation gradient (Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014)."""

from __future__ import annotations

from dataclasses import dataclass

from lowerbound.gradients.base import Gradient, Slope, held
from lowerbound.objectives.discrepancy import Discrepancy


@dataclass(frozen=True)
class Reparameterized(Gradient):
    """Differentiate through the draw z = T_phi(e) and through log q_phi(z)."""

    name = "reparameterized"

    def surrogate(self, objective, target, build, parameters, noise) -> Slope:
        q = build(parameters)
        z = q.transform(noise)
        log_q = q.log_prob(z)
        inner = objective.integrand(target, z, log_q)
        value = objective.value(inner) + objective.analytic(target, q)
        if isinstance(objective, Discrepancy):
            elbo = held(target.log_joint(z) - log_q).mean()
            return Slope(objective.sense * value, value, elbo)
        # Where log q has been taken in closed form, the ELBO's estimate is the value itself.
        elbo = value if objective.name.startswith("elbo") else held(inner).mean()
        return Slope(objective.sense * value, value, elbo)
