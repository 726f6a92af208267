"""The score-function gradient (REINFORCE; Ranganath, Gerrish & Blei 2014), with leave-one-out baselines."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from lowerbound.gradients.base import Gradient, Slope, held


@dataclass(frozen=True)
class ScoreFunction(Gradient):
    """sum_i (h(l) - h(l without i)) d/dphi log q(z_i), and what phi does inside l itself.

    "l without i" has the mean of the others in the place of l_i, so that it depends on z_i no more, and the baseline
    leaves no bias. For the ELBO this is sum_i (l_i - mean l) score_i / (s - 1) (Kool, van Hoof & Welling 2019; the
    gradient of the variance of l, "VarGrad", Richter et al. 2020); for the importance-weighted bound it is VIMCO (Mnih
    & Rezende 2016). The second part is -sum_i h_i score_i; since scores have mean zero, h_i is taken less 1/s, which
    leaves nothing of it for the ELBO.

    Needs no derivative of log p, and pays with variance that grows with the dimension.
    """

    name = "score_function"
    min_samples = 2

    def surrogate(self, objective, target, build, parameters, noise) -> Slope:
        q = build(parameters)
        z = held(q.transform(noise))
        log_q = q.log_prob(z)
        inner = held(objective.integrand(target, z, log_q))
        s = len(noise)
        others = (inner.sum() - inner) / (s - 1)
        without = jax.vmap(objective.value)(jnp.where(jnp.eye(s, dtype=bool), others[:, None], inner[None, :]))
        value, weights = jax.value_and_grad(objective.value)(inner)
        analytic = objective.analytic(target, q)
        surrogate = (held(value - without - (weights - 1 / s)) * log_q).sum() + analytic
        value = value + held(analytic)
        elbo = value if objective.name.startswith("elbo") else inner.mean()
        return Slope(objective.sense * surrogate, value, elbo)
