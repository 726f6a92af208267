"""Its slope: gradient estimators, and which objective each is right for."""

from lowerbound.gradients.base import Gradient
from lowerbound.gradients.reparameterized import Reparameterized
from lowerbound.gradients.score_function import ScoreFunction
from lowerbound.gradients.sticking_the_landing import StickingTheLanding

#: Which gradients estimate which objective without bias. The documentation prints it, the tests enumerate it.
COMPATIBLE: dict[str, tuple[str, ...]] = {
    "elbo": ("reparameterized", "sticking_the_landing", "score_function"),
}

__all__ = ["COMPATIBLE", "Gradient", "Reparameterized", "ScoreFunction", "StickingTheLanding"]
