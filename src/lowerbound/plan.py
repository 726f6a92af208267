"""The choice: which family, and which algorithm moves it.

| family | unconstrained dimensions | algorithm |
|---|---|---|
| dense, diagonal, products of them | up to 1,000 | score_regression |
| arrow | any | score_regression |
| low_rank, diagonal | any | sample_average |
| sinh_arcsinh | up to 300 | from_gaussian |
| flow | 2 to 2,000 | from_gaussian |
| particles | up to 1,000 | svgd |
| point_mass | any | maximum |
| dense, diagonal, products of them, for `forward_kl` and `chi_upper_bound` | up to 200 | moment_matching |
| exponential families, derived from the model | any | coordinate_ascent, memoized_vi, stochastic_vi |
| exponential families, one a site | any | black_box_vi |

Where the model has parameters to be learned (``numpyro.param``), gradient_vi finds them, with a dense q up to 100
dimensions and a diagonal one above; with no family given, q is then fitted anew with them fixed, as follows.

With no family given: coordinate ascent where latents are discrete, where one block of q is the posterior itself, and in
more than 1,000 dimensions where Gaussian latents multiply each other (a factorisation), all in closed form.
Else arrow above 300 dimensions where the posterior has one, which the compiled density tells (:func:`refine`); else
dense up to 1,000 dimensions, diagonal above. (There low_rank, with thousands of factor loadings to estimate from noise,
reached a lower ELBO than diagonal on hierarchical models of 1,200 and 2,000 groups, at ten times the cost, and won by
little where correlations are strong.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerbound import registry
from lowerbound.algorithms import (
    SVGD,
    Algorithm,
    BlackBoxVI,
    CoordinateAscent,
    FromGaussian,
    GradientVI,
    Maximum,
    MomentMatching,
    SampleAverage,
    ScoreRegression,
)
from lowerbound.algorithms.score_regression import DENSE_LIMIT
from lowerbound.algorithms.structure import find_layout, work
from lowerbound.closed_form import CLOSED, algorithm_for, exact, multiplied
from lowerbound.errors import IncompatibleError
from lowerbound.families import (
    Arrow,
    ArrowLayout,
    Dense,
    Diagonal,
    Family,
    Flow,
    Particles,
    PointMass,
    Product,
    SinhArcsinh,
)
from lowerbound.kernel import Kernel
from lowerbound.model.base import Model
from lowerbound.objectives import Objective, Weighted

#: Dimensions above which an arrow is looked for; up to them a dense Gaussian costs little more than compilation.
ARROW_FROM = 300
#: Dimensions up to which moments under importance weights are tried.
MOMENTS_LIMIT = 200
#: Work of an arrow's step, relative to a dense one's, below which it takes a dense Gaussian's place.
_CHEAPER = 0.1
#: Dimensions up to which q is dense while parameters of the model are learned.
_DENSE_WHILE_LEARNING = 100


def choose(
    model: Model, family: Any = None, algorithm: Any = None, *, objective: Any = None, closed: bool = True
) -> tuple[Family | None, Algorithm]:
    """Family and algorithm for a model, checked to go together; nothing is compiled.

    The family is None where the algorithm derives its own. With ``closed=False`` closed forms are not looked for.

    Raises:
        UnknownNameError: a short name that no registry knows.
        IncompatibleError: parts that do not go together.
    """
    p = model.dimension
    if objective is not None:
        algorithm = for_objective(objective, algorithm, model=model, family=family)
    if model.parameters:
        return _learner(model, family, algorithm)
    chosen = None
    if algorithm is not None:
        chosen = registry.resolve("algorithm", algorithm, registry.ALGORITHMS, Algorithm)
    if isinstance(chosen, (*CLOSED, BlackBoxVI)):
        if family is not None:
            chosen.check(model, registry.resolve("family", family, registry.FAMILIES, Family))
        return None, chosen
    if model.discrete:
        return None, algorithm_for(model)
    alone = closed and family is None and algorithm is None
    if alone and (exact(model) or (p > DENSE_LIMIT and multiplied(model))):
        return None, CoordinateAscent()
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
    elif isinstance(family, Particles):
        algorithm = SVGD()
    elif isinstance(family, (Flow, SinhArcsinh)):
        algorithm = FromGaussian()
    else:
        # A dense Gaussian that was asked for is fitted as long as its matrices fit.
        limit = 2 * DENSE_LIMIT if isinstance(family, Dense) else DENSE_LIMIT
        regressable = isinstance(family, Arrow) or (p <= limit and _regressable(family, p))
        algorithm = ScoreRegression() if regressable else SampleAverage()
    algorithm.check(model, family)
    return family, algorithm


def _learner(model: Model, family: Any, algorithm: Any) -> tuple[Family, Algorithm]:
    """What moves the model's own parameters with q."""
    names = ", ".join(model.parameters)
    chosen = registry.resolve("algorithm", algorithm or GradientVI(), registry.ALGORITHMS, Algorithm)
    if not chosen.learns:
        raise IncompatibleError(
            f"{chosen.name} does not learn parameters of the model, and {model.name!r} has some: {names}. Use "
            "algorithm='gradient_vi' or leave algorithm out; or give them priors: numpyro.sample in place of "
            "numpyro.param."
        )
    family = registry.resolve("family", family or _while_learning(model), registry.FAMILIES, Family)
    if isinstance(family, Product):
        family = family.bind(model)
    if isinstance(family, Arrow) and family.layout is None:
        raise IncompatibleError(
            f"family='arrow' finds its layout in the posterior, which moves while {names} are learned. Use "
            "family='diagonal', where every latent is a block of its own; or leave family out: the arrow is then "
            "looked for once they are found."
        )
    chosen.check(model, family)
    return family, chosen


