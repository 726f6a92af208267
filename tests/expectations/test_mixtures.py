"""Mixtures whose labels the model has summed out: the bound with the best responsibilities, or none."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.special import logsumexp

import lowerbound as lb
from lowerbound.algorithms import CoordinateAscent
from lowerbound.closed_form import factored_of
from lowerbound.model.given import as_model
from tests.expectations.programs import Programs

RNG = np.random.default_rng(0)
Y, YY, KEPT = RNG.standard_normal(7), RNG.standard_normal((7, 2)), np.array([1, 1, 0, 1, 0, 0, 1], bool)


def each(o, y=Y):
    return logsumexp(jnp.log(o["pi"]) + dist.Normal(o["m"], 1.0).log_prob(y[..., None]), axis=-1)


def stacked(o):
    first = jnp.log(o["u"]) + dist.Normal(o["m"][0], 1.0).log_prob(Y)
    second = jnp.log1p(-o["u"]) + dist.Normal(o["m"][1], 1 / jnp.sqrt(o["r"][0])).log_prob(Y)
    return logsumexp(jnp.stack([first, second]), 0)


FACTORS = {
    "stacked": stacked,
    "weighted": lambda o: jnp.sum(np.arange(7.0) * each(o)) - o["r"][0],
    "chosen": lambda o: jnp.sum(jnp.where(KEPT, each(o), 0.5)),
    "kept dimensions": lambda o: jnp.sum(logsumexp(o["A"] + o["m"][:, None], axis=0, keepdims=True).T / 3),
    "two": lambda o: jnp.sum(each(o)) + jnp.sum(logsumexp(jnp.log(o["pi"]) + o["m"])) + 2.0,
    "a mean": lambda o: jnp.mean(each(o, YY), -1),
    "spike and slab": lambda o: jnp.sum(logsumexp(jnp.stack([jnp.full(3, -0.7), o["m"] - 0.7]), 0)),
}
OUTSIDE = {
    "subtracted": (lambda o: -jnp.sum(each(o)), "neg of the logarithm of a sum"),
    "a softmax": (lambda o: jnp.sum(jax.nn.softmax(o["m"]) * Y[:3]), "reduce_max"),
    "a maximum": (lambda o: jnp.max(o["m"]), "reduce_max"),
    "a product": (lambda o: o["r"][0] * jnp.sum(each(o)), "times a latent"),
    "a function": (lambda o: jnp.sum(jnp.exp(each(o))), "exp of the logarithm of a sum"),
}
SITES = {
    "one family": (lambda o: dist.MixtureSameFamily(dist.Categorical(o["pi"]), dist.Normal(o["m"], 1.0)), Y),
    "events": (lambda o: dist.MixtureSameFamily(dist.Categorical(o["pi"]), dist.Normal(o["A"], 1.0).to_event(1)), YY),
    "vectors": (
        lambda o: dist.MixtureSameFamily(
            dist.Categorical(o["pi"]), dist.MultivariateNormal(o["A"], precision_matrix=2 * np.eye(2) + 0.3)
        ),
        YY,
    ),
    "one random mean": (
        lambda o: dist.MixtureSameFamily(
            dist.Categorical(jnp.array([0.3, 0.7])), dist.Normal(o["m"][0], Y[:2] ** 2 + 1)
        ),
        Y,
    ),
    "counts": (lambda o: dist.MixtureSameFamily(dist.Categorical(o["pi"]), dist.Poisson(o["r"])), np.arange(7)),
    "several families": (
        lambda o: dist.MixtureGeneral(
            dist.Categorical(o["pi"]), [dist.Normal(o["m"][0], 1.0), dist.Normal(o["m"][1], 1.0), dist.Normal(0, 9.0)]
        ),
        Y,
    ),
}


@cache
def programs() -> Programs:
    def model():
        o = {"m": numpyro.sample("m", dist.Normal(0, 1).expand([3]).to_event(1))}
        o["A"] = numpyro.sample("A", dist.Normal(0, 1).expand([3, 2]).to_event(2))
        o["r"] = numpyro.sample("r", dist.Gamma(4.0, 3.0).expand([3]).to_event(1))
        o["u"] = numpyro.sample("u", dist.Beta(2.0, 3.0))
        o["pi"] = numpyro.sample("pi", dist.Dirichlet(jnp.ones(3)))
        for n, f in FACTORS.items():
            numpyro.factor(n, f(o))
        for n, (f, _) in OUTSIDE.items():
            numpyro.factor(n, f(o))
        for n, (f, y) in SITES.items():
            scaled = numpyro.handlers.scale(scale=2.0)
            with numpyro.plate(f"{n} rows", 7), numpyro.handlers.mask(mask=KEPT), scaled:
                numpyro.sample(n, f(o), obs=y)

    return Programs(model, draws=1999)


@pytest.mark.parametrize("name", [*FACTORS, *SITES])
def test_a_bound_that_is_tight_where_q_is_narrow(name):
    found = programs().outcome(name)
    assert found.refused is None and found.bound and not found.wrong, str(found)
    assert abs(found.closed[1] - found.means[1]) < 2e-3 * (1 + abs(found.means[1])), str(found)


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_is_no_sum_of_densities_is_refused(name):
    found = programs().outcome(name)
    assert found.refused is not None and OUTSIDE[name][1] in found.refused.operation, str(found)


def labelled(y):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(2)))
    m = numpyro.sample("m", dist.Normal(0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(pi))
        numpyro.sample("y", dist.Normal(m[z], 1.0), obs=y)


def summed(y):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(2)))
    m = numpyro.sample("m", dist.Normal(0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(pi), dist.Normal(m, 1.0)), obs=y)


def test_the_bound_is_that_of_the_mixture_with_labels():
    """From random starts, to the same optimum: with q(z) updated, and with the responsibilities inside of the bound."""
    y = np.concatenate([RNG.normal(-2, 1, 30), RNG.normal(2, 1, 20)])
    ends = []
    for model in (labelled, summed):
        algorithm = CoordinateAscent(tolerance=1e-13)
        state, elbos = algorithm.init(0, factored_of(as_model(model, {"y": y})), None), []
        while True:
            state, info = algorithm.step(state)
            elbos.append(info.elbo)
            if info.status is not None:
                break
        assert (np.diff(elbos) > -1e-9).all()
        ends.append(elbos[-1])
    assert abs(ends[0] - ends[1]) < 1e-7
    e = lb.explain(summed, {"y": y})
    assert {r.update for r in e.rows} == {"bound: responsibilities"}
    assert e.check() < 1e-10
