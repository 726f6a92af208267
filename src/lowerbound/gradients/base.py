"""Its slope: how is the gradient of an expectation under q, with respect to q, estimated?

Each estimator gives a *surrogate*: a scalar whose automatic derivative with respect to q's parameters is
the estimate. With phi the parameters, z = T_phi(e) a draw and f = log p(x, z) - log q_phi(z),

    reparameterized        d/dphi f(T_phi(e))                     through z and through log q
    sticking the landing   the same with phi held fixed in log q  zero variance where q = p
    score function         f d/dphi log q_phi(z), less a baseline needs no derivative of log p
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from lowerbound.families.base import Block
from lowerbound.objectives.base import Objective


class Gradient(ABC):
    """A gradient estimator."""

    name: str
    min_samples: int = 1

    @abstractmethod
    def surrogate(
        self,
        objective: Objective,
        log_joint: Callable[[Any], Any],
        build: Callable[[Any], Block],
        parameters: Any,
        noise: Any,
    ) -> tuple[Any, Any]:
        """The surrogate to differentiate, and the objective's value, from ``noise [num_samples, noise_dimension]``.

        Args:
            objective: The bound.
            log_joint: log p(x, z) for draws ``[s, p]``.
            build: q from its parameters.
            parameters: Where to differentiate.
            noise: Standard normal.
        """
