"""Batch and match: its closed-form step against the equation it solves, and the fixed point where that is known."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints
from scipy.linalg import sqrtm
from scipy.optimize import minimize

import lowerbound as lb
from lowerbound.algorithms import BatchAndMatch
from lowerbound.algorithms.batch_and_match import match
from lowerbound.errors import IncompatibleError, TrustWarning
from tests.exact.test_moment_matching import COVARIANCE, MEAN, gaussian


def fitted(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        return lb.fit(*arguments, family="dense", algorithm=options.pop("algorithm", "batch_and_match"), **options)


@pytest.mark.parametrize(("b", "p"), [(12, 3), (4, 9)])
@pytest.mark.parametrize("rate", [0.1, 30.0])
def test_the_step_is_that_of_the_paper(b, p, rate):
    """Against the formula with the root of a matrix that is not symmetric, with many draws and with few."""
    rng = np.random.default_rng(b)
    e, g = rng.standard_normal((b, p)), 1 + rng.standard_normal((b, p)) @ rng.standard_normal((p, p))
    mean, factor = match(e, g, rate)
    zb, gb = e.mean(0), g.mean(0)
    part = rate / (1 + rate)
    u = rate * np.cov(g.T, bias=True) + part * np.outer(gb, gb)
    v = np.eye(p) + rate * np.cov(e.T, bias=True) + part * np.outer(zb, zb)
    wanted = 2 * v @ np.linalg.inv(np.eye(p) + np.real(sqrtm(np.eye(p) + 4 * u @ v)))
    np.testing.assert_allclose(factor @ factor.T, wanted, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(mean, part * (wanted @ gb + zb), rtol=1e-6, atol=1e-8)


def test_the_step_minimises_what_it_should():
    """The batch's divergence plus (2 / lambda) KL(N(0, 1) || q), in one dimension, by a numeric search."""
    rng = np.random.default_rng(3)
    e, g, rate = rng.standard_normal((6, 1)), rng.standard_normal((6, 1)) - 0.5, 0.7

    def loss(t: np.ndarray) -> float:
        m, s = t[0], np.exp(t[1])
        divergence = np.mean(s * (-(e - m) / s - g) ** 2)
        return divergence + (np.log(s) + (1 + m**2) / s - 1) / rate

    found = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14})
    mean, factor = match(e, g, rate)
    np.testing.assert_allclose([mean[0], factor[0, 0] ** 2], [found.x[0], np.exp(found.x[1])], rtol=1e-5)


def test_a_gaussian_target_is_found():
    posterior = fitted(gaussian())
    assert posterior.status.converged and posterior.counts["steps"] < 60
    sd = np.sqrt(np.diagonal(COVARIANCE))
    np.testing.assert_allclose(posterior.q.covariance() / np.outer(sd, sd), COVARIANCE / np.outer(sd, sd), atol=0.01)
    np.testing.assert_allclose((posterior.q.mean - MEAN) / sd, 0, atol=0.01)


def skewed() -> lb.LogDensity:
    return lb.LogDensity(lambda a: 3 * a - jnp.exp(a), {"a": lb.Site(constraints.real, ())})


def test_a_skewed_target_has_the_gaussian_of_least_fisher_divergence():
    """exp(a) ~ Gamma(3): the score is 3 - exp(a), and under N(m, s) the moments of lognormals give D.

    The fixed point is where D's two scores match: E[g] = 0, so exp(m + s/2) = 3, and the variances of s g and of z are
    equal: s var(g) = 1, var(g) = 9 (exp(s) - 1).
    """
    from scipy.optimize import brentq

    s = brentq(lambda s: 9 * s * np.expm1(s) - 1, 0.01, 3.0)
    posterior = fitted(skewed())
    assert posterior.status.converged
    # 0.002 nats are 0.063 sd in the mean, or 0.09 in the log variance.
    assert abs(posterior.q.mean[0] - (np.log(3) - s / 2)) < 0.063 * np.sqrt(s)
    assert abs(np.log(posterior.q.variance()[0] / s)) < 0.09


def test_options_are_checked():
    for n in (3, 0, True, 2.0):
        with pytest.raises(IncompatibleError, match=r"BatchAndMatch\(num_samples=.*even integer"):
            BatchAndMatch(num_samples=n)
    with pytest.raises(IncompatibleError, match="BatchAndMatch fits dense Gaussians, not diagonal"):
        lb.fit(skewed(), family="diagonal", algorithm="batch_and_match")
