"""Conjugate models that are not Gaussian: posterior moments and evidence are known, and q is only close."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from scipy.special import betaln, gammaln

import lowerbound as lb
from tests.exact.judged import assert_evidence, assert_moments


def _beta_binomial(total, y):
    p = numpyro.sample("p", dist.Beta(2.0, 5.0))
    numpyro.sample("y", dist.Binomial(total, p), obs=y)


@pytest.mark.parametrize(("total", "y"), [(20, 13), (200, 31), (5, 0), (1, 1)])
def test_beta_binomial(total, y):
    posterior = lb.fit(_beta_binomial, {"total": total, "y": np.array(y)})
    assert_evidence(posterior, stats.betabinom(total, 2, 5).logpmf(y))
    answer = stats.beta(2 + y, 5 + total - y)
    assert_moments(posterior, {"p": answer.mean()}, {"p": answer.std()})
    low, high = posterior.quantile([0.05, 0.95])["p"]
    assert answer.cdf(low) == pytest.approx(0.05, abs=0.02) and answer.cdf(high) == pytest.approx(0.95, abs=0.02)


def _gamma_poisson(y, exposure):
    rate = numpyro.sample("rate", dist.Gamma(3.0, 0.5))
    with numpyro.plate("rows", y.shape[0]):
        numpyro.sample("y", dist.Poisson(rate * exposure), obs=y)


@pytest.mark.parametrize("rows", [1, 6, 100])
def test_gamma_poisson(rows):
    rng = np.random.default_rng(rows)
    exposure = rng.uniform(0.5, 2.0, rows)
    y = rng.poisson(7.0 * exposure)
    posterior = lb.fit(_gamma_poisson, {"y": y, "exposure": exposure})
    a, b = 3.0 + y.sum(), 0.5 + exposure.sum()
    log_evidence = (
        3.0 * np.log(0.5) - gammaln(3.0) + gammaln(a) - a * np.log(b) + (y * np.log(exposure) - gammaln(y + 1)).sum()
    )
    assert_evidence(posterior, log_evidence)
    assert_moments(posterior, {"rate": a / b}, {"rate": np.sqrt(a) / b})


def _dirichlet_multinomial(y):
    theta = numpyro.sample("theta", dist.Dirichlet(np.array([2.0, 1.0, 4.0, 0.5])))
    numpyro.sample("y", dist.Multinomial(total_count=30, probs=theta), obs=y)


def test_dirichlet_multinomial():
    # A simplex has one coordinate less than it has numbers: the Jacobian of its transform is in the evidence.
    y, prior = np.array([9, 4, 12, 5]), np.array([2.0, 1.0, 4.0, 0.5])
    posterior = lb.fit(_dirichlet_multinomial, {"y": y})
    log_evidence = (
        gammaln(31)
        - gammaln(y + 1).sum()
        + gammaln(prior.sum())
        - gammaln(prior).sum()
        + gammaln(prior + y).sum()
        - gammaln(prior.sum() + 30)
    )
    answer = stats.dirichlet(prior + y)
    assert posterior.q.dimension == 3
    assert_evidence(posterior, log_evidence)
    assert_moments(posterior, {"theta": answer.mean()}, {"theta": np.sqrt(answer.var())})
    np.testing.assert_allclose(posterior.sample(100)["theta"].sum(-1), 1.0, atol=1e-12)


def test_a_bernoulli_likelihood_is_the_binomial_without_its_coefficient():
    # 13 of 20 in one number or in 20 rows: the same posterior, the evidence less by log C(20, 13).
    y = np.repeat([1, 0], [13, 7])

    def rows(y):
        p = numpyro.sample("p", dist.Beta(2.0, 5.0))
        with numpyro.plate("rows", 20):
            numpyro.sample("y", dist.Bernoulli(p), obs=y)

    posterior = lb.fit(rows, {"y": y})
    assert_evidence(posterior, betaln(15, 12) - betaln(2, 5))
    whole = lb.fit(_beta_binomial, {"total": 20, "y": np.array(13)})
    coefficient = gammaln(21) - gammaln(14) - gammaln(8)
    error = 5 * np.hypot(whole.log_evidence.se, posterior.log_evidence.se) + 1e-8
    assert abs(whole.log_evidence.value - posterior.log_evidence.value - coefficient) < error


def test_a_subsampled_plate_counts_every_row():
    # N(0, 1) data with a plate that asks for a subsample: the evidence is that of all the rows, not of 10 of them.
    y = 1.0 + np.random.default_rng(0).standard_normal(40)

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        with numpyro.plate("rows", 40, subsample_size=10) as i:
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y[i])

    posterior = lb.fit(model, {"y": y})
    precision = 0.25 + 40
    assert float(posterior.mean()["mu"]) == pytest.approx(y.sum() / precision, abs=1e-9)
    log_evidence = stats.multivariate_normal(np.zeros(40), np.eye(40) + 4.0).logpdf(y)
    assert posterior.elbo.value == pytest.approx(log_evidence, abs=1e-9)
