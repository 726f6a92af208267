"""The tests of uniformity: p-values that are uniform themselves, an envelope of its stated level, and power."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from lowerbound.diagnostics.ranks.uniformity import envelope, number_of_bins, number_of_points, uniformity
from lowerbound.report.ranks import sparkline


@pytest.mark.parametrize(("n", "largest"), [(30, 63), (100, 127)])
@pytest.mark.parametrize("test", ["chi_square", "ecdf"])
def test_p_values_of_uniform_ranks_are_uniform(n, largest, test):
    m = 3000
    ranks = np.random.default_rng(0).integers(0, largest + 1, (n, m))
    p = getattr(uniformity(ranks, largest), test)
    # Chi-square is an approximation with ten ranks a bin, so it is looked at where it is used with some margin.
    slack = 0.01 if test == "chi_square" else 0.0
    for level in (0.01, 0.05, 0.2):
        found = np.mean(p <= level)
        assert abs(found - level) < 5 * np.sqrt(level * (1 - level) / m) + slack, level


def test_the_ecdf_p_value_is_that_of_every_sample_there_is():
    # Three ranks from 0 to 3: 64 equally likely samples, so P(gamma <= observed) can be counted.
    largest, n = 3, 3
    samples = np.array(list(itertools.product(range(largest + 1), repeat=n)))
    z = np.arange(1, largest + 1)[:, None] / (largest + 1)
    below = np.stack([(samples < i).sum(1) for i in range(1, largest + 1)])
    pointwise = 2 * np.minimum(stats.binom.cdf(below, n, z), stats.binom.sf(below - 1, n, z))
    gamma = pointwise.min(0)
    counted = np.mean(gamma[None] <= gamma[:, None] * (1 + 1e-9), axis=1)
    np.testing.assert_allclose(uniformity(samples.T, largest).ecdf, counted, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_the_envelope_has_its_level(alpha):
    n, largest, m = 60, 63, 4000
    ranks = np.random.default_rng(1).integers(0, largest + 1, (n, m))
    z, lower, upper = envelope(n, largest, alpha)
    ecdf = np.stack([np.mean((ranks + 1) / (largest + 1) <= point + 1e-12, axis=0) for point in z])
    left = np.any((ecdf < lower[:, None] - 1e-9) | (ecdf > upper[:, None] + 1e-9), axis=0)
    # Counts are whole numbers, so the level is met from below.
    assert left.mean() < alpha + 5 * np.sqrt(alpha / m)
    assert left.mean() > 0.6 * alpha


@pytest.mark.parametrize(
    ("sd", "shift", "shape"), [(0.5, 0.0, "too narrow"), (2.0, 0.0, "too wide"), (1.0, 0.7, "too high")]
)
def test_wrong_posteriors_are_found_and_named(sd, shift, shape):
    rng = np.random.default_rng(2)
    n, largest, m = 100, 127, 20
    truth = rng.normal(size=(n, m))
    right = (rng.normal(size=(largest, n, m)) < truth).sum(0)
    wrong = (shift + sd * rng.normal(size=(largest, n, m)) < truth).sum(0)
    assert uniformity(right, largest).p.min() > 0.01
    found = uniformity(wrong, largest)
    assert found.p.max() < 0.01
    assert {found.shape(i, n) for i in range(m)} == {shape}
    lower = uniformity(largest - wrong, largest)
    np.testing.assert_allclose(lower.mean, 1 - found.mean)
    if shape == "too high":
        assert {lower.shape(i, n) for i in range(m)} == {"too low"}


def test_bins_and_points_divide_the_ranks():
    for largest in (7, 15, 63, 127, 255, 127 + 40):
        for n in (1, 20, 100, 1000):
            bins = number_of_bins(n, largest)
            assert (largest + 1) % bins == 0 and (bins == 2 or n / bins >= 10)
        assert (largest + 1) % number_of_points(largest) == 0


def test_p_is_corrected_for_the_number_of_quantities():
    ranks = np.random.default_rng(3).integers(0, 128, (100, 1))
    one, many = uniformity(ranks, 127), uniformity(np.repeat(ranks, 50, 1), 127)
    smaller = min(one.chi_square[0], one.ecdf[0])
    assert one.p[0] == min(1, 2 * smaller)
    assert many.p[7] == min(1, 100 * smaller)


def test_a_sparkline_has_a_bar_a_bin():
    assert sparkline([0, 10, 20, 10]) == "▁▄█▄"
    assert sparkline([0, 0, 0, 90]) == "▁▁▁█"
    assert sparkline([5, 5]) == "▄▄"
