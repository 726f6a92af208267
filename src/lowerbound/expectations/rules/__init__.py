"""One rule for each class of distributions; importing this package registers them all."""

from lowerbound.expectations.rules import (
    beta,
    categorical,
    counts,
    flat,
    gamma,
    heavy_tails,
    logistic,
    mixture,
    multivariate_normal,
    normal,
    wishart,
)
from lowerbound.expectations.rules.base import RULES, Bound, LogProb, Parameters, rule_for

__all__ = [
    "RULES",
    "Bound",
    "LogProb",
    "Parameters",
    "beta",
    "categorical",
    "counts",
    "flat",
    "gamma",
    "heavy_tails",
    "logistic",
    "mixture",
    "multivariate_normal",
    "normal",
    "rule_for",
    "wishart",
]
