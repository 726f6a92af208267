"""Noise for expectations: what is said to be exact is exact, and every row is standard normal."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lowerbound.expectations import matched_normals, stratified_normals, student_scales
from tests.measure import assert_mean, assert_moments

SHAPES = [(64, 1), (64, 7), (64, 32), (128, 33), (256, 100)]


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_matched_normals_have_exact_moments(n, d):
    e = matched_normals(np.random.default_rng(1), n, d)
    assert e.shape == (n, d) and np.isfinite(e).all()
    assert np.array_equal(e[: n // 2], -e[n // 2 :]), "antithetic: every odd moment is zero"
    np.testing.assert_allclose(e.mean(0), 0.0, atol=1e-14)
    second = e.T @ e / n
    if n >= 2 * d:
        np.testing.assert_allclose(second, np.eye(d), atol=1e-10)
    else:
        np.testing.assert_allclose(np.diagonal(second), 1.0, rtol=1e-12)


@pytest.mark.parametrize(("n", "d"), [(64, 1), (64, 20), (16, 40)])
def test_matched_normals_give_quadratics_exactly_and_regress_affine_scores_exactly(n, d):
    rng = np.random.default_rng(2)
    e = matched_normals(rng, n, d)
    a, b = rng.standard_normal((d, d)), rng.standard_normal(d)
    if n < 2 * d:
        a = np.diag(np.diagonal(a))  # only marginal variances are matched there
    assert np.einsum("ni,ij,nj->n", e, a, e).mean() == pytest.approx(np.trace(a), abs=1e-10)
    assert (e @ b).mean() == pytest.approx(0.0, abs=1e-13)
    if n >= 2 * d:
        scores = b - e @ a.T
        np.testing.assert_allclose(-(e.T @ scores) / n, a.T, atol=1e-9)


def test_matched_normals_are_still_normal():
    # The fourth moment, which is not matched, is a normal's up to what whitening takes; over 400 sets of noise.
    rng = np.random.default_rng(3)
    fourth = np.array([(matched_normals(rng, 256, 3) ** 4).mean(0) for _ in range(400)])
    assert np.abs(fourth.mean(0) - 3.0).max() < 0.15
    e = np.concatenate([matched_normals(rng, 256, 3)[:128] for _ in range(40)])
    for j in range(3):
        assert stats.kstest(e[:, j], "norm").pvalue > 1e-6


@pytest.mark.parametrize("d", [1, 4])
def test_stratified_normals_have_one_draw_in_each_interval(d):
    n = 500
    e = stratified_normals(np.random.default_rng(4), n, d)
    assert e.shape == (n, d)
    cells = np.sort(np.floor(stats.norm.cdf(e) * n).astype(int), axis=0)
    assert np.array_equal(cells, np.broadcast_to(np.arange(n)[:, None], (n, d)))


def test_stratified_normals_have_normal_marginals_and_no_correlation():
    rng = np.random.default_rng(5)
    # Rows of one set are dependent by design, so one row is taken of each of many sets.
    rows = np.array([stratified_normals(rng, 16, 3)[5] for _ in range(4000)])
    for j in range(3):
        assert stats.kstest(rows[:, j], "norm").pvalue > 1e-6
    assert_moments(rows, np.zeros(3), np.eye(3), "stratified rows")


def test_stratification_takes_the_error_out_of_additive_functions():
    rng = np.random.default_rng(6)
    stratified = np.array([np.exp(stratified_normals(rng, 128, 4)).sum(1).mean() for _ in range(200)])
    plain = np.array([np.exp(rng.standard_normal((128, 4))).sum(1).mean() for _ in range(200)])
    assert_mean(stratified, 4 * np.exp(0.5), "stratified mean of a sum of exponentials")
    assert stratified.std() < 0.3 * plain.std()


def test_extreme_cells_are_finite():
    e = stratified_normals(np.random.default_rng(7), 1, 1000)
    assert np.isfinite(e).all() and np.isfinite(stratified_normals(np.random.default_rng(8), 100_000, 1)).all()


@pytest.mark.parametrize("degrees", [4.0, 6.0])
def test_student_scales(degrees):
    rng = np.random.default_rng(9)
    n = 20_000
    scales = student_scales(rng, n, degrees)
    assert scales.shape == (n,) and (scales > 0).all()
    assert_mean(degrees / scales**2, degrees, "chi-square mean")
    assert stats.kstest(degrees / scales**2, stats.chi2(degrees).cdf).pvalue > 1e-6
    t = rng.standard_normal(n) * scales
    assert stats.kstest(t, stats.t(degrees).cdf).pvalue > 1e-6


def test_same_generator_same_bits():
    for make in (matched_normals, stratified_normals):
        a, b, c = (make(np.random.default_rng(s), 64, 5) for s in (1, 1, 2))
        assert np.array_equal(a, b) and not np.array_equal(a, c)
