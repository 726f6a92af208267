"""p(x, z): latent sites, supports, plates, factors."""

from lowerbound.model.base import Evaluation, Factor, Model, Site
from lowerbound.model.log_density import LogDensity
from lowerbound.model.numpyro import from_numpyro

__all__ = ["Evaluation", "Factor", "LogDensity", "Model", "Site", "from_numpyro"]
