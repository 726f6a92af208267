"""Its slope: gradient estimators, and which objective each is right for."""

from lowerbound.gradients.base import Gradient, Slope
from lowerbound.gradients.doubly_reparameterized import DoublyReparameterized
from lowerbound.gradients.enumeration import Enumeration
from lowerbound.gradients.implicit import Implicit
from lowerbound.gradients.of_model import check_learns, surrogate_with_model
from lowerbound.gradients.reparameterized import Reparameterized
from lowerbound.gradients.score_function import ScoreFunction
from lowerbound.gradients.self_normalized import SelfNormalized
from lowerbound.gradients.site_score_function import SiteScoreFunction
from lowerbound.gradients.sites import SITES, SiteGradient, check_site
from lowerbound.gradients.sticking_the_landing import StickingTheLanding
from lowerbound.gradients.table import (
    COMPATIBLE,
    REFUSED,
    SITE_COMPATIBLE,
    SITE_REFUSED,
    check_pair,
    check_site_objective,
    default_gradient,
)

#: By short name, those of one site.
SITE_GRADIENTS: dict[str, type[SiteGradient]] = {g.name: g for g in (Implicit, Enumeration, SiteScoreFunction)}

__all__ = [
    "COMPATIBLE",
    "REFUSED",
    "SITES",
    "SITE_COMPATIBLE",
    "SITE_GRADIENTS",
    "SITE_REFUSED",
    "DoublyReparameterized",
    "Enumeration",
    "Gradient",
    "Implicit",
    "Reparameterized",
    "ScoreFunction",
    "SelfNormalized",
    "SiteGradient",
    "SiteScoreFunction",
    "Slope",
    "StickingTheLanding",
    "check_learns",
    "check_pair",
    "check_site",
    "check_site_objective",
    "default_gradient",
    "surrogate_with_model",
]
