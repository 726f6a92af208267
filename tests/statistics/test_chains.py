"""Short chains: they draw from the target, and know when they have not."""

from __future__ import annotations

import arviz
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints
from scipy import stats

import lowerbound as lb
from lowerbound.diagnostics.chains.control_variates import Moments
from lowerbound.diagnostics.chains.short import Chains, missed, mixing, run_chains
from lowerbound.diagnostics.weights.importance import weigh
from lowerbound.families import DenseGaussian, SinhArcsinh, TransportedBlock
from lowerbound.kernel import Kernel
from lowerbound.model.given import as_model
from tests.registry import SHAPED


def chains_of(density, shape, start, seed=0, **options):
    kernel = Kernel(as_model(lb.LogDensity(density, {"x": lb.Site(constraints.real, shape)})))
    rng = np.random.default_rng(seed)
    return run_chains(kernel, start, weigh(kernel, start, [], rng, **options), rng)


def z_of(draws: np.ndarray, truth: float) -> float:
    """z of the mean of ``[transitions, chains]``: chains are independent of one another."""
    means = draws.mean(0)
    return (means.mean() - truth) / (means.std(ddof=1) / np.sqrt(len(means)))


def test_moments_of_a_skewed_target():
    """log of Gamma(2, 1), whose mean and variance are digamma(2) and trigamma(2)."""
    chains = chains_of(lambda x: jnp.sum(2 * x - jnp.exp(x)), (2,), DenseGaussian(np.zeros(2), np.eye(2)))
    law = stats.loggamma(2)
    assert chains.mixed
    for j in range(2):
        x = chains.draws[:, :, j]
        assert abs(z_of(x, law.mean())) < 5
        assert abs(z_of((x - law.mean()) ** 2, law.var())) < 5
        assert abs(z_of(x < law.ppf(0.05), 0.05)) < 5


def test_a_poor_q_is_forgotten():
    """From a Gaussian that is four times too narrow and off by two of the target's sds."""
    chains = chains_of(lambda x: -0.5 * jnp.sum(x**2), (3,), DenseGaussian(np.full(3, 2.0), 0.25 * np.eye(3)), rounds=1)
    assert abs(z_of(chains.draws[10:, :, 0], 0.0)) < 5
    assert abs(z_of(chains.draws[10:, :, 0] ** 2, 1.0)) < 5


def test_a_funnel_is_not_called_mixed():
    def funnel(x):
        return -(x[0] ** 2) / 18 - 0.5 * jnp.sum(x[1:] ** 2) * jnp.exp(-x[0]) - 4.5 * x[0]

    chains = chains_of(funnel, (10,), DenseGaussian(np.zeros(10), np.eye(10)))
    assert not chains.mixed


@pytest.mark.parametrize("lag", [0.0, 0.5, 0.9])
def test_mixing_agrees_with_arviz(lag):
    """Autoregressive chains, the split R-hat and the effective number of ArviZ's mean."""
    rng = np.random.default_rng(1)
    x = np.zeros((400, 8, 1))
    for t in range(1, 400):
        x[t] = lag * x[t - 1] + np.sqrt(1 - lag**2) * rng.standard_normal((8, 1))
    x = x[100:]
    r_hat, _, effective = mixing(x)
    by_chain = x[:, :, 0].T
    spread = np.abs(by_chain - np.median(by_chain))
    theirs = min(float(arviz.ess(a, method="mean")) for a in (by_chain, spread))
    assert r_hat == pytest.approx(max(float(arviz.rhat(a, method="split")) for a in (by_chain, spread)), abs=2e-3)
    assert effective == pytest.approx(theirs, rel=0.1)


def test_chains_apart_are_seen():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 8, 2))
    x[:, :4, 1] += 3.0
    assert mixing(x)[0] > 1.5 and mixing(x)[1] == 1
    wide = rng.standard_normal((100, 8, 1)) * np.where(np.arange(8) < 4, 1.0, 3.0)[:, None]
    assert mixing(wide)[0] > 1.1  # the same place, another spread


