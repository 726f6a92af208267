"""The stated Monte Carlo error of a mean is the spread of means over noise drawn again."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from lowerbound.algorithms import SampleAverage
from lowerbound.diagnostics import linear_response
from lowerbound.families import Diagonal
from lowerbound.fitting import run
from lowerbound.kernel import Kernel
from lowerbound.model.given import as_model

REPEATS = 16


def _counts():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(30), 4)
    y = rng.poisson(np.exp(1 + 0.5 * rng.standard_normal(30)[group]))

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 2))
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        with numpyro.plate("groups", 30):
            rate = numpyro.sample("rate", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Poisson(np.e ** rate[group]), obs=y)

    return model, {"y": y}


def _logistic():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 50)) + rng.standard_normal((200, 1))
    y = rng.uniform(size=200) < 1 / (1 + np.exp(-x @ rng.standard_normal(50) / 7))

    def model(x, y):
        beta = numpyro.sample("beta", dist.Normal(0, 1).expand([50]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)

    return model, {"x": x, "y": y.astype(float)}


@pytest.mark.parametrize("target", [_counts, _logistic], ids=["counts", "logistic"])
def test_error_bars_have_the_right_size(target):
    kernel = Kernel(as_model(*target()))
    q = run(SampleAverage(), kernel, Diagonal(), seed=0).output
    # Fewer draws than twice the dimensions, and more: noise that is stratified, and noise that is whitened too.
    for num_draws in (64, 256):
        found = [linear_response(kernel, q, num_draws=num_draws, seed=s, form=True) for s in range(REPEATS)]
        spread = np.std([r.mean for r in found], 0, ddof=1)
        stated = np.sqrt(np.mean([r.mean_error**2 for r in found], 0))
        # All coordinates together; the spread of a single one over 16 repeats is known to 18%.
        ratio = np.sqrt(((spread / found[0].sd) ** 2).mean() / ((stated / found[0].sd) ** 2).mean())
        assert 0.7 < ratio < 1.4, f"{num_draws} draws: the spread of the means is {ratio:.2f} times the stated error"
        for r in found[:2]:
            np.testing.assert_allclose(r.displacements.std(0, ddof=1), r.mean_error, rtol=1e-9)
