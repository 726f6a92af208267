"""Models of the tests of updating, with the posterior that each has by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def coin(y):
    p = numpyro.sample("p", dist.Beta(2.0, 3.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(p), obs=y)


def counts(y):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def location(y):
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, 0.7), obs=y)


def regression(x, y):
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
    w = numpyro.sample("w", dist.Normal(0, 2 / jnp.sqrt(tau)).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x @ w, 1 / jnp.sqrt(tau)), obs=y)


def categories(y):
    p = numpyro.sample("p", dist.Dirichlet(jnp.array([1.0, 2.0, 0.5])))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Categorical(p), obs=y)


def normal_wishart(y):
    precision = numpyro.sample("precision", dist.Wishart(4.0, rate_matrix=jnp.eye(2)))
    mu = numpyro.sample("mu", dist.MultivariateNormal(jnp.ones(2), precision_matrix=0.1 * precision))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.MultivariateNormal(mu, precision_matrix=precision), obs=y)


def logistic(x, y):
    w = numpyro.sample("w", dist.Normal(0, 1.5).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def mixture(y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(mu[z], 0.5), obs=y)


def grouped(y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    with numpyro.plate("rows", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, 1))
        numpyro.sample("y", dist.Normal(theta, 1), obs=y)


def conjugate():
    """By name: the model, and its data."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((24, 2))
    return {
        "beta_bernoulli": (coin, {"y": rng.integers(0, 2, 24)}),
        "gamma_poisson": (counts, {"y": rng.poisson(3.0, 24)}),
        "normal_normal": (location, {"y": rng.normal(2, 1, 24)}),
        "normal_gamma_regression": (regression, {"x": x, "y": x @ [1.0, -2.0] + rng.standard_normal(24)}),
        "dirichlet_categorical": (categories, {"y": rng.integers(0, 3, 24)}),
        "normal_wishart": (normal_wishart, {"y": rng.normal([0.0, 1.0], 1.0, (24, 2))}),
    }
