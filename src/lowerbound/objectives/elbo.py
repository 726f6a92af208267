"""The evidence lower bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lowerbound.errors import IncompatibleError
from lowerbound.objectives.base import Objective


@dataclass(frozen=True)
class ELBO(Objective):
    """ELBO(q) = E_q[log p(x, z) - log q(z)] = log p(x) - KL(q || p(z | x)).

    Args:
        num_samples: Draws of q a step. More make a step dearer and less noisy.
    """

    num_samples: int = 8
    name = "elbo"

    def __post_init__(self) -> None:
        n = self.num_samples
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise IncompatibleError(f"ELBO(num_samples={n!r}): needed: a positive integer.")

    def value(self, log_joint: Any, log_q: Any) -> Any:
        return (log_joint - log_q).mean()
