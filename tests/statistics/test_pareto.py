"""k-hat and smoothed weights against ArviZ, which implements the same paper, and against known tails."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats

from lowerbound.pareto import effective_size, generalized_pareto, smooth

with warnings.catch_warnings():
    # ArviZ 0.x announces its successor when imported.
    warnings.simplefilter("ignore")
    arviz = pytest.importorskip("arviz")


def _weights(name: str, n: int) -> np.ndarray:
    rng = np.random.default_rng([len(name), n])
    if name == "lognormal":
        return rng.standard_normal(n)
    if name == "wide lognormal":
        return 3.0 * rng.standard_normal(n)
    if name == "far from zero":
        return -5000.0 + rng.standard_normal(n)
    if name == "uniform":
        return np.log(rng.uniform(0.5, 1.5, n))
    k = float(name.removeprefix("pareto "))
    return np.log(stats.genpareto(k).rvs(n, random_state=rng) + 1.0)


NAMES = [
    "lognormal",
    "wide lognormal",
    "far from zero",
    "uniform",
    "pareto 0.2",
    "pareto 0.6",
    "pareto 0.9",
    "pareto 1.5",
]


@pytest.mark.parametrize("n", [400, 5000])
@pytest.mark.parametrize("name", NAMES)
def test_against_arviz(name, n):
    log_weights = _weights(name, n)
    smoothed, k = smooth(log_weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, their_k = arviz.psislw(log_weights.copy())
    assert k == pytest.approx(float(their_k), abs=1e-6)
    np.testing.assert_allclose(smoothed, np.asarray(theirs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_smoothed_weights_sum_to_one_keep_their_order_and_ignore_constants(name):
    log_weights = _weights(name, 1000)
    smoothed, k = smooth(log_weights)
    assert np.exp(smoothed).sum() == pytest.approx(1.0, abs=1e-12)
    assert (np.diff(smoothed[np.argsort(log_weights)]) >= -1e-12).all()
    shifted, shifted_k = smooth(log_weights + 1234.5)
    np.testing.assert_allclose(shifted, smoothed, atol=1e-8)
    assert shifted_k == pytest.approx(k, abs=1e-6)
    order = np.random.default_rng(0).permutation(1000)
    np.testing.assert_allclose(smooth(log_weights[order])[0], smoothed[order], atol=1e-12)


def test_the_argument_is_left_as_it_was():
    log_weights = _weights("lognormal", 300)
    before = log_weights.copy()
    smooth(log_weights)
    assert np.array_equal(log_weights, before)


def test_constant_weights_are_perfect():
    smoothed, k = smooth(np.full(500, -3.0))
    assert k == -np.inf
    np.testing.assert_allclose(smoothed, -np.log(500), atol=1e-12)
    assert effective_size(smoothed) == pytest.approx(500.0)


def test_weights_that_are_zero_or_not_numbers():
    log_weights = _weights("lognormal", 1000)
    log_weights[:100], log_weights[100:110] = -np.inf, np.nan
    smoothed, k = smooth(log_weights)
    assert np.isfinite(k) and np.exp(smoothed).sum() == pytest.approx(1.0)
    assert (np.exp(smoothed[:110]) == 0).all()
    nothing, k = smooth(np.full(50, -np.inf))
    assert k == np.inf and np.exp(nothing).sum() == pytest.approx(1.0)


def test_one_weight_that_rules_is_no_good_sign():
    log_weights = np.zeros(1000)
    log_weights[17] = 50.0
    assert not smooth(log_weights)[1] < 0.7


@pytest.mark.parametrize("k", [-0.4, 0.1, 0.5, 0.9, 1.5])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_generalized_pareto_recovers_shape_and_scale(k, scale):
    # Over 60 samples of 1000; the prior pulls k to 0.5 as 10 more points would, which is taken out of the truth.
    n, repeats = 1000, 60
    rng = np.random.default_rng(11)
    fits = np.array(
        [generalized_pareto(np.sort(stats.genpareto(k, scale=scale).rvs(n, random_state=rng))) for _ in range(repeats)]
    )
    expected = (n * k + 5.0) / (n + 10)
    # The asymptotic sd of the maximum-likelihood shape is (1 + k) / sqrt(n) for k > -1/2; its bias is O(1 / n).
    assert np.abs(fits[:, 0].mean() - expected) < 5 * (1 + k) / np.sqrt(n * repeats) + 5 / n
    assert fits[:, 0].std() < 2 * (1 + k) / np.sqrt(n)
    assert np.abs(np.log(fits[:, 1] / scale)).mean() < 5 / np.sqrt(n)


def test_effective_size():
    assert effective_size(np.log([0.25, 0.25, 0.25, 0.25])) == pytest.approx(4.0)
    assert effective_size(np.array([0.0, -np.inf, -np.inf])) == pytest.approx(1.0)
    assert effective_size(np.log([0.5, 0.5, 1.0]) - 900.0) == pytest.approx(4.0 / 1.5)
