"""Markovian score climbing: no bias from few draws, and the forward KL's optimum."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpyro.distributions import constraints

import lowerbound as lb
from lowerbound.algorithms import MarkovianScoreClimbing
from lowerbound.algorithms.tilted import Moments
from lowerbound.errors import IncompatibleError, TrustWarning
from lowerbound.families import Dense
from lowerbound.kernel import Kernel
from lowerbound.model import Model
from tests.exact.test_moment_matching import COVARIANCE, MEAN, gaussian


def fitted(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        return lb.fit(*arguments, algorithm="markovian_score_climbing", num_draws=128, **options)


def test_two_points_a_step_have_no_bias_where_self_normalised_weights_have_one():
    """Target N(1, 1), proposals about N(0, 1.5): a single fresh draw a step, beside pairs of self-normalised draws."""
    density = lb.LogDensity(lambda z: -0.5 * (z - 1.0) ** 2, {"z": lb.Site(constraints.real, ())})
    kernel = Kernel(Model.from_log_density(density, {}))
    algorithm = MarkovianScoreClimbing(num_samples=2)
    state = algorithm.init(0, kernel, Dense())
    about = Moments(np.zeros(1), np.array([[1.5]]))
    state.about, state.z, state.value = about, np.zeros(1), -0.5
    for _ in range(310):
        algorithm._batch(state, about)
    means = np.sqrt(1.5) * np.array(state.first[10:])[:, 0]
    seconds = 1.5 * np.array(state.second[10:])[:, 0, 0]
    for found, wanted in ((means, 1.0), (seconds, 2.0)):
        error = found.std(ddof=1) / np.sqrt(len(found))
        assert abs(found.mean() - wanted) < 5 * error and error < 0.05
    rng = np.random.default_rng(0)
    x = np.sqrt(1.5) * rng.standard_normal((20_000, 2))
    w = np.exp(-0.5 * (x - 1) ** 2 + 0.5 * x**2 / 1.5)
    pairs = (w * x).sum(1) / w.sum(1)
    assert pairs.mean() < 1 - 20 * pairs.std() / np.sqrt(len(pairs))


@pytest.mark.parametrize("family", ["dense", "diagonal"])
def test_a_gaussian_has_its_moments(family):
    posterior = fitted(gaussian(), family=family)
    assert posterior.status.converged
    sd = np.sqrt(np.diagonal(COVARIANCE))
    # 0.002 nats at most: 0.063 sd in a mean, 0.09 in a log variance.
    assert np.abs((posterior.q.mean - MEAN) / sd).max() < 0.063
    assert np.abs(np.log(posterior.q.variance() / sd**2)).max() < 0.09


def test_options_are_checked():
    for n in (1, True, 2.5):
        with pytest.raises(IncompatibleError, match=r"MarkovianScoreClimbing\(num_samples=.*at least 2"):
            MarkovianScoreClimbing(num_samples=n)
    with pytest.raises(IncompatibleError, match="products of them, not low_rank"):
        lb.fit(gaussian(), family="low_rank", algorithm="markovian_score_climbing")
