"""The choice: which family, and which algorithm moves it.

| family | unconstrained dimensions | algorithm |
|---|---|---|
| dense, diagonal, products of them | up to 1,000 | score_regression |
| low_rank, diagonal | any | sample_average |
| sinh_arcsinh | up to 300 | from_gaussian |
| flow | 2 to 2,000 | from_gaussian |
| point_mass | any | maximum |

With no family given: dense up to 1,000 dimensions, diagonal above. (There low_rank, with thousands of factor
loadings to estimate from noise, reached a lower ELBO than diagonal on hierarchical models of 1,200 and
2,000 groups, at ten times the cost, and won by little where correlations are strong.)
"""

from __future__ import annotations

from typing import Any

from lowerbound import registry
from lowerbound.algorithms import Algorithm, FromGaussian, Maximum, SampleAverage, ScoreRegression
from lowerbound.algorithms.score_regression import DENSE_LIMIT
from lowerbound.families import BoundProduct, Dense, Diagonal, Family, Flow, PointMass, Product, SinhArcsinh
from lowerbound.model.base import Model


def choose(model: Model, family: Any = None, algorithm: Any = None) -> tuple[Family, Algorithm]:
    """Family and algorithm for a model, checked to go together; nothing is compiled.

    Raises:
        UnknownNameError: a short name that no registry knows.
        IncompatibleError: parts that do not go together.
    """
    p = model.dimension
    if family is not None:
        family = registry.resolve("family", family, registry.FAMILIES, Family)
    else:
        family = Dense() if p <= DENSE_LIMIT else Diagonal()
    if isinstance(family, Product):
        family = family.bind(model)
    if algorithm is not None:
        algorithm = registry.resolve("algorithm", algorithm, registry.ALGORITHMS, Algorithm)
    elif isinstance(family, PointMass):
        algorithm = Maximum()
    elif isinstance(family, (Flow, SinhArcsinh)):
        algorithm = FromGaussian()
    else:
        # A dense Gaussian that was asked for is fitted as long as its matrices fit.
        limit = 2 * DENSE_LIMIT if isinstance(family, Dense) else DENSE_LIMIT
        algorithm = ScoreRegression() if p <= limit and _regressable(family) else SampleAverage()
    algorithm.check(model, family)
    return family, algorithm


def _regressable(family: Family) -> bool:
    parts = family.families if isinstance(family, BoundProduct) else (family,)
    return all(isinstance(f, (Dense, Diagonal)) for f in parts)
