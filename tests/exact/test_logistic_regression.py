"""Logistic regression with two coefficients against brute force: the posterior summed over a fine grid."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from scipy.special import logsumexp

import lowerbound as lb
from lowerbound.diagnostics import VerdictStatus
from tests.exact.judged import assert_evidence, assert_moments


def model(x, y):
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 3.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 3.0))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=intercept + slope * x), obs=y)


def _data(rows: int, separated: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rows)
    x = rng.standard_normal(rows)
    chance = x > 0.3 if separated else rng.uniform(size=rows) < 1 / (1 + np.exp(0.5 - 1.5 * x))
    return x, chance.astype(int)


def _grid(x: np.ndarray, y: np.ndarray, points: int) -> tuple[float, np.ndarray, np.ndarray, float]:
    """log evidence, means, sds and correlation by the midpoint rule on a box of 8 prior sds a side; of many rows, which
    leave nothing outside of it, on a smaller one."""
    many = len(x) > 100
    ends = ((-3, 2), (-1, 4)) if many else ((-12, 12), (-12, 24))
    a, b = (np.linspace(*e, points // 3 if many else points) for e in ends)
    log_p = stats.norm(0, 3).logpdf(a)[:, None] + stats.norm(0, 3).logpdf(b)[None]
    for xi, yi in zip(x, y, strict=True):
        eta = a[:, None] + b[None] * xi
        log_p = log_p + yi * eta - np.logaddexp(0, eta)
    total = logsumexp(log_p)
    w = np.exp(log_p - total)
    edge = max(w[0].max(), w[-1].max(), w[:, 0].max(), w[:, -1].max())
    assert not many or edge < 1e-9 * w.max(), "the smaller box is too small"
    mean = np.array([(w.sum(1) * a).sum(), (w.sum(0) * b).sum()])
    sd = np.sqrt([(w.sum(1) * (a - mean[0]) ** 2).sum(), (w.sum(0) * (b - mean[1]) ** 2).sum()])
    covariance = (w * (a - mean[0])[:, None] * (b - mean[1])).sum()
    return total + np.log((a[1] - a[0]) * (b[1] - b[0])), mean, sd, covariance / sd.prod()


@pytest.mark.parametrize(("rows", "separated"), [(8, False), (30, False), (400, False), (30, True)])
def test_posterior_and_evidence(rows, separated):
    x, y = _data(rows, separated)
    log_evidence, mean, sd, correlation = _grid(x, y, 901)
    coarse = _grid(x, y, 601)
    assert coarse[0] == pytest.approx(log_evidence, abs=1e-6), "the grid is too coarse to be the truth"
    posterior = lb.fit(model, {"x": x, "y": y})
    assert_evidence(posterior, log_evidence)
    names = ("intercept", "slope")
    assert_moments(posterior, dict(zip(names, mean, strict=True)), dict(zip(names, sd, strict=True)))
    draws = posterior.sample(4000)
    got = np.corrcoef(draws["intercept"], draws["slope"])[0, 1]
    # Fisher's z has a standard error of 1 / sqrt(n - 3); resampled draws are worth their effective number.
    effective = min(4000.0, posterior.verdict.effective) if posterior.corrected else 4000.0
    assert abs(np.arctanh(got) - np.arctanh(correlation)) < 0.05 + 5 / np.sqrt(effective - 3)


def test_a_gaussian_is_not_the_posterior_of_eight_rows_and_the_verdict_says_so():
    x, y = _data(8, False)
    log_evidence, _, sd, _ = _grid(x, y, 901)
    posterior = lb.fit(model, {"x": x, "y": y})
    assert posterior.verdict.status is VerdictStatus.CORRECTED
    gap = log_evidence - posterior.elbo.value
    assert gap > 0.005 and posterior.verdict.kl_gap.value == pytest.approx(gap, abs=5 * posterior.verdict.kl_gap.se)
    # The correction is needed, and made: q is ten per cent too narrow in the slope, which is skewed.
    before = np.abs(np.log(np.sqrt(posterior.q.variance()) / sd))
    after = np.abs(np.log([posterior.sd()[k] / s for k, s in zip(("intercept", "slope"), sd, strict=True)]))
    assert before[1] > 0.08 and after.max() < 0.04
