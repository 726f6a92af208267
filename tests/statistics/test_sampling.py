"""What ``sample`` returns is what ``mean``, ``sd`` and ``quantile`` say, for exact and for corrected posteriors."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import lowerbound as lb
from lowerbound.diagnostics import VerdictStatus
from tests.measure import assert_mean, z_score

DRAWS = 20_000


@pytest.fixture(scope="module")
def exact() -> lb.Posterior:
    root = np.array([[1.0, 0.0, 0.0], [-0.8, 0.5, 0.0], [3.0, 1.0, 2.0]])
    whiten = np.linalg.inv(root)

    def density(a, b):
        e = jnp.asarray(whiten) @ (jnp.concatenate([a[None], b]) - jnp.array([1.0, -5.0, 100.0]))
        return -0.5 * e @ e

    posterior = lb.fit(lb.LogDensity(density, {"a": lb.Site(), "b": lb.Site(shape=(2,))}))
    assert posterior.verdict.status is VerdictStatus.TRUSTED
    return posterior


@pytest.fixture(scope="module")
def corrected() -> lb.Posterior:
    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        numpyro.deterministic("log_rate", jnp.log(rate))
        numpyro.sample("y", dist.Poisson(rate), obs=y)

    posterior = lb.fit(model, {"y": np.array([0, 1])}, family="dense")  # (left alone it is exact)
    assert posterior.corrected
    return posterior


def test_draws_of_q_have_the_stated_moments(exact):
    draws, mean, sd = exact.sample(DRAWS), exact.mean(), exact.sd()
    assert draws["a"].shape == (DRAWS,) and draws["b"].shape == (DRAWS, 2)
    for k in draws:
        assert_mean(draws[k], mean[k], f"mean of {k}")
        assert_mean((draws[k] - mean[k]) ** 2, sd[k] ** 2, f"variance of {k}")
    np.testing.assert_allclose(mean["b"], [-5.0, 100.0], atol=1e-7)
    np.testing.assert_allclose(sd["b"], [np.hypot(0.8, 0.5), np.sqrt(14.0)], rtol=1e-7)


def test_draws_of_q_are_independent_of_each_other(exact):
    x = exact.sample(DRAWS)["a"]
    centred = x - x.mean()
    assert_mean(centred[1:] * centred[:-1], 0.0, "autocovariance")


def test_quantiles_are_those_of_the_draws(exact):
    for probability in (0.05, 0.5, 0.9):
        below = exact.sample(DRAWS)["a"] < exact.quantile(probability)["a"]
        # 8192 matched draws made the quantile: its own error is added to that of these.
        se = np.sqrt(probability * (1 - probability) * (1 / DRAWS + 1 / 8192))
        assert abs(below.mean() - probability) < 5 * se


def test_seeds(exact, corrected):
    for posterior in (exact, corrected):
        a, b, c = (posterior.sample(500, seed=s) for s in (0, 0, 1))
        assert all(np.array_equal(a[k], b[k]) for k in a)
        assert all(not np.array_equal(a[k], c[k]) for k in a)


def test_systematic_resampling_is_unbiased(corrected):
    # Over 600 seeds: the expected number of times that each pool draw appears is n times its weight.
    n, repeats = 50, 600
    pool, weights = corrected._pool[:, 0], corrected._pool_weights
    assert len(np.unique(pool)) == len(pool)
    # The mean over seeds of any function of the draws is the weighted mean of the pool.
    for f in (lambda x: x, lambda x: x**2, lambda x: (x > weights @ pool).astype(float), np.exp):
        means = [f(corrected.sample_unconstrained(n, seed=s)[:, 0]).mean() for s in range(repeats)]
        assert_mean(np.array(means), weights @ f(pool), "resampled mean")


def test_every_draw_appears_floor_or_ceil_of_n_times_its_weight(corrected):
    n = 3000
    pool, weights = corrected._pool[:, 0], corrected._pool_weights
    got = corrected.sample_unconstrained(n, seed=3)[:, 0]
    order = np.argsort(pool)
    counts = np.zeros(len(pool), int)
    np.add.at(counts, order[np.searchsorted(pool[order], got)], 1)
    assert counts.sum() == n
    assert (counts >= np.floor(n * weights - 1e-9)).all() and (counts <= np.ceil(n * weights + 1e-9)).all()


def test_resampled_draws_come_in_random_order(corrected):
    # Draws are wanted in any part. Five times as many as the pool has: each appears several times, and copies
    # that stood next to each other would show as an autocorrelation.
    n = 5 * len(corrected._pool)
    x = corrected.sample(n, seed=5)["log_rate"]
    first, second = x[: n // 2], x[n // 2 :]
    se = np.sqrt(first.var() / len(first) + second.var() / len(second))
    assert abs(first.mean() - second.mean()) < 5 * se
    centred = x - x.mean()
    assert np.abs(z_score(centred[1:] * centred[:-1], 0.0)) < 5


def test_corrected_moments_are_weighted_and_consistent(corrected):
    mean, sd = corrected.mean(), corrected.sd()
    draws = corrected.sample(len(corrected._pool), seed=9)
    effective = corrected.verdict.effective
    for k in mean:
        assert abs(draws[k].mean() - mean[k]) < 5 * sd[k] / np.sqrt(effective)
        assert abs(np.log(draws[k].std() / sd[k])) < 5 / np.sqrt(effective)
    # Gamma(2 + 1, 1 + 2) posterior: mean 1, sd sqrt(3) / 3.
    assert abs(mean["rate"] - 1.0) < 5 * (np.sqrt(3) / 3) / np.sqrt(effective)


def test_the_summary_holds_the_same_numbers(exact):
    table = exact.summary(hdi_prob=0.9)
    assert list(table.index) == ["a", "b[0]", "b[1]"]
    assert table.loc["b[1]", "mean"] == pytest.approx(exact.mean()["b"][1])
    assert table.loc["b[1]", "sd"] == pytest.approx(exact.sd()["b"][1])
    low, high = table.loc["a", "hdi_5%"], table.loc["a", "hdi_95%"]
    assert low == pytest.approx(1 - 1.645, abs=0.15) and high == pytest.approx(1 + 1.645, abs=0.15)


@pytest.mark.parametrize("support", ["real", "positive"])
def test_log_prob_of_the_posterior_is_a_density(support):
    # E over draws of r / q is one for any density r: here a fixed normal or gamma, well inside q.
    site = lb.Site(getattr(constraints, support), ())
    target = {
        "real": lambda x: -0.5 * (x - 2.0) ** 2,
        "positive": lambda x: -0.5 * jnp.log(x) ** 2 - jnp.log(x),
    }[support]
    posterior = lb.fit(lb.LogDensity(lambda x: target(x), {"x": site}))
    x = posterior.sample(DRAWS)["x"]
    inside = {
        "real": dist.Normal(2.0, 0.7),
        "positive": dist.LogNormal(0.0, 0.7),
    }[support]
    ratio = np.exp(np.asarray(inside.log_prob(x), float) - posterior.log_prob({"x": x}))
    assert_mean(ratio, 1.0, "integral of a density over q")