@pytest.mark.parametrize(
    "subject", [SHAPED[0], pytest.param(SHAPED[1], marks=pytest.mark.slow)], ids=lambda s: s.name.replace(" ", "-")
)
def test_chains_in_the_noise_of_a_map(subject):
    """They draw from the target itself, in its own coordinates, wherever q's map has put them."""
    q = subject.block
    assert isinstance(q, TransportedBlock)
    mean, sd = np.asarray(q.mean), np.sqrt(np.asarray(q.variance()))

    def density(x):  # log-gammas near q: skewed, independent, with known moments
        u = (x - mean) / sd
        return jnp.sum(3 * u - jnp.exp(u))

    chains = chains_of(density, (3,), q)
    assert chains is not None and chains.r_hat < 1.05
    law = stats.loggamma(3)
    for j in range(3):
        u = (chains.draws[:, :, j] - mean[j]) / sd[j]
        assert abs(z_of(u, law.mean())) < 5
        assert abs(z_of((u - law.mean()) ** 2, law.var())) < 5
        assert abs(chains.moments.mean[j] - mean[j] - sd[j] * law.mean()) < 5 * chains.moments.mean_se[j] * sd[j]
    u = (chains.draws[-1] - mean) / sd
    np.testing.assert_allclose(chains.log_density[-1], (3 * u - np.exp(u)).sum(1), rtol=1e-9, atol=1e-9)


def test_the_target_of_an_exact_map_is_standard_normal_noise():
    """Where q is the target nothing is rejected but by the integrator, and R-hat is that of independent draws."""
    q = SinhArcsinh().build(np.array([1.0, -2.0]), np.array([[2.0, 0.5], [0.5, 1.0]]))
    precision = np.linalg.inv([[2.0, 0.5], [0.5, 1.0]])
    chains = chains_of(
        lambda x: -0.5 * (x - jnp.array([1.0, -2.0])) @ precision @ (x - jnp.array([1.0, -2.0])), (2,), q
    )
    assert chains.mixed and chains.accepted > 0.8 and chains.divergent == 0
    error = np.abs(chains.moments.mean - [1.0, -2.0]) / chains.moments.sd
    assert (error < 5 * chains.moments.mean_se).all() and (error < 1e-3).all()
    np.testing.assert_allclose(chains.moments.sd, np.sqrt([2.0, 1.0]), rtol=0.01)


@pytest.mark.parametrize("visited", [False, True])
def test_a_spike_that_no_chain_has_entered(visited):
    """A fifth of the mass in a spike a thirtieth as wide, inside the bulk; chains of the bulk alone, or of both."""
    width, share = 1 / 30, 0.2

    def density(x):
        wide = np.log(1 - share) - 0.5 * jnp.sum(x**2)
        return jnp.logaddexp(wide, np.log(share) - 0.5 * jnp.sum((x - 0.7) ** 2) / width**2 - 2 * np.log(width))

    kernel = Kernel(as_model(lb.LogDensity(density, {"x": lb.Site(constraints.real, (2,))})))
    rng = np.random.default_rng(0)
    q = DenseGaussian(np.zeros(2), np.eye(2))
    weighted = weigh(kernel, q, [], rng, rounds=1, size=8192)
    draws = rng.standard_normal((100, 64, 2))
    draws = np.where((np.abs(draws - 0.7) < 5 * width).all(2, keepdims=True), -draws, draws)
    if visited:
        draws[:20] = 0.7 + width * draws[:20]
    moments = Moments(np.zeros(2), np.ones(2), np.zeros(2), np.zeros(2), np.ones(2))
    values = kernel(draws.reshape(-1, 2))[0].reshape(100, 64)
    found = missed(Chains(draws, values, moments, 1.0, 0, 4000.0, 0.9, 0.0), q, weighted)
    if visited:
        assert found < 0.01
    else:  # the weight of few draws: 0.2 on average
        assert 0.05 < found < 0.5


@pytest.mark.parametrize(("patience", "transitions"), [(1, 200), (2, 400)])
def test_patience_is_more_transitions(monkeypatch, patience, transitions):
    """Where nothing is ever enough."""
    monkeypatch.setattr("lowerbound.diagnostics.chains.short.EFFECTIVE", np.inf)
    kernel = Kernel(as_model(lb.LogDensity(lambda x: -0.5 * x**2, {"x": lb.Site()})))
    rng, q = np.random.default_rng(0), DenseGaussian(np.zeros(1), np.eye(1))
    chains = run_chains(kernel, q, weigh(kernel, q, [], rng), rng, patience=patience)
    assert chains is not None and len(chains.draws) == transitions
