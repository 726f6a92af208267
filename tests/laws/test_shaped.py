"""What is true of every block that is no Gaussian: the density is that of the draws, whatever the shape.

(What is true of all blocks alike is in test_blocks.py.)
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lowerbound.diagnostics.weights.proposals import Component
from tests.measure import assert_mean
from tests.registry import SHAPED, Subject

DRAWS = 20_000
subjects = pytest.mark.parametrize("subject", SHAPED, ids=repr)


@subjects
def test_log_prob_is_the_change_of_variables(subject: Subject):
    # log q(T(e)) = log N(e; 0, I) - log |det dT/de|, the Jacobian by central differences.
    q, d, h = subject.block, subject.block.dimension, 1e-5
    noise = np.random.default_rng(1).standard_normal((20, d))
    log_q = q.log_prob(q.transform(noise))
    for e, found in zip(noise, log_q, strict=True):
        steps = h * np.eye(d)
        jacobian = (q.transform(e + steps) - q.transform(e - steps)) / (2 * h)
        expected = stats.norm.logpdf(e).sum() - np.linalg.slogdet(jacobian)[1]
        assert found == pytest.approx(expected, abs=1e-6)


@subjects
def test_log_prob_integrates_to_one(subject: Subject):
    # Draws from a Student-t with five degrees of freedom about q's mean, twice as wide.
    q = subject.block
    wide = stats.multivariate_t(q.mean, 2.0 * q.covariance(), df=5, seed=2)
    x = wide.rvs(10 * DRAWS)
    assert_mean(np.exp(q.log_prob(x) - wide.logpdf(x)), 1.0, "integral of q")


@subjects
def test_entropy_is_minus_the_mean_of_log_prob(subject: Subject):
    q = subject.block
    log_q = q.log_prob(q.sample(np.random.default_rng(3), DRAWS))
    # A flow's own entropy is an average over draws too, of no more error than this one.
    assert abs(-log_q.mean() - q.entropy()) < 5 * np.sqrt(2) * log_q.std() / np.sqrt(DRAWS)


@subjects
def test_it_is_not_a_gaussian(subject: Subject):
    # Or the laws above would say nothing: some coordinate of the draws has another shape.
    x = subject.block.sample(np.random.default_rng(5), DRAWS)
    assert min(stats.normaltest(x, axis=0).pvalue) < 1e-10


@subjects
def test_a_draw_does_not_depend_on_its_company(subject: Subject):
    # Batches are padded: 300 draws are more than one, 1 is less.
    q = subject.block
    noise = np.random.default_rng(8).standard_normal((300, q.noise_dimension))
    x = q.transform(noise)
    np.testing.assert_allclose(q.transform(noise[299:]), x[299:], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(q.log_prob(x[298:299]), q.log_prob(x)[298:299], rtol=1e-12)


@subjects
def test_rescale_is_the_change_of_variables(subject: Subject):
    q, d = subject.block, subject.block.dimension
    rng = np.random.default_rng(10)
    shift, scale = 10 * rng.standard_normal(d), np.exp(2 * rng.standard_normal(d))
    moved = q.rescale(shift, scale)
    noise = rng.standard_normal((30, d))
    x = q.transform(noise)
    np.testing.assert_allclose(moved.transform(noise), shift + scale * x, rtol=1e-10)
    np.testing.assert_allclose(
        moved.log_prob(shift + scale * x), q.log_prob(x) - np.log(scale).sum(), rtol=1e-8, atol=1e-8
    )
    np.testing.assert_allclose(moved.mean, shift + scale * q.mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(moved.covariance(), np.outer(scale, scale) * q.covariance(), rtol=1e-9, atol=1e-14)
    assert float(moved.entropy()) == pytest.approx(float(q.entropy()) + np.log(scale).sum(), abs=1e-10)


@subjects
@pytest.mark.parametrize("dense", [True, False])
def test_build_is_the_gaussian(subject: Subject, dense):
    # The member nearest to a Gaussian is that Gaussian: every family starts there.
    d = subject.block.dimension
    rng = np.random.default_rng(11)
    mean, root = rng.standard_normal(d), rng.standard_normal((d, 2 * d))
    covariance = root @ root.T / d if dense else np.exp(rng.standard_normal(d))
    full = covariance if dense else np.diag(covariance)
    built = subject.family.build(mean, covariance)
    x = mean + 3 * rng.standard_normal((40, d))
    expected = stats.multivariate_normal(mean, full)
    np.testing.assert_allclose(built.log_prob(x), expected.logpdf(x), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(built.mean, mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(built.covariance(), full, rtol=1e-9, atol=1e-10)
    assert float(built.entropy()) == pytest.approx(float(expected.entropy()), abs=1e-10)


@subjects
def test_whiten_is_the_inverse_of_transform(subject: Subject):
    noise = np.random.default_rng(12).standard_normal((40, subject.block.noise_dimension))
    np.testing.assert_allclose(subject.block.whiten(subject.block.transform(noise)), noise, atol=1e-8)


@subjects
def test_the_student_about_it_has_the_density_of_its_draws(subject: Subject):
    # E_t[q / t] = 1, as for any two densities of which t is nowhere zero.
    component = Component(subject.block, 4.0)
    x = component.draw(np.random.default_rng(13), DRAWS)
    assert_mean(np.exp(subject.block.log_prob(x) - component.log_prob(x)), 1.0, "mass of q under its Student-t")
    # ... and it has heavier tails: more draws far from the middle of the noise than q has.
    assert ((subject.block.whiten(x) ** 2).sum(1) > 25).mean() > 0.02


@subjects
def test_pull_back_is_the_gradient_in_the_noise(subject: Subject):
    """Of f(T(e)) + log |det T'(e)|, f a quartic, by central differences; and the log det against log q."""
    q, d, h = subject.block, subject.block.dimension, 1e-5
    noise = np.random.default_rng(14).standard_normal((12, d))
    x = np.asarray(q.transform(noise))
    log_det, slope = q.pull_back(noise, -(x**3))
    np.testing.assert_allclose(log_det, stats.norm.logpdf(noise).sum(1) - q.log_prob(x), atol=1e-8)

    def f(e):
        y = np.asarray(q.transform(e))
        return -0.25 * (y**4).sum(1) + np.asarray(q.pull_back(e, y)[0])

    for j in range(d):
        step = h * np.eye(d)[j]
        np.testing.assert_allclose(slope[:, j], (f(noise + step) - f(noise - step)) / (2 * h), rtol=1e-5, atol=1e-4)
