"""Linear response against posteriors whose covariance is known."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import lowerbound as lb
from lowerbound import families
from lowerbound.diagnostics import linear_response, linear_response_gaussian
from lowerbound.kernel import Kernel
from lowerbound.model.given import as_model
from tests.exact.test_logistic_regression import _data, _grid

P = 20
_rng = np.random.default_rng(4)
MEAN = 10 * _rng.standard_normal(P)
_scale = 10 ** _rng.uniform(-2, 2, P)
_directions = 2 * _rng.standard_normal((P, 3)) / np.sqrt(P)
PRECISION = (np.eye(P) + 3 * _directions @ _directions.T) / np.outer(_scale, _scale)
COVARIANCE = np.linalg.inv(PRECISION)
SD = np.sqrt(np.diagonal(COVARIANCE))
GROUPS = (np.array([13, 2, 7]), np.setdiff1d(np.arange(P), [13, 2, 7]))


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    def density(x):
        return -0.5 * (x - MEAN) @ jnp.asarray(PRECISION) @ (x - MEAN)

    return Kernel(as_model(lb.LogDensity(density, {"x": lb.Site(shape=(P,))})))


def _mean_field(groups: tuple[np.ndarray, ...] = ()) -> families.Block:
    """Where the fit would end: each block's own block of the precision."""
    if not groups:
        return families.DiagonalGaussian(MEAN, 1 / np.sqrt(np.diagonal(PRECISION)))
    blocks = [np.linalg.inv(PRECISION[np.ix_(i, i)]) for i in groups]
    first = families.DenseGaussian(MEAN[groups[0]], np.linalg.cholesky(blocks[0]))
    second = families.DiagonalGaussian(MEAN[groups[1]], 1 / np.sqrt(np.diagonal(PRECISION)[groups[1]]))
    return families.ProductBlock((first, second), groups)


def _assert_exact(response, index=slice(None), tol: float = 1e-4) -> None:
    sd = SD[index]
    error = np.abs(response.covariance - COVARIANCE[index][:, index]) / np.outer(sd, sd)
    assert error.max() < tol
    np.testing.assert_allclose(response.sd, sd, rtol=tol)
    assert (np.abs(response.mean - MEAN[index]) < 1e-3 * sd).all()


@pytest.mark.parametrize("num_draws", [8, 64])
@pytest.mark.parametrize("form", [True, False])
def test_a_gaussian_posterior_has_its_covariance(kernel, form, num_draws):
    q = _mean_field()
    assert (np.sqrt(q.variance()) < 0.9 * SD).sum() > 5, "the mean-field answer is not wrong enough to be corrected"
    response = linear_response(kernel, q, num_draws=num_draws, form=form)
    _assert_exact(response)
    assert (response.iterations == 0) is form and response.residual < 2e-4
    # Scores are affine in the noise, antithetic noise gives their mean exactly: no error but rounding.
    assert (response.mean_error < 1e-5 * SD).all()


def test_some_coordinates_in_any_order(kernel):
    index = np.array([7, 0, 19, 7])
    for form in (True, False):
        response = linear_response(kernel, _mean_field(), index, form=form)
        assert response.coordinates.tolist() == index.tolist()
        _assert_exact(response, index)
    assert linear_response(kernel, _mean_field(), 5).iterations > 0, "one coordinate is not worth forming a matrix"


def test_the_two_ways_agree_away_from_a_gaussian():
    x, y = _data(30, False)
    kernel = Kernel(as_model(_shifted, {"x": x, "y": y}))
    q = _fit_q(kernel)
    formed, solved = (linear_response(kernel, q, form=form) for form in (True, False))
    np.testing.assert_allclose(formed.covariance, solved.covariance, rtol=1e-4)
    np.testing.assert_allclose(formed.mean_error, solved.mean_error, rtol=1e-3)
    np.testing.assert_allclose(formed.curvature, solved.curvature, rtol=1e-4)


@pytest.mark.parametrize("groups", [GROUPS, GROUPS[::-1]], ids=["dense first", "diagonal first"])
def test_a_product_of_dense_and_diagonal(kernel, groups):
    blocks = {len(GROUPS[0]): 0}
    q = _mean_field(GROUPS)
    assert isinstance(q, families.ProductBlock)
    order = [blocks.get(len(g), 1) for g in groups]
    q = families.ProductBlock(tuple(q.blocks[j] for j in order), groups)
    _assert_exact(linear_response(kernel, q))


def test_a_product_of_diagonals_is_diagonal(kernel):
    q = _mean_field()
    parts = tuple(families.DiagonalGaussian(q.mean[i], np.sqrt(q.variance()[i])) for i in GROUPS)
    _assert_exact(linear_response(kernel, families.ProductBlock(parts, GROUPS), form=True))


