"""The identity of what a fit gives: blocks of every kind, parameters of the model, rows of a network, points."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import stats
from scipy.integrate import quad
from scipy.special import entr

import lowerbound as lb
from lowerbound.families import DenseGaussian, FactoredBlock, ParticleBlock, Place
from lowerbound.families.drawn import categorical, gamma
from tests.updating.models import location

FAR = np.array([-12.4, -11.2, -12.9, 11.1, 12.3, 12.8])
CENTRES = np.array([-12.0, 12.0])
Y = np.array([0.3, 1.9, 2.2, -0.4])


def apart(y):
    """A scale that has no named block, and labels that are all but known."""
    s = numpyro.sample("s", dist.HalfNormal(2.0))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.25, 0.75])))
        numpyro.sample("y", dist.Normal(jnp.asarray(CENTRES)[z], s), obs=y)


def log_terms(s: float) -> np.ndarray:
    """log p(y_n, z_n = k | s) ``[n, k]``."""
    return np.log([0.25, 0.75]) + stats.norm.logpdf(FAR[:, None], CENTRES, s)


def log_prior(s: float) -> float:
    return 0.5 * math.log(2 / math.pi) - math.log(2.0) - s**2 / 8


def integral(f) -> float:
    return quad(f, 1e-3, 30, epsabs=1e-13, epsrel=1e-12, limit=400, points=[0.05, 0.3, 1.0, 3.0])[0]


def test_a_free_form_block_beside_labels_far_from_the_other_component():
    # Where s is small p(z_n = k | s, x) is e^-1000, which is no number and yet not 0.
    posterior = lb.fit(apart, {"y": FAR}, algorithm="coordinate_ascent")
    q = posterior.q
    assert isinstance(q, FactoredBlock) and q.blocks[0].family == "free form on a grid"
    labels = q.discrete["z"].probabilities

    def log_q(s: float) -> float:
        return float(q.log_prob(np.array([[math.log(s)]]))[0]) - math.log(s)

    def gain(s: float) -> float:
        terms = log_terms(s)
        return math.exp(log_q(s)) * (log_prior(s) + np.where(labels > 0, labels * terms, 0.0).sum() - log_q(s))

    elbo = integral(gain) + entr(labels).sum()
    evidence = math.log(integral(lambda s: math.exp(log_prior(s) + np.logaddexp(*log_terms(s).T).sum() + 20))) - 20
    got = lb.decompose(apart, {"y": FAR}, posterior)
    assert got.route == "quadrature"
    assert got.elbo.value == pytest.approx(elbo, abs=1e-6)
    assert got.log_evidence.value == pytest.approx(evidence, abs=1e-6)
    assert got.kl.value == pytest.approx(evidence - elbo, abs=1e-6) and abs(got.residual) < 1e-9
    assert got.elbo.value == pytest.approx(posterior.elbo.value, abs=1e-6)


def test_q_of_drawn_blocks_is_that_of_its_distributions():
    # A product as black-box VI makes it, against the same distributions by NumPyro, in other coordinates.
    scale, label = gamma("s", ()), categorical("z", (6,), np.arange(2))
    p = np.array([[0.9, 0.1], [1.0, 0.0], [0.99, 0.01], [1e-9, 1 - 1e-9], [0.1, 0.9], [0.02, 0.98]])
    natural = scale.natural({"log_mean": np.log(0.8), "log_shape": np.log(20.0)})
    with np.errstate(divide="ignore"):
        logits = {"indicator": np.maximum(np.log(p), -1e3)}
    q = FactoredBlock([scale.block, label.block], [natural, logits], [Place("s", "positive", (), (), 0)])
    ours = lb.decompose(apart, {"y": FAR}, q)
    theirs = lb.decompose(apart, {"y": FAR}, {"s": dist.Gamma(20.0, 25.0), "z": p})
    for a, b in ((ours.elbo, theirs.elbo), (ours.kl, theirs.kl), (ours.log_evidence, theirs.log_evidence)):
        assert a.value == pytest.approx(b.value, abs=1e-8 * (1 + abs(b.value)))
    assert abs(ours.residual) < 1e-8


def test_a_state_below_the_smallest_number_is_possible():
    def switch(y):
        a = numpyro.sample("a", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(a * 50.0, 1.0), obs=y)

    got = lb.decompose(switch, {"y": 0.0}, {"a": np.array([0.999, 0.001])})
    # p(a = 1 | y) is e^-1250.
    kl = 0.999 * math.log(0.999) + 0.001 * (math.log(0.001) + 1250)
    assert got.kl.value == pytest.approx(kl, rel=1e-6) and abs(got.residual) < 1e-12


def learned(y):
    mu = numpyro.param("mu", 0.0)
    tau = numpyro.param("tau", 1.0, constraint=constraints.positive)
    with numpyro.plate("groups", len(y)):
        t = numpyro.sample("t", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(t, 0.5), obs=y)


def test_parameters_are_where_they_are_given():
    q = {"t": dist.Normal(Y, 0.4)}
    at = {"mu": 0.7, "tau": 2.0}
    got = lb.decompose(learned, {"y": Y}, q, parameters=at)
    assert got.route == "conjugate"
    assert got.log_evidence.value == pytest.approx(stats.norm.logpdf(Y, 0.7, math.hypot(2.0, 0.5)).sum(), abs=1e-6)
    # KL between normals, element by element: the posterior has precision 1/4 + 4.
    variance = 1 / 4.25
    mean = variance * (0.7 / 4 + 4 * Y)
    kl = 0.5 * (0.16 / variance + (Y - mean) ** 2 / variance - 1 - np.log(0.16 / variance)).sum()
    assert got.kl.value == pytest.approx(kl, abs=1e-6)
    with pytest.raises(lb.errors.DataError, match=r"has the parameters \['mu', 'tau'\].*Give their values"):
        lb.decompose(learned, {"y": Y}, q)
    with pytest.raises(lb.errors.DataError, match=r"parameters are \['mu'\]; needed: all of \['mu', 'tau'\]"):
        lb.decompose(learned, {"y": Y}, q, parameters={"mu": 0.7})
    with pytest.raises(lb.errors.DataError, match=r"parameters are \['s'\]; needed: all of \[\] of 'apart'"):
        lb.decompose(apart, {"y": FAR}, dist.Gamma(1.0, 1.0), parameters={"s": 1.0})
    with pytest.raises(lb.errors.DataError, match=r"parameter tau is -2.0; needed: inside of Positive"):
        lb.decompose(learned, {"y": Y}, q, parameters={"mu": 0.7, "tau": -2.0})
    with pytest.raises(lb.errors.DataError, match=r"parameter mu has shape \(4,\)"):
        lb.decompose(learned, {"y": Y}, q, parameters={"mu": Y, "tau": 2.0})
    with pytest.raises(lb.errors.DataError, match="parameter mu is nan; needed: finite real numbers"):
        lb.decompose(learned, {"y": Y}, q, parameters={"mu": np.nan, "tau": 2.0})
    with pytest.raises(lb.errors.DataError, match="parameters is a float; needed: a dictionary"):
        lb.decompose(learned, {"y": Y}, q, parameters=1.0)  # pyright: ignore[reportArgumentType]


def test_points_have_no_density():
    particles = ParticleBlock(np.linspace(-1.0, 1.0, 5)[:, None])
    got = lb.decompose(apart, {"y": FAR}, particles)
    assert got.route == "none" and math.isnan(got.log_evidence.value) and math.isnan(got.residual)
    assert (got.elbo.value, got.kl.value) == (-math.inf, math.inf)
    assert "q is made of points" in got.reasons[0]


def test_an_updated_posterior_is_that_of_all_rows():
    y = np.random.default_rng(0).normal(1.0, 0.7, 12)
    posterior = lb.fit(location, {"y": y[:5]}).update({"y": y[5:]})
    got = lb.decompose(location, {"y": y}, posterior)
    exact = stats.multivariate_normal(np.ones(12), 4.0 + 0.49 * np.eye(12)).logpdf(y)
    assert got.log_evidence.value == pytest.approx(exact, abs=1e-6) and abs(got.kl.value) < 1e-8
    with pytest.raises(lb.errors.IncompatibleError, match=r"its last 7 rows alone\. Give all the rows"):
        lb.decompose(location, {"y": y[5:]}, posterior)
    with pytest.raises(lb.errors.DataError, match="parameters= beside a Posterior"):
        lb.decompose(location, {"y": y}, posterior, parameters={})


def test_an_error_of_dimensions():
    with pytest.raises(lb.errors.IncompatibleError, match="q is over 2 unconstrained dimensions, 'learned' has 4"):
        lb.decompose(learned, {"y": Y}, DenseGaussian(np.zeros(2), np.eye(2)), parameters={"mu": 0.0, "tau": 1.0})
