"""One expression here, another there; functions of one argument; latents between two ends: against Monte Carlo."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from lowerbound.closed_form import factored_of
from lowerbound.expectations.functions import IDENTITY
from lowerbound.expectations.supports import between, ends, from_real, probes
from lowerbound.model.given import as_model
from lowerbound.precision import float64
from tests.expectations.programs import Outcome, Programs
from tests.expectations.test_adversarial import Names

N, K = 4, 3
D = np.array([0.7, -1.3, 0.4, 2.1])
Y = np.array([0.3, -0.8, 1.9, 0.1])
C = np.array([1, 0, 3, 2])
G = np.array([0, 1, 1, 0])
AT = np.arange(N)
X = np.random.default_rng(0).standard_normal((N, K))
X[0, 0] = 0.0


def latents() -> dict:
    o = {}
    for n in ("s", "t"):
        o[n] = numpyro.sample(n, dist.Gamma(3.0, 2.0))
    o["r"] = numpyro.sample("r", dist.Gamma(3.0, 2.0).expand([K]).to_event(1))
    o["m"] = numpyro.sample("m", dist.Normal(0, 1).expand([K]).to_event(1))
    for n in ("a", "b"):
        o[n] = numpyro.sample(n, dist.Normal(0, 1))
    for n in ("u", "v"):
        o[n] = numpyro.sample(n, dist.Beta(2.0, 2.0))
    o["g"] = numpyro.sample("g", dist.Uniform(0.5, 3.0))
    o["h"] = numpyro.sample("h", dist.Uniform(-1.0, 2.0))
    o["pi"] = numpyro.sample("pi", dist.Dirichlet(jnp.ones(K)))
    o["theta"] = numpyro.sample("theta", dist.Dirichlet(jnp.ones(K)).expand([N]).to_event(1))
    with numpyro.plate("n", N):
        o["z"] = numpyro.sample("z", dist.Categorical(jnp.ones(K) / K))
        o["w"] = numpyro.sample("w", dist.Bernoulli(0.4))
        o["q"] = numpyro.sample("q", dist.Bernoulli(0.4))
    o["c"] = numpyro.sample("c", dist.Categorical(jnp.ones(N) / N))
    o["d"] = numpyro.sample("d", dist.Categorical(jnp.ones(N) / N))
    return o


def softplus(x):
    return jax.nn.softplus(x)


#: Distributions and data.
PROGRAMS = {
    # a choice of scales
    "stack[z]": lambda o: (dist.Normal(o.m[o.z], jnp.stack([o.s, o.t])[o.w]), Y),
    "where": lambda o: (dist.Normal(o.m[0], jnp.where(o.w == 1, o.s, o.t)), Y),
    "where, one fixed": lambda o: (dist.Normal(o.m[o.z], jnp.where(o.z > 1, 3.0, o.s)), Y),
    "w s + (1 - w) t": lambda o: (dist.Normal(0.0, o.w * o.s + (1 - o.w) * o.t), Y),
    "s (1 + 9 w)": lambda o: (dist.Normal(0.0, o.s * (1 + 9 * o.w)), Y),
    "where in where": lambda o: (dist.Normal(0.0, jnp.where(o.w == 1, o.s, jnp.where(o.q == 1, o.t, 0.5))), Y),
    "a root of a choice": lambda o: (dist.Normal(0.0, jnp.sqrt(jnp.where(o.w == 1, o.s**2, o.t))), Y),
    "a choice by data": lambda o: (dist.Normal(0.0, jnp.where(D > 0, o.s, o.t)), Y),
    "joined": lambda o: (dist.Normal(0.0, jnp.concatenate([o.s[None], o.r])), Y),
    "stacked, looked up by data": lambda o: (dist.Normal(0.0, jnp.stack([o.s, o.t])[G]), Y),
    "exp of a choice": lambda o: (dist.Normal(0.0, jnp.exp(jnp.where(o.w == 1, 0.2 * o.a, 0.1 * o.b))), Y),
    "exp with a discrete latent": lambda o: (dist.Normal(0.0, jnp.exp(0.1 * o.m[o.z] + 0.1 * X @ o.m)), Y),
    "exp or one": lambda o: (dist.Normal(0.0, jnp.where(o.w == 1, jnp.exp(0.2 * o.a), 1.0)), Y),
    "half-normal": lambda o: (dist.HalfNormal(jnp.where(o.w == 1, o.s, 2.0)), np.abs(Y)),
    # rates, shapes, probabilities
    "change point": lambda o: (dist.Poisson(jnp.where(o.c > AT, o.s, o.t)), C),
    "two change points": lambda o: (dist.Poisson(jnp.where(o.c > AT, o.s, jnp.where(o.d > AT, o.t, o.r[0]))), C),
    "change point of exponentials": lambda o: (dist.Poisson(jnp.exp(jnp.where(o.c > AT, 0.3 * o.a, 0.2 * o.b))), C),
    "change point by index": lambda o: (dist.Poisson(o.r[(o.c <= AT).astype(int)]), C),
    "zero or a rate": lambda o: (dist.Poisson(jnp.where(o.w == 1, o.s, 0.0)), 0 * C),
    "gamma": lambda o: (dist.Gamma(jnp.where(o.w == 1, o.s, 2.0), jnp.where(o.w == 1, o.t, 2.0)), np.abs(Y)),
    "bernoulli": lambda o: (dist.Bernoulli(jnp.where(o.w == 1, o.u, o.v)), (C > 0) * 1),
    "bernoulli, one fixed": lambda o: (dist.Bernoulli(jnp.where(o.w == 1, o.u, 0.3)), (C > 0) * 1),
    "a row of a table": lambda o: (dist.Categorical(jnp.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])[o.w]), C % K),
    "a simplex or a table": lambda o: (
        dist.Categorical(jnp.where(o.w[:, None] == 1, o.theta, jnp.array([0.2, 0.3, 0.5]))),
        C % K,
    ),
    "one simplex or another": lambda o: (
        dist.Multinomial(4, jnp.where(o.w[:, None] == 1, o.theta[G], o.pi)),
        np.array([[1, 0, 3], [2, 2, 0], [1, 1, 2], [0, 0, 4]]),
    ),
    # functions of one argument
    "softplus": lambda o: (dist.Normal(0.0, softplus(o.a)), Y),
    "softplus of a choice": lambda o: (dist.Normal(0.0, softplus(o.m[o.z])), Y),
    "a choice of softplus": lambda o: (dist.Normal(0.0, softplus(o.m)[o.z]), Y),
    "1 + s": lambda o: (dist.Normal(0.0, 1 + o.s), Y),
    "the root of a sum of squares": lambda o: (dist.Normal(0.0, jnp.sqrt(o.s**2 + 0.1)), Y),
    "log(1 + s)": lambda o: (dist.Normal(jnp.log(1 + o.s), 1.3), Y),
    "x times its logistic": lambda o: (dist.Normal(o.a / (1 + jnp.exp(-o.a)), 1.3), Y),
    "1 / (1 + x^2)": lambda o: (dist.Normal(1 / (1 + o.a**2), 1.3), Y),
    # between two ends
    "a bounded scale": lambda o: (dist.Normal(o.h, o.g), Y),
    "a bounded scale or another": lambda o: (dist.Normal(o.h * D, jnp.where(o.w == 1, o.g, o.s)), Y),
    "exp of a bounded": lambda o: (dist.Poisson(jnp.exp(o.h)), C),
    # bounds
    "logits of a choice": lambda o: (dist.Bernoulli(logits=jnp.where(o.w == 1, o.a, o.b)), (C > 0) * 1),
    "exp / (1 + exp)": lambda o: (dist.Bernoulli(jnp.exp(X @ o.m) / (1 + jnp.exp(X @ o.m))), (C > 0) * 1),
    "softmax": lambda o: (dist.Categorical(logits=0.7 * X * o.m), C % K),
    "softmax of counts": lambda o: (dist.Multinomial(3, logits=o.m), np.array([[1, 0, 2], [3, 0, 0]])),
    "softmax of a choice": lambda o: (dist.Categorical(logits=jnp.where(o.w[:, None] == 1, o.m, X * o.a)), C % K),
}
#: Refused, each for the reason that follows.
REFUSED = {
    "a sum in a branch": (lambda o: (dist.Normal(0.0, jnp.sqrt(o.s + o.w * o.t)), Y), "a sum"),
    "a scale that may be negative": (lambda o: (dist.Normal(0.0, 1 + o.a), Y), "the power -2"),
    "a bounded scale below zero": (lambda o: (dist.Normal(0.0, o.h), Y), "real latent"),
    "a softmax that is not affine": (lambda o: (dist.Categorical(logits=X * o.m * o.s), C % K), "not affine"),
    "impossible together": (
        lambda o: (dist.Categorical(jnp.where(o.w[:, None] == 1, jax.nn.one_hot(o.z, K), o.theta)), C % K),
        "impossible",
    ),
}


@cache
def programs() -> Programs:
    def model():
        o = Names(latents())
        for name, program in PROGRAMS.items():
            d, data = program(o)
            numpyro.sample(name, d, obs=data)
        for name, (program, _) in REFUSED.items():
            d, data = program(o)
            numpyro.sample(name, d, obs=data)

    return Programs(model, draws=2401)


@pytest.mark.parametrize("name", PROGRAMS)
def test_right(name):
    found: Outcome = programs().outcome(name)
    assert found.refused is None, found
    assert not found.wrong, found


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    f = programs().factors[name]
    assert f.open is not None and REFUSED[name][1] in str(f.open)


def test_a_function_with_the_name_of_a_power_or_a_logarithm_is_not_one():
    f = IDENTITY.then("log", 2.0, lambda x: np.log(x + 1))
    x = np.array([0.5, 2.0])
    np.testing.assert_allclose(f(x), np.log(2 * x + 1))
    assert str(f) != "log x" and not f.is_log and IDENTITY.then("power", 1.0, np.sin).exponent is None


def test_a_latent_outcome_of_random_logits_has_the_bound_of_either_value():
    """E log p(w | a) for independent w and a is the mean over w of the bounds of its values."""

    def model(y):
        a = numpyro.sample("a", dist.Normal(0.4, 0.3))
        numpyro.sample("w", dist.Bernoulli(logits=a), obs=y)

    def latent(anything):
        model(None)
        numpyro.sample("other", dist.Normal(0.0, 1.0), obs=anything)

    with float64():
        values = [factored_of(as_model(model, {"y": np.array(k)})) for k in (0, 1)]
        both = factored_of(as_model(latent, {"anything": 0.0}))
        own = next(b for b in both.blocks if b.latents == ("a",))
        natural = {k: np.asarray(v) for k, v in own.start(np.random.default_rng(0), 1.0).items()}
        moments = own.moments(natural)
        given = [float(f.energy({k: moments[k] for k in f.blocks[0].keys})) for f in values]
        (label,) = [b for b in both.blocks if b.latents == ("w",)]
        held = {label.indicator: np.array([0.3, 0.7])}
        other = -0.5 * np.log(2 * np.pi)
        np.testing.assert_allclose(
            float(both.energy({**moments, **held})) - other, 0.3 * given[0] + 0.7 * given[1], rtol=1e-12
        )


@pytest.mark.parametrize("support", ["[0.0, 5.0]", "[-2.0, inf]", "[-inf, 1.5]", "unit", "positive"])
def test_supports_are_between_their_ends(support):
    found = ends(support)
    assert found is not None and between(*found) == support
    x = probes(support)
    assert (x > found[0]).all() and (x < found[1]).all() and len(np.unique(x)) == len(x)
    assert from_real(support, 0.0, 0.5, np) in x