def _while_learning(model: Model) -> Family:
    return Dense() if model.dimension <= _DENSE_WHILE_LEARNING else Diagonal()


def for_objective(objective: Any, algorithm: Any, *, model: Model, family: Any) -> Any:
    """The algorithm that optimises what was asked for, in a family that was asked for (or None).

    For an expectation under the posterior that is its moments, measured, in Gaussian families in which they are the
    optimum; else gradient steps.
    """
    named = algorithm in (BlackBoxVI.name, GradientVI.name) if isinstance(algorithm, str) else False
    if algorithm is not None and not named:
        raise IncompatibleError(
            f"both objective={objective!r} and algorithm={algorithm!r} were given. An algorithm has its own objective: "
            "write algorithm=lb.algorithms.GradientVI(objective=...), name one that takes any (algorithm='gradient_vi' "
            "or 'black_box_vi'), or leave algorithm out."
        )
    if objective == "mmd":
        raise IncompatibleError(
            "objective='mmd' says nothing of the draws that q is to be near; needed: lb.objectives.MMD(draws), with a "
            "dictionary of arrays [n, *shape] by site."
        )
    chosen = registry.resolve("objective", objective, registry.OBJECTIVES, Objective)
    if algorithm == BlackBoxVI.name:
        return BlackBoxVI(objective=chosen)
    found = Dense() if family is None else registry.resolve("family", family, registry.FAMILIES, Family)
    if isinstance(found, (Arrow, Flow, Particles, PointMass, SinhArcsinh)):
        own = "score_regression" if isinstance(found, Arrow) else choose(model, found)[1].name
        raise IncompatibleError(
            f"objective={objective!r} is optimised by steps of q's own numbers from the end of a search, in families "
            f"dense, diagonal, low_rank and products of them; family={found.name!r} is fitted by algorithm={own!r}, "
            "which has its objective already. Leave objective out, or take one of those families."
        )
    found = found.bind(model) if isinstance(found, Product) else found
    moments = isinstance(chosen, Weighted) and model.dimension <= MOMENTS_LIMIT and not model.parameters
    if algorithm is None and moments and _regressable(found, model.dimension):
        assert isinstance(chosen, Weighted)
        return MomentMatching(chosen)
    return GradientVI(objective=chosen)


def refine(kernel: Kernel, family: Family, algorithm: Algorithm) -> tuple[Family, Algorithm]:
    """The choice, where it was left open, once the density can be asked: an arrow in place of dense or diagonal.

    Cost: a few calls of the kernel above :data:`ARROW_FROM` dimensions; p / 64 where shapes do not tell.
    """
    p = kernel.dimension
    if p <= ARROW_FROM:
        return family, algorithm
    layout = find_layout(kernel)
    dense = ArrowLayout.of(np.arange(p), [])
    if layout is None or (p <= DENSE_LIMIT and work(layout) > _CHEAPER * work(dense)):
        return family, algorithm
    return Arrow(layout), ScoreRegression()


def _regressable(family: Family, dimension: int) -> bool:
    return all(isinstance(f, (Dense, Diagonal)) for f, _ in family.members(dimension))
