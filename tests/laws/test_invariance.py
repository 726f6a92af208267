"""Translation, scale and order of the coordinates: the answer moves with the target.

If u has the density p(u), then w = shift + scale * u (and any permutation of its coordinates) has a
posterior with the transformed mean and covariance; its density loses log |scale|, which is put back
here, so that evidence and ELBO are those of u up to rounding.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints

import lowerbound as lb
from lowerbound import algorithms, families
from lowerbound.diagnostics import VerdictStatus

D = 6
_rng = np.random.default_rng(5)
MEAN = _rng.standard_normal(D)
_root = np.tril(0.7 * _rng.standard_normal((D, D)), -1) + np.diag(_rng.uniform(0.5, 2.0, D))
COVARIANCE = _root @ _root.T
PRECISION = np.linalg.inv(COVARIANCE)
LOG_EVIDENCE = -3.25

ROUTES = {
    "dense": (families.Dense, algorithms.ScoreRegression),
    "diagonal": (families.Diagonal, algorithms.ScoreRegression),
}
CHANGES = {
    "identity": (np.zeros(D), np.ones(D), np.arange(D)),
    "translation": (np.array([10.0, -300.0, 1e4, 0.0, -2.0, 55.0]), np.ones(D), np.arange(D)),
    "scale": (np.zeros(D), np.array([1e-4, 1e3, 1.0, 30.0, 1e-2, 1e5]), np.arange(D)),
    "permutation": (np.zeros(D), np.ones(D), np.array([3, 5, 0, 1, 4, 2])),
    "all three": (
        np.array([1e2, -5.0, 0.3, 0.0, 7e3, -1.0]),
        np.array([1e2, 1e-3, 5.0, 1e4, 0.1, 1.0]),
        np.array([4, 0, 5, 2, 1, 3]),
    ),
}


def _target(shift: np.ndarray, scale: np.ndarray, order: np.ndarray) -> tuple[lb.LogDensity, np.ndarray, np.ndarray]:
    """The normalised Gaussian of w, plus a log evidence; and its mean and covariance."""
    mean = (shift + scale * MEAN)[order]
    covariance = (np.outer(scale, scale) * COVARIANCE)[np.ix_(order, order)]
    constant = LOG_EVIDENCE - 0.5 * np.linalg.slogdet(2 * np.pi * COVARIANCE)[1] - np.log(scale).sum()
    back, centre, width = np.argsort(order), jnp.asarray(MEAN), (shift, scale)

    def density(w):
        u = (w[back] - width[0]) / width[1] - centre
        return constant - 0.5 * u @ PRECISION @ u

    return lb.LogDensity(density, {"w": lb.Site(constraints.real, (D,))}), mean, covariance


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("route", ROUTES)
def test_the_answer_moves_with_the_target(route, change):
    family, algorithm = ROUTES[route]
    target, mean, covariance = _target(*CHANGES[change])
    if route == "dense":
        posterior = lb.fit(target, family=family(), algorithm=algorithm())
        expected = covariance
        gap = 0.0
        assert posterior.verdict.status is VerdictStatus.TRUSTED
    else:
        posterior = _untrusted(target, family(), algorithm())
        # The reverse-KL optimum: the same mean, variances 1 / P_ii, and KL = (log|P^-1| diag(P)|) / 2.
        expected = np.diag(1 / np.diagonal(np.linalg.inv(covariance)))
        gap = 0.5 * (np.linalg.slogdet(COVARIANCE)[1] + np.log(np.diagonal(PRECISION)).sum())
        assert gap > 0.1
    sd = np.sqrt(np.diagonal(expected))
    assert np.abs((posterior.q.mean - mean) / sd).max() < 1e-6
    assert np.abs((posterior.q.covariance() - expected) / np.outer(sd, sd)).max() < 1e-6
    assert posterior.counts["steps"] <= (3 if route == "dense" else 12)
    if route == "dense":
        assert posterior.elbo.value == pytest.approx(LOG_EVIDENCE, abs=1e-8)
        assert posterior.log_evidence.value == pytest.approx(LOG_EVIDENCE, abs=1e-8)
    else:
        # Draws, so an error; but the trace's last ELBO is on matched noise, exact for quadratics.
        assert posterior.trace.elbo[-1] == pytest.approx(LOG_EVIDENCE - gap, abs=1e-8)
        assert abs(posterior.elbo.value - (LOG_EVIDENCE - gap)) < 5 * posterior.elbo.se
        assert abs(posterior.log_evidence.value - LOG_EVIDENCE) < 5 * posterior.log_evidence.se


def _untrusted(target, family, algorithm) -> lb.Posterior:
    """A mean-field fit of correlated coordinates: corrected or not trusted, but never TRUSTED."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.TrustWarning)
        posterior = lb.fit(target, family=family, algorithm=algorithm)
    assert posterior.verdict.status is not VerdictStatus.TRUSTED
    return posterior


@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "a", "b"), ("b", "c", "a")])
def test_the_order_in_which_sites_are_declared_does_not_matter(order):
    sizes = {"a": (2,), "b": (), "c": (3,)}
    where = {"a": slice(0, 2), "b": slice(2, 3), "c": slice(3, 6)}

    def density(latents):
        u = jnp.concatenate([jnp.ravel(latents[k]) for k in ("a", "b", "c")]) - MEAN
        return LOG_EVIDENCE - 0.5 * np.linalg.slogdet(2 * np.pi * COVARIANCE)[1] - 0.5 * u @ PRECISION @ u

    posterior = lb.fit(lb.LogDensity(density, {k: lb.Site(constraints.real, sizes[k]) for k in order}))
    means, sds = posterior.mean(), posterior.sd()
    for k in order:
        np.testing.assert_allclose(np.ravel(means[k]), MEAN[where[k]], rtol=0, atol=1e-8)
        np.testing.assert_allclose(np.ravel(sds[k]), np.sqrt(np.diagonal(COVARIANCE))[where[k]], rtol=1e-8)
    assert posterior.elbo.value == pytest.approx(LOG_EVIDENCE, abs=1e-8)
