"""Monte Carlo errors of means and sds: whether they are those seen over repeats, by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal, stats

from lowerbound.labels import Labels
from lowerbound.standard_errors import standard_errors

REPEATS, N = 200, 2000


def repeats(law, seed: int = 1) -> np.ndarray:
    """``[n, repeats]``: each column is a sample."""
    return law.rvs((N, REPEATS), random_state=seed)


def covered(error: np.ndarray, se: np.ndarray) -> float:
    """Share of errors within two standard errors: 0.954 of normal ones."""
    return float(np.mean(np.abs(error) < 2 * se))


@pytest.mark.parametrize("law", [stats.norm(3, 2), stats.uniform(), stats.expon(), stats.laplace()])
def test_light_tails(law):
    """As large as the scatter over repeats, of means and of sds, whatever the kurtosis."""
    x = repeats(law)
    mean_se, sd_se = standard_errors(x, np.full(N, 1 / N), effective=N)
    for error, se in ((x.mean(0) - law.mean(), mean_se), (x.std(0) - law.std(), sd_se)):
        assert 0.9 <= covered(error, se) <= 0.99
        assert 0.85 < np.sqrt((error**2).mean()) / np.median(se) < 1.15


@pytest.mark.parametrize(
    ("law", "least"), [(stats.lognorm(1.0), 0.92), (stats.lognorm(1.4), 0.92), (stats.t(5), 0.92), (stats.t(3), 0.8)]
)
def test_heavy_tails(law, least):
    """The sd is within two errors about as often as it should be; of a Gaussian's, sd / sqrt(2 n), far less often."""
    x = repeats(law)
    error, se = x.std(0) - law.std(), standard_errors(x, np.full(N, 1 / N), effective=N)[1]
    assert covered(error, se) >= least
    assert covered(error, x.std(0) / np.sqrt(2 * N)) < 0.75


def test_no_variance():
    se = standard_errors(repeats(stats.cauchy()), np.full(N, 1 / N), effective=N)[1]
    assert np.isinf(se).mean() > 0.95


def test_weighted_draws():
    """Draws of a t with five degrees of freedom, weighted to a standard normal."""
    x = repeats(stats.t(5))
    w = np.exp(stats.norm.logpdf(x) - stats.t(5).logpdf(x))
    w /= w.sum(0)
    found = [standard_errors(x[:, [j]], w[:, j], effective=1 / (w[:, j] ** 2).sum()) for j in range(REPEATS)]
    mean_se, sd_se = np.array(found)[:, :, 0].T
    mean = (w * x).sum(0)
    sd = np.sqrt((w * (x - mean) ** 2).sum(0))
    for error, se in ((mean, mean_se), (sd - 1, sd_se)):
        assert 0.9 <= covered(error, se) <= 0.99


def test_dependent_draws():
    """A Gaussian autoregression with coefficient 0.5 is worth n / 3 draws for its mean, 3 n / 5 for its sd."""
    noise = np.random.default_rng(0).standard_normal((N + 100, REPEATS))
    x = np.sqrt(0.75) * signal.lfilter([1.0], [1.0, -0.5], noise, axis=0)[100:]
    mean_se, sd_se = standard_errors(x, np.full(N, 1 / N), effective=N / 3)
    assert 0.9 <= covered(x.mean(0), mean_se) <= 0.99
    assert covered(x.std(0) - 1, sd_se) >= 0.95 and np.median(sd_se) < 1.1 * np.sqrt(3 / (2 * N))


def test_units_and_what_does_not_vary():
    x = np.random.default_rng(0).standard_t(3, (N, 1))
    w = np.full(N, 1 / N)
    ours = np.array(standard_errors(x, w, effective=N))
    np.testing.assert_allclose(np.array(standard_errors(1e3 * x + 7, w, effective=N)), 1e3 * ours, rtol=1e-9)
    assert np.array(standard_errors(np.full((N, 1), 3.0), w, effective=N)).tolist() == [[0.0], [0.0]]


def test_a_discrete_latent():
    """sqrt(m_4 - sd^4) / 2 sd of values 0, 1, 5 with given probabilities, against the scatter of samples' sds."""
    values, p = np.array([0.0, 1.0, 5.0]), np.array([0.5, 0.3, 0.2])
    sds = values[np.random.default_rng(0).choice(3, (1000, 1000), p=p)].std(1)
    ours = Labels(values, p, 1000.0).sd_spread() / np.sqrt(1000)
    assert abs(sds.std() / ours - 1) < 0.15  # five standard errors of the scatter of 1,000
