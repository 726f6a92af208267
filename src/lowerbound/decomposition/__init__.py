"""log p(x) = ELBO(q) + KL(q ‖ p(z | x)), each of the three computed by itself."""

from lowerbound.decomposition.decompose import decompose
from lowerbound.decomposition.result import Decomposition

__all__ = ["Decomposition", "decompose"]
