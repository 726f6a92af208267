"""An autoregression, a volatility model, a hidden Markov model and a differential equation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from benchmarks.posteriors.priors import flat, positive_vector, restricted


def autoregression(y, K):
    """y[t] on its K predecessors, the nearest first."""
    alpha = numpyro.sample("alpha", dist.Normal(0, 10))
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([K]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    n = y.shape[0]
    lags = jnp.stack([y[K - k : n - k] for k in range(1, K + 1)], axis=-1)
    numpyro.sample("obs", dist.Normal(alpha + lags @ beta, sigma), obs=y[K:])


def garch11(y, sigma1):
    """v[t] = alpha0 + alpha1 (y[t-1] - mu)^2 + beta1 v[t-1], flat on positive values with alpha1 + beta1 < 1."""
    mu = flat("mu")
    alpha0 = flat("alpha0", constraints.positive)
    alpha1 = flat("alpha1", constraints.unit_interval)
    share = flat("beta1_share", constraints.unit_interval)
    beta1 = numpyro.deterministic("beta1", share * (1 - alpha1))
    numpyro.factor("beta1_jacobian", jnp.log1p(-alpha1))  # d beta1 / d share

    def advance(variance, before):
        variance = alpha0 + alpha1 * (before - mu) ** 2 + beta1 * variance
        return variance, variance

    first = jnp.asarray(sigma1**2, y.dtype)
    _, rest = jax.lax.scan(advance, first, y[:-1])
    numpyro.sample("obs", dist.Normal(mu, jnp.sqrt(jnp.concatenate([first[None], rest]))), obs=y)


def hmm_example(y):
    """Two states that emit Normal(mu, 1); the states are summed out by the forward recursion."""
    theta1 = numpyro.sample("theta1", dist.Dirichlet(jnp.ones(2)))
    theta2 = numpyro.sample("theta2", dist.Dirichlet(jnp.ones(2)))
    prior = dist.Normal(jnp.array([3.0, 10.0]), 1.0)
    mu = restricted("mu", constraints.positive_ordered_vector, prior, (2,))
    transition = jnp.log(jnp.stack([theta1, theta2]))
    emission = dist.Normal(mu, 1.0).log_prob(y[:, None])

    def forward(alpha, row):
        return jax.nn.logsumexp(alpha[:, None] + transition, axis=0) + row, None

    alpha, _ = jax.lax.scan(forward, emission[0], emission[1:])
    numpyro.factor("y", jax.nn.logsumexp(alpha))


def lotka_volterra(ts, y_init, y):
    """Hares and lynxes, 1900 to 1920, around a Lotka-Volterra equation. It has a second, minor mode."""
    prior = dist.Normal(jnp.array([1.0, 0.05, 1.0, 0.05]), jnp.array([0.5, 0.05, 0.5, 0.05]))
    theta = restricted("theta", positive_vector(), prior, (4,))
    z_init = numpyro.sample("z_init", dist.LogNormal(jnp.log(10.0), 1).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.LogNormal(-1, 1).expand([2]).to_event(1))

    def slope(z):
        prey, predator = z
        return jnp.stack([(theta[0] - theta[1] * predator) * prey, (theta[3] * prey - theta[2]) * predator])

    # Far from the posterior the solution underflows, where its logarithm would not be finite.
    z = jnp.maximum(runge_kutta(slope, z_init, ts), 1e-10)
    numpyro.sample("obs_init", dist.LogNormal(jnp.log(z_init), sigma).to_event(1), obs=y_init)
    numpyro.sample("obs", dist.LogNormal(jnp.log(z), sigma).to_event(1), obs=y)


def runge_kutta(slope, start, times, substeps=10):
    """States at ``times``, from ``start`` at time 0, by ``substeps`` equal steps of the fourth order between each two.

    Stan solves with an adaptive method at relative tolerance 1e-5; at ten steps a year this one's error is below it.
    """
    steps = jnp.repeat(jnp.diff(times, prepend=0.0) / substeps, substeps)

    def advance(z, h):
        k1 = slope(z)
        k2 = slope(z + h / 2 * k1)
        k3 = slope(z + h / 2 * k2)
        k4 = slope(z + h * k3)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return z, z

    _, states = jax.lax.scan(advance, start, steps)
    return states[substeps - 1 :: substeps]
