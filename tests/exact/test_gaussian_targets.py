"""Gaussian targets that are hard for everything else: one step lands on them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import lowerbound as lb
from lowerbound.algorithms.score_regression import _affine
from lowerbound.diagnostics import VerdictStatus
from lowerbound.kernel import Kernel
from lowerbound.model.given import as_model

EPS = np.finfo(float).eps
LOG_EVIDENCE = 12.5


def _fit(mean: np.ndarray, whiten: np.ndarray, **options) -> lb.Posterior:
    """The normalised Gaussian of x with whiten (x - mean) ~ N(0, I), times a known evidence."""
    constant = LOG_EVIDENCE + np.linalg.slogdet(whiten)[1] - 0.5 * len(mean) * np.log(2 * np.pi)

    def density(x):
        # As |R (x - m)|^2 and not (x - m)' P (x - m), whose rounding error is eps cond(P), not eps sqrt(cond(P)).
        e = jnp.asarray(whiten) @ (x - mean)
        return constant - 0.5 * e @ e

    return lb.fit(lb.LogDensity(density, {"x": lb.Site(shape=mean.shape)}), **options)


def _assert_solved(
    posterior: lb.Posterior, mean: np.ndarray, whiten: np.ndarray, rounding: float, steps: int = 3
) -> None:
    assert posterior.trace.phase.count("fitting") <= steps
    assert posterior.verdict.status is VerdictStatus.TRUSTED
    # One step from N(0, I) solves for q with an error of eps cond, which shows in single draws and is stated as such.
    for estimate in (posterior.elbo, posterior.log_evidence):
        assert estimate.se < 1e-7
        assert estimate.value == pytest.approx(LOG_EVIDENCE, rel=0, abs=1e-9 + rounding + 5 * estimate.se)
    # In coordinates in which the answer is N(0, I), so that no direction is excused by a wide one.
    got = whiten @ posterior.q.scale_tril
    assert np.abs(whiten @ (posterior.q.mean - mean)).max() < 1e-6
    assert np.abs(got @ got.T - np.eye(len(mean))).max() < 1e-6


@pytest.mark.parametrize("seed", [0, 1])
def test_condition_number_1e10_in_50_dimensions(seed):
    d = 50
    rng = np.random.default_rng(seed)
    basis, mean = np.linalg.qr(rng.standard_normal((d, d)))[0], rng.standard_normal(d)
    # Standard deviations from 10^-2.5 to 10^2.5 along directions that are no coordinate's.
    whiten = (basis * np.logspace(-2.5, 2.5, d)).T
    # Each whitened coordinate is a sum of d terms of size up to |whiten| |x|, about sqrt(cond) = 1e5; the log density
    # is a sum of d products of it with a number of order 1.
    rounding = EPS * 1e5 * d
    _assert_solved(_fit(mean, whiten), mean, whiten, rounding)


@pytest.mark.parametrize("correlated", [False, True])
def test_scales_from_a_millionth_to_a_million(correlated):
    d = 13
    rng = np.random.default_rng(4)
    scales = np.logspace(-6, 6, d)
    mean = scales * rng.standard_normal(d)
    root = np.tril(0.5 * rng.standard_normal((d, d)), -1) + np.eye(d) if correlated else np.eye(d)
    whiten = np.linalg.inv(scales[:, None] * root)
    # Curvatures span 1e24, more than the eigenvalues of one matrix can: the first step gets the narrow
    # directions, the next ones the wide.
    _assert_solved(_fit(mean, whiten), mean, whiten, EPS * d * 1e3, steps=4)


def test_far_from_the_origin():
    # A mean of 1e6 standard deviations loses 1e6 eps of each whitened coordinate, and no more.
    d = 10
    rng = np.random.default_rng(6)
    mean = 1e6 * rng.standard_normal(d)
    whiten = np.linalg.inv(np.tril(0.5 * rng.standard_normal((d, d)), -1) + np.eye(d))
    _assert_solved(_fit(mean, whiten), mean, whiten, EPS * 1e6 * np.abs(whiten).sum() * d)


@pytest.mark.parametrize("d", [1, 2, 33, 100])
def test_sizes(d):
    # 33 is the first size that needs more than one batch of draws; 1 is dense and diagonal at once.
    rng = np.random.default_rng(d)
    mean = rng.standard_normal(d)
    whiten = np.linalg.inv(np.tril(rng.standard_normal((d, d)), -1) / np.sqrt(d) + np.diag(rng.uniform(0.5, 2, d)))
    _assert_solved(_fit(mean, whiten), mean, whiten, EPS * d * np.abs(whiten).sum())


def test_an_equicorrelated_target():
    # Correlation 0.999 between all of 20 coordinates: mean field would understate every sd 20-fold.
    d, rho = 20, 0.999
    covariance = (1 - rho) * np.eye(d) + rho
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    posterior = _fit(np.zeros(d), whiten)
    _assert_solved(posterior, np.zeros(d), whiten, EPS * d * np.abs(whiten).sum())
    np.testing.assert_allclose(posterior.sd()["x"], 1.0, rtol=1e-6)


def test_the_seed_does_not_matter_to_the_answer():
    rng = np.random.default_rng(8)
    whiten = np.linalg.inv(np.tril(rng.standard_normal((4, 4)), -1) + 2 * np.eye(4))
    answers = [_fit(np.arange(4.0), whiten, seed=s) for s in (0, 1, 17)]
    for a in answers:
        _assert_solved(a, np.arange(4.0), whiten, 1e-10)


@pytest.mark.parametrize(("cubic", "affine"), [(0.0, True), (1.0, False)])
def test_affine_scores_are_recognised_in_one_batch(cubic, affine):
    """A correlated Gaussian far from the origin, and the same with a third power of one coordinate of a hundred."""
    rng = np.random.default_rng(3)
    whiten = rng.standard_normal((100, 100))

    def density(x):
        return -0.5 * jnp.sum((whiten @ (x - 30.0)) ** 2) + cubic * x[7] ** 3

    kernel = Kernel(as_model(lb.LogDensity(density, {"x": lb.Site(shape=(100,))})))
    assert _affine(kernel, rng) == affine
    assert kernel.evaluations <= kernel.batch
