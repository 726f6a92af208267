"""What is reported on the constrained space is judged there: equal moments of log s are not equal moments of s."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import lowerbound as lb
from lowerbound.diagnostics.reported import Columns
from lowerbound.diagnostics.weights.importance import weigh
from lowerbound.families import DenseGaussian
from lowerbound.kernel import Kernel


def rate(y):
    s = numpyro.sample("s", dist.Gamma(2.0, 1.0))
    numpyro.deterministic("double", 2 * s)
    numpyro.sample("y", dist.Poisson(s), obs=y)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_forward_kl_is_no_longer_trusted_with_a_wrong_sd(seed):
    """p(s | y = 4) is Gamma(6, 2): sd 1.2247. The log-normal with its moments of log s has 1.34."""
    posterior = lb.fit(rate, {"y": 4}, objective="forward_kl", family="diagonal", seed=seed)
    log_sd = float(posterior.q.variance()[0]) ** 0.5
    log_mean = float(posterior.q.mean[0])
    own = np.exp(log_mean + log_sd**2 / 2) * np.sqrt(np.expm1(log_sd**2))
    assert np.log(own / np.sqrt(1.5)) > 0.07  # q itself is off by as much
    assert posterior.verdict.status is lb.VerdictStatus.CORRECTED and "s" in posterior.verdict.parameters
    assert any("as reported" in r for r in posterior.verdict.reasons)
    assert abs(np.log(posterior.sd()["s"] / np.sqrt(1.5))) < 0.05
    assert abs(posterior.mean()["s"] - 3.0) < 0.05 * np.sqrt(1.5)
    assert posterior.sd()["double"] == pytest.approx(2 * posterior.sd()["s"])


def test_what_is_right_stays_trusted():
    """With y = 400 log s is as good as normal."""
    assert lb.fit(rate, {"y": 400}, family="dense").verdict.status is lb.VerdictStatus.TRUSTED


def test_shifts_by_weights():
    """q = log-normal(0, 0.5) against Gamma(6, 2): means and sds of s and of 2 s are known on both sides."""
    kernel = Kernel(lb.Model.from_numpyro(rate, {"y": 4}))
    q = DenseGaussian(np.array([1.0]), np.array([[0.5]]))
    weighted = weigh(kernel, q, [], np.random.default_rng(0))
    columns = Columns.of(kernel)
    assert columns is not None and columns.names == ["s", "double"]
    drift, moments = columns.by_weights(weighted, q)
    mean = np.exp(1 + 0.125)
    sd = mean * np.sqrt(np.expm1(0.25))
    for i, scale in enumerate((1.0, 2.0)):
        assert abs(drift.mean[i] - (3 - mean) / sd) < 5 * drift.mean_se[i]
        assert abs(drift.log_sd[i] - np.log(np.sqrt(1.5) / sd)) < 5 * drift.log_sd_se[i]
        assert abs(moments.mean[i] - 3 * scale) < 5 * moments.mean_se[i] * scale * np.sqrt(1.5)
        assert abs(np.log(moments.sd[i] / (scale * np.sqrt(1.5)))) < 5 * moments.log_sd_se[i]
    assert drift.mean_se.max() < 0.05 and drift.log_sd_se.max() < 0.05
    own = columns.of_q(q, 0)
    np.testing.assert_allclose(own.mean, [mean, 2 * mean], rtol=2e-3)
    np.testing.assert_allclose(own.sd, [sd, 2 * sd], rtol=2e-2)
    np.testing.assert_allclose(columns.at(np.array([[0.5]])), [[np.exp(0.5), 2 * np.exp(0.5)]])


def test_a_number_that_does_not_vary_does_not_move():
    def constant(y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.deterministic("third", 1 / 3 + 0 * x)
        numpyro.deterministic("near", 1e6 + 1e-6 * x)
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

    posterior = lb.fit(constant, {"y": 1.0})
    assert posterior.verdict.status is lb.VerdictStatus.TRUSTED, str(posterior.verdict)


def test_nothing_but_real_sites_is_nothing_to_compare():
    def line(y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

    assert Columns.of(Kernel(lb.Model.from_numpyro(line, {"y": 1.0}))) is None
