"""Moments with control variates: exact where theory says so, unbiased elsewhere, with errors of the right size."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import digamma, polygamma

from lowerbound.diagnostics.chains.control_variates import controlled_moments
from tests.measure import assert_mean


def test_a_gaussian_is_exact():
    """With the target's own covariance for the metric, S grad log p = -(x - m): nothing random is left."""
    rng = np.random.default_rng(0)
    mean, factor = np.array([3.0, -1.0, 0.5]), np.array([[2.0, 0, 0], [0.5, 0.1, 0], [-3.0, 0.2, 1.0]])
    covariance = factor @ factor.T
    draws = mean + rng.standard_normal((20, 8, 3)) @ factor.T
    scores = -(draws - mean)  # S grad log p, with S the covariance
    m = controlled_moments(draws, scores, np.diagonal(covariance))
    sd = np.sqrt(np.diagonal(covariance))
    np.testing.assert_allclose(m.mean, mean, atol=1e-12)
    # (x - centre)^2 is not affine in its control unless the centre is the mean: what is left is second order.
    np.testing.assert_allclose(m.mean_se, 0.0, atol=1e-10)
    error = draws.mean((0, 1)) - mean
    assert (np.abs(error) > 1e-3 * sd).all()  # the plain averages are far off
    np.testing.assert_allclose(m.sd, sd, rtol=0.02)
    assert (np.abs(m.sd / sd - 1) < 0.2 * np.abs(draws.std((0, 1)) / sd - 1)).all()


def test_a_metric_that_is_wrong_by_a_factor_is_no_matter():
    """The regression finds the factor, for the mean."""
    rng = np.random.default_rng(1)
    draws = 5.0 + 2.0 * rng.standard_normal((20, 8, 1))
    m = controlled_moments(draws, -7.0 * (draws - 5.0), np.array([28.0]))
    np.testing.assert_allclose(m.mean, 5.0, atol=1e-12)


def log_gamma(rng: np.random.Generator, a: float, n: int, chains: int):
    """u = log of Gamma(a): grad log p = a - e^u, Var = trigamma(a)."""
    u = np.log(rng.gamma(a, size=(n, chains, 1)))
    variance = np.array([polygamma(1, a)])
    return u, variance * (a - np.exp(u)), variance


@pytest.mark.parametrize("a", [1.0, 5.0])
def test_a_skewed_target_is_met_within_the_stated_errors(a):
    """300 repetitions: the mean and the sd are those of the digamma functions, and errors are what they spread."""
    rng = np.random.default_rng(2)
    results = []
    for _ in range(300):
        m = controlled_moments(*log_gamma(rng, a, 40, 16))
        results.append((m.mean[0], m.sd[0], m.mean_se[0], m.log_sd_se[0], m.effective[0]))
    mean, sd, mean_se, log_sd_se, effective = np.array(results).T
    true_mean, true_sd = digamma(a), np.sqrt(polygamma(1, a))
    # An estimated slope has a bias of the order of one over the draws, here 640.
    slack = 2 / 640
    assert abs(mean.mean() - true_mean) / true_sd < 5 * mean.std() / true_sd / np.sqrt(300) + slack
    assert abs(np.log(sd / true_sd).mean()) < 5 * np.log(sd).std() / np.sqrt(300) + 2 * slack
    z = (mean - true_mean) / true_sd / mean_se
    assert 0.85 < z.std() < 1.2, z.std()
    z = np.log(sd / true_sd) / log_sd_se
    assert 0.8 < z.std() < 1.3, z.std()
    # And it was worth it: plain averages of 640 independent draws have an error of 1 / sqrt(640).
    assert mean_se.mean() < 0.6 / np.sqrt(640)
    assert 400 < effective.mean() < 1000


@pytest.mark.parametrize("useless", ["noise", "zero", "nan"])
def test_scores_that_say_nothing_leave_the_plain_average(useless):
    rng = np.random.default_rng(3)
    draws = rng.standard_normal((30, 8, 2)) * [1.0, 5.0] + [0.0, 9.0]
    scores = {
        "noise": rng.standard_normal(draws.shape),
        "zero": np.zeros(draws.shape),
        "nan": np.full(draws.shape, np.nan),
    }[useless]
    m = controlled_moments(draws, scores, np.ones(2))
    np.testing.assert_allclose(m.mean, draws.mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(m.sd, draws.std((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(m.mean_se, 1 / np.sqrt(240), rtol=0.35)
    np.testing.assert_allclose(m.log_sd_se, 1 / np.sqrt(2 * 240), rtol=0.5)


def test_errors_of_slow_chains_are_larger():
    """Autoregression of lag 0.9: effective draws are 1/19 of the states, and plain errors say so."""
    rng = np.random.default_rng(4)
    x = np.zeros((1100, 8, 1))
    x[0] = rng.standard_normal((8, 1))
    for t in range(1, len(x)):
        x[t] = 0.9 * x[t - 1] + np.sqrt(1 - 0.81) * rng.standard_normal((8, 1))
    m = controlled_moments(x, np.zeros_like(x), np.ones(1))
    assert m.mean_se[0] == pytest.approx(np.sqrt(19 / x.size), rel=0.2)


def test_means_of_means_are_unbiased_for_a_uniform_target():
    """A density that ends abruptly breaks Stein's identity; zero scores then leave plain averages, which are right."""
    rng = np.random.default_rng(5)
    means = [
        controlled_moments(rng.uniform(size=(30, 8, 1)), np.zeros((30, 8, 1)), np.ones(1)).mean[0] for _ in range(200)
    ]
    assert_mean(np.array(means), stats.uniform.mean())
