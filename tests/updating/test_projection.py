"""Where the model is not conjugate a Gaussian is carried over, and what that loses is measured."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import lowerbound as lb
from lowerbound.families import DenseGaussian, DiagonalGaussian
from lowerbound.families.stand_in import gaussian_kl, gaussian_of
from lowerbound.model.given import as_model
from lowerbound.updating.stand_in import log_normaliser, stand_in
from tests.updating.models import logistic


def clicks(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 2))
    return x, (rng.uniform(size=n) < 1 / (1 + np.exp(-x @ [1.0, -1.5]))).astype(int)


def test_a_logistic_regression_in_ten_batches_is_near_the_fit_of_all_data():
    x, y = clicks(600, 0)
    whole = lb.fit(logistic, {"x": x, "y": y})
    posterior = lb.fit(logistic, {"x": x[:60], "y": y[:60]})
    for i in range(60, 600, 60):
        posterior = posterior.update({"x": x[i : i + 60], "y": y[i : i + 60]})
    sd = whole.sd()["w"]
    assert (np.abs(posterior.mean()["w"] - whole.mean()["w"]) < 0.1 * sd).all()
    assert (np.abs(np.log(posterior.sd()["w"] / sd)) < 0.1).all()
    draws = [p.sample_unconstrained(4000) for p in (posterior, whole)]
    assert gaussian_kl(*(gaussian_of(d, np.ones(len(d))) for d in draws)) < 0.02
    last = posterior.updates[-1]
    assert abs(last.log_evidence.value - whole.log_evidence.value) < 0.5  # tails of the first Gaussians
    assert all(u.kl.value > 0 and 0 <= u.lost.value + 1e-6 < 0.02 for u in posterior.updates)
    assert last.kl_gap.value > sum(u.lost.value for u in posterior.updates)
    assert posterior.verdict.trusted


@pytest.mark.filterwarnings("ignore::lowerbound.errors.TrustWarning")
def test_a_projection_that_loses_much_is_not_trusted():
    # Fifteen rows that are all but separable leave a skewed posterior, and the next rows are in its tail.
    x, y = clicks(75, 2)
    posterior = lb.fit(logistic, {"x": x[:15], "y": y[:15]})
    for i in range(15, 75, 15):
        posterior = posterior.update({"x": x[i : i + 15], "y": y[i : i + 15]})
    whole = lb.fit(logistic, {"x": x, "y": y})
    assert np.abs((posterior.mean()["w"] - whole.mean()["w"]) / whole.sd()["w"]).max() > 0.5
    assert max(u.lost.value for u in posterior.updates) > 0.02
    assert posterior.verdict.status is lb.VerdictStatus.NOT_TRUSTED
    assert "not to be trusted" in posterior.verdict.sentence or "is no Gaussian" in posterior.verdict.sentence


def test_sites_that_were_moved_are_carried_in_their_own_coordinates():
    def schools(y):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        tau = numpyro.sample("tau", dist.HalfNormal(2))
        with numpyro.plate("schools", 3):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(theta, 1.0).to_event(1), obs=y)

    rng = np.random.default_rng(0)
    y = rng.normal(1.0, 1.2, (3, 3))
    posterior = lb.fit(schools, {"y": y})
    assert "theta" in posterior._sites.elsewhere  # else there is nothing to test
    bound = as_model(schools, {"y": y})
    gaussian, _ = stand_in(posterior, ["mu", "tau", "theta"], bound)
    draws = posterior.sample(4000)
    # theta is real: its own coordinates are its values, whatever those of the fit.
    places = bound.sites["theta"].slice
    assert np.allclose(gaussian.mean[places], draws["theta"].mean(0), atol=0.05)
    assert np.allclose(np.sqrt(gaussian.variance()[places]), draws["theta"].std(0), rtol=0.06)


@pytest.mark.parametrize("power", [0.1, 0.9])
def test_the_normaliser_of_a_power_prior_has_its_error(power):
    def scales(y):
        s = numpyro.sample("s", dist.Gamma(2.0, 1.5))
        t = numpyro.sample("t", dist.HalfCauchy(1.0))
        numpyro.sample("y", dist.Normal(0, s + t), obs=y)

    def log_prior(u, v):
        s, t = np.exp(u), np.exp(v)
        return stats.gamma.logpdf(s, 2, scale=1 / 1.5) + u + stats.halfcauchy.logpdf(t) + v

    bound = as_model(scales, {"y": np.ones(2)})
    wide = DenseGaussian(np.array([0.3, -1.0]), np.array([[2.0, 0.0], [1.0, 1.5]]))
    axis = np.linspace(-12, 12, 1201)
    u, v = np.meshgrid(axis, axis, indexing="ij")
    log_g = stats.multivariate_normal(wide.location, wide.covariance()).logpdf(np.stack([u, v], -1))
    exact = np.log(np.exp(log_g + power * log_prior(u, v)).sum() * (axis[1] - axis[0]) ** 2)
    got = log_normaliser(bound, ["s", "t"], wide, power)
    assert 0 < got.se < 0.01 and abs(got.value - exact) < 5 * got.se


def test_the_divergence_of_gaussians_is_that_of_their_densities():
    rng = np.random.default_rng(0)
    roots = [np.linalg.cholesky(a @ a.T + np.eye(3)) for a in rng.standard_normal((2, 3, 3))]
    one, two = (DenseGaussian(m, r) for m, r in zip(rng.standard_normal((2, 3)), roots, strict=True))
    flat = DiagonalGaussian(np.ones(3), np.array([0.5, 1.0, 2.0]))
    for a, b in ((one, two), (one, flat), (flat, two), (flat, DiagonalGaussian(np.zeros(3), np.ones(3)))):
        sa, sb = (q.covariance() if isinstance(q, DenseGaussian) else np.diag(q.scale**2) for q in (a, b))
        away = a.location - b.location
        exact = np.trace(np.linalg.solve(sb, sa)) + away @ np.linalg.solve(sb, away) - 3
        exact = 0.5 * (exact + np.linalg.slogdet(sb)[1] - np.linalg.slogdet(sa)[1])
        assert abs(gaussian_kl(a, b) - exact) < 1e-10
    assert gaussian_kl(one, one) < 1e-12


def test_parameters_of_the_model_are_held():
    def model(y):
        s = numpyro.param("s", 1.0, constraint=dist.constraints.positive)
        level = numpyro.sample("level", dist.Normal(0, 5.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(level, s), obs=y)

    y = np.random.default_rng(0).normal(3, 2.6, 60)
    first = lb.fit(model, {"y": y[:50]})
    posterior = first.update({"y": y[50:55]}).update({"y": y[55:]})
    assert posterior.parameters == first.parameters and first.parameters["s"] > 2
    variance = 1 / (1 / 25 + 60 / first.parameters["s"] ** 2)
    assert abs(posterior.mean()["level"] - variance * y.sum() / first.parameters["s"] ** 2) < 1e-6
    assert abs(posterior.sd()["level"] - variance**0.5) < 1e-6
    assert any("an update holds them" in c for c in posterior.verdict.not_checked)
