"""The evidence between two bounds, where log p(x) is known."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import stats
from scipy.special import gammaln

import lowerbound as lb
from lowerbound.diagnostics.chains.short import run_chains
from lowerbound.diagnostics.weights.evidence import sandwich
from lowerbound.diagnostics.weights.importance import weigh
from lowerbound.families import DenseGaussian
from lowerbound.kernel import Kernel
from lowerbound.model import Model


def bounds(density, q: DenseGaussian, seed: int = 0, **options):
    kernel = Kernel(Model.from_log_density(lb.LogDensity(density, {"x": lb.Site(constraints.real, q.mean.shape)})))
    rng = np.random.default_rng(seed)
    weighted = weigh(kernel, q, [], rng, **options)
    return sandwich(weighted, run_chains(kernel, q, weighted, rng)), weighted


def assert_brackets(evidence, truth: float) -> None:
    assert evidence.upper is not None
    assert evidence.lower.value < truth + 4 * evidence.lower.se
    assert evidence.upper.value > truth - 4 * evidence.upper.se
    # Both are bounds of means: the upper may be below the lower by their errors, not by more.
    assert evidence.width > -4 * np.hypot(evidence.lower.se, evidence.upper.se)


def test_a_conjugate_normal():
    rng = np.random.default_rng(0)
    y = rng.normal(1.0, 1.0, 20)

    def model(y):
        m = numpyro.sample("m", dist.Normal(0, 2))
        numpyro.sample("y", dist.Normal(m, 1), obs=y)

    truth = stats.multivariate_normal(np.zeros(20), np.eye(20) + 4.0).logpdf(y)
    evidence = lb.fit(model, {"y": y}).evidence
    assert_brackets(evidence, truth)
    assert evidence.width < 0.01 and evidence.lower.se < 0.01


def test_a_conjugate_count():
    """Gamma(2, 3) and Poisson counts: a negative binomial."""
    y = np.array([0, 1, 0, 2])

    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 3.0))
        numpyro.sample("y", dist.Poisson(rate), obs=y)

    a, b = 2.0 + y.sum(), 3.0 + len(y)
    truth = 2 * np.log(3.0) - gammaln(2.0) + gammaln(a) - a * np.log(b) - gammaln(y + 1.0).sum()
    evidence = lb.fit(model, {"y": y}, family="dense").evidence
    assert_brackets(evidence, truth)
    assert evidence.width < 0.02
    assert "mixed" in evidence.condition
    # Left alone, it is known.
    evidence = lb.fit(model, {"y": y}).evidence
    assert evidence.upper is not None and evidence.condition == "q is the posterior"
    assert abs(evidence.lower.value - truth) < 1e-12 and evidence.width == 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("a", [1.5, 4.0])
def test_skewed_targets_are_bracketed(a, seed):
    """exp(a u - e^u) integrates to Gamma(a), from a Gaussian that fits badly and few draws."""
    q = DenseGaussian(np.array([np.log(a) + 0.3, np.log(a) - 0.2]), np.diag([0.8, 1.3]) / np.sqrt(a))
    evidence, _ = bounds(lambda x: jnp.sum(a * x - jnp.exp(x)), q, seed, rounds=1, size=512)
    assert_brackets(evidence, 2 * gammaln(a))


def test_few_draws_widen_the_bounds():
    """One end among K draws is the more of a surplus the smaller K is: E[log mean] - log p(x) ~ Var(w) / 2K, above
    and below."""
    q = DenseGaussian(np.zeros(2), 0.6 * np.eye(2))

    def width(size):
        found = [bounds(lambda x: jnp.sum(2 * x - jnp.exp(x)), q, s, rounds=1, size=size)[0] for s in range(5)]
        assert all(e.num_samples >= size for e in found)
        return np.mean([e.width for e in found])

    assert width(64) > 2 * abs(width(2048))


def test_no_upper_bound_without_chains_or_mixing_or_a_single_mode():
    q = DenseGaussian(np.zeros(2), np.eye(2))
    kernel = Kernel(
        Model.from_log_density(lb.LogDensity(lambda x: -0.5 * jnp.sum(x**2), {"x": lb.Site(constraints.real, (2,))}))
    )
    rng = np.random.default_rng(0)
    weighted = weigh(kernel, q, [], rng)
    chains = run_chains(kernel, q, weighted, rng)
    assert chains is not None and sandwich(weighted, chains).upper is not None
    none = sandwich(weighted, None)
    assert none.upper is None and none.width == np.inf and "no chains" in none.condition
    several = sandwich(weighted, chains, one_mode=False)
    assert several.upper is None and "modes" in several.condition
    assert "no upper bound" in str(several)
    assert abs(several.lower.value - np.log(2 * np.pi)) < 4 * several.lower.se < 0.05


def test_no_upper_bound_where_chains_have_not_mixed():
    def funnel(x):
        return -(x[0] ** 2) / 18 - 0.5 * jnp.sum(x[1:] ** 2) * jnp.exp(-x[0]) - 4.5 * x[0]

    evidence, _ = bounds(funnel, DenseGaussian(np.zeros(10), np.eye(10)))
    assert evidence.upper is None and "not mixed" in evidence.condition
    # The lower one is a bound all the same: the prior of x[0] is N(0, 9), the rest integrate to (2 pi)^(9/2).
    truth = 0.5 * np.log(2 * np.pi * 9) + 4.5 * np.log(2 * np.pi)
    assert evidence.lower.value < truth + 4 * evidence.lower.se


@pytest.mark.parametrize("shift", [0.0, 30.0], ids=["images", "not"])
def test_two_modes_have_an_upper_bound_where_chains_are_led_across(shift):
    """To the mode of the other sign there is a way; to one that is no image of the first there is none."""

    def model(y):
        m = numpyro.sample("m", dist.Normal(shift, 10))
        numpyro.sample("y", dist.Normal(jnp.abs(m - shift), 1), obs=y)

    y = np.array([5.0, 5.2])
    posterior = lb.fit(model, {"y": y})
    evidence = posterior.evidence
    m = np.linspace(-40, 40, 200_001)
    density = stats.norm(0, 10).pdf(m) * stats.norm(np.abs(m), 1).pdf(y[:, None]).prod(0)
    truth = np.log(density.sum() * (m[1] - m[0]))
    assert len(posterior.verdict.modes) == 2
    assert abs(evidence.lower.value - truth) < 4 * evidence.lower.se + 1e-6
    if shift:
        assert evidence.upper is None and "do not cross" in evidence.condition
    else:
        assert evidence.upper is not None and evidence.upper.value + 5 * evidence.upper.se > truth
