"""How far apart are two distributions, or two sets of draws?"""

from lowerbound.divergences.classifier import classifier
from lowerbound.divergences.dudley import dudley
from lowerbound.divergences.energy import energy
from lowerbound.divergences.estimate import Estimate
from lowerbound.divergences.f_divergences import (
    alpha,
    chi2,
    f_divergence,
    hellinger,
    jeffreys,
    jensen_shannon,
    kl,
    renyi,
    total_variation,
)
from lowerbound.divergences.mmd import mmd
from lowerbound.divergences.stein import stein
from lowerbound.divergences.wasserstein import wasserstein

__all__ = [
    "Estimate",
    "alpha",
    "chi2",
    "classifier",
    "dudley",
    "energy",
    "f_divergence",
    "hellinger",
    "jeffreys",
    "jensen_shannon",
    "kl",
    "mmd",
    "renyi",
    "stein",
    "total_variation",
    "wasserstein",
]
