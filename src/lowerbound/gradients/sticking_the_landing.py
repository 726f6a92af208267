"""The path-derivative gradient, "sticking the landing" (Roeder, Wu & Duvenaud 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from lowerbound.gradients.base import Gradient, Slope, held
from lowerbound.objectives.discrepancy import Discrepancy


@dataclass(frozen=True)
class StickingTheLanding(Gradient):
    """As the reparameterised gradient, without the term E_q[h_i d/dphi log q_phi(z_i)].

    Where h is the mean, that term is zero in expectation (the score has mean zero) but not in any one sample; without
    it every draw's gradient vanishes where q equals the posterior, so the iterates come to rest there. Where h_i
    depends on the draws it is not zero, and leaving it out is a bias: ``DoublyReparameterized`` keeps it. Of
    discrepancies over pairs of draws, in which there is no log q, it is the reparameterised gradient itself.
    """

    name = "sticking_the_landing"

    def surrogate(self, objective, target, build, parameters, noise) -> Slope:
        z = build(parameters).transform(noise)
        log_weights = objective.integrand(target, z, build(held(parameters)).log_prob(z))
        value = objective.value(log_weights)
        if isinstance(objective, Discrepancy):
            elbo = held(target.log_joint(z) - build(held(parameters)).log_prob(z)).mean()
            return Slope(objective.sense * value, value, elbo)
        return Slope(objective.sense * value, value, held(log_weights).mean())
