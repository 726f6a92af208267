"""x ~ N(0, 1), y ~ N(x, s): the smallest conjugate model, and the one that PyMC's ADVI gets wrong."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import lowerbound as lb
from lowerbound.diagnostics import VerdictStatus

EPS = np.finfo(float).eps


def model(y, scale):
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(x, scale), obs=y)


@pytest.mark.parametrize(("y", "scale"), [(10.0, 0.5), (1000.0, 1e-5), (-3.0, 50.0), (0.0, 1.0)])
def test_posterior_and_evidence(y, scale):
    posterior = lb.fit(model, {"y": y, "scale": scale})
    precision = 1 + scale**-2
    mean, sd = y * scale**-2 / precision, precision**-0.5
    log_evidence = stats.norm(0, np.hypot(1, scale)).logpdf(y)
    # The density sees (y - x) / scale with a rounding error of eps |y| / scale, at noise of up to 4 sd, and its own
    # value with one of eps |log p|.
    rounding = 64 * EPS * abs(log_evidence) + 4 * EPS * abs(y) / scale
    assert posterior.elbo.value == pytest.approx(log_evidence, rel=0, abs=1e-10 + 4 * rounding)
    assert posterior.log_evidence.value == pytest.approx(log_evidence, rel=0, abs=1e-10 + 4 * rounding)
    assert posterior.q.mean[0] == pytest.approx(mean, rel=4 * EPS, abs=1e-7 * sd)
    assert float(posterior.mean()["x"]) == pytest.approx(mean, rel=4 * EPS, abs=1e-7 * sd)
    assert float(posterior.sd()["x"]) == pytest.approx(sd, rel=1e-6)
    # Where rounding keeps the step above 1e-9, three steps are taken and the fourth ends it.
    assert posterior.counts["steps"] <= (3 if scale > 1e-3 else 4)
    assert posterior.verdict.status is VerdictStatus.TRUSTED
    assert abs(posterior.verdict.kl_gap.value) < 1e-9 + 8 * rounding


def test_the_textbook_numbers():
    # y = 10, s = 0.5: mean 8, sd sqrt(0.2), and log N(10; 0, sqrt(1.25)).
    posterior = lb.fit(model, {"y": 10.0, "scale": 0.5})
    assert float(posterior.mean()["x"]) == pytest.approx(8.0, abs=1e-9)
    assert float(posterior.sd()["x"]) == pytest.approx(np.sqrt(0.2), rel=1e-9)
    assert posterior.elbo.value == pytest.approx(-0.5 * np.log(2 * np.pi * 1.25) - 40.0, abs=1e-10)
    assert posterior.quantile([0.025, 0.5, 0.975])["x"] == pytest.approx(
        stats.norm(8, np.sqrt(0.2)).ppf([0.025, 0.5, 0.975]), abs=0.01
    )
    assert posterior.log_prob({"x": 8.0}) == pytest.approx(stats.norm(8, np.sqrt(0.2)).logpdf(8.0), abs=1e-9)
    assert posterior.log_prob({"x": np.array([7.0, 9.5])}) == pytest.approx(
        stats.norm(8, np.sqrt(0.2)).logpdf([7.0, 9.5]), abs=1e-8
    )


@pytest.mark.parametrize("n", [1, 50, 5000])
def test_many_rows(n):
    # mean and n decide; the evidence is a multivariate normal with covariance s^2 I + 11'.
    y = 2.0 + 0.7 * np.random.default_rng(n).standard_normal(n)
    posterior = lb.fit(model, {"y": y, "scale": 0.7})
    precision = 1 + n / 0.49
    assert float(posterior.mean()["x"]) == pytest.approx(y.sum() / 0.49 / precision, abs=1e-9)
    assert float(posterior.sd()["x"]) == pytest.approx(precision**-0.5, rel=1e-8)
    log_evidence = (
        -0.5 * n * np.log(2 * np.pi * 0.49)
        - 0.5 * np.log(precision)
        - 0.5 * ((y**2).sum() / 0.49 - (y.sum() / 0.49) ** 2 / precision)
    )
    assert posterior.elbo.value == pytest.approx(log_evidence, rel=1e-13, abs=1e-9)


def test_five_independent_fits_of_one_model_do_not_leak_into_each_other():
    means = [float(lb.fit(model, {"y": y, "scale": 0.5}).mean()["x"]) for y in (10.0, -10.0, 0.0, 2.5, 10.0)]
    assert means == pytest.approx([8.0, -8.0, 0.0, 2.0, 8.0], abs=1e-9)
