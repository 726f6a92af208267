"""Importance estimates: the evidence is unbiased, its stated error is the real one, and the gap is the KL."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints
from scipy import integrate
from scipy.special import gammaln

import lowerbound as lb
from lowerbound.diagnostics import weigh
from lowerbound.diagnostics.weights.importance import regressed
from lowerbound.families import DenseGaussian
from lowerbound.kernel import Kernel
from lowerbound.model import Model
from tests.measure import assert_mean, z_score

SEEDS = range(30)


def _kernel(density, support=constraints.real, shape=()) -> Kernel:
    return Kernel(Model.from_log_density(lb.LogDensity(density, {"x": lb.Site(support, shape)})))


@pytest.fixture(scope="module")
def skewed() -> tuple[Kernel, DenseGaussian, float]:
    """A log-gamma: exp(a u - e^u) integrates to Gamma(a), and a Gaussian is far from it for a = 1.5."""
    kernel = _kernel(lambda x: 1.5 * x - jnp.exp(x))
    # Not the optimum: too far right and too narrow, as a fit that stopped early would be.
    return kernel, DenseGaussian(np.array([0.4]), np.array([[0.8]])), float(gammaln(1.5))


@pytest.mark.parametrize("rounds", [1, 6])
def test_log_evidence_is_unbiased(skewed, rounds):
    kernel, q, truth = skewed
    results = [weigh(kernel, q, [], np.random.default_rng(s), rounds=rounds, size=1024) for s in SEEDS]
    ratio = np.exp([r.log_evidence - truth for r in results])
    assert_mean(ratio, 1.0, "evidence")
    assert ratio.std() < 0.05
    # The stated standard error is the spread over seeds, within what 30 of them can tell (F test, 1e-6).
    stated = np.sqrt(np.mean([r.log_evidence_se**2 for r in results]))
    assert 1 / 3 < ratio.std(ddof=1) / stated < 2.2
    z = np.array([(r.log_evidence - truth) / r.log_evidence_se for r in results])
    assert np.abs(z).max() < 5


def test_elbo_and_gap_are_those_of_q(skewed):
    kernel, q, truth = skewed
    # E_q[1.5 u - e^u] + H(q) in closed form: u Gaussian, e^u log-normal.
    m, s = 0.4, 0.8
    elbo = 1.5 * m - np.exp(m + 0.5 * s**2) + np.log(s) + 0.5 * (1 + np.log(2 * np.pi))
    results = [weigh(kernel, q, [], np.random.default_rng(s), rounds=1) for s in SEEDS]
    assert_mean(np.array([r.elbo for r in results]), elbo, "ELBO")
    assert_mean(np.array([r.gap for r in results]), truth - elbo, "KL(q || p)")
    assert all(r.elbo <= r.log_evidence for r in results)


@pytest.mark.parametrize("rounds", [1, 6])
def test_weighted_moments_are_those_of_the_target(skewed, rounds):
    from scipy.special import polygamma

    kernel, q, _ = skewed
    mean, variance = float(polygamma(0, 1.5)), float(polygamma(1, 1.5))
    errors = []
    for s in SEEDS:
        r = weigh(kernel, q, [], np.random.default_rng(100 + s), rounds=rounds, size=1024)
        w = np.exp(r.smoothed)
        assert w.sum() == pytest.approx(1.0)
        x = r.draws[:, 0]
        errors.append([w @ x, w @ (x - mean) ** 2])
    assert_mean(np.array(errors), [mean, variance], "weighted moments")


def test_an_exact_q_has_no_gap_and_no_error():
    kernel = _kernel(lambda x: -0.5 * jnp.sum((x - 1.0) ** 2) + 4.0, shape=(3,))
    q = DenseGaussian(np.ones(3), np.eye(3))
    r = weigh(kernel, q, [], np.random.default_rng(0))
    truth = 4.0 + 1.5 * np.log(2 * np.pi)
    assert r.log_evidence == pytest.approx(truth, abs=1e-10) and r.elbo == pytest.approx(truth, abs=1e-10)
    assert abs(r.gap) < 1e-10 and r.elbo_se < 1e-10 and r.rounds == 0
    assert r.pareto_k < 0.5 and r.bad == 0


@pytest.mark.parametrize("degrees", [3, 5])
def test_tails_heavier_than_those_of_q_are_found(degrees):
    # A Student-t under a Gaussian: the evidence is right only because r has tails.
    kernel = _kernel(lambda x: -0.5 * (degrees + 1) * jnp.log1p(x**2 / degrees))
    truth = np.log(integrate.quad(lambda x: (1 + x**2 / degrees) ** (-0.5 * (degrees + 1)), -np.inf, np.inf)[0])
    q = DenseGaussian(np.zeros(1), np.eye(1))
    results = [weigh(kernel, q, [], np.random.default_rng(s), size=1024) for s in SEEDS]
    assert np.abs(z_score(np.exp([r.log_evidence - truth for r in results]), 1.0)) < 5
    if degrees > 4:
        # r's own t has 4 degrees of freedom: weights are bounded where the target has more. With fewer their third
        # moment is infinite, and a single stated error can be too small when the far tail was not drawn.
        z = np.array([(r.log_evidence - truth) / r.log_evidence_se for r in results])
        assert np.abs(z).max() < 5
    assert all(r.gap > 0.005 for r in results), "a Gaussian passed for a Student-t"


def test_draws_without_a_density_are_counted_and_weigh_nothing():
    # The density is log of a negative number left of zero: half of q's draws have none.
    kernel = _kernel(lambda x: jnp.log(x) - x)
    q = DenseGaussian(np.zeros(1), np.eye(1))
    r = weigh(kernel, q, [], np.random.default_rng(1), rounds=1, size=2048)
    assert r.bad == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(1024))
    assert (np.exp(r.smoothed)[r.draws[:, 0] < 0] == 0).all()
    assert abs(r.log_evidence - 0.0) < 5 * r.log_evidence_se  # the integral of x e^-x is one


def test_a_fit_reports_the_same_quantities():
    # From the outside: 30 seeds of a whole fit, each z against the truth, together unbiased.
    target = lb.LogDensity(lambda x: 1.5 * jnp.log(x) - x, {"x": lb.Site(constraints.positive, ())})
    fits = [lb.fit(target, seed=s, family="dense") for s in SEEDS]  # (left alone it is exact: a gamma)
    truth = float(gammaln(2.5))
    z = np.array([(p.log_evidence.value - truth) / p.log_evidence.se for p in fits])
    assert np.abs(z).max() < 5
    assert_mean(np.exp([p.log_evidence.value - truth for p in fits]), 1.0, "evidence over seeds")
    assert all(p.elbo.value < truth + 5 * p.elbo.se for p in fits)
    means = np.array([p.mean()["x"] for p in fits])
    assert_mean(means, 2.5, "posterior mean over seeds")


def test_a_draw_where_a_density_is_infinite_tells_nothing():
    """A beta with infinite density at its ends, and a draw that has been rounded to one."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=2000)
    q, r = -0.5 * x**2 - 0.5 * np.log(2 * np.pi), -0.125 * x**2 - 0.5 * np.log(8 * np.pi)
    densities, shares = np.stack([q, r]), np.array([1.0, 0.0001])
    shares = shares / shares.sum()
    log_w = -0.5 * x**2 - np.log(shares @ np.exp(densities))
    densities[0, 7], log_w[7] = np.inf, -np.inf
    value, se = regressed(log_w, densities, shares)
    assert abs(value - 0.5 * np.log(2 * np.pi)) < 5 * se + 2e-3
