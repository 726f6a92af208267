"""Exponential-family blocks: moments, entropies, draws and densities are of one distribution; what is improper."""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import pytest
from scipy import special, stats

from lowerbound.algorithms.marginal import statistics_at
from lowerbound.expectations.functions import IDENTITY
from lowerbound.families import exponential as families
from lowerbound.families.exponential.base import blend
from lowerbound.precision import float64
from tests.expectations.programs import HASTY, LOG, some_naturals
from tests.measure import assert_mean

INVERSE = IDENTITY.power(-1.0)
DRAWS = 8_000


def _gaussian(shapes, plates, dense, pairs):
    return families.JointGaussianBlock(shapes, plates, dense, {n: (n,) for n in shapes}, {p: p for p in pairs})


def _tabulated(support: str, *functions):
    return families.TabulatedBlock("x", (2,), support, {f: f for f in functions})


#: Every block, in several shapes.
BLOCKS = {
    "gamma": families.PowerGammaBlock("x", (2, 3), 1.0, "log", "raised"),
    "inverse gamma": families.PowerGammaBlock("x", (2,), -1.0, "log", "raised"),
    "scale of a precision": families.PowerGammaBlock("x", (), -2.0, "log", "raised"),
    "half normal": families.PowerGammaBlock("x", (3,), 2.0, "log", "raised"),
    "root": families.PowerGammaBlock("x", (3,), 0.5, "log", "raised"),
    "beta": families.BetaBlock("x", (2, 2), "log", "complement"),
    "dirichlet": families.DirichletBlock("x", (2, 3), "log"),
    "categorical": families.CategoricalBlock("x", (2, 2), np.array([0, 1, 2]), "one"),
    "categorical of other values": families.CategoricalBlock("x", (), np.array([2, 5]), "one"),
    "log-normal": families.LogNormalBlock("x", (2,), "log", "squared"),
    "wishart": families.WishartBlock("x", (2, 3, 3), "matrix", "log_det", inverse=False),
    "inverse wishart": families.WishartBlock("x", (2, 2), "matrix", "log_det", inverse=True),
    "normal": _gaussian({"x": (3,)}, {"x": (0,)}, {"x": ()}, [("x", "x")]),
    "dense": _gaussian({"x": (3,)}, {"x": ()}, {"x": (0,)}, [("x", "x")]),
    "dense along the first axis": _gaussian({"x": (3, 2)}, {"x": (1,)}, {"x": (0,)}, [("x", "x")]),
    "dense along two axes": _gaussian({"x": (2, 2, 2)}, {"x": (1,)}, {"x": (0, 2)}, [("x", "x")]),
    "joint": _gaussian(
        {"x": (3, 2), "y": (2,), "w": (2, 2)},
        {"x": (1,), "y": (0,), "w": (0,)},
        {"x": (0,), "y": (), "w": (1,)},
        [("x", "x"), ("x", "y"), ("y", "y"), ("w", "w"), ("x", "w")],
    ),
    "normal-gamma": families.NormalGammaBlock(
        _gaussian({"x": (3,), "y": ()}, {"x": (), "y": ()}, {"x": (0,), "y": ()}, [("x", "x"), ("x", "y"), ("y", "y")]),
        *("s", (), 1.0, "log", "raised"),
    ),
    "normal-gamma of standard deviations in a plate": families.NormalGammaBlock(
        _gaussian({"x": (2, 3)}, {"x": (0,)}, {"x": (1,)}, [("x", "x")]), "s", (2,), -2.0, "log", "raised"
    ),
    "normal-gamma, one precision for a plate": families.NormalGammaBlock(
        _gaussian({"x": (3,)}, {"x": (0,)}, {"x": ()}, [("x", "x")]), "s", (), 1.0, "log", "raised"
    ),
    "normal-wishart": families.NormalWishartBlock("l", "x", (2, 3, 3), "log_det", "whole", "product", "square"),
    "tabulated gamma": _tabulated("positive", LOG, IDENTITY),
    "tabulated, three statistics": _tabulated("positive", LOG, IDENTITY, INVERSE),
    "tabulated normal": _tabulated("real", IDENTITY, IDENTITY * IDENTITY),
    "tabulated beta": _tabulated("unit", LOG, IDENTITY.log_complement()),
}
NAMES = list(BLOCKS)
#: Blocks whose natural parameters are not free of each other: a step in each by itself may leave the proper ones.
JOINT = (
    families.WishartBlock,
    families.JointGaussianBlock,
    families.NormalGammaBlock,
    families.NormalWishartBlock,
)


