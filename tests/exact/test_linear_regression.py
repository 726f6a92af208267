"""Bayesian linear regression with known noise: posterior and evidence from the multivariate normal."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import lowerbound as lb
from lowerbound.diagnostics import VerdictStatus

N, D = 40, 5


def model(x, y, prior, noise):
    intercept = numpyro.sample("intercept", dist.Normal(1.0, prior))
    with numpyro.plate("features", D):
        slope = numpyro.sample("slope", dist.Normal(0.0, prior))
    mean = numpyro.deterministic("fitted", intercept + x @ slope)
    with numpyro.plate("rows", N):
        numpyro.sample("y", dist.Normal(mean, noise), obs=y)


def _data(scales: np.ndarray, prior: float, noise: float) -> dict:
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((N, D)) + 0.8 * rng.standard_normal((N, 1))) * scales
    y = 2.0 + x @ (np.array([1.0, -2.0, 0.0, 0.5, 3.0]) / scales) + noise * rng.standard_normal(N)
    return {"x": x, "y": y, "prior": prior, "noise": noise}


def _answer(x, y, prior, noise) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, covariance and log evidence, by the QR decomposition of the rows and the prior stacked.

    log p(x, z) = -|A z - b|^2 / 2 + constants with A = [X / noise; I / prior], so that
    log p(x) = constants - |residual|^2 / 2 - log |R| + (d + 1) / 2 log 2 pi, which squares no condition number.
    """
    design = np.column_stack([np.ones(N), x])
    a = np.concatenate([design / noise, np.eye(D + 1) / prior])
    b = np.concatenate([y / noise, np.eye(1, D + 1)[0] / prior])
    q, r = np.linalg.qr(a)
    inverse = np.linalg.inv(r)
    residual = b - q @ (q.T @ b)
    log_evidence = (
        -0.5 * N * np.log(2 * np.pi)
        - N * np.log(noise)
        - (D + 1) * np.log(prior)
        - 0.5 * residual @ residual
        - np.log(np.abs(np.diagonal(r))).sum()
    )
    return inverse @ (q.T @ b), inverse @ inverse.T, log_evidence


def test_the_answer_is_the_marginal_multivariate_normal():
    # The oracle above against the textbook's: y ~ N(X m, prior^2 X X' + noise^2 I).
    data = _data(*CASES["standard"])
    design, first = np.column_stack([np.ones(N), data["x"]]), np.eye(1, D + 1)[0]
    marginal = stats.multivariate_normal(design @ first, design @ design.T + np.eye(N))
    mean, covariance, log_evidence = _answer(**data)
    assert log_evidence == pytest.approx(marginal.logpdf(data["y"]), abs=1e-10)
    precision = np.eye(D + 1) + design.T @ design
    np.testing.assert_allclose(covariance, np.linalg.inv(precision), atol=1e-12)
    np.testing.assert_allclose(precision @ mean, first + design.T @ data["y"], atol=1e-10)


CASES = {
    "standard": (np.ones(D), 1.0, 1.0),
    "features of very different units": (np.array([1e-2, 1.0, 30.0, 1.0, 300.0]), 2.0, 0.5),
    "a vague prior": (np.ones(D), 1e4, 1.0),
    "little noise": (np.ones(D), 1.0, 1e-3),
}


@pytest.mark.parametrize("case", CASES)
def test_posterior_and_evidence(case):
    data = _data(*CASES[case])
    mean, covariance, log_evidence = _answer(**data)
    posterior = lb.fit(model, data)
    sd = np.sqrt(np.diagonal(covariance))
    # Residuals are computed with an error of eps max|y|, in units of the noise: that is all the rounding there is.
    rounding = 64 * np.finfo(float).eps * (abs(log_evidence) + N * np.abs(data["y"]).max() / data["noise"])
    assert posterior.elbo.value == pytest.approx(log_evidence, rel=0, abs=1e-9 + rounding)
    assert posterior.log_evidence.value == pytest.approx(log_evidence, rel=0, abs=1e-9 + rounding)
    assert np.abs((posterior.q.mean - mean) / sd).max() < 1e-6
    assert np.abs((posterior.q.covariance() - covariance) / np.outer(sd, sd)).max() < 1e-6
    assert posterior.counts["steps"] <= 3
    assert posterior.verdict.status is VerdictStatus.TRUSTED


def test_sites_deterministics_and_their_moments():
    data = _data(*CASES["standard"])
    mean, covariance, _ = _answer(**data)
    posterior = lb.fit(model, data)
    assert posterior.sites == ("intercept", "slope")
    means, sds = posterior.mean(), posterior.sd()
    assert {k: v.shape for k, v in means.items()} == {"intercept": (), "slope": (D,), "fitted": (N,)}
    np.testing.assert_allclose(means["slope"], mean[1:], atol=1e-9)
    np.testing.assert_allclose(sds["slope"], np.sqrt(np.diagonal(covariance))[1:], rtol=1e-8)
    # A deterministic that is affine in the latents has exact moments too.
    design = np.column_stack([np.ones(N), data["x"]])
    np.testing.assert_allclose(means["fitted"], design @ mean, atol=1e-8)
    np.testing.assert_allclose(sds["fitted"], np.sqrt(np.einsum("ni,ij,nj->n", design, covariance, design)), rtol=1e-7)


def test_order_of_rows_and_features_does_not_matter():
    data = _data(*CASES["standard"])
    rng = np.random.default_rng(0)
    rows, features = rng.permutation(N), rng.permutation(D)
    a = lb.fit(model, data)
    b = lb.fit(model, data | {"x": data["x"][rows][:, features], "y": data["y"][rows]})
    assert a.elbo.value == pytest.approx(b.elbo.value, abs=1e-9)
    np.testing.assert_allclose(a.mean()["slope"][features], b.mean()["slope"], atol=1e-9)


def test_a_jax_log_density_of_the_same_model_gives_the_same_answer():
    data = _data(*CASES["standard"])

    def density(intercept, slope, x, y):
        rows = -0.5 * (y - intercept - x @ slope) ** 2 - 0.5 * jnp.log(2 * jnp.pi)
        prior = -0.5 * (intercept - 1.0) ** 2 - 0.5 * (slope**2).sum() - 0.5 * (D + 1) * jnp.log(2 * jnp.pi)
        return rows.sum() + prior

    target = lb.LogDensity(density, {"intercept": lb.Site(), "slope": lb.Site(shape=(D,))})
    a, b = lb.fit(model, data), lb.fit(target, {"x": data["x"], "y": data["y"]})
    assert a.elbo.value == pytest.approx(b.elbo.value, abs=1e-10)
    np.testing.assert_allclose(a.q.mean, b.q.mean, atol=1e-10)
    np.testing.assert_allclose(a.q.covariance(), b.q.covariance(), atol=1e-10)
