"""Where no factor couples two blocks q is the posterior by the form of the model: chosen, said, and checked."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import betaln, comb

import lowerbound as lb
from lowerbound.algorithms import CoordinateAscent
from lowerbound.closed_form import exact, factored_of, multiplied
from lowerbound.diagnostics.assessment import assess_exact
from lowerbound.diagnostics.weighing import weigh_up
from lowerbound.families import FactoredBlock
from lowerbound.kernel import Kernel
from lowerbound.model.given import as_model

X, Y = np.random.default_rng(0).normal(size=(20, 2)), np.random.default_rng(1).normal(size=20)


def two_rates(a, b):
    p = numpyro.sample("p", dist.Beta(1.0, 2.0))
    q = numpyro.sample("q", dist.Beta(3.0, 1.0))
    numpyro.deterministic("difference", q - p)
    numpyro.sample("a", dist.Binomial(20, p), obs=a)
    numpyro.sample("b", dist.Binomial(30, q), obs=b)


def scaled(x, y):
    v = numpyro.sample("v", dist.Gamma(3.0, 2.0))
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1 / jnp.sqrt(v)).to_event(1))
    numpyro.sample("y", dist.Normal(x @ w, 1 / jnp.sqrt(v)).to_event(1), obs=y)


def scale_apart(x, y):
    v = numpyro.sample("v", dist.Gamma(3.0, 2.0))
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(x @ w, 1 / jnp.sqrt(v)).to_event(1), obs=y)


def product_of_rates(n):
    a = numpyro.sample("a", dist.Gamma(2.0, 1.0))
    b = numpyro.sample("b", dist.Gamma(2.0, 1.0))
    numpyro.sample("n", dist.Poisson(a * b), obs=n)


def elements_multiplied(y):
    s = numpyro.sample("s", dist.Gamma(2.0 * jnp.ones(2), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(0.0, 1.0 / jnp.sqrt(s[0] * s[1])), obs=y)


def all_real(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(m, 1.0).expand([len(y)]).to_event(1), obs=y)


@pytest.mark.parametrize(
    "model, data, expected",
    [
        (two_rates, {"a": 7, "b": 12}, True),
        (scaled, {"x": X, "y": Y}, True),
        (scale_apart, {"x": X, "y": Y}, False),
        (product_of_rates, {"n": 3}, False),
        (elements_multiplied, {"y": 0.3}, False),
        # A Gaussian is found as exactly, and sooner.
        (all_real, {"y": Y}, False),
    ],
)
def test_which_models_have_it(model, data, expected):
    assert exact(as_model(model, data)) is expected


def test_rates_that_nothing_couples():
    posterior = lb.fit(two_rates, {"a": 7, "b": 12})
    assert posterior.algorithm_name == "coordinate_ascent"
    assert posterior.verdict.sentence.startswith("q is the posterior, in closed form")
    assert posterior.verdict.not_checked == ()
    evidence = np.log(comb(20, 7)) + betaln(8, 15) - betaln(1, 2) + np.log(comb(30, 12)) + betaln(15, 19) - betaln(3, 1)
    assert abs(posterior.log_evidence.value - evidence) < 1e-9
    assert abs(posterior.mean()["p"] - 8 / 23) < 1e-12 and abs(posterior.mean()["q"] - 15 / 34) < 1e-12


def test_a_q_that_only_the_form_of_the_model_calls_exact_is_found_out():
    model = as_model(two_rates, {"a": 7, "b": 12})
    kernel, factored = Kernel(model), factored_of(model)
    right = lb.fit(model, algorithm=CoordinateAscent()).q
    assert isinstance(right, FactoredBlock)
    wrong = [{k: np.asarray(v) + (1e-6 if i == 0 else 0) for k, v in n.items()} for i, n in enumerate(right.naturals)]

    def found(q):
        weighed = weigh_up(kernel, q, lb.algorithms.Status.CONVERGED, "a rule", [], 0.0, 0, 256)
        return assess_exact(weighed, 0)

    assert found(right) is not None
    assert found(FactoredBlock(factored.blocks, wrong, right.places)) is None


def level_and_groups(y):
    level = numpyro.sample("level", dist.Normal(0, 10))
    tau = numpyro.sample("tau", dist.HalfNormal(3.0))
    groups = numpyro.sample("groups", dist.Normal(level, tau).expand([len(y)]).to_event(1))
    numpyro.sample("y", dist.Normal(groups, 1.0), obs=y)


def loadings_and_factors(x):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2, 3]).to_event(2))
    with numpyro.plate("row", len(x)):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.sample("x", dist.Normal(z @ w.T, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(
    "model, data, expected", [(level_and_groups, {"y": Y}, False), (loadings_and_factors, {"x": X}, True)]
)
def test_which_latents_multiply_each_other(model, data, expected):
    """Where they do no Gaussian over thousands of dimensions is near; a hierarchy's arrow is."""
    assert multiplied(as_model(model, data)) is expected


@pytest.mark.filterwarnings("ignore::lowerbound.errors.TrustWarning")
def test_an_improper_posterior_on_a_bounded_support_is_none():
    """Haldane's prior and successes alone: the sigmoid saturates before the density is seen not to fall off."""

    def model(y):
        s = numpyro.sample("s", dist.ImproperUniform(dist.constraints.unit_interval, (), ()))
        numpyro.factor("prior", -jnp.log(s) - jnp.log1p(-s))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Bernoulli(s), obs=y)

    verdict = lb.fit(model, {"y": np.ones(3, int)}).verdict
    assert verdict.status is lb.VerdictStatus.NOT_TRUSTED and "the posterior is improper" in verdict.sentence
    assert lb.fit(model, {"y": np.array([1, 0, 1])}).verdict.sentence.startswith("q is the posterior, in closed form")
