"""KL from draws alone, by nearest neighbours: by brute force, what changes nothing, and whether its error is honest."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.integrate import quad
from scipy.special import digamma
from scipy.stats import norm

from lowerbound import divergences as dv


def _pair(seed: int, d: int, n: int, m: int, shift: float = 0.5, scale: float = 1.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), shift + scale * rng.standard_normal((m, d))


def _truth(d: int, shift: float = 0.5, scale: float = 1.3) -> float:
    return 0.5 * d * ((1 + shift**2) / scale**2 - 1 + 2 * np.log(scale))


def test_the_estimate_is_that_of_its_formula():
    x, y = _pair(0, 2, 150, 130)
    white = np.linalg.cholesky(np.linalg.inv(np.cov(x.T)))
    own = np.sort(np.linalg.norm((x[:, None] - x) @ white, axis=-1), axis=1)[:, 3]  # of itself at 0
    other = np.sort(np.linalg.norm((x[:, None] - y) @ white, axis=-1), axis=1)[:, 2]
    expected = 2 * np.log(other / own).mean() + np.log(130 / 149)
    assert expected > 0.1
    assert float(dv.kl(x, y, neighbours=3)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("d", "n"), [(1, 2000), (2, 2000), (5, 2000), (10, 2000)])
def test_the_error_has_the_bias_in_it(d, n):
    """Within two and a half of its errors, which are as small as dimensions allow."""
    x, y = _pair(1, d, n, n)
    found = dv.kl(x, y)
    assert abs(found.value - _truth(d)) < 2.5 * found.se, found
    assert found.se < {1: 0.06, 2: 0.1, 5: 0.4, 10: 1.2}[d]
    assert "of bias" in found.note


def test_units_rotations_and_maps_change_nothing():
    x, y = _pair(2, 3, 300, 400)
    found = dv.kl(x, y, seed=3)
    matrix = np.array([[5.0, 1.0, 0.0], [0.0, 1e-3, 2.0], [0.3, 0.0, 100.0]])
    again = dv.kl(x @ matrix + 7, y @ matrix + 7, seed=3)
    np.testing.assert_allclose([again.value, again.se], [found.value, found.se], rtol=1e-6)
    by_site = dv.kl({"a": x[:, 0], "b": x[:, 1:]}, {"b": y[:, 1:], "a": y[:, 0]}, seed=3)
    assert by_site.value == pytest.approx(found.value, rel=1e-9)


def test_no_difference_is_zero_within_the_error_and_never_below():
    x, y = _pair(4, 2, 500, 500, 0.0, 1.0)
    found = dv.kl(x, y)
    assert 0 <= found.value < 2.5 * found.se
    assert dv.kl(x, y).value == found.value  # the same seed, the same bits


def test_draws_against_a_distribution_and_two_distributions_when_asked():
    x, _ = _pair(5, 2, 2000, 1)
    p, q = dist.Normal(jnp.zeros(2), 1.0).to_event(1), dist.Normal(0.5 * jnp.ones(2), 1.3).to_event(1)
    for found in (dv.kl(x, q, num_draws=4000), dv.kl(p, q, method="neighbours", num_draws=4000)):
        assert abs(found.value - _truth(2)) < 2.5 * found.se and not found.exact


def _gammas(seed: int, d: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Gamma(2) and Gamma(3) of scale 0.8 in each column."""
    rng = np.random.default_rng(seed)
    return rng.gamma(2, size=(n, d)), rng.gamma(3, 0.8, size=(n, d))


#: E log p - log q: with a, b = 2, 3 and s = 0.8, log Γ(b) - log Γ(a) + b log s + (a - b) ψ(a) + a (1/s - 1).
_GAMMAS = float(np.log(2) + 3 * np.log(0.8) - digamma(2) + 2 * (1 / 0.8 - 1))


def _modes(seed: int, d: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two modes at ±1.5 with sd 0.6 in the first column, against N(0, 1.7); N(0, 1) against N(0, 1.2) in the others."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, d)), 1.2 * rng.standard_normal((n, d))
    x[:, 0] = 0.6 * x[:, 0] + 1.5 * rng.choice([-1, 1], n)
    y[:, 0] *= 1.7 / 1.2
    return x, y


def _truth_of_modes(d: int) -> float:
    def term(x: float) -> float:
        log_p = np.logaddexp(norm.logpdf(x, -1.5, 0.6), norm.logpdf(x, 1.5, 0.6)) - np.log(2)
        return float(np.exp(log_p) * (log_p - norm.logpdf(x, 0, 1.7)))

    return quad(term, -8, 8)[0] + (d - 1) * _truth(1, 0.0, 1.2)


def _covered(make: Any, truth: float) -> float:
    found = [dv.kl(*make(1000 + i), seed=i) for i in range(1000)]
    return float(np.mean([abs(e.value - truth) <= 1.96 * e.se for e in found]))


@pytest.mark.slow
@pytest.mark.parametrize(("d", "n"), [(1, 400), (2, 600), (5, 600), (10, 1000)])
def test_intervals_cover_the_truth(d, n):
    assert _covered(lambda seed: _pair(seed, d, n, n), _truth(d)) > 0.92


@pytest.mark.slow
def test_intervals_cover_the_truth_of_other_laws():
    assert _covered(lambda seed: _gammas(seed, 2, 600), 2 * _GAMMAS) > 0.92
    assert _covered(lambda seed: _gammas(seed, 3, 1000), 3 * _GAMMAS) > 0.92
    assert _covered(lambda seed: _modes(seed, 2, 600), _truth_of_modes(2)) > 0.92
    assert _covered(lambda seed: _modes(seed, 5, 1000), _truth_of_modes(5)) > 0.92


def test_the_bias_of_skewed_laws_is_in_the_error():
    """Some three standard errors of chance too low: not seen from half of the draws, but from slopes."""
    found = [dv.kl(*_gammas(seed, 3, 1000)) for seed in range(3)]
    assert all(e.value < 3 * _GAMMAS - 0.05 and abs(e.value - 3 * _GAMMAS) < 2.5 * e.se for e in found), found


def test_draws_of_p_where_q_has_none_have_no_known_error():
    rng = np.random.default_rng(0)
    near = dv.kl(rng.normal(size=(1000, 1)) + 0.5, rng.normal(size=(1000, 1)), neighbours=5)
    assert np.isfinite(near.se)
    for away in (2.0, 8.0):
        found = dv.kl(rng.normal(size=(1000, 1)) + away, rng.normal(size=(1000, 1)), neighbours=5)
        assert found.se == np.inf and "too low" in found.note
