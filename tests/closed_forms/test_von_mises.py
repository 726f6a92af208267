"""The von Mises block: its draws, moments and entropy, and the slope of a draw in the concentration."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from lowerbound.families.exponential import VonMisesBlock
from lowerbound.families.exponential.described import describe, rebuild
from lowerbound.families.exponential.von_mises import implicit_von_mises, von_mises_quantile
from lowerbound.precision import float64
from tests.measure import assert_mean

#: Broad, on the leap of the angle, and so narrow that hardly anything is left beside it.
DIRECTION, CONCENTRATION = np.array([0.4, 3.0, -2.9, 1.0]), np.array([0.3, 2.0, 15.0, 4000.0])
BLOCK = VonMisesBlock("x", (4,), "cos", "sin")
NATURAL = {"cos": CONCENTRATION * np.cos(DIRECTION), "sin": CONCENTRATION * np.sin(DIRECTION)}


def _integral(f, m: float, kappa: float) -> float:
    return integrate.quad(
        lambda d: f(m + d) * stats.vonmises.pdf(d, kappa), -np.pi, np.pi, points=[0.0, -0.05, 0.05], limit=400
    )[0]


def test_entropy_and_moments_are_the_integrals():
    with float64():
        moments = {k: np.asarray(v) for k, v in BLOCK.moments({k: jnp.asarray(v) for k, v in NATURAL.items()}).items()}
        entropy = float(BLOCK.entropy({k: jnp.asarray(v) for k, v in NATURAL.items()}))
    for i, (m, kappa) in enumerate(zip(DIRECTION, CONCENTRATION, strict=True)):
        assert moments["cos"][i] == pytest.approx(_integral(np.cos, m, kappa), abs=1e-8)
        assert moments["sin"][i] == pytest.approx(_integral(np.sin, m, kappa), abs=1e-8)
    assert entropy == pytest.approx(sum(stats.vonmises(k).entropy() for k in CONCENTRATION), abs=1e-6)


def test_moments_are_the_slope_of_the_log_partition_and_none_at_the_uniform():
    with float64():
        at = {k: jnp.asarray(v) for k, v in NATURAL.items()}
        slope = jax.jit(jax.grad(lambda n: BLOCK.log_partition(n).sum()))(at)
        found = BLOCK.moments(at)
        for k in at:
            np.testing.assert_allclose(slope[k], found[k], rtol=1e-9)
        uniform = {"cos": jnp.zeros(4), "sin": jnp.zeros(4)}
        assert not any(np.asarray(v).any() for v in BLOCK.moments(uniform).values())
        slope = jax.grad(lambda n: BLOCK.moments(n)["cos"].sum())(uniform)
        np.testing.assert_allclose(slope["cos"], 0.5)


def test_draws_have_the_density_and_the_moments():
    rng = np.random.default_rng(0)
    x = BLOCK.sample(rng, NATURAL, 20_000)["x"]
    assert (x >= -np.pi).all() and (x < np.pi).all()
    for i, (m, kappa) in enumerate(zip(DIRECTION, CONCENTRATION, strict=True)):
        turned = (x[:, i] - m + np.pi) % (2 * np.pi) - np.pi
        assert stats.kstest(turned, stats.vonmises(kappa).cdf).pvalue > 1e-3
    mean, variance = BLOCK.mean_and_variance(NATURAL)["x"]
    assert_mean(x, mean, "angle")
    assert_mean((x - mean) ** 2, variance, "variance of the angle")
    expected = stats.vonmises.logpdf(x[:5], CONCENTRATION, DIRECTION).sum(1)
    np.testing.assert_allclose(BLOCK.log_prob(NATURAL, {"x": x[:5]}), expected, rtol=1e-8, atol=1e-6)


def test_the_quantile_inverts_the_distribution_function_in_both_tails():
    e = np.array([-4.0, -2.0, 0.0, 0.5, 6.0])
    for kappa in (0.0, 0.5, 40.0):
        x = von_mises_quantile(np.full(5, kappa), e)
        np.testing.assert_allclose(x, -von_mises_quantile(np.full(5, kappa), -e), atol=1e-12)
        np.testing.assert_allclose(stats.vonmises.cdf(x[:3], kappa), stats.norm.cdf(e[:3]), rtol=1e-4)
    np.testing.assert_allclose(von_mises_quantile(np.full(5, 1e9), e), e / np.sqrt(1e9), rtol=1e-9)


def test_the_slope_of_a_draw_is_that_of_the_quantile():
    kappa = np.array([0.2, 1.0, 5.0, 50.0, 1000.0])
    e = np.array([-3.0, -1.0, 0.3, 2.0])
    with float64():
        for k in kappa:
            x = von_mises_quantile(np.full(4, k), e)
            h = 1e-3 * k
            up, down = (von_mises_quantile(np.full(4, k + s), e) for s in (h, -h))
            slope = jax.vmap(jax.grad(implicit_von_mises), (None, 0))(jnp.asarray(k), jnp.asarray(x))
            np.testing.assert_allclose(slope, (up - down) / (2 * h), rtol=2e-4, atol=1e-9)


def test_it_survives_a_file():
    again = rebuild(describe(BLOCK))
    assert isinstance(again, VonMisesBlock) and again.shape == (4,) and again.latents == ("x",)
