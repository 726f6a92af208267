"""A regression as people bring it: inches, dollars, flat priors, nothing centred or scaled.

With p(b, s) = 1 the posterior of the coefficients is a multivariate t and 1/s^2 is Gamma:

    p(b | y) ~ (RSS + (b - bhat)' X'X (b - bhat))^{-(n-1)/2},     nu = n - 1 - d,
    1 / s^2 ~ Gamma(nu / 2, RSS / 2).
"""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy.special import gammaln

import lowerbound as lb
from tests.exact.judged import assert_evidence, assert_moments


def model(height, earnings):
    alpha = numpyro.sample("alpha", dist.ImproperUniform(constraints.real, (), ()))
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real, (), ()))
    sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with numpyro.plate("people", height.shape[0]):
        numpyro.sample("earnings", dist.Normal(alpha + beta * height, sigma), obs=earnings)


def _data(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    height = 66.6 + 3.8 * rng.standard_normal(n)
    return {"height": height, "earnings": 1300.0 * height - 60_000.0 + 19_000.0 * rng.standard_normal(n)}


def _answer(height, earnings):
    n, d = len(height), 2
    design = np.column_stack([np.ones(n), height])
    q, r = np.linalg.qr(design)
    b = np.linalg.solve(r, q.T @ earnings)
    rss, nu = ((earnings - design @ b) ** 2).sum(), n - 1 - d
    inverse = np.linalg.inv(r)
    covariance = rss / (nu - 2) * inverse @ inverse.T
    shape, rate = nu / 2, rss / 2
    sigma = np.sqrt(rate) * np.exp(gammaln(shape - 0.5) - gammaln(shape))
    mean = {"alpha": b[0], "beta": b[1], "sigma": sigma}
    sd = {
        "alpha": np.sqrt(covariance[0, 0]),
        "beta": np.sqrt(covariance[1, 1]),
        "sigma": np.sqrt(rate / (shape - 1) - sigma**2),
    }
    # The integral over b leaves (2 pi)^{(d-n)/2} |R|^{-1} s^{d-n} exp(-RSS / 2 s^2); that over s is half a Gamma's.
    log_evidence = (
        0.5 * (d - n) * np.log(2 * np.pi)
        - np.log(np.abs(np.diagonal(r))).sum()
        + gammaln(shape)
        - shape * np.log(rate)
        - np.log(2)
    )
    return mean, sd, log_evidence, covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])


@pytest.mark.parametrize("n", [25, 300, 1200])
def test_posterior_and_evidence(n):
    data = _data(n)
    mean, sd, log_evidence, correlation = _answer(**data)
    assert correlation < -0.99, "the case is meant to be badly conditioned"
    posterior = lb.fit(model, data)
    assert_evidence(posterior, log_evidence)
    assert_moments(posterior, mean, sd)


def test_centring_the_covariate_changes_the_intercept_and_nothing_else():
    # alpha' = alpha + beta mean(height) has Jacobian one, so evidence, beta and sigma stay.
    data = _data(300)
    raw = lb.fit(model, data)
    centred = lb.fit(model, data | {"height": data["height"] - data["height"].mean()})
    error = 5 * np.hypot(raw.log_evidence.se, centred.log_evidence.se) + 1e-7
    assert abs(raw.log_evidence.value - centred.log_evidence.value) < error
    assert raw.elbo.value == pytest.approx(centred.elbo.value, abs=0.02)
    _, sd, _, _ = _answer(**data)
    for k in ("beta", "sigma"):
        assert abs(raw.mean()[k] - centred.mean()[k]) < 0.1 * sd[k]


def test_units_change_the_evidence_by_their_jacobian():
    # Thousands of dollars: alpha, beta and sigma shrink by 1000 (a Jacobian of 1000^-3), n densities grow by 1000.
    data = _data(300)
    dollars = lb.fit(model, data)
    thousands = lb.fit(model, data | {"earnings": data["earnings"] / 1000})
    expected = dollars.elbo.value + (300 - 3) * np.log(1000)
    assert thousands.elbo.value == pytest.approx(expected, abs=0.02)
    _, sd, _, _ = _answer(**data)
    for k in sd:
        assert abs(1000 * thousands.mean()[k] - dollars.mean()[k]) < 0.1 * sd[k]