def natural_of(name: str, seed: int = 0) -> dict:
    block = BLOCKS[name]
    natural = some_naturals(block, np.random.default_rng([seed, NAMES.index(name)]))
    if name == "tabulated, three statistics":
        natural[INVERSE] = -np.array([0.7, 2.0])
    return natural


@cache
def compiled(name: str):
    """``(natural, direction) -> entropy, moments, whether proper, and how the first two move``.

    All of them together, so that a block is compiled once: as single operations JAX would compile each by itself.
    """
    block = BLOCKS[name]

    def both(values):
        natural = dict(zip(block.keys, values, strict=True))
        moments = block.moments(natural)
        return block.entropy(natural), [moments[k] for k in block.keys]

    def everything(natural: list, direction: list):
        (entropy, moments), (slope, moved) = jax.jvp(both, (natural,), (direction,))
        return entropy, moments, block.proper(dict(zip(block.keys, natural, strict=True))), slope, moved

    return jax.jit(everything, compiler_options=HASTY)


def evaluated(name: str, natural: dict, direction: list | None = None):
    """Entropy, moments by key, and whether it is proper; with a direction, how entropy and moments move."""
    block = BLOCKS[name]
    values = [np.asarray(natural[k], float) for k in block.keys]
    along = [np.zeros_like(v) for v in values] if direction is None else direction
    entropy, moments, proper, slope, moved = compiled(name)(values, along)
    if direction is not None:
        return float(slope), moved
    return float(entropy), {k: np.asarray(m) for k, m in zip(block.keys, moments, strict=True)}, bool(proper)


