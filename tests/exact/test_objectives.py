"""What each objective finds, and on which side of the evidence it lies, where both are known."""

from __future__ import annotations

import itertools
import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy.stats import multivariate_normal

import lowerbound as lb
from lowerbound.errors import DataError, IncompatibleError, TrustWarning
from lowerbound.model.given import as_model
from lowerbound.objectives import gaussian_prior
from lowerbound.precision import float64

COVARIANCE = np.array([[1.0, 0.7 * 2.0], [0.7 * 2.0, 4.0]])
MEAN = np.array([1.0, -2.0])


def correlated() -> lb.LogDensity:
    """N(m, S) with correlation 0.7, and log evidence 0.9."""
    precision = jnp.asarray(np.linalg.inv(COVARIANCE))
    constant = 0.9 - 0.5 * float(np.linalg.slogdet(2 * np.pi * COVARIANCE)[1])
    return lb.LogDensity(
        lambda z: constant - 0.5 * (z - MEAN) @ precision @ (z - MEAN), {"z": lb.Site(constraints.real, (2,))}
    )


def fitted(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        return lb.fit(*arguments, **options)


def renyi_variance(order: float, rho: float) -> float:
    """Variance of the independent normals nearest to a unit bivariate normal in Rényi's D_a(q || p), relative to 1.

    q = N(0, vI) by symmetry. With w = p / q, E_q[w^(1 - a)] ∝ |p|^((a - 1) / 2) v^(-a) |a I / v + (1 - a) P|^(-1/2),
    P the precision, and the divergence is minimised on a grid.
    """
    v = np.linspace(0.3, 1.5, 120_001)
    eigenvalues = 1 / (1 + rho), 1 / (1 - rho)
    a = order
    log_mean = -a * np.log(v) - 0.5 * sum(np.log(np.maximum(a / v + (1 - a) * e, 1e-300)) for e in eigenvalues)
    return float(v[np.argmin(log_mean / (a - 1))])


@pytest.mark.parametrize(
    ("objective", "variance"),
    [
        ("elbo", 1 - 0.49),  # the inverse of the precision's diagonal
        ("elbo_entropy", 1 - 0.49),
        ("forward_kl", 1.0),  # the margins
    ],
)
def test_the_optimum_of_a_mean_field_on_a_correlated_gaussian(objective, variance):
    posterior = fitted(correlated(), family="diagonal", objective=objective)
    relative = np.asarray(posterior.q.variance()) / np.diagonal(COVARIANCE)
    assert np.abs(relative / variance - 1).max() < 0.06, relative
    assert np.abs((posterior.q.mean - MEAN) / np.sqrt(np.diagonal(COVARIANCE))).max() < 0.06
    assert posterior.status.converged


def test_objectives_order_the_widths_as_theory_has_them():
    """Rényi's optimum lies between the ELBO's and the forward KL's, and is the known one in the limit of many draws."""
    wide = fitted(correlated(), family="diagonal", objective=lb.objectives.Renyi(0.5, num_samples=256))
    relative = np.asarray(wide.q.variance()) / np.diagonal(COVARIANCE)
    assert 0.51 < renyi_variance(0.5, 0.7) < 1.0
    assert abs(renyi_variance(1 - 1e-6, 0.7) - 0.51) < 1e-3
    assert np.abs(relative / renyi_variance(0.5, 0.7) - 1).max() < 0.06, (relative, renyi_variance(0.5, 0.7))
    covering = fitted(correlated(), family="diagonal", objective="tail_adaptive")
    relative = np.asarray(covering.q.variance()) / np.diagonal(COVARIANCE)
    assert (relative > 0.56).all(), relative


def regression(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


@pytest.fixture(scope="module")
def line():
    """A conjugate regression, a mean-field fit of it, and its log evidence."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 3)) @ np.array([[1.0, 0.3, 0.2], [0, 0.9, 0.2], [0, 0, 1.0]])
    y = x @ np.array([1.0, -1.0, 0.5]) + rng.standard_normal(60)
    evidence = multivariate_normal(np.zeros(60), 4 * x @ x.T + np.eye(60)).logpdf(y)
    return lb.fit(regression, {"x": x, "y": y}, family="diagonal", algorithm="score_regression"), evidence


def test_bounds_lie_on_their_side_and_rise_with_draws(line):
    posterior, evidence = line
    elbo = posterior.bound("elbo")
    values = [elbo] + [posterior.bound(lb.objectives.ImportanceWeighted(k), num_draws=65536) for k in (2, 8, 64)]
    for lower, higher in itertools.pairwise(values):
        assert lower.value < higher.value - 3 * np.hypot(lower.se, higher.se)
    many = posterior.bound(lb.objectives.ImportanceWeighted(4096), num_draws=262144)
    assert many.value < evidence + 5 * many.se and many.value > evidence - 0.02
    renyi = posterior.bound(lb.objectives.Renyi(0.5, 64))
    above_one = posterior.bound(lb.objectives.Renyi(2.0, 64))
    assert above_one.value < elbo.value < renyi.value < evidence
    for form in ("elbo_entropy", "elbo_prior"):
        same = posterior.bound(form)
        assert abs(same.value - elbo.value) < 5 * np.hypot(same.se, elbo.se)
    # From above: the chi bound.
    assert evidence < posterior.bound(lb.objectives.ChiUpperBound(1.2), num_draws=65536).value < evidence + 1.0


def test_one_draw_is_two_sets_of_the_objective_so_that_there_is_an_error(line):
    posterior, _ = line
    for objective, size in ((lb.objectives.ELBO(1), 1), (lb.objectives.ImportanceWeighted(8), 8)):
        one, two = (posterior.bound(objective, num_draws=n) for n in (1, 2 * size))
        assert one == two and np.isfinite(one.value) and 0 < one.se < np.inf
        assert posterior.bound(objective, num_draws=3 * size) != two
    for wrong in (0, 2.5, True):
        with pytest.raises(DataError, match=r"num_draws is .*; needed: a whole number above zero"):
            posterior.bound("elbo", num_draws=wrong)


def test_the_forward_divergence_is_that_of_two_gaussians(line):
    posterior, _ = line
    kl = posterior.bound("forward_kl", num_draws=262144)
    data = posterior.observed
    precision = data["x"].T @ data["x"] + np.eye(3) / 4
    covariance = np.linalg.inv(precision)
    mean = covariance @ data["x"].T @ data["y"]
    q_mean, q_variance = np.asarray(posterior.q.mean), np.asarray(posterior.q.variance())
    truth = 0.5 * (
        (np.diagonal(covariance) / q_variance).sum()
        + ((mean - q_mean) ** 2 / q_variance).sum()
        - 3
        + np.log(q_variance).sum()
        - np.linalg.slogdet(covariance)[1]
    )
    assert abs(kl.value - truth) < 5 * kl.se + 1e-3, (kl, truth)
    assert 0 < kl.se < 0.1 * truth


def test_a_bound_that_cannot_be_believed_is_warned_of():
    """q much narrower than the posterior: the mean of squared weights does not exist."""
    posterior = fitted(correlated(), family="diagonal", algorithm="score_regression")
    with pytest.warns(TrustWarning, match="chi_upper_bound cannot be believed here: k-hat"):
        posterior.bound("chi_upper_bound")


def test_prior_form_is_refused_without_a_gaussian_prior():
    with pytest.raises(IncompatibleError, match="elbo_prior needs a latent with a Normal prior"):
        lb.fit(correlated(), objective="elbo_prior")
    with pytest.raises(IncompatibleError, match="elbo_prior needs a latent with a Normal prior"):
        fitted(correlated()).bound("elbo_prior")


def grouped(y):
    mu = numpyro.sample("mu", dist.Normal(1.0, 3.0))
    tau = numpyro.sample("tau", dist.HalfNormal(2.0))
    with numpyro.plate("groups", 4):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
    beta = numpyro.sample("beta", dist.Normal(np.array([0.5, -0.5]), np.array([1.0, 2.0])).to_event(1))
    numpyro.sample("y", dist.Normal(theta + beta.sum(), 1.0), obs=y)


def test_which_priors_have_a_closed_form():
    """Those with numbers for parameters: not the groups', whose mean and scale are latents, nor a scale's."""
    model = as_model(grouped, {"y": np.zeros(4)})
    prior = gaussian_prior(model)
    assert prior is not None
    assert [model.coordinate_names()[i] for i in prior.index] == ["mu", "beta[0]", "beta[1]"]
    assert np.allclose(prior.mean, [1.0, 0.5, -0.5]) and np.allclose(prior.sd, [3.0, 1.0, 2.0])
    with float64():
        moved = prior.rescaled(np.full(8, 2.0), np.full(8, 0.5))
        y = np.random.default_rng(0).standard_normal((3, 8))
        np.testing.assert_allclose(moved.log_prob(y), prior.log_prob(2.0 + 0.5 * y) + 3 * np.log(0.5))


def test_objective_and_algorithm_together_are_refused():
    for algorithm in (lb.algorithms.GradientVI(), "svgd"):
        with pytest.raises(IncompatibleError, match="An algorithm has its own objective"):
            lb.fit(correlated(), objective="renyi", algorithm=algorithm)
    with pytest.raises(lb.errors.UnknownNameError, match="renyi"):
        lb.fit(correlated(), objective="reny")
