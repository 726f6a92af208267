"""Black-box VI on the constrained space: at the optimum where that is known, and what it refuses."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import special

import lowerbound as lb
from lowerbound import gradients
from lowerbound.algorithms import BlackBoxVI
from lowerbound.diagnostics.modes.labellings import OTHER


def _conjugate(n, b, c, y):
    """Four models side by side, each with a conjugate prior."""
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    share = numpyro.sample("share", dist.Beta(2.0, 3.0))
    p = numpyro.sample("p", dist.Dirichlet(jnp.asarray([1.0, 2.0, 3.0])))
    m = numpyro.sample("m", dist.Normal(0.0, 2.0))
    with numpyro.plate("counts", len(n)):
        numpyro.sample("n", dist.Poisson(rate), obs=n)
    with numpyro.plate("coins", len(b)):
        numpyro.sample("b", dist.Bernoulli(share), obs=b)
    with numpyro.plate("kinds", len(c)):
        numpyro.sample("c", dist.Categorical(p), obs=c)
    with numpyro.plate("numbers", len(y)):
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


_DATA = {
    "n": np.array([3, 4, 2, 5, 3, 1]),
    "b": np.array([1, 0, 0, 1, 1, 1, 1]),
    "c": np.array([0, 2, 2, 1, 2, 2, 0, 2]),
    "y": np.array([1.0, 2.5, 0.7]),
}


@pytest.mark.slow
def test_conjugate_models_come_out_as_their_posteriors():
    posterior = lb.fit(_conjugate, _DATA, algorithm="black_box_vi")
    assert posterior.status is lb.Status.CONVERGED
    exact = {
        "Gamma": {"shape": 20.0, "rate": 7.0},
        "Beta": {"concentration1": 7.0, "concentration0": 5.0},
        "Dirichlet": {"concentration": np.array([3.0, 3.0, 8.0])},
        "Gaussian": {"mean": 4.2 / 3.25, "covariance": 1 / 3.25},
    }
    q = posterior.q
    assert isinstance(q, lb.families.FactoredBlock)
    for block, natural in zip(q.blocks, q.naturals, strict=True):
        for name, found in block.describe(natural).items():
            # Means are of parameters over 1,000 steps of little noise; a shape is known worse than its ratio to a rate.
            np.testing.assert_allclose(np.ravel(found), np.ravel(exact[block.family][name]), rtol=0.08)
    log_evidence = float(posterior.log_evidence.value)
    assert abs(posterior.elbo.value - log_evidence) < 5 * posterior.elbo.se + 0.02
    assert posterior.verdict.status is lb.VerdictStatus.TRUSTED
    assert posterior.family_name == "exponential" and posterior.algorithm_name == "black_box_vi"


def _mixture(y):
    w = numpyro.sample("w", dist.Beta(2.0, 2.0))
    with numpyro.plate("components", 2):
        m = numpyro.sample("m", dist.Normal(0.0, 5.0))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(w))
        numpyro.sample("y", dist.Normal(m[z], 1.0), obs=y)


@pytest.mark.slow
def test_a_mixture_ends_where_coordinate_ascent_does(tmp_path):
    rng = np.random.default_rng(0)
    data = {"y": np.concatenate([rng.normal(-2, 1, 14), rng.normal(2, 1, 10)])}
    found = lb.fit(_mixture, data, algorithm="black_box_vi", seed=1)
    optimum = lb.fit(_mixture, data, algorithm="coordinate_ascent")
    assert abs(found.elbo.value - optimum.elbo.value) < 5 * found.elbo.se + 0.02
    a, b = found.probabilities("z")[:, 1], optimum.probabilities("z")[:, 1]
    assert min(np.abs(a - b).max(), np.abs(1 - a - b).max()) < 0.02
    assert found.verdict.status is lb.VerdictStatus.TRUSTED
    # Which of the two has which weight matters to the model: w is that of the second.
    assert OTHER in found.verdict.not_checked
    found.save(tmp_path / "p.lb")
    again = lb.load(tmp_path / "p.lb")
    np.testing.assert_allclose(again.probabilities("z"), found.probabilities("z"))
    assert again.sample(3)["z"].shape == (3, 24)


def _coupled(y):
    c = numpyro.sample("c", dist.Bernoulli(0.4))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.3 * c))
        numpyro.sample("y", dist.Normal(1.0 * z * (c + 1.0), 0.7), obs=y)


def test_discrete_latents_that_share_factors_and_cannot_be_summed_out():
    y = np.array([0.2, 1.1, 1.0, 0.1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.TrustWarning)
        found = lb.fit(_coupled, {"y": y}, algorithm=BlackBoxVI(num_samples=16))
    # The mean-field optimum: c's own probability, by a line search; z's given it, in closed form.
    z, c = np.arange(2)[:, None, None], np.arange(2)[:, None]
    prior = np.where(z == 1, 0.2 + 0.3 * c, 0.8 - 0.3 * c)
    log_p = np.log(prior) - 0.5 * ((y - z * (c + 1.0)) / 0.7) ** 2 - 0.5 * np.log(2 * np.pi * 0.49)  # [z, c, row]
    q = np.linspace(1e-4, 1 - 1e-4, 20_001)
    mean = log_p[:, 0, :, None] * (1 - q) + log_p[:, 1, :, None] * q
    best = special.logsumexp(mean, axis=0).sum(0) + special.xlogy(q, 0.4 / q) + special.xlogy(1 - q, 0.6 / (1 - q))
    assert abs(found.elbo.value - best.max()) < 5 * found.elbo.se + 0.02
    assert found.probabilities("c")[1] == pytest.approx(q[best.argmax()], abs=0.03)
    assert "not checked" in str(found.verdict).lower() or found.verdict.status is not lb.VerdictStatus.TRUSTED


def _cut_off(y):
    rate = numpyro.sample("rate", dist.Gamma(4.0, 2.0))
    k = numpyro.sample("k", dist.Categorical(logits=dist.Poisson(rate).log_prob(jnp.arange(12))))
    numpyro.sample("y", dist.Normal(1.0 * k, 0.5), obs=y)


@pytest.mark.slow
def test_a_bound_of_several_draws_by_name_with_a_poisson_cut_off():
    """Closer to the evidence than the ELBO is at its own best q, and below it."""
    options = {"algorithm": "black_box_vi", "seed": 1, "num_draws": 256}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.TrustWarning)
        elbo = lb.fit(_cut_off, {"y": 3.0}, **options)
        found = lb.fit(_cut_off, {"y": 3.0}, objective=lb.objectives.ImportanceWeighted(32), **options)
    # Given k the rate is a Gamma, and k itself a negative binomial (but for what was cut off).
    k = np.arange(12)
    prior = special.gammaln(4 + k) - special.gammaln(4) - special.gammaln(k + 1) + 4 * np.log(2) - (4 + k) * np.log(3)
    log_p = prior - 0.5 * ((3.0 - k) / 0.5) ** 2 - 0.5 * np.log(2 * np.pi * 0.25)
    p = np.exp(log_p - special.logsumexp(log_p))
    bound = found.bound(lb.objectives.ImportanceWeighted(32), num_draws=2**16)
    same = elbo.bound("elbo", num_draws=2**16)
    assert abs(same.value - elbo.elbo.value) < 5 * np.hypot(same.se, elbo.elbo.se)
    assert same.value + 3 * np.hypot(same.se, bound.se) < bound.value < special.logsumexp(log_p) + 5 * bound.se + 1e-3
    np.testing.assert_allclose(found.probabilities("k"), p, atol=0.04)


def _angle(x):
    a = numpyro.sample("a", dist.VonMises(0.0, 0.5))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.VonMises(a, 2.0), obs=x)


@pytest.mark.parametrize(
    ("x", "status"), [([0.9, 1.4, 0.3], "TRUSTED"), ([2.9, -3.0, 2.5], "NOT_TRUSTED")], ids=["whole", "cut in two"]
)
def test_an_angle_comes_out_as_its_posterior(x, status):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.TrustWarning)
        posterior = lb.fit(_angle, {"x": np.array(x)}, algorithm="black_box_vi")
    cos, sin = 0.5 + 2 * np.cos(x).sum(), 2 * np.sin(x).sum()
    q = posterior.q
    assert isinstance(q, lb.families.FactoredBlock)
    found = q.blocks[0].describe(q.naturals[0])
    assert float(found["direction"]) == pytest.approx(np.arctan2(sin, cos), abs=0.03)
    assert float(found["concentration"]) == pytest.approx(np.hypot(cos, sin), rel=0.08)
    # The check is on the line between -pi and pi, where a posterior across the ends is two.
    assert posterior.verdict.status.name == status


# -- what is refused ------------------------------------------------------------------------------------------------


def _one(y):
    numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.HalfNormal(1.0)), 1.0), obs=y)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"blocks": {"x": "normal"}}, lb.errors.IncompatibleError, "site 'x' is positive; a normal block is not"),
        ({"blocks": {"x": "gama"}}, lb.errors.UnknownNameError, "gamma"),
        ({"blocks": {"w": "gamma"}}, lb.errors.UnknownNameError, "w"),
        ({"blocks": "gamma"}, lb.errors.IncompatibleError, "needed: a dictionary"),
        ({"gradients": {"x": gradients.Enumeration()}}, lb.errors.IncompatibleError, "not one for 'x', a gamma block"),
        ({"gradients": {"x": gradients.Reparameterized()}}, lb.errors.IncompatibleError, r"needed: lb\.gradients"),
        ({"num_samples": 0}, lb.errors.IncompatibleError, "num_samples=0"),
        ({"num_samples": 1.5}, lb.errors.IncompatibleError, "whole number"),
        ({"optimizer": 0.1}, lb.errors.IncompatibleError, "an optax optimiser"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        lb.fit(_one, {"y": 1.0}, algorithm=BlackBoxVI(**options))


def test_supports_without_a_block_families_and_starts_are_refused():
    def matrix(y):
        root = numpyro.sample("root", dist.LKJCholesky(2, 1.0))
        numpyro.sample("y", dist.Normal(root[1, 0], 1.0), obs=y)

    with pytest.raises(lb.errors.IncompatibleError, match=r"site 'root' has support .*BlackBoxVI has no block"):
        lb.fit(matrix, {"y": 1.0}, algorithm="black_box_vi")
    with pytest.raises(lb.errors.IncompatibleError, match="it cannot fit 'dense'"):
        lb.fit(_one, {"y": 1.0}, algorithm="black_box_vi", family="dense")
    with pytest.raises(lb.errors.IncompatibleError, match="finds its own starts"):
        lb.fit(_one, {"y": 1.0}, algorithm="black_box_vi", init={"x": 1.0})
