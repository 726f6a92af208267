"""Short names for the common parts, for the command line and for habit.

``family="low_rank"`` is ``family=lb.families.LowRank()``. Adding a method is a file, a row here, a row in
the test registry, and a page of documentation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lowerbound import algorithms, families, gradients, objectives
from lowerbound.errors import IncompatibleError, unknown_name

FAMILIES: dict[str, Callable[[], families.Family]] = {
    "arrow": families.Arrow,
    "dense": families.Dense,
    "diagonal": families.Diagonal,
    "low_rank": families.LowRank,
    "sinh_arcsinh": families.SinhArcsinh,
    "flow": families.Flow,
    "particles": families.Particles,
    "point_mass": families.PointMass,
}
ALGORITHMS: dict[str, Callable[[], algorithms.Algorithm]] = {
    "coordinate_ascent": algorithms.CoordinateAscent,
    "conjugate_computation": algorithms.ConjugateComputationVI,
    "stochastic_vi": algorithms.StochasticVI,
    "memoized_vi": algorithms.MemoizedVI,
    "score_regression": algorithms.ScoreRegression,
    "sample_average": algorithms.SampleAverage,
    "from_gaussian": algorithms.FromGaussian,
    "gradient_vi": algorithms.GradientVI,
    "moment_matching": algorithms.MomentMatching,
    "batch_and_match": algorithms.BatchAndMatch,
    "svgd": algorithms.SVGD,
    "markovian_score_climbing": algorithms.MarkovianScoreClimbing,
    "maximum": algorithms.Maximum,
    "amortized_vi": algorithms.AmortizedVI,
    "black_box_vi": algorithms.BlackBoxVI,
}
OBJECTIVES: dict[str, Callable[[], objectives.Objective]] = {
    "elbo": objectives.ELBO,
    "elbo_entropy": lambda: objectives.ELBO(form="entropy"),
    "elbo_prior": lambda: objectives.ELBO(form="prior"),
    "importance_weighted": objectives.ImportanceWeighted,
    "renyi": objectives.Renyi,
    "tail_adaptive": objectives.TailAdaptive,
    "forward_kl": objectives.ForwardKL,
    "chi_upper_bound": objectives.ChiUpperBound,
    "kernel_stein": objectives.KernelStein,
}
GRADIENTS: dict[str, Callable[[], gradients.Gradient]] = {
    "reparameterized": gradients.Reparameterized,
    "sticking_the_landing": gradients.StickingTheLanding,
    "doubly_reparameterized": gradients.DoublyReparameterized,
    "score_function": gradients.ScoreFunction,
    "self_normalized": gradients.SelfNormalized,
}
SITE_GRADIENTS: dict[str, Callable[[], gradients.SiteGradient]] = dict(gradients.SITE_GRADIENTS)


def resolve(kind: str, value: Any, table: dict[str, Callable[[], Any]], base: type) -> Any:
    """An object as it is, a short name as its object.

    Raises:
        UnknownNameError: not in the table; names the nearest.
        IncompatibleError: neither a name nor an object of the right kind.
    """
    if isinstance(value, str):
        if value not in table:
            raise unknown_name(kind, value, table)
        return table[value]()
    if isinstance(value, type) and issubclass(value, base):
        raise IncompatibleError(f"{kind} is the class {value.__name__}; needed: an object. Write {value.__name__}().")
    if not isinstance(value, base):
        raise IncompatibleError(
            f"{kind} is {value!r}; needed: one of {', '.join(sorted(table))}, or an object of lowerbound."
            f"{'families' if kind == 'family' else kind + 's'}."
        )
    return value
