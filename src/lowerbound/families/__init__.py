"""q(z): blocks on the unconstrained space, exponential families on the constrained one, and products of them."""

from lowerbound.families.amortized import Amortized
from lowerbound.families.arrow import Arrow, ArrowGaussian, ArrowLayout
from lowerbound.families.base import Block, Family, GaussianBlock, TransportedBlock
from lowerbound.families.dense import Dense, DenseGaussian
from lowerbound.families.diagonal import Diagonal, DiagonalGaussian
from lowerbound.families.factored import FactoredBlock, Place
from lowerbound.families.flow import Flow, FlowBlock
from lowerbound.families.low_rank import LowRank, LowRankGaussian
from lowerbound.families.mixture import MixtureBlock
from lowerbound.families.particles import ParticleBlock, Particles
from lowerbound.families.point_mass import Point, PointMass
from lowerbound.families.product import BoundProduct, Product, ProductBlock
from lowerbound.families.sinh_arcsinh import SinhArcsinh, SinhArcsinhBlock

__all__ = [
    "Amortized",
    "Arrow",
    "ArrowGaussian",
    "ArrowLayout",
    "Block",
    "BoundProduct",
    "Dense",
    "DenseGaussian",
    "Diagonal",
    "DiagonalGaussian",
    "FactoredBlock",
    "Family",
    "Flow",
    "FlowBlock",
    "GaussianBlock",
    "LowRank",
    "LowRankGaussian",
    "MixtureBlock",
    "ParticleBlock",
    "Particles",
    "Place",
    "Point",
    "PointMass",
    "Product",
    "ProductBlock",
    "SinhArcsinh",
    "SinhArcsinhBlock",
    "TransportedBlock",
]
