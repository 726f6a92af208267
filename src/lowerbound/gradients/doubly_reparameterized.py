"""The doubly reparameterised gradient (Tucker, Lawson, Gu & Maddison 2019), for any function of the log weights."""

from __future__ import annotations

from dataclasses import dataclass

from lowerbound.gradients.base import Gradient, Slope, held


@dataclass(frozen=True)
class DoublyReparameterized(Gradient):
    """sum_i c_i dl_i/dz_i dz_i/dphi, with c_i = h_i - h_ii, phi held fixed in log q.

    What ``StickingTheLanding`` is for the ELBO (there they are the same), for any objective: no score is left, so
    that the ratio of signal to noise does not fall as the number of draws grows (Rainforth et al. 2018).
    """

    name = "doubly_reparameterized"

    def surrogate(self, objective, target, build, parameters, noise) -> Slope:
        z = build(parameters).transform(noise)
        log_weights = objective.integrand(target, z, build(held(parameters)).log_prob(z))
        at = held(log_weights)
        surrogate = (held(objective.path_weights(at)) * log_weights).sum()
        return Slope(objective.sense * surrogate, objective.value(at), at.mean())
