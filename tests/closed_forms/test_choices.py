"""Whole fits of models that choose: change points, scales by a discrete latent, bounded scales, experts."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import numpy as jnp
from scipy import integrate
from scipy.special import gammaln, logsumexp
from scipy.stats import norm

import lowerbound as lb
from tests.closed_forms.test_exact import fitted


def change_point(y):
    tau = numpyro.sample("tau", dist.DiscreteUniform(0, len(y) - 1))
    before = numpyro.sample("before", dist.Gamma(2.0, 1.0))
    after = numpyro.sample("after", dist.Gamma(2.0, 1.0))
    with numpyro.plate("years", len(y)):
        numpyro.sample("y", dist.Poisson(jnp.where(jnp.arange(len(y)) < tau, before, after)), obs=y)


def test_a_change_point_by_enumeration():
    """Given tau both rates integrate out: log p(y, tau) is a sum of two evidences of gamma-Poisson models."""
    rng = np.random.default_rng(5)
    y = np.concatenate([rng.poisson(4.0, 18), rng.poisson(1.0, 14)])

    def evidence(part):
        s, n = part.sum(), len(part)
        return gammaln(2 + s) - gammaln(2) - (2 + s) * np.log(1 + n) - gammaln(part + 1).sum()

    logs = np.array([evidence(y[:t]) + evidence(y[t:]) for t in range(len(y))]) - np.log(len(y))
    posterior = lb.fit(change_point, {"y": y})
    assert posterior.algorithm_name == "coordinate_ascent" and posterior.verdict.trusted
    assert logsumexp(logs) - 0.2 < posterior.elbo.value <= logsumexp(logs) + 1e-9
    assert abs(posterior.log_evidence.value - logsumexp(logs)) < 0.05
    truth = np.exp(logs - logsumexp(logs))
    assert np.abs(posterior.probabilities("tau") - truth).max() < 0.06


def bounded(y):
    s = numpyro.sample("s", dist.Uniform(0.0, 1.5))
    numpyro.sample("y", dist.Normal(0.5, s), obs=y)


def shifted(y):
    s = numpyro.sample("s", dist.Pareto(1.5, 2.0))
    numpyro.sample("y", dist.Normal(0.5, s), obs=y)


@pytest.mark.parametrize(
    ("model", "low", "high", "prior"),
    [(bounded, 1e-3, 1.5, lambda s: 1 / 1.5), (shifted, 1.5, np.inf, lambda s: 2 * 1.5**2 / s**3)],
)
def test_a_scale_between_two_ends_by_quadrature(model, low, high, prior, tmp_path):
    y = np.random.default_rng(0).normal(1.0, 2.0, 12)

    def joint(s):
        return np.exp(norm(0.5, s).logpdf(y).sum() + 30) * prior(s)

    total = integrate.quad(joint, low, high)[0]
    mean = integrate.quad(lambda s: s * joint(s), low, high)[0] / total
    posterior = fitted(model, {"y": y}, num_draws=64)
    assert posterior.elbo.value == pytest.approx(np.log(total) - 30, rel=1e-9)
    posterior.save(tmp_path / "p.lb")
    for found in (posterior, lb.load(tmp_path / "p.lb")):
        assert found.mean()["s"] == pytest.approx(mean, rel=1e-6)


def outliers(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    small = numpyro.sample("small", dist.HalfNormal(2.0))
    p = numpyro.sample("p", dist.Beta(1.0, 9.0))
    with numpyro.plate("n", len(y)):
        far = numpyro.sample("far", dist.Bernoulli(p))
        numpyro.sample("y", dist.Normal(mu, jnp.where(far, 10.0, small)), obs=y)


def test_outliers_have_a_scale_of_their_own():
    y = np.concatenate([np.random.default_rng(1).normal(3.0, 0.5, 40), [-9.0, 15.0, 22.0, -14.0]])
    posterior = fitted(outliers, {"y": y}, num_draws=64)
    far = posterior.probabilities("far")[:, 1]
    assert (far[40:] > 0.99).all() and far[:40].max() < 0.5
    assert abs(posterior.mean()["mu"] - y[:40].mean()) < 3 * posterior.sd()["mu"]
    assert posterior.mean()["small"] == pytest.approx(y[:40].std(), rel=0.15)


def experts(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 2.0).expand([2, 3]).to_event(2))
    b = numpyro.sample("b", dist.Normal(0.0, 3.0).expand([3]).to_event(1))
    with numpyro.plate("n", len(y)):
        z = numpyro.sample("z", dist.Categorical(logits=x @ w))
        numpyro.sample("y", dist.Normal(b[z], 0.5), obs=y)


def test_a_mixture_of_experts_finds_its_gates():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((120, 2))
    logits = x @ np.array([[3.0, -3.0, 0.0], [0.0, 0.0, 3.0]])
    z = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    y = np.array([-4.0, 0.0, 4.0])[z] + 0.5 * rng.standard_normal(120)
    posterior = fitted(experts, {"x": x, "y": y}, num_draws=None, init={"z": (y > -2).astype(int) + (y > 2)})
    assert (posterior.probabilities("z").argmax(1) == z).mean() > 0.95
    assert posterior.elbo.value < posterior.log_evidence.value
    gate = posterior.mean()["w"]
    assert gate[0, 0] - gate[0, 1] > 2.0 and gate[1, 2] - gate[1, 1] > 1.0
