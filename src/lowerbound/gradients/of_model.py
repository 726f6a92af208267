"""The gradient with respect to parameters of the model itself, beside that with respect to q's.

A bound L(phi, theta) = E[h(l)], l_i = log p_theta(x, z_i) - log q_phi(z_i), z_i = T_phi(e_i), depends on theta through
the log weights alone: neither the draws nor log q have any part in it. So its gradient is the ordinary one,

    d/dtheta L = E[ sum_i h_i d/dtheta log p_theta(x, z_i) ],

whichever estimator q's parameters have. What those do to their weights (doubly reparameterised: h_i - h_ii in place of
h_i; score function: h itself in place of its derivative) is right for phi and wrong for theta, so that the two are
taken apart: phi from the estimator with theta held fixed, theta from the value with the draws held fixed. Both
evaluate the same numbers, which the compiler then computes once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from lowerbound.errors import IncompatibleError
from lowerbound.families.base import Block
from lowerbound.gradients.base import Gradient, Slope, held
from lowerbound.objectives.base import Objective, Target


def surrogate_with_model(
    estimator: Gradient,
    objective: Objective,
    target: Callable[[Any], Target],
    build: Callable[[Any], Block],
    parameters: Any,
    learned: Any,
    noise: Any,
) -> Slope:
    """A surrogate to be differentiated in ``(parameters, learned)``.

    Args:
        estimator: Of the gradient with respect to q's parameters.
        objective: What is optimised.
        target: From the model's parameters to log p(x, z).
        build: q from its parameters.
        parameters: phi.
        learned: theta, any tree; an empty one leaves the estimator's own surrogate.
        noise: Standard normal ``[s, noise_dimension]``.
    """
    slope = estimator.surrogate(objective, target(held(learned)), build, parameters, noise)
    if not jax.tree_util.tree_leaves(learned):
        return slope
    q = build(held(parameters))
    z = q.transform(noise)
    value = objective.value(objective.integrand(target(learned), z, q.log_prob(z)))
    return slope._replace(surrogate=slope.surrogate + objective.sense * value)


def check_learns(objective: Objective, names: Any) -> None:
    """Raise unless the parameters of a model may be learned by an objective.

    Raises:
        IncompatibleError: it is no lower bound on log p(x).
    """
    if names and not objective.learns:
        raise IncompatibleError(
            f"{objective.name} is no lower bound on log p(x), so making it better says nothing of the model's "
            f"parameters ({', '.join(names)}). Use lb.objectives.ELBO(), ImportanceWeighted() or Renyi()."
        )
