"""family="point_mass": the mode of the constrained density, as known analytically, and no trust in it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import lowerbound as lb
from lowerbound.diagnostics import VerdictStatus
from lowerbound.errors import TrustWarning


def _maximum(model, data=None) -> lb.Posterior:
    with pytest.warns(TrustWarning, match="point mass is the mode"):
        posterior = lb.fit(model, data, family="point_mass")
    assert posterior.status.converged and posterior.is_point
    assert posterior.verdict.status is VerdictStatus.NOT_TRUSTED
    assert all(np.all(v == 0) for v in posterior.sd().values())
    assert posterior.elbo.value == -np.inf
    return posterior


# Stopping 1e-9 nats from the top is sqrt(2e-9) = 4.5e-5 posterior sds from it.
NEAR = 1e-4


def test_a_gamma_mode_is_that_of_the_rate_and_not_of_its_logarithm():
    y = np.array([4, 7, 5, 9])

    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(3.0, 0.5))
        with numpyro.plate("rows", 4):
            numpyro.sample("y", dist.Poisson(rate), obs=y)

    a, b = 3.0 + y.sum(), 0.5 + 4
    assert float(_maximum(model, {"y": y}).mean()["rate"]) == pytest.approx((a - 1) / b, abs=NEAR * np.sqrt(a) / b)


def test_a_beta_mode():
    def model(y):
        p = numpyro.sample("p", dist.Beta(2.0, 5.0))
        numpyro.sample("y", dist.Binomial(20, p), obs=y)

    assert float(_maximum(model, {"y": np.array(13)}).mean()["p"]) == pytest.approx(14 / 25, abs=NEAR * 0.1)


def test_a_dirichlet_mode():
    prior, y = np.array([2.0, 1.5, 4.0]), np.array([9, 4, 12])

    def model(y):
        theta = numpyro.sample("theta", dist.Dirichlet(prior))
        numpyro.sample("y", dist.Multinomial(total_count=25, probs=theta), obs=y)

    mode = (prior + y - 1) / (prior + y - 1).sum()
    np.testing.assert_allclose(_maximum(model, {"y": y}).mean()["theta"], mode, atol=NEAR * 0.1)


def test_a_normal_scale():
    # p(s) flat: the mode of s^-n exp(-S / 2 s^2) is sqrt(S / n); that of log s would be sqrt(S / (n - 1)).
    y = np.random.default_rng(0).standard_normal(10)
    target = lb.LogDensity(
        lambda sigma, y: -10 * jnp.log(sigma) - 0.5 * jnp.sum(y**2) / sigma**2,
        {"sigma": lb.Site(constraints.positive, ())},
    )
    mode = np.sqrt((y**2).mean())
    assert float(_maximum(target, {"y": y}).mean()["sigma"]) == pytest.approx(mode, abs=NEAR * mode / np.sqrt(20))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_ridge_regression_in_any_units(scale):
    rng = np.random.default_rng(1)
    x = scale * rng.standard_normal((30, 4))
    y = x @ rng.standard_normal(4) / scale + 0.5 * rng.standard_normal(30)
    penalty = scale**2

    def density(w, x, y):
        return -2.0 * jnp.sum((y - x @ w) ** 2) - 0.5 * penalty * jnp.sum(w**2)

    posterior = _maximum(lb.LogDensity(density, {"w": lb.Site(shape=(4,))}), {"x": x, "y": y})
    precision = 4 * x.T @ x + penalty * np.eye(4)
    mode = np.linalg.solve(precision, 4 * x.T @ y)
    root = np.linalg.cholesky(precision)
    assert np.linalg.norm(root.T @ (posterior.mean()["w"] - mode)) < NEAR


def test_a_bounded_site():
    # An interval: the mode of x (1 - x)^3 moved to (-2, 6) is a quarter of the way.
    target = lb.LogDensity(
        lambda x: jnp.log((x + 2) / 8) + 3 * jnp.log((6 - x) / 8), {"x": lb.Site(constraints.interval(-2.0, 6.0), ())}
    )
    assert float(_maximum(target).mean()["x"]) == pytest.approx(0.0, abs=8 * NEAR)


def test_without_a_mode_it_says_so():
    target = lb.LogDensity(lambda x: jnp.sum(x), {"x": lb.Site(shape=(2,))})
    with pytest.warns(TrustWarning):
        posterior = lb.fit(target, family="point_mass")
    assert not posterior.status.converged and not posterior.verdict.trusted
