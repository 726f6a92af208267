"""Time: strong correlation along many states, exact where all is Gaussian given one or two scales."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax

import lowerbound as lb
from benchmarks.trust.quadrature import box, mixture, moments
from benchmarks.trust.shapes import real
from benchmarks.trust.target import Case, target


def gaussian_states(prior: np.ndarray, y: np.ndarray, seen: np.ndarray, noise: float) -> tuple:
    """States with covariance ``prior [T, T]``, mean zero, ``y ~ N(x[seen], noise²)``: log evidence, mean, variance."""
    cross = prior[:, seen]
    total = prior[np.ix_(seen, seen)] + noise**2 * np.eye(len(seen))
    root = np.linalg.cholesky(total)
    white, gain = np.linalg.solve(root, y), np.linalg.solve(root, cross.T)
    log_evidence = -0.5 * white @ white - np.log(np.diag(root)).sum()
    return log_evidence, gain.T @ white, np.diag(prior) - (gain**2).sum(0)


@target()
def ar1_100() -> Case:
    """A stationary AR(1), phi = 0.99, variance 1/(1 - phi²), 100 steps, nothing seen: mean 0, sd 7.09."""

    def density(x):
        return -0.5 * jnp.sum((x[1:] - 0.99 * x[:-1]) ** 2) - 0.5 * x[0] ** 2 * (1 - 0.99**2)

    sd = np.full(100, (1 - 0.99**2) ** -0.5)
    return Case(lb.LogDensity(density, {"x": real(100)}), None, {"x": (np.zeros(100), sd)})


@target()
def ar1_100_with_gaps() -> Case:
    """The same with innovations of 0.3 as a NumPyro model, eleven of the steps seen with noise 0.5: Gaussian."""
    seen, phi, s = np.arange(0, 100, 9)[1:], 0.99, 0.3
    y = np.random.default_rng(81).normal(2, 1, len(seen))

    def model(y):
        start = numpyro.sample("start", dist.Normal(0, s / np.sqrt(1 - phi**2)))
        e = numpyro.sample("step", dist.Normal(0, s).expand([99]).to_event(1))
        _, rest = lax.scan(lambda x, e: (phi * x + e,) * 2, start, e)
        x = numpyro.deterministic("x", jnp.concatenate([start[None], rest]))
        numpyro.sample("y", dist.Normal(x[seen], 0.5), obs=y)

    lag = np.abs(np.subtract.outer(np.arange(100), np.arange(100)))
    _, mean, variance = gaussian_states(s**2 / (1 - phi**2) * phi**lag, y, seen, 0.5)
    return Case(model, {"y": y}, {"x": (mean, np.sqrt(variance))})


def local_level(steps: int, q: float, r: float, centred: bool, seed: int) -> Case:
    """x_1 ~ N(0, 5²), x_t ~ N(x_{t-1}, q²), y_t ~ N(x_t, r²), q, r ~ HalfNormal(1): the states are Gaussian given
    (q, r), their covariance 25 + q² min(s, t); quadrature over (log q, log r) with all states integrated out."""
    rng = np.random.default_rng(seed)
    y = 3 + np.cumsum(rng.normal(0, q, steps)) + rng.normal(0, r, steps)

    def noncentred(y):
        q = numpyro.sample("q", dist.HalfNormal(1))
        r = numpyro.sample("r", dist.HalfNormal(1))
        start = numpyro.sample("start", dist.Normal(0, 5))
        z = numpyro.sample("z", dist.Normal(0, 1).expand([y.shape[0] - 1]).to_event(1))
        x = numpyro.deterministic("x", start + q * jnp.concatenate([jnp.zeros(1), jnp.cumsum(z)]))
        numpyro.sample("y", dist.Normal(x, r), obs=y)

    def centred_states(y):
        q = numpyro.sample("q", dist.HalfNormal(1))
        r = numpyro.sample("r", dist.HalfNormal(1))
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), (y.shape[0],)))
        numpyro.factor("start", dist.Normal(0, 5).log_prob(x[0]))
        numpyro.factor("steps", dist.Normal(x[:-1], q).log_prob(x[1:]).sum())
        numpyro.sample("y", dist.Normal(x, r), obs=y)

    order = np.minimum.outer(np.arange(steps), np.arange(steps))
    axes = np.linspace(np.log(q) - 2.2, np.log(q) + 1.5, 45), np.linspace(np.log(r) - 1.2, np.log(r) + 0.9, 45)
    log_q, log_r = box(*axes)
    rows = [
        gaussian_states(25 + np.exp(2 * a) * order, y, np.arange(steps), np.exp(b))
        for a, b in zip(log_q, log_r, strict=True)
    ]
    log_density = np.array([e for e, _, _ in rows]) + log_q + log_r - (np.exp(2 * log_q) + np.exp(2 * log_r)) / 2
    x = mixture(log_density, np.stack([m for _, m, _ in rows]), np.stack([v for _, _, v in rows]))
    truth = {"q": moments(log_density, np.exp(log_q)), "r": moments(log_density, np.exp(log_r)), "x": x}
    return Case(centred_states if centred else noncentred, {"y": y}, truth)


target(name="local_level_150_centred")(partial(local_level, 150, 0.3, 0.7, True, 82))
target(name="local_level_80_noncentred")(partial(local_level, 80, 0.8, 0.4, False, 83))


def volatility(y, centred: bool):
    """h_1 ~ N(mu, sigma²/(1 - phi²)), h_t ~ N(mu + phi (h_{t-1} - mu), sigma²), y_t ~ N(0, e^h_t)."""
    mu = numpyro.sample("mu", dist.Normal(0, 3))
    sigma = numpyro.sample("sigma", dist.HalfNormal(0.5))
    phi = 2 * numpyro.sample("phi_half", dist.Beta(20, 1.5)) - 1
    numpyro.deterministic("phi", phi)
    first = sigma / jnp.sqrt(1 - phi**2)
    if centred:
        h = numpyro.sample("h", dist.ImproperUniform(dist.constraints.real_vector, (), (y.shape[0],)))
        numpyro.factor("first", dist.Normal(mu, first).log_prob(h[0]))
        numpyro.factor("steps", dist.Normal(mu + phi * (h[:-1] - mu), sigma).log_prob(h[1:]).sum())
    else:
        z = numpyro.sample("z", dist.Normal(0, 1).expand([y.shape[0]]).to_event(1))
        _, rest = lax.scan(lambda x, e: (phi * x + sigma * e,) * 2, first * z[0], z[1:])
        h = numpyro.deterministic("h", mu + jnp.concatenate([first * z[:1], rest]))
    numpyro.sample("y", dist.Normal(0, jnp.exp(h / 2)), obs=y)


@target()
def stochastic_volatility_100() -> Case:
    """A hundred returns, centred states; sampled with standardised innovations for the truth."""
    rng = np.random.default_rng(84)
    h = np.zeros(100)
    for t in range(1, 100):
        h[t] = 0.95 * h[t - 1] + 0.25 * rng.normal()
    y = np.exp((h - 1) / 2) * rng.normal(size=100)
    return Case(
        partial(volatility, centred=True),
        {"y": y},
        reference=partial(volatility, centred=False),
        compared=("mu", "sigma", "phi", "h"),
    )


@target()
def counts_with_drift() -> Case:
    """Weekly counts with a random-walk log rate, 60 steps, as a person writes it with cumsum."""
    rng = np.random.default_rng(85)
    y = rng.poisson(np.exp(1.0 + np.cumsum(rng.normal(0, 0.15, 60)))).astype(float)

    def model(y):
        start = numpyro.sample("start", dist.Normal(0, 2))
        scale = numpyro.sample("scale", dist.HalfNormal(0.5))
        z = numpyro.sample("z", dist.Normal(0, 1).expand([60]).to_event(1))
        log_rate = numpyro.deterministic("log_rate", start + scale * jnp.cumsum(z))
        numpyro.sample("y", dist.Poisson(jnp.exp(log_rate)), obs=y)

    return Case(model, {"y": y}, reference=model, compared=("start", "scale", "log_rate"))
