"""Its slope: how is the gradient of an expectation under q, with respect to q, estimated?

Each estimator gives a *surrogate*: a scalar whose automatic derivative with respect to q's parameters is the estimate.
With phi the parameters, z_i = T_phi(e_i) draws, l_i = log p(x, z_i) - log q_phi(z_i) and h(l) the objective, whose
derivatives are h_i and h_ii,

    reparameterized          d/dphi h(l), through z and through log q
    sticking the landing     the same with phi held fixed in log q: h_i dl_i/dz_i dz_i/dphi
    doubly reparameterized   (h_i - h_ii) dl_i/dz_i dz_i/dphi, which is what the former lacks where h is not a mean
    score function           (h - baseline_i) d/dphi log q(z_i) - h_i d/dphi log q(z_i): no derivative of log p
    self-normalized          v_i d/dphi log q(z_i), v the weights of the draws: for expectations under the posterior

Which is right for which objective stands in :mod:`lowerbound.gradients.table`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from lowerbound.families.base import Block
from lowerbound.objectives.base import Objective, Target


class Slope(NamedTuple):
    """What an estimator gives.

    Attributes:
        surrogate: To be differentiated; in the direction in which the objective gets better.
        value: Of the objective.
        elbo: Mean of the log weights, log p(x, z) - log q(z).
    """

    surrogate: Any
    value: Any
    elbo: Any


class Gradient(ABC):
    """A gradient estimator."""

    name: str
    min_samples: int = 1

    @abstractmethod
    def surrogate(
        self, objective: Objective, target: Target, build: Callable[[Any], Block], parameters: Any, noise: Any
    ) -> Slope:
        """The surrogate to differentiate, and the objective's value, from ``noise [num_samples, noise_dimension]``.

        Args:
            objective: What is optimised.
            target: log p(x, z), and its prior where the objective needs that.
            build: q from its parameters.
            parameters: Where to differentiate.
            noise: Standard normal.
        """


def held(tree: Any) -> Any:
    """The same, without a derivative."""
    return jax.lax.stop_gradient(tree)
