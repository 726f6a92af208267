"""Small models, fitted once for the tests of this directory."""

from __future__ import annotations

import functools
import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

import lowerbound as lb
from lowerbound.errors import TrustWarning

X = np.linspace(-1, 1, 12)
Y = np.array([0.1, 0.4, -0.3, 0.8, 0.2, 0.9, 1.1, 0.7, 1.6, 1.2, 2.0, 1.7])


def line(x, y):
    """A Gaussian posterior, with a deterministic that uses the data."""
    b = numpyro.sample("b", dist.Normal(0, 1).expand([2]).to_event(1))
    mean = numpyro.deterministic("mean", b[0] + b[1] * x)
    numpyro.deterministic("count", jnp.array(3))
    numpyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def shapes(y):
    """A skewed posterior of several shapes, whose draws are corrected."""
    rate = numpyro.sample("rate", dist.Gamma(0.7, 1.0))
    w = numpyro.sample("w", dist.Dirichlet(np.ones(3)))
    with numpyro.plate("rows", 2):
        s = numpyro.sample("s", dist.HalfNormal(1))
    numpyro.deterministic("total", rate + s.sum())
    numpyro.sample("y", dist.Exponential(rate + s.sum() * w[0]), obs=y)


def density(a, b):
    return dist.Gamma(3.0, 2.0).log_prob(a) + dist.Beta(2.0, 5.0).log_prob(b)


@functools.cache
def fitted(which: str) -> lb.Posterior:
    product = lb.families.Product({"rate": lb.families.Dense(), ...: lb.families.LowRank(rank=2)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        match which:
            case "line":
                return lb.fit(line, {"x": X, "y": Y})
            case "corrected":
                return lb.fit(shapes, {"y": np.array([0.2, 1.4, 0.5])})
            case "diagonal" | "low_rank" | "point_mass" | "sinh_arcsinh" | "flow":
                return lb.fit(shapes, {"y": np.array([0.2, 1.4, 0.5])}, family=which)
            case "product":
                return lb.fit(shapes, {"y": np.array([0.2, 1.4, 0.5])}, family=product)
            case "density":
                sites = {"a": lb.Site(constraints.positive), "b": lb.Site(constraints.unit_interval)}
                return lb.fit(lb.LogDensity(density, sites))
            case "mode":
                sites = {"a": lb.Site(constraints.positive), "b": lb.Site(constraints.unit_interval)}
                return lb.fit(lb.LogDensity(density, sites), family="point_mass")
    raise KeyError(which)


ALL = ("line", "corrected", "diagonal", "low_rank", "sinh_arcsinh", "flow", "point_mass", "product", "density")