def test_a_q_that_is_not_at_the_maximum_is_moved_there(kernel):
    q = _mean_field()
    away = families.DiagonalGaussian(q.mean + 2 * np.sqrt(q.variance()), 1.5 * np.sqrt(q.variance()))
    response = linear_response(kernel, away)
    _assert_exact(response)
    assert response.moved > 5 > linear_response(kernel, q).moved


def test_the_gaussian_is_the_posterior(kernel):
    found = linear_response_gaussian(kernel, _mean_field())
    error = np.abs(found.covariance() - COVARIANCE) / np.outer(SD, SD)
    assert isinstance(found, families.DenseGaussian) and error.max() < 1e-6
    assert (np.abs(found.mean - MEAN) < 1e-3 * SD).all()


# -- where it is an approximation ------------------------------------------------------------------------


def _shifted(x, y):
    # As in the model of the grid, but with the covariate centred at 2: the two coefficients are strongly correlated.
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 3.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 3.0))
    numpyro.sample("y", dist.Bernoulli(logits=intercept + slope * (x + 2)), obs=y)


def _fit_q(kernel: Kernel) -> families.Block:
    from lowerbound.algorithms import SampleAverage
    from lowerbound.fitting import run

    return run(SampleAverage(), kernel, families.Diagonal(), seed=0).output


def test_logistic_regression_against_a_grid():
    x, y = _data(100, False)
    _, _, sd, correlation = _grid(x + 2, y, 401)
    kernel = Kernel(as_model(_shifted, {"x": x, "y": y}))
    q = _fit_q(kernel)
    response = linear_response(kernel, q, num_draws=256)
    found = response.covariance[0, 1] / response.sd.prod()
    assert correlation < -0.7
    assert (np.sqrt(q.variance()) < 0.75 * sd).all(), "the mean-field answer is not wrong enough to be corrected"
    # What is left is third order: the posterior's skewness, which falls with the rows.
    assert (np.abs(np.log(response.sd / sd)) < 0.06).all()
    assert abs(found - correlation) < 0.02


# -- by site -----------------------------------------------------------------------------------------------


def _two_scales() -> tuple[lb.LogDensity, np.ndarray, np.ndarray]:
    """log a, log b and c jointly Gaussian: on the constrained space, log-normal moments."""
    mean = np.array([0.3, -1.0, 2.0])
    root = np.array([[0.3, 0.0, 0.0], [0.25, 0.2, 0.0], [-0.5, 0.4, 0.7]])
    precision = np.linalg.inv(root @ root.T)

    def density(a, b, c):
        u = jnp.stack([jnp.log(a), jnp.log(b[0]), c]) - mean
        return -0.5 * u @ jnp.asarray(precision) @ u - jnp.log(a) - jnp.log(b[0])

    positive = constraints.positive
    sites = {"a": lb.Site(positive), "b": lb.Site(positive, (1,)), "c": lb.Site()}
    return lb.LogDensity(density, sites), mean, root @ root.T


def test_sites_come_back_on_the_constrained_space():
    target, mean, covariance = _two_scales()
    posterior = lb.fit(target, family="diagonal")
    found = posterior.linear_response()
    variance = np.diagonal(covariance)
    normal_mean = np.exp(mean[:2] + variance[:2] / 2)
    normal_sd = normal_mean * np.sqrt(np.expm1(variance[:2]))
    assert list(found.sd) == ["a", "b", "c"]
    assert found.mean["a"].shape == () and found.mean["b"].shape == found.mean_error["b"].shape == (1,)
    # 4,096 draws: the sd of a log-normal of this width is known to 2%, its mean far better.
    got = np.array([found.sd["a"], found.sd["b"][0]])
    assert np.abs(np.log(got / normal_sd)).max() < 0.06
    assert np.abs(np.array([found.mean["a"], found.mean["b"][0]]) / normal_mean - 1).max() < 0.02
    assert found.sd["c"] == pytest.approx(np.sqrt(variance[2]), rel=0.02)
    assert np.sqrt(posterior.q.variance()[2]) < 0.95 * np.sqrt(variance[2])
    only = posterior.linear_response("b")
    assert list(only.sd) == ["b"] and only.response.coordinates.tolist() == [1]
    np.testing.assert_allclose(only.response.sd, np.sqrt(variance[1:2]), rtol=1e-4)


def test_deterministics_use_all_coordinates():
    def model(y):
        a = numpyro.sample("a", dist.Normal(0, 1))
        b = numpyro.sample("b", dist.Normal(0, 1))
        numpyro.deterministic("difference", a - b)
        numpyro.sample("y", dist.Normal(a + b, 0.1), obs=y)

    posterior = lb.fit(model, {"y": 1.0}, family="diagonal")
    found = posterior.linear_response("difference")
    # a - b is independent of y: its sd is the prior's, sqrt(2).
    assert list(found.sd) == ["difference"]
    assert found.sd["difference"] == pytest.approx(np.sqrt(2), rel=0.02)
    assert posterior.q.covariance().trace() < 0.1
