"""The bound, or any other divergence: how far is q?"""

from lowerbound.objectives.base import Objective, Target
from lowerbound.objectives.discrepancy import MMD, Discrepancy, KernelStein
from lowerbound.objectives.elbo import ELBO
from lowerbound.objectives.prior import GaussianPrior, gaussian_prior
from lowerbound.objectives.renyi import ImportanceWeighted, Renyi
from lowerbound.objectives.tail_adaptive import TailAdaptive
from lowerbound.objectives.weighted import ChiUpperBound, ForwardKL, Weighted

__all__ = [
    "ELBO",
    "MMD",
    "ChiUpperBound",
    "Discrepancy",
    "ForwardKL",
    "GaussianPrior",
    "ImportanceWeighted",
    "KernelStein",
    "Objective",
    "Renyi",
    "TailAdaptive",
    "Target",
    "Weighted",
    "gaussian_prior",
]
