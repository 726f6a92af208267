"""What is true of every block, whatever it is inside: sample, log_prob, entropy and moments agree."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lowerbound.families import Arrow, BoundProduct, Dense, Diagonal, GaussianBlock, Point
from tests.measure import assert_mean, assert_moments
from tests.registry import FAMILIES, POINTS, SHAPED, Subject

DRAWS = 20_000
subjects = pytest.mark.parametrize("subject", FAMILIES, ids=repr)
every = pytest.mark.parametrize("subject", [*FAMILIES, *SHAPED], ids=repr)
gaussians = pytest.mark.parametrize("subject", [s for s in FAMILIES if isinstance(s.block, GaussianBlock)], ids=repr)


@subjects
def test_log_prob_integrates_to_one(subject: Subject):
    # Importance draws from a Gaussian three times as wide in every standard deviation.
    q = subject.block
    rng = np.random.default_rng(1)
    sd = 1.3 * np.sqrt(q.variance())
    x = q.mean + 1.3 * (q.sample(rng, DRAWS) - q.mean)
    # The density of that wider cloud, known independently of log_prob: a Gaussian with its covariance.
    wide = stats.multivariate_normal(q.mean, 1.69 * q.covariance())
    assert (sd > 0).all()
    assert_mean(np.exp(q.log_prob(x) - wide.logpdf(x)), 1.0, "integral of q")


@subjects
def test_log_prob_is_the_multivariate_normal_density(subject: Subject):
    q = subject.block
    x = q.mean + 2.0 * np.random.default_rng(2).standard_normal((50, q.dimension))
    expected = stats.multivariate_normal(q.mean, q.covariance()).logpdf(x)
    np.testing.assert_allclose(q.log_prob(x), expected, rtol=1e-9, atol=1e-9)


@subjects
def test_entropy_is_minus_the_mean_of_log_prob(subject: Subject):
    q = subject.block
    x = q.sample(np.random.default_rng(3), DRAWS)
    assert_mean(-q.log_prob(x), q.entropy(), "entropy")
    assert float(q.entropy()) == pytest.approx(stats.multivariate_normal(q.mean, q.covariance()).entropy(), rel=1e-10)


@every
def test_draws_have_the_stated_moments(subject: Subject):
    q = subject.block
    x = q.sample(np.random.default_rng(4), DRAWS)
    assert x.shape == (DRAWS, q.dimension)
    assert_moments(x, q.mean, q.covariance())
    np.testing.assert_allclose(q.variance(), np.diagonal(q.covariance()), rtol=1e-12)


@subjects
def test_transform_is_affine_in_the_noise_and_its_slope_gives_the_covariance(subject: Subject):
    # Exact, unlike draws: the images of 0 and of the unit vectors are the mean and the columns of a square root.
    q = subject.block
    mean = q.transform(np.zeros((1, q.noise_dimension)))[0]
    columns = q.transform(np.eye(q.noise_dimension)) - mean
    np.testing.assert_allclose(mean, q.mean, rtol=1e-14)
    np.testing.assert_allclose(columns.T @ columns, q.covariance(), rtol=1e-10, atol=1e-12)
    noise = np.random.default_rng(5).standard_normal((7, q.noise_dimension))
    np.testing.assert_allclose(q.transform(noise), mean + noise @ columns, rtol=1e-10, atol=1e-12)


@every
def test_same_generator_same_bits(subject: Subject):
    a = subject.block.sample(np.random.default_rng(6), 100)
    b = subject.block.sample(np.random.default_rng(6), 100)
    c = subject.block.sample(np.random.default_rng(7), 100)
    assert np.array_equal(a, b) and not np.array_equal(a, c)


@gaussians
def test_whiten_and_log_det_give_log_prob(subject: Subject):
    q = subject.block
    x = q.mean + np.random.default_rng(8).standard_normal((40, q.dimension))
    e = q.whiten(x)
    by_hand = -0.5 * (e**2).sum(1) - 0.5 * q.dimension * np.log(2 * np.pi) - q.log_det()
    np.testing.assert_allclose(q.log_prob(x), by_hand, rtol=1e-10, atol=1e-10)
    assert float(q.log_det()) == pytest.approx(0.5 * np.linalg.slogdet(q.covariance())[1], abs=1e-10)


@gaussians
def test_a_draw_is_as_far_from_the_mean_as_its_noise(subject: Subject):
    # What the chains take for the energy of a velocity. (Low-rank blocks have more noise than dimensions.)
    q = subject.block
    noise = np.random.default_rng(15).standard_normal((40, q.noise_dimension))
    distance = (q.whiten(q.transform(noise)) ** 2).sum(1)
    if q.noise_dimension == q.dimension:
        np.testing.assert_allclose(distance, (noise**2).sum(1), rtol=1e-9)
    else:
        assert (distance < (noise**2).sum(1)).all()


@gaussians
def test_whitened_draws_are_standard_normal(subject: Subject):
    q = subject.block
    e = q.whiten(q.sample(np.random.default_rng(9), DRAWS))
    assert_moments(e, np.zeros(q.dimension), np.eye(q.dimension), "whitened draws")


@subjects
def test_rescale_is_the_change_of_variables(subject: Subject):
    # y = shift + scale x has log density log q(x) - sum log scale, and its mean and covariance follow.
    q, d = subject.block, subject.block.dimension
    rng = np.random.default_rng(10)
    shift, scale = 10 * rng.standard_normal(d), np.exp(2 * rng.standard_normal(d))
    moved = q.rescale(shift, scale)
    x = q.mean + rng.standard_normal((30, d))
    np.testing.assert_allclose(
        moved.log_prob(shift + scale * x), q.log_prob(x) - np.log(scale).sum(), rtol=1e-8, atol=1e-8
    )
    np.testing.assert_allclose(moved.mean, shift + scale * q.mean, rtol=1e-12)
    np.testing.assert_allclose(moved.covariance(), np.outer(scale, scale) * q.covariance(), rtol=1e-10, atol=1e-14)
    noise = rng.standard_normal((5, q.noise_dimension))
    np.testing.assert_allclose(moved.transform(noise), shift + scale * q.transform(noise), rtol=1e-10)
    assert float(moved.entropy()) == pytest.approx(float(q.entropy()) + np.log(scale).sum(), abs=1e-10)


@pytest.mark.parametrize("name", ["dense", "dense of one", "diagonal"])
def test_build_with_its_own_moments_gives_the_same_distribution(name):
    subject = next(s for s in FAMILIES if s.name == name)
    q = subject.block
    built = subject.family.build(q.mean, q.covariance())
    np.testing.assert_allclose(built.mean, q.mean, rtol=1e-12)
    np.testing.assert_allclose(built.covariance(), q.covariance(), rtol=1e-9, atol=1e-12)


@subjects
def test_build_from_a_dense_covariance_is_the_nearest_member(subject: Subject):
    # Dense keeps the covariance; a factorised family keeps its blocks of the precision, the optimum of
    # KL(q || p); low rank keeps the marginal variances.
    d = subject.block.dimension
    rng = np.random.default_rng(13)
    mean, root = rng.standard_normal(d), rng.standard_normal((d, 2 * d))
    covariance = root @ root.T / d
    built = subject.family.build(mean, covariance)
    np.testing.assert_allclose(built.mean, mean, rtol=1e-12)
    precision = np.linalg.inv(covariance)
    if isinstance(subject.family, Dense):
        np.testing.assert_allclose(built.covariance(), covariance, rtol=1e-9, atol=1e-12)
    elif isinstance(subject.family, Diagonal):
        np.testing.assert_allclose(built.variance(), 1 / np.diagonal(precision), rtol=1e-9)
    elif isinstance(subject.family, BoundProduct):
        for family, i in zip(subject.family.families, subject.family.indices, strict=True):
            inside = precision[np.ix_(i, i)]
            expected = 1 / np.diagonal(inside) if isinstance(family, Diagonal) else np.diagonal(np.linalg.inv(inside))
            np.testing.assert_allclose(built.variance()[i], expected, rtol=1e-9)
        first = subject.family.indices[0]
        np.testing.assert_allclose(
            np.linalg.inv(built.covariance()[np.ix_(first, first)]), precision[np.ix_(first, first)], rtol=1e-8
        )
    elif isinstance(subject.family, Arrow):
        # The globals' marginal and the regression on them are kept; the gradient of KL(q || p) = tr(P F F')/2 - log|F|
        # vanishes wherever F may be other than zero.
        layout = subject.family.layout
        globals = layout.order[: layout.globals]
        np.testing.assert_allclose(built.covariance()[:, globals], covariance[:, globals], rtol=1e-9, atol=1e-12)
        columns = built.transform(np.eye(d)) - mean
        factor = columns.T[layout.order]
        slope = precision[np.ix_(layout.order, layout.order)] @ factor - np.linalg.inv(factor).T
        assert np.abs(slope[(factor != 0)]).max() < 1e-10
    else:
        np.testing.assert_allclose(built.variance(), np.diagonal(covariance), rtol=1e-9)
        eigenvalues = np.linalg.eigvalsh(built.covariance() - np.diag(built.scale**2))
        assert (eigenvalues > 0.1).sum() >= 1, "no direction of correlation was kept"


@subjects
def test_build_from_variances_alone(subject: Subject):
    d = subject.block.dimension
    rng = np.random.default_rng(11)
    mean, variance = rng.standard_normal(d), np.exp(rng.standard_normal(d))
    built = subject.family.build(mean, variance)
    np.testing.assert_allclose(built.mean, mean)
    np.testing.assert_allclose(built.covariance(), np.diag(variance), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("subject", POINTS, ids=repr)
def test_a_point_mass_is_one_point(subject: Subject):
    q = subject.block
    assert isinstance(q, Point) and q.noise_dimension == 0
    x = q.sample(np.random.default_rng(12), 5)
    assert x.shape == (5, 3) and (x == q.location).all()
    assert (q.variance() == 0).all() and q.entropy() == -np.inf
    assert q.log_prob(np.stack([q.location, q.location + np.array([0, 0, 1e-9])])).tolist() == [np.inf, -np.inf]
