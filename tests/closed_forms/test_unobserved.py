"""Outcomes that were not observed: what nothing depends on changes nothing."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import betaln, digamma

import lowerbound as lb
from lowerbound import algorithms
from lowerbound.closed_form import factored_of
from lowerbound.expectations.factors import random_factors
from lowerbound.expectations.leaves import leaves_of
from lowerbound.model.given import as_model

Y = (np.arange(20) % 3 == 0).astype(int)
A, B = 1 + Y.sum(), 1 + (1 - Y).sum()


def forecast(y, pairs=True):
    p = numpyro.sample("p", dist.Beta(1.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(p), obs=y)
    with numpyro.plate("new rows", 200):
        first = numpyro.sample("first", dist.Bernoulli(p))
        if pairs:
            numpyro.sample("second", dist.Bernoulli(0.2 + 0.5 * first))


@pytest.mark.parametrize(
    "algorithm",
    [algorithms.CoordinateAscent(), algorithms.MemoizedVI(plate="rows"), algorithms.StochasticVI(plate="rows")],
)
def test_outcomes_to_come_leave_the_posterior_exact(algorithm):
    """Two hundred pairs of them, the second given the first: q(p) is Beta(8, 14), and the ELBO the log evidence."""
    full = factored_of(as_model(forecast, {"y": Y}))
    state = algorithm.init(0, full, None)
    while True:
        state, info = algorithm.step(state)
        if info.status is not None:
            break
    naturals = {b.latents[0]: (b, n) for b, n in zip(full.blocks, algorithm.output(state), strict=True)}
    tolerance = 1e-2 if algorithm.name == "stochastic_vi" else 1e-8
    assert abs(state.elbo - betaln(A, B)) < tolerance
    beta, n = naturals["p"]
    np.testing.assert_allclose(beta.concentrations(n), [A, B], atol=50 * tolerance)
    # q(first) is proportional to exp E[log p(first | p)], and q(second) follows it.
    block, n = naturals["first"]
    odds = np.exp(digamma(A) - digamma(B))
    np.testing.assert_allclose(
        block.probabilities(n), np.tile([1 / (1 + odds), odds / (1 + odds)], (200, 1)), atol=0.01
    )
    assert naturals["second"][0].probabilities(naturals["second"][1]).shape == (200, 2)


def test_a_verdict_and_draws_with_them():
    posterior = lb.fit(forecast, {"y": Y, "pairs": False})
    assert posterior.verdict.status.name == "TRUSTED" and abs(float(posterior.elbo) - betaln(A, B)) < 1e-8
    draws = posterior.sample(2000, seed=1)
    # Draws of an outcome go with those of its probability: the mean of 200 of them varies with p.
    assert np.corrcoef(draws["first"].mean(1), draws["p"])[0, 1] > 0.9


def test_the_plan_says_so():
    rows = {r.latent: r for r in lb.explain(forecast, {"y": Y}).rows}
    assert rows["first"].why.startswith("not observed, and nothing depends on it")
    assert rows["p"].factors == ("y",)


def test_which_latents_nothing_depends_on():
    def model(y):
        p = numpyro.sample("p", dist.Beta(1.0, 1.0))
        numpyro.sample("alone", dist.Bernoulli(p))
        seen = numpyro.sample("seen", dist.Bernoulli(p))
        numpyro.sample("y", dist.Normal(1.0 * seen, 1.0), obs=y)
        with numpyro.handlers.scale(scale=2.0):
            numpyro.sample("scaled", dist.Bernoulli(p))
        with numpyro.handlers.mask(mask=jnp.array(False)):
            numpyro.sample("masked", dist.Bernoulli(p))
        numpyro.sample("real", dist.Normal(p, 1.0))

    joint = random_factors(as_model(model, {"y": np.ones(())}))
    assert leaves_of(joint) == ("alone",)
    assert set(leaves_of(joint, discrete=False)) == {"alone", "real"}
