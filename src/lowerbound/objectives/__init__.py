"""The bound, or any other divergence: how far is q?"""

from lowerbound.objectives.base import Objective
from lowerbound.objectives.elbo import ELBO

__all__ = ["ELBO", "Objective"]
