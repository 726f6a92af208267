"""Parameters of the model itself: where the bound is largest, against likelihoods whose maximum is known."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.module import eqx_module
from numpyro.distributions import constraints
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import norm

import lowerbound as lb
from lowerbound.families import Diagonal
from lowerbound.gradients import surrogate_with_model
from lowerbound.model import Model
from lowerbound.objectives import Target
from lowerbound.precision import float64

RNG = np.random.default_rng(0)
NOISE = 0.5
Y = 1.5 + RNG.normal(size=12) * 1.2 + NOISE * RNG.normal(size=12)


def hierarchy(y):
    mu = numpyro.param("mu", 0.0)
    tau = numpyro.param("tau", 1.0, constraint=constraints.positive)
    with numpyro.plate("groups", y.shape[0]):
        t = numpyro.sample("t", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(t, NOISE), obs=y)


def test_empirical_bayes_finds_the_maximum_of_the_marginal_likelihood():
    # y_j ~ N(mu, tau^2 + s^2): mu is their mean, tau^2 their variance less s^2.
    posterior = lb.fit(hierarchy, {"y": Y})
    assert set(posterior.parameters) == {"mu", "tau"}
    assert abs(posterior.parameters["mu"] - Y.mean()) < 0.01
    assert abs(posterior.parameters["tau"] - np.sqrt(Y.var() - NOISE**2)) < 0.01
    largest = dist.Normal(Y.mean(), Y.std()).log_prob(Y).sum()
    assert abs(float(posterior.elbo) - float(largest)) < 2e-3
    # With the parameters fixed it is a model like any other, and q is exact.
    assert posterior.verdict.status is lb.VerdictStatus.TRUSTED
    assert posterior.algorithm_name == "score_regression"
    shrunk = posterior.parameters["tau"] ** 2 / (posterior.parameters["tau"] ** 2 + NOISE**2)
    np.testing.assert_allclose(posterior.mean()["t"], (1 - shrunk) * posterior.parameters["mu"] + shrunk * Y, atol=1e-6)
    assert any("mu, tau: they are point estimates" in s for s in posterior.verdict.not_checked)
    assert list(posterior.observed) == ["y"]
    # log p(x; theta) = ELBO + KL where theta was learned, and not where it began.
    found = lb.decompose(hierarchy, {"y": Y}, posterior)
    mu, tau = (float(posterior.parameters[n]) for n in ("mu", "tau"))
    at_theta = dist.Normal(mu, np.hypot(tau, NOISE)).log_prob(Y).sum()
    assert found.log_evidence.value == pytest.approx(float(at_theta), abs=1e-5)
    assert abs(found.elbo.value - posterior.elbo.value) < 1e-6 and abs(found.residual) < 1e-9
    with pytest.raises(lb.errors.IncompatibleError, match="other sites or other data"):
        lb.decompose(hierarchy, {"y": Y + 1}, posterior)


def mixture(y):
    loc = numpyro.param("loc", jnp.array([-1.0, 1.0]))
    w = numpyro.sample("w", dist.Beta(2.0, 2.0))
    with numpyro.plate("rows", y.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(w))
        numpyro.sample("y", dist.Normal(loc[z], 1.0), obs=y)


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"algorithm": "gradient_vi", "family": "diagonal"}, marks=pytest.mark.slow)],
    ids=["free", "asked"],
)
def test_discrete_latents_are_summed_out_while_parameters_are_learned(options):
    """loc at the maximum of the integral over w of prod_n sum_z p(y_n, z_n | w, loc), taken on a grid of nodes."""
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(-2, 1, 10), rng.normal(2, 1, 16)])
    w, weight = (0.5 * (a + b) for a, b in zip(np.polynomial.legendre.leggauss(100), (1.0, 0.0), strict=True))

    def joint(loc):  # of y and w, at the nodes; and of each row with its label 1
        one = np.log(w)[:, None] + norm.logpdf(y, loc[1])
        both = np.logaddexp(np.log1p(-w)[:, None] + norm.logpdf(y, loc[0]), one)
        return np.log(weight) + np.log(6 * w * (1 - w)) + both.sum(1), np.exp(one - both)

    best = minimize(lambda loc: -logsumexp(joint(loc)[0]), [-1.0, 1.0])
    log_joint, labels = joint(best.x)
    posterior = lb.fit(mixture, {"y": y}, **options)
    np.testing.assert_allclose(posterior.parameters["loc"], best.x, atol=5e-3)
    assert abs(posterior.log_evidence.value + best.fun) < 5 * posterior.log_evidence.se + 1e-3
    of_w = np.exp(log_joint - logsumexp(log_joint))
    np.testing.assert_allclose(posterior.probabilities("z")[:, 1], of_w @ labels, atol=0.01)
    assert any("loc: they are point estimates" in s for s in posterior.verdict.not_checked)
    found = lb.decompose(mixture, {"y": y}, posterior)
    assert found.log_evidence.value == pytest.approx(-best.fun, abs=1e-4) and abs(found.residual) < 1e-9


@pytest.mark.slow
def test_probabilistic_pca_by_maximum_likelihood():
    # Tipping & Bishop (1999): sigma^2 is the mean of the discarded eigenvalues, W W' the rest of the leading ones. A q
    # without correlations loses nothing: among the rotations of W there is one for which it is exact.
    x = RNG.normal(size=(60, 1)) @ np.array([[2.0, 1.0, -1.0, 0.5]]) + 0.5 * RNG.normal(size=(60, 4)) + 1
    linear = eqx.nn.Linear(1, 4, key=jax.random.key(0))

    def ppca(x):
        f = eqx_module("f", linear)
        sd = numpyro.param("sd", 1.0, constraint=constraints.positive)
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(1), 1).to_event(1))
            numpyro.sample("x", dist.Normal(jax.vmap(f)(z), sd).to_event(1), obs=x)

    posterior = lb.fit(ppca, {"x": x}, family="diagonal")
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    noise = values[:-1].mean()
    f, sd = posterior.parameters["f"], posterior.parameters["sd"]
    assert isinstance(f, eqx.nn.Linear)
    assert abs(sd**2 - noise) < 0.005
    loadings = vectors[:, -1] * np.sqrt(values[-1] - noise)
    np.testing.assert_allclose(np.abs(f.weight[:, 0]), np.abs(loadings), atol=0.02)
    np.testing.assert_allclose(f.bias, x.mean(0), atol=0.02)
    covariance = np.outer(loadings, loadings) + noise * np.eye(4)
    largest = dist.MultivariateNormal(x.mean(0), covariance).log_prob(x).sum()
    assert -0.1 < float(posterior.elbo) - float(largest) < 5 * posterior.elbo.se


def test_parameters_are_arguments_that_can_be_moved():
    model = Model.from_numpyro(hierarchy, {"y": Y})
    assert model.parameter_values() == {"mu": 0.0, "tau": 1.0}
    moved = model.with_parameters([0.7, np.log(2.0)])
    assert moved.parameter_values()["tau"] == pytest.approx(2.0)
    t = RNG.normal(size=12)
    expected = dist.Normal(0.7, 2.0).log_prob(t).sum() + dist.Normal(t, NOISE).log_prob(Y).sum()
    with float64():
        assert float(moved.log_density(jnp.asarray(t), moved.arguments)) == pytest.approx(float(expected), rel=1e-6)
    # In other coordinates they stay where they are.
    if names := moved.movable():
        elsewhere = moved.moved(dict.fromkeys(names, 0.0))
        assert elsewhere.parameter_values()["tau"] == pytest.approx(2.0)


def test_a_prior_that_is_learned_is_no_known_prior():
    assert lb.objectives.gaussian_prior(Model.from_numpyro(hierarchy, {"y": Y})) is None
    held = Model.from_numpyro(hierarchy, {"y": Y}).held()
    prior = lb.objectives.gaussian_prior(held)
    assert prior is not None and len(prior.index) == 12


OBJECTIVES = [
    (lb.objectives.ELBO(6), lb.gradients.Reparameterized()),
    (lb.objectives.ELBO(6), lb.gradients.StickingTheLanding()),
    (lb.objectives.ELBO(6, form="entropy"), lb.gradients.ScoreFunction()),
    (lb.objectives.ImportanceWeighted(6), lb.gradients.DoublyReparameterized()),
    (lb.objectives.ImportanceWeighted(6), lb.gradients.ScoreFunction()),
    (lb.objectives.Renyi(0.5, 6), lb.gradients.DoublyReparameterized()),
]


@pytest.mark.parametrize(("objective", "gradient"), OBJECTIVES, ids=lambda o: o.name)
def test_the_gradient_for_the_model_is_the_derivative_of_the_value(objective, gradient):
    # The draws do not depend on theta, so that on the same noise a difference quotient is the answer.
    noise = RNG.normal(size=(6, 2))
    phi = {"location": np.array([0.3, -0.2]), "log_scale": np.array([-0.4, 0.1])}

    def target(theta):
        return Target(lambda z: -0.5 * ((z - theta) ** 2).sum(-1) * jnp.exp(theta[0]) + jnp.sin(z).sum(-1) * theta[1])

    def slope(phi, theta):
        found = surrogate_with_model(gradient, objective, target, Diagonal().from_parameters, phi, theta, noise)
        return found.surrogate, found.value

    def own(phi, theta):
        found = gradient.surrogate(objective, target(theta), Diagonal().from_parameters, phi, noise)
        return found.surrogate

    with float64():
        theta, phi = jnp.array([0.5, -0.8]), {k: jnp.asarray(v) for k, v in phi.items()}
        of_q, of_model = jax.grad(lambda p, t: slope(p, t)[0], (0, 1))(phi, theta)
        alone = jax.grad(own)(phi, theta)
        step = 1e-5
        quotient = [
            (slope(phi, theta.at[i].add(step))[1] - slope(phi, theta.at[i].add(-step))[1]) / (2 * step)
            for i in range(2)
        ]
    np.testing.assert_allclose(of_model, quotient, rtol=1e-6)
    # And q's gradient is the estimator's own.
    for k in alone:
        np.testing.assert_allclose(of_q[k], alone[k], rtol=1e-10)


def test_the_parameters_are_in_the_file(tmp_path):
    posterior = lb.fit(hierarchy, {"y": Y}, family="diagonal", max_steps=1500)
    assert any("whether mu, tau converged" in s for s in posterior.verdict.not_checked)
    posterior.save(tmp_path / "p.lb")
    again = lb.load(tmp_path / "p.lb")
    assert again.parameters == posterior.parameters
    np.testing.assert_allclose(again.sample(50)["t"], posterior.sample(50)["t"])