@pytest.mark.parametrize("name", NAMES)
def test_moments_are_the_gradient_of_the_log_partition(name):
    """H = A - eta . E[t] with dA / deta = E[t], so that dH = -eta . dE[t] in every direction."""
    block = BLOCKS[name]
    with float64():
        natural = [np.asarray(natural_of(name)[k], float) for k in block.keys]
        rng = np.random.default_rng(3)
        direction = [0.1 * rng.standard_normal(np.shape(n)) * np.abs(n) for n in natural]
        if isinstance(block, JOINT):
            direction = [0.1 * n * s for n, s in zip(natural, rng.uniform(0.5, 1.5, 9), strict=False)]
        slope, moved = evaluated(name, natural_of(name), direction)
        along = sum(float((n * np.asarray(m)).sum()) for n, m in zip(natural, moved, strict=True))
        np.testing.assert_allclose(slope, -along, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_entropy_is_that_of_the_density(name):
    block, natural = BLOCKS[name], natural_of(name)
    with float64():
        draws = block.sample(np.random.default_rng(1), natural, DRAWS)
        assert_mean(-block.log_prob(natural, draws), evaluated(name, natural)[0], "entropy")


@pytest.mark.parametrize("name", NAMES)
def test_draws_have_the_stated_moments(name):
    block, natural = BLOCKS[name], natural_of(name)
    with float64():
        draws = block.sample(np.random.default_rng(2), natural, DRAWS)
        _, moments, _ = evaluated(name, natural)
        for latent, (mean, variance) in block.mean_and_variance(natural).items():
            x = np.asarray(draws[latent], float)
            assert x.shape[1:] == np.shape(mean) == np.shape(variance)
            assert_mean(x, mean, f"mean of {latent}")
            # Heavy tails leave the error of a variance unmeasured.
            if name not in ("inverse gamma", "scale of a precision", "inverse wishart"):
                assert_mean((x - mean) ** 2, variance, f"variance of {latent}")
        for k, of_draws in statistics(block, draws).items():
            assert_mean(of_draws, moments[k], f"moment {k}")


def statistics(block, draws) -> dict:
    """The statistics of draws, by their definition."""
    if isinstance(block, families.JointGaussianBlock):
        return gaussian_statistics(block, draws)
    x = np.asarray(draws[block.latents[0]], float)
    if isinstance(block, families.PowerGammaBlock):
        return {block.log: np.log(x), block.raised: x**block.power}
    if isinstance(block, families.LogNormalBlock):
        return {block.log: np.log(x), block.squared: np.log(x) ** 2}
    if isinstance(block, families.BetaBlock):
        return {block.log: np.log(x), block.complement: np.log1p(-x)}
    if isinstance(block, families.DirichletBlock):
        return {block.log: np.log(x)}
    if isinstance(block, families.CategoricalBlock):
        return {block.indicator: (x[..., None] == block.values).astype(float)}
    if isinstance(block, families.WishartBlock):
        own = np.linalg.inv(x) if block.inverse else x
        return {block.matrix: own, block.log_det: np.linalg.slogdet(x)[1]}
    if isinstance(block, (families.NormalGammaBlock, families.NormalWishartBlock)):
        found = jax.jit(jax.vmap(lambda values: [statistics_at(block, values)[k] for k in block.keys]))(dict(draws))
        return dict(zip(block.keys, map(np.asarray, found), strict=True))
    return {k: np.asarray(f(x, np)) for k, f in block.statistics.items()}


def gaussian_statistics(block, draws) -> dict:
    letters = iter("abcdefghijklm")
    out = {k: np.asarray(draws[n]) for n, k in block.first.items()}
    plate = [next(letters) for _ in block.plate_shape]
    for (n, m), k in block.second.items():
        names, dense = [], []
        for latent in (n, m):
            own = dict(zip(block.plates[latent], plate, strict=True))
            new = {i: next(letters) for i in block.dense[latent]}
            dense += new.values()
            names.append("z" + "".join({**own, **new}[i] for i in range(len(block.shapes[latent]))))
        letters = iter("abcdefghijklm"[len(plate) :])
        out[k] = np.einsum(f"{names[0]},{names[1]}->z{''.join(plate + dense)}", draws[n], draws[m])
    return out


@pytest.mark.parametrize("name", NAMES)
def test_start_and_blends_are_proper(name):
    block = BLOCKS[name]
    if isinstance(block, families.TabulatedBlock):
        return  # it starts from nothing: the first update is of all statistics
    with float64():
        start = {k: np.asarray(v, float) for k, v in block.start(np.random.default_rng(0), 0.7).items()}
        other = natural_of(name)
        assert set(start) == set(block.keys) == set(other)
        for natural in (start, other, blend(start, other, 0.3)):
            entropy, moments, proper = evaluated(name, natural)
            assert proper and np.isfinite(entropy) and all(np.isfinite(v).all() for v in moments.values())


@pytest.mark.parametrize("name", NAMES)
def test_improper_naturals_are_found_out(name):
    block = BLOCKS[name]
    if isinstance(block, families.CategoricalBlock):
        return  # any finite weights are probabilities
    with float64():
        natural = {k: np.asarray(v, float) for k, v in natural_of(name).items()}
        assert evaluated(name, natural)[2]
        turned = {k: -v for k, v in natural.items()}
        turned = {k: v - 3 if "log" in str(k) or k == LOG else v for k, v in turned.items()}
        assert not evaluated(name, turned)[2]


@pytest.mark.parametrize("name", ["gamma", "inverse gamma", "half normal", "root", "beta", "log-normal", "normal"])
def test_densities_integrate_to_one(name):
    block = BLOCKS[name]
    u = np.linspace(-25, 25, 8001)
    real = name == "normal"
    x = u if real else 1 / (1 + np.exp(-u)) if name == "beta" else np.exp(u)
    x = np.clip(x, 1e-300, 1 - 1e-16) if name == "beta" else x
    log_slope = 0 * u if real else np.log(x) + (np.log1p(-x) if name == "beta" else 0)
    with float64():
        # All elements at the same place, of blocks whose elements have the same parameters.
        natural = {k: np.broadcast_to(np.ravel(v)[0], np.shape(v)) for k, v in natural_of(name).items()}
        shape = np.shape(natural[block.keys[0]])
        values = np.broadcast_to(x.reshape(-1, *(1,) * len(shape)), (len(x), *shape))
        log_q = block.log_prob(natural, {"x": values}) / np.prod(shape)
    np.testing.assert_allclose((np.exp(log_q + log_slope)).sum() * (u[1] - u[0]), 1.0, rtol=1e-7)


def test_tables_agree_with_closed_forms():
    with float64():
        a, b = np.array([0.4, 7.0]), np.array([2.5, 0.3])
        block = BLOCKS["tabulated gamma"]
        natural = {LOG: a - 1, IDENTITY: -b}
        moments = block.moments(natural)
        np.testing.assert_allclose(moments[IDENTITY], a / b, rtol=1e-9)
        np.testing.assert_allclose(moments[LOG], special.digamma(a) - np.log(b), rtol=1e-9)
        np.testing.assert_allclose(block.entropy(natural), stats.gamma(a, scale=1 / b).entropy().sum(), rtol=1e-9)
        x = np.array([[0.3, 11.0], [1.7, 40.0]])
        np.testing.assert_allclose(
            block.log_prob(natural, {"x": x}), stats.gamma(a, scale=1 / b).logpdf(x).sum(1), rtol=1e-9
        )
        # the generalised inverse Gaussian: x^(p - 1) exp(-(c x + d / x) / 2)
        p, c, d = np.array([0.7, -1.3]), np.array([2.0, 0.5]), np.array([3.0, 4.0])
        block = BLOCKS["tabulated, three statistics"]
        moments = block.moments({LOG: p - 1, IDENTITY: -c / 2, INVERSE: -d / 2})
        s = np.sqrt(c * d)
        up, down = special.kv(p + 1, s) / special.kv(p, s), special.kv(p - 1, s) / special.kv(p, s)
        np.testing.assert_allclose(moments[IDENTITY], np.sqrt(d / c) * up, rtol=1e-9)
        np.testing.assert_allclose(moments[INVERSE], np.sqrt(c / d) * down, rtol=1e-9)
        block = BLOCKS["tabulated normal"]
        m, v = np.array([30.0, -0.2]), np.array([1e-2, 50.0])
        natural = {IDENTITY: m / v, IDENTITY * IDENTITY: -0.5 / v}
        moments = block.moments(natural)
        np.testing.assert_allclose(moments[IDENTITY], m, rtol=1e-8)
        np.testing.assert_allclose(moments[IDENTITY * IDENTITY], m**2 + v, rtol=1e-8)
        np.testing.assert_allclose(block.entropy(natural), 0.5 * np.log(2 * np.pi * np.e * v).sum(), rtol=1e-6)
        block = BLOCKS["tabulated beta"]
        a, b = np.array([0.6, 30.0]), np.array([4.0, 12.0])
        moments = block.moments({LOG: a - 1, IDENTITY.log_complement(): b - 1})
        np.testing.assert_allclose(moments[LOG], special.digamma(a) - special.digamma(a + b), rtol=1e-8)


def test_a_gaussian_with_moments_and_back():
    """The natural parameters of a mean and covariance are those it was made from."""
    block = BLOCKS["joint"]
    natural = natural_of("joint")
    with float64():
        mean, covariance = (np.asarray(a) for a in block.mean_covariance(natural))
        eta, precision = (np.asarray(a) for a in block.vectors(natural))
    np.testing.assert_allclose(precision @ covariance, np.broadcast_to(np.eye(block.size), precision.shape), atol=1e-12)
    np.testing.assert_allclose(np.einsum("...ij,...j->...i", precision, mean), eta, atol=1e-12)
