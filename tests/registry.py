"""The table of subjects that the law tests run over.

A new method is a new file, a row in ``lowerbound.registry``, and a row here: then every law is tested on
it. ``test_registry.py`` fails for a public class that has no row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

import lowerbound as lb
from lowerbound import algorithms, families, gradients, objectives
from lowerbound.families.coupling import Couplings
from lowerbound.families.exponential import DirichletBlock, JointGaussianBlock, PowerGammaBlock


@dataclass(frozen=True)
class Subject:
    """A family, and a member of it with numbers that no symmetry hides."""

    name: str
    family: families.Family
    block: families.Block

    def __repr__(self) -> str:
        return self.name


def _lower(d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.tril(0.6 * rng.standard_normal((d, d)), -1) + np.diag(rng.uniform(0.3, 2.0, d))


_rng = np.random.default_rng(20)
_dense3 = families.DenseGaussian(np.array([0.3, -1.2, 2.0]), _lower(3, 1))
_dense2 = families.DenseGaussian(np.array([4.0, -0.5]), _lower(2, 2))
_diagonal = families.DiagonalGaussian(np.array([1.0, -3.0, 0.2, 7.0]), np.array([0.2, 1.5, 3.0, 0.7]))
_low_rank = families.LowRankGaussian(
    np.array([0.5, -1.0, 2.0, 0.0, -4.0]), np.array([0.3, 0.8, 0.5, 1.1, 0.4]), _rng.standard_normal((5, 2))
)
_full_rank = families.LowRankGaussian(
    np.array([-1.0, 0.5, 3.0]), np.array([0.4, 0.9, 1.3]), _rng.standard_normal((3, 3))
)
# Two globals, three groups of one coordinate and two of two, all out of order.
_layout = families.ArrowLayout.of([6, 1], [[4], [0], [8], [7, 2], [3, 5]])
_arrow = families.ArrowGaussian(
    np.array([0.3, -1.0, 2.0, 5.0, 0.0, -3.0, 1.0, 0.7, -0.2]),
    _lower(2, 3),
    _rng.standard_normal((7, 2)),
    np.concatenate([[0.4, 1.3, 0.8], _lower(2, 4).ravel(), _lower(2, 5).ravel()]),
    _layout.order,
    _layout.classes,
)
# The coordinates of the factors are interleaved and out of order, so that a product that only concatenates is wrong.
_indices = (np.array([7, 2]), np.array([0, 4, 3, 8]), np.array([1, 9, 5, 6, 10]))

#: Every family with a density, with a block. The laws of ``test_blocks.py`` and ``test_backends.py``.
FAMILIES = [
    Subject("dense", families.Dense(), _dense3),
    Subject("dense of one", families.Dense(), families.DenseGaussian(np.array([5.0]), np.array([[0.25]]))),
    Subject("diagonal", families.Diagonal(), _diagonal),
    Subject("low rank", families.LowRank(2), _low_rank),
    Subject("low rank at full rank", families.LowRank(3), _full_rank),
    Subject("arrow", families.Arrow(_layout), _arrow),
    Subject(
        "product",
        families.BoundProduct((families.Dense(), families.Diagonal(), families.LowRank(2)), _indices),
        families.ProductBlock((_dense2, _diagonal, _low_rank), _indices),
    ),
]
_sinh_arcsinh = families.SinhArcsinhBlock(
    np.array([1.0, -2.0, 0.5]),
    np.array([[1.2, 0.3, -0.4], [0.1, 0.6, 0.2], [-0.5, 0.0, 2.0]]),
    np.array([0.6, -1.1, 0.0]),
    np.array([0.7, 1.4, 0.9]),
)


def _flow(d: int, first: tuple[int, ...], seed: int) -> families.FlowBlock:
    rng = np.random.default_rng(seed)
    order = np.array([*first, *(i for i in range(d) if i not in first)])
    shapes = Couplings(len(first), 4, 8).shapes()
    weights = (0.5 * rng.standard_normal(s) for s in shapes)
    return families.FlowBlock(np.linspace(-1.0, 2.0, d), _lower(d, seed), order, *weights)


#: Families with a density that is no Gaussian's: the laws of ``test_shaped.py``, and of ``test_backends.py``.
SHAPED = [
    Subject("sinh-arcsinh", families.SinhArcsinh(), _sinh_arcsinh),
    Subject("flow", families.Flow(layers=4, width=8), _flow(3, (0, 1, 2), 31)),
    Subject("flow on some", families.Flow((3, 1, 0), layers=4, width=8), _flow(5, (3, 1, 0), 32)),
]
#: Blocks that are made of others' fits, and have no family.
MIXTURES = [
    families.MixtureBlock(
        np.array([0.3, 0.7]), np.array([[0.0, 1.0], [5.0, -1.0]]), np.stack([_lower(2, 41), _lower(2, 42)])
    )
]
#: Families without a density: the laws that need one do not apply.
POINTS = [Subject("point mass", families.PointMass(), families.Point(np.array([1.0, -2.0, 3.0])))]
#: ... nor to these, which are many points.
CLOUDS = [Subject("particles", families.Particles(7), families.ParticleBlock(_rng.standard_normal((7, 3))))]
#: Products of exponential families on the constrained space: of a gamma, a Gaussian vector and a simplex.
_blocks = [
    PowerGammaBlock("t", (2,), 1.0, "log t", "t"),
    JointGaussianBlock({"w": (3,)}, {"w": ()}, {"w": (0,)}, {"w": "w"}, {("w", "w"): "ww"}),
    DirichletBlock("p", (3,), "log p"),
]
_naturals = [
    {"log t": np.array([1.5, 4.0]), "t": np.array([-2.0, -0.5])},
    {"w": np.array([1.0, -2.0, 0.5]), "ww": -_lower(3, 51) @ _lower(3, 51).T},
    {"log p": np.array([0.5, 2.0, 6.0])},
]
FACTORED = [
    families.FactoredBlock(
        _blocks,
        _naturals,
        [
            families.Place("t", "positive", (2,), (2,), 0),
            families.Place("w", "real", (3,), (3,), 2),
            families.Place("p", "simplex", (3,), (2,), 5),
        ],
    )
]
#: Families that only become one when bound to a model.
UNBOUND: list[tuple[families.Family, type]] = [
    (families.Product({"a": families.Dense(), ...: families.Diagonal()}), families.BoundProduct)
]


@dataclass(frozen=True)
class Fitter:
    """An algorithm, and a family that it fits."""

    name: str
    algorithm: Callable[[], algorithms.Algorithm]
    family: Callable[[], families.Family]
    exact: bool = False
    """Whether a Gaussian target is recovered to rounding."""

    def __repr__(self) -> str:
        return self.name


def _product() -> families.Family:
    return families.Product({("a", "c"): families.Dense(), "b": families.Diagonal()})


def _grouped() -> families.Family:
    return families.Arrow(families.ArrowLayout.of([2], [[0, 1], [4, 3]]))


#: Algorithms that derive their own family from the model, and fit no other.
CLOSED = [
    algorithms.CoordinateAscent,
    algorithms.ConjugateComputationVI,
    algorithms.MemoizedVI,
    algorithms.StochasticVI,
    algorithms.BlackBoxVI,
]

#: Algorithms of networks that give each row its block of q; see tests/learning.
AMORTIZED = [algorithms.AmortizedVI]

#: Every algorithm with every kind of family that it fits.
ALGORITHMS = [
    Fitter("score regression, dense", algorithms.ScoreRegression, families.Dense, exact=True),
    Fitter("score regression, diagonal", algorithms.ScoreRegression, families.Diagonal, exact=True),
    Fitter("score regression, product", algorithms.ScoreRegression, _product, exact=True),
    Fitter("score regression, arrow", algorithms.ScoreRegression, families.Arrow, exact=True),
    Fitter("sample average, arrow", algorithms.SampleAverage, _grouped),
    Fitter("sample average, diagonal", algorithms.SampleAverage, families.Diagonal),
    Fitter("sample average, low rank", algorithms.SampleAverage, lambda: families.LowRank(2)),
    Fitter("sample average, product", algorithms.SampleAverage, _product),
    Fitter("gradient VI, dense", lambda: algorithms.GradientVI(max_steps=2_000), families.Dense),
    Fitter("gradient VI, low rank", lambda: algorithms.GradientVI(max_steps=2_000), lambda: families.LowRank(2)),
    Fitter("moment matching, dense", algorithms.MomentMatching, families.Dense),
    Fitter("moment matching, product", algorithms.MomentMatching, _product),
    Fitter("Markovian score climbing, product", algorithms.MarkovianScoreClimbing, _product),
    Fitter("batch and match, dense", algorithms.BatchAndMatch, families.Dense),
    Fitter("SVGD, particles", algorithms.SVGD, families.Particles),
    Fitter("from a Gaussian, sinh-arcsinh", algorithms.FromGaussian, families.SinhArcsinh),
    Fitter("from a Gaussian, flow", algorithms.FromGaussian, lambda: families.Flow(layers=4, width=16)),
    Fitter("maximum, point mass", algorithms.Maximum, families.PointMass),
]
#: Pairs that are refused before anything is compiled.
REFUSED: list[tuple[Callable[[], algorithms.Algorithm], Callable[[], families.Family]]] = [
    (algorithms.ScoreRegression, lambda: families.LowRank(2)),
    (algorithms.ScoreRegression, families.PointMass),
    (algorithms.GradientVI, families.Arrow),
    *((a, families.Particles) for a in (algorithms.ScoreRegression, algorithms.SampleAverage, algorithms.GradientVI)),
    (algorithms.Maximum, families.Particles),
    (algorithms.SVGD, families.PointMass),
    (algorithms.SVGD, families.Dense),
    (algorithms.BatchAndMatch, families.PointMass),
    (algorithms.BatchAndMatch, families.Diagonal),
    (algorithms.MomentMatching, families.PointMass),
    (algorithms.MarkovianScoreClimbing, families.PointMass),
    (algorithms.MarkovianScoreClimbing, families.Particles),
    (algorithms.MomentMatching, families.Arrow),
    (algorithms.MomentMatching, lambda: families.LowRank(2)),
    (algorithms.Maximum, families.Arrow),
    (algorithms.SampleAverage, families.PointMass),
    (algorithms.GradientVI, families.PointMass),
    (algorithms.ScoreRegression, families.Flow),
    (algorithms.SampleAverage, families.Flow),
    (algorithms.SampleAverage, families.SinhArcsinh),
    (algorithms.GradientVI, families.Flow),
    (algorithms.GradientVI, families.SinhArcsinh),
    (algorithms.FromGaussian, families.Dense),
    (algorithms.FromGaussian, families.PointMass),
    (algorithms.Maximum, families.Dense),
    (algorithms.Maximum, families.Diagonal),
    (algorithms.Maximum, lambda: families.LowRank(2)),
    (algorithms.AmortizedVI, families.Dense),
    (algorithms.AmortizedVI, families.PointMass),
    *((a, f) for a in CLOSED for f in (families.Dense, families.PointMass)),
]

#: Every objective, with the number of draws that the laws use.
OBJECTIVES: list[Callable[[int], objectives.Objective]] = [
    objectives.ELBO,
    lambda n: objectives.ELBO(n, form="entropy"),
    lambda n: objectives.ELBO(n, form="prior"),
    objectives.ImportanceWeighted,
    lambda n: objectives.Renyi(0.5, n),
    lambda n: objectives.Renyi(2.0, n),
    objectives.TailAdaptive,
    objectives.ForwardKL,
    lambda n: objectives.ChiUpperBound(2.0, n),
    objectives.KernelStein,
    lambda n: objectives.MMD(np.random.default_rng(0).standard_normal((20, 2)), n),
]
#: Every gradient estimator.
GRADIENTS: list[gradients.Gradient] = [
    gradients.Reparameterized(),
    gradients.StickingTheLanding(),
    gradients.DoublyReparameterized(),
    gradients.ScoreFunction(),
    gradients.SelfNormalized(),
]
#: Every gradient of one site's block.
SITE_GRADIENTS: list[gradients.SiteGradient] = [
    gradients.Implicit(),
    gradients.Enumeration(),
    gradients.SiteScoreFunction(),
]


def log_density(**data: Any) -> lb.LogDensity:
    """A target that is not Gaussian: three sites of different shapes, coupled, with a scale among them."""

    def density(a, b, c, y):
        return (
            -0.5 * jnp.sum((a - 1.0) ** 2)
            - 2.0 * jnp.log(b)
            - 1.0 / b
            - 0.5 * jnp.sum((c - 0.3 * a[0]) ** 2)
            - 0.5 * jnp.sum((y - a[1] - c.sum()) ** 2) / b
            - 0.5 * y.shape[0] * jnp.log(b)
        )

    sites = {
        "a": lb.Site(constraints.real, (2,)),
        "b": lb.Site(constraints.positive, ()),
        "c": lb.Site(constraints.real, (2, 1)),
    }
    return lb.LogDensity(density, sites)


def data(seed: int = 0) -> dict[str, np.ndarray]:
    """Rows for :func:`log_density`."""
    return {"y": 1.5 + 0.8 * np.random.default_rng(seed).standard_normal(12)}
