"""The fixed-noise ELBO: its value, gradient and Hessian products against automatic differentiation of the same sum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lowerbound as lb
from lowerbound import families
from lowerbound.algorithms.fixed_noise import FixedNoise, carry, information, locations, pull_back
from lowerbound.expectations.noise import matched_normals
from lowerbound.kernel import Kernel
from lowerbound.model.given import as_model
from lowerbound.precision import float64
from tests.registry import FAMILIES, Subject, data, log_density

P = 5
_indices = (np.array([3, 0]), np.array([4, 1, 2]))


def _lower(d: int) -> np.ndarray:
    return np.eye(d) * 0.4 + np.tril(np.full((d, d), 0.1), -1)


LOCATION = np.array([0.9, 1.1, 0.3, 0.2, -0.1])
BASES = {
    "diagonal": (families.Diagonal(), families.DiagonalGaussian(LOCATION, np.linspace(0.2, 0.6, P))),
    "dense": (families.Dense(), families.DenseGaussian(LOCATION, _lower(P))),
    "low rank": (families.LowRank(2), families.DiagonalGaussian(LOCATION, np.linspace(0.2, 0.6, P))),
    "product": (
        families.BoundProduct((families.Dense(), families.Diagonal()), _indices),
        families.ProductBlock(
            (
                families.DenseGaussian(LOCATION[_indices[0]], _lower(2)),
                families.DiagonalGaussian(LOCATION[_indices[1]], np.array([0.3, 0.5, 0.2])),
            ),
            _indices,
        ),
    ),
}


def _root(base) -> np.ndarray:
    """L with covariance L L': each block's own, in its own rows and columns."""
    if not isinstance(base, families.ProductBlock):
        return np.linalg.cholesky(base.covariance())
    out = np.zeros((P, P))
    for block, i in zip(base.blocks, base.indices, strict=True):
        out[np.ix_(i, i)] = np.linalg.cholesky(block.covariance())  # pyright: ignore
    return out


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return Kernel(as_model(log_density(), data()))


@pytest.mark.parametrize("name", BASES)
def test_value_gradient_and_products_are_those_of_the_sum(name, kernel):
    family, base = BASES[name]
    rng = np.random.default_rng(3)
    width = family.build(np.zeros(P), np.ones(P)).noise_dimension
    function = FixedNoise(kernel, family, base, matched_normals(rng, 16, width))
    vector = function.start + 0.1 * rng.standard_normal(len(function.start))
    at = function.evaluate(vector)
    assert at is not None
    root = _root(base)

    def total(phi):
        parameters, start = {}, 0
        for key, shape in function.layout:
            size = int(np.prod(shape))
            parameters[key] = phi[start : start + size].reshape(shape)
            start += size
        block = family.from_parameters(parameters)
        x = LOCATION + block.transform(jnp.asarray(function.noise)) @ root.T
        values = jax.vmap(lambda z: kernel.model.log_density(z, kernel.model.arguments))(x)
        return values.mean() + block.entropy() + np.linalg.slogdet(root)[1]

    with float64():
        phi = jnp.asarray(vector)
        value, gradient = jax.jit(jax.value_and_grad(total))(phi)
        automatic = jax.jit(lambda d: jax.jvp(jax.grad(total), (phi,), (d,))[1])
    assert at.elbo == pytest.approx(float(value), rel=1e-12)
    np.testing.assert_allclose(at.gradient, gradient, rtol=0, atol=1e-10 * np.abs(gradient).max())
    directions = rng.standard_normal((3, len(vector))) * np.array([[1.0], [1e-6], [1e6]])
    directions[1, 0] = 0.0
    got = function.products(at, directions)
    for row, direction in zip(got, directions, strict=True):
        with float64():
            exact = np.asarray(automatic(jnp.asarray(direction)))
        np.testing.assert_allclose(row, exact, rtol=0, atol=2e-6 * np.abs(exact).max())
    assert not function.products(at, np.zeros(len(vector))).any()


def test_pairs_average_to_the_gradient(kernel):
    family, base = BASES["product"]
    function = FixedNoise(kernel, family, base, matched_normals(np.random.default_rng(0), 16, P))
    at = function.evaluate(function.start)
    assert at is not None
    np.testing.assert_allclose(function.pair_gradients(at).mean(0), at.gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("place", [0.0, 1e5, 1e8])
def test_products_far_from_the_origin(place):
    # x = place + z with z of scale 1: the rounding of x is what the step of the difference has to stand above.
    target = lb.LogDensity(lambda x: -jnp.logaddexp(x - place, place - x).sum(), {"x": lb.Site(shape=(4,))})
    kernel = Kernel(as_model(target))
    base = families.DiagonalGaussian(np.full(4, place), np.ones(4))
    function = FixedNoise(kernel, families.Diagonal(), base, matched_normals(np.random.default_rng(0), 16, 4))
    at = function.evaluate(function.start)
    assert at is not None
    curvature = (-4 / (np.exp(function.noise) + np.exp(-function.noise)) ** 2).mean(0)
    got = function.products(at, np.eye(8)[:4])[:, :4]
    np.testing.assert_allclose(got, np.diag(curvature), rtol=0, atol=1e-9 + 5e-7 * np.sqrt(max(place, 1.0)))


@pytest.mark.parametrize("subject", [s for s in FAMILIES if s.name in ("dense", "diagonal", "product")], ids=repr)
def test_information_is_the_curvature_of_kl_along_locations_and_log_scales(subject: Subject):
    """At the standard member, 1 for each location and loading and 2 for each log scale; locations in their places."""
    family, d = subject.family, subject.block.dimension
    if isinstance(family, families.BoundProduct):
        family = families.BoundProduct((families.Dense(), families.Diagonal()), subject.family.indices[:2])  # pyright: ignore
        family = families.BoundProduct(family.families, (np.array([2, 0]), np.array([1, 3, 5, 4])))
        d = 6
    standard = family.build(np.zeros(d), np.ones(d))
    names = [k for k, v in family.parameters(standard).items() for _ in range(np.size(v))]
    found = information(family, standard)
    assert found.tolist() == [2.0 if "log_" in n else 1.0 for n in names]
    phi = np.arange(len(names), dtype=float)
    parts, at = {}, 0
    for k, v in family.parameters(standard).items():
        parts[k] = phi[at : at + np.size(v)].reshape(np.shape(v))
        at += np.size(v)
    assert np.asarray(family.from_parameters(parts).mean).tolist() == phi[locations(family, d)].tolist()


@pytest.mark.parametrize("name", ["diagonal", "dense", "product"])
def test_carry_is_affine_and_pull_back_its_transpose(name):
    _, base = BASES[name]
    rng = np.random.default_rng(0)
    y, score = rng.standard_normal((3, P)), rng.standard_normal((3, P))
    there = carry(base, y) - LOCATION
    np.testing.assert_allclose(there, y @ _root(base).T, rtol=1e-12)
    np.testing.assert_allclose((there * score).sum(1), (y * pull_back(base, score)).sum(1), rtol=1e-12)
