"""Exponential families on the constrained space: natural parameters, moments, entropies, draws."""

from lowerbound.families.exponential.base import ExponentialBlock
from lowerbound.families.exponential.beta import BetaBlock
from lowerbound.families.exponential.categorical import CategoricalBlock
from lowerbound.families.exponential.dirichlet import DirichletBlock
from lowerbound.families.exponential.gaussian import JointGaussianBlock
from lowerbound.families.exponential.log_normal import LogNormalBlock
from lowerbound.families.exponential.normal_gamma import NormalGammaBlock
from lowerbound.families.exponential.normal_wishart import NormalWishartBlock
from lowerbound.families.exponential.power_gamma import PowerGammaBlock
from lowerbound.families.exponential.tabulated import TabulatedBlock
from lowerbound.families.exponential.von_mises import VonMisesBlock
from lowerbound.families.exponential.wishart import WishartBlock

__all__ = [
    "BetaBlock",
    "CategoricalBlock",
    "DirichletBlock",
    "ExponentialBlock",
    "JointGaussianBlock",
    "LogNormalBlock",
    "NormalGammaBlock",
    "NormalWishartBlock",
    "PowerGammaBlock",
    "TabulatedBlock",
    "VonMisesBlock",
    "WishartBlock",
]
