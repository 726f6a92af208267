"""The bound: what is maximised over q."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Objective(ABC):
    """A function of the log densities of draws from q, in nats, larger is better."""

    name: str
    num_samples: int

    @abstractmethod
    def value(self, log_joint: Any, log_q: Any) -> Any:
        """The objective from ``log p(x, z)`` and ``log q(z)`` at ``[num_samples]`` draws of q."""
