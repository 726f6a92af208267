"""How far apart are two distributions, or two sets of draws?"""

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
