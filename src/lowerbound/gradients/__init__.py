"""Its slope: gradient estimators, and which objective each is right for."""

from lowerbound.gradients.base import Gradient, Slope
from lowerbound.gradients.doubly_reparameterized import DoublyReparameterized
from lowerbound.gradients.of_model import check_learns, surrogate_with_model
from lowerbound.gradients.reparameterized import Reparameterized
from lowerbound.gradients.score_function import ScoreFunction
from lowerbound.gradients.self_normalized import SelfNormalized
from lowerbound.gradients.sticking_the_landing import StickingTheLanding
from lowerbound.gradients.table import COMPATIBLE, REFUSED, check_pair, default_gradient

__all__ = [
    "COMPATIBLE",
    "REFUSED",
    "DoublyReparameterized",
    "Gradient",
    "Reparameterized",
    "ScoreFunction",
    "SelfNormalized",
    "Slope",
    "StickingTheLanding",
    "check_learns",
    "check_pair",
    "default_gradient",
    "surrogate_with_model",
]
