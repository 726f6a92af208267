"""A mixture whose assignments are summed out, and a Gaussian process behind counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from benchmarks.posteriors.priors import positive_vector, restricted


def low_dim_gauss_mix(y):
    """Two Gaussian components with ordered means."""
    mu = restricted("mu", constraints.ordered_vector, dist.Normal(0.0, 2.0), (2,))
    sigma = restricted("sigma", positive_vector(), dist.Normal(0.0, 2.0), (2,))
    theta = numpyro.sample("theta", dist.Beta(5, 5))
    weight = jnp.log(jnp.stack([theta, 1 - theta]))
    numpyro.factor("y", jax.nn.logsumexp(weight + dist.Normal(mu, sigma).log_prob(y[:, None]), axis=-1).sum())


def gp_pois_regr(x, k):
    """Counts with a log rate drawn from a Gaussian process, written through its Cholesky factor."""
    n = x.shape[0]
    rho = numpyro.sample("rho", dist.Gamma(25, 4))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2))
    standard = numpyro.sample("f_tilde", dist.Normal(0, 1).expand([n]).to_event(1))
    covariance = alpha**2 * jnp.exp(-0.5 * ((x[:, None] - x) / rho) ** 2)
    f = numpyro.deterministic("f", jnp.linalg.cholesky(covariance + 1e-10 * jnp.eye(n)) @ standard)
    numpyro.sample("obs", dist.Poisson(jnp.exp(f)), obs=k)
