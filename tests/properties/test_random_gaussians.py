"""Any Gaussian target, of any size, place, scale and correlation, is solved exactly; any product is optimal."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import lowerbound as lb
from lowerbound.diagnostics import VerdictStatus
from lowerbound.families import Dense, Diagonal, Product
from tests.properties.quick import quick

EPS = np.finfo(float).eps


def _density(x, mean, whiten, constant):
    e = whiten @ (x - mean)
    return constant - 0.5 * e @ e


@st.composite
def gaussians(draw: st.DrawFn, least: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, lower triangular root of the covariance, and its inverse."""
    d = draw(st.integers(least, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scales = 10.0 ** (draw(st.floats(0, 4)) * rng.uniform(-1, 1, d))
    strength = draw(st.floats(0, 2))
    root = scales[:, None] * (np.eye(d) + strength * np.tril(rng.standard_normal((d, d)), -1))
    mean = draw(st.floats(0, 100)) * scales * rng.standard_normal(d)
    return mean, root, np.linalg.inv(root)


def _fit(mean: np.ndarray, whiten: np.ndarray, log_evidence: float, **options) -> lb.Posterior:
    d = len(mean)
    constant = log_evidence + np.linalg.slogdet(whiten)[1] - 0.5 * d * np.log(2 * np.pi)
    # Mean, root and constant are data, so that one compiled program serves every target of a size.
    target = lb.LogDensity(_density, {"x": lb.Site(shape=(d,))})
    return lb.fit(target, {"mean": mean, "whiten": whiten, "constant": np.array(constant)}, **options)


@quick(40)
@given(gaussians(), st.floats(-1e3, 1e3), st.integers(0, 5))
def test_solved_exactly(gaussian, log_evidence, seed):
    mean, root, whiten = gaussian
    posterior = _fit(mean, whiten, log_evidence, seed=seed)
    # Each whitened coordinate is a sum of terms as large as |whiten| (|mean| + 5 sd), rounded at eps.
    lost = EPS * (np.abs(whiten) @ (np.abs(mean) + 5 * np.sqrt((root**2).sum(1)))).max() * len(mean)
    tolerance = 1e-9 + 16 * lost + 64 * EPS * abs(log_evidence)
    assert posterior.verdict.status is VerdictStatus.TRUSTED, str(posterior.verdict)
    assert posterior.counts["steps"] <= 4
    for estimate in (posterior.elbo, posterior.log_evidence):
        assert estimate.se < 1e-7 + tolerance
        assert abs(estimate.value - log_evidence) < tolerance + 5 * estimate.se
    got = whiten @ posterior.q.scale_tril
    assert np.abs(whiten @ (posterior.q.mean - mean)).max() < 1e-6 + 16 * lost
    assert np.abs(got @ got.T - np.eye(len(mean))).max() < 1e-6 + 16 * lost


@quick(12)
@given(gaussians(least=3), st.integers(0, 5))
def test_a_product_finds_the_reverse_kl_optimum(gaussian, seed):
    # Blocks of sites a (two coordinates) and b (the rest): the exact mean, each block its block of the precision.
    mean, _, whiten = gaussian
    d = len(mean)
    sites = {"a": lb.Site(shape=(2,)), "b": lb.Site(shape=(d - 2,))}

    def density(a, b, mean, whiten):
        return _density(jnp.concatenate([a, b]), mean, whiten, 0.0)

    with warnings.catch_warnings():
        # A product of a strongly correlated target is rightly not trusted.
        warnings.simplefilter("ignore", lb.errors.TrustWarning)
        posterior = lb.fit(
            lb.LogDensity(density, sites),
            {"mean": mean, "whiten": whiten},
            family=Product({"b": Diagonal(), "a": Dense()}),
            seed=seed,
            num_draws=128,
        )
    precision = whiten.T @ whiten
    expected = np.zeros((d, d))
    expected[:2, :2] = np.linalg.inv(precision[:2, :2])
    expected[range(2, d), range(2, d)] = 1 / np.diagonal(precision)[2:]
    assert posterior.status.converged
    sd = np.sqrt(np.diagonal(expected))
    # The scores are affine in the noise, so here too one full step lands.
    assert posterior.trace.phase.count("fitting") <= 3
    assert np.abs((posterior.q.mean - mean) / sd).max() < 1e-6
    assert np.abs((posterior.q.covariance() - expected) / np.outer(sd, sd)).max() < 1e-6
