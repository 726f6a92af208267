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


def random_walk(y: np.ndarray, q: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log evidence ``[m]``, mean and variance ``[m, T]`` of the states of a random walk, at points (q, r) ``[m]``.

    x_1 ~ N(0, 5²), x_t ~ N(x_{t-1}, q²), y_t ~ N(x_t, r²): the states' covariance is K = 25 11ᵀ + q² M, M the random
    walk's from zero. With M = U diag(l) Uᵀ, v = Uᵀ1, d = q² l + r², the matrix K + r² I is U (diag(d) + 25 v vᵀ) Uᵀ,
    whose inverse is by Sherman and Morrison. x given y has mean y - r² (K + r² I)⁻¹ y and covariance
    r² I - r⁴ (K + r² I)⁻¹.
    """
    steps = np.arange(len(y))
    lengths, turn = np.linalg.eigh(np.minimum.outer(steps, steps).astype(float))
    d = q[:, None] ** 2 * np.maximum(lengths, 0) + r[:, None] ** 2
    ones, data = turn.sum(0), turn.T @ y
    reach = 1 + 25 * (ones**2 / d).sum(1)
    side = ones / d
    solved = data / d - side * (25 * (side @ data) / reach)[:, None]
    log_evidence = -0.5 * (solved @ data) - 0.5 * np.log(d).sum(1) - 0.5 * np.log(reach)
    inverse = (1 / d) @ (turn.T**2) - (side @ turn.T) ** 2 * (25 / reach)[:, None]
    return log_evidence, y - r[:, None] ** 2 * (solved @ turn.T), r[:, None] ** 2 - r[:, None] ** 4 * inverse


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
    (q, r), see
    ``random_walk``; quadrature over (log q, log r) with all states integrated out."""
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

    log_q, log_r = box(np.linspace(-9, 1.2, 350), np.linspace(np.log(r) - 2, np.log(r) + 1, 60))
    q_, r_ = np.exp(log_q), np.exp(log_r)
    log_evidence, mean, variance = random_walk(y, q_, r_)
    log_density = log_evidence + log_q + log_r - (q_**2 + r_**2) / 2
    truth = {"q": moments(log_density, q_), "r": moments(log_density, r_), "x": mixture(log_density, mean, variance)}
    return Case(centred_states if centred else noncentred, {"y": y}, truth)


target(name="local_level_150_centred")(partial(local_level, 150, 0.3, 0.7, True, 82))
target(name="local_level_80_noncentred")(partial(local_level, 80, 0.8, 0.4, False, 83))


@target()
def stochastic_volatility_100() -> Case:
    """A hundred returns, h_1 ~ N(mu, sigma²/(1 - 0.95²)), h_t ~ N(mu + 0.95 (h_{t-1} - mu), sigma²), y_t ~ N(0, e^h_t),
    states centred. For the truth h = mu + sigma A z, A the Cholesky factor of the covariance 0.95^|s - t|/(1 - 0.95²).
    """
    rng, phi = np.random.default_rng(84), 0.95
    h = np.zeros(100)
    for t in range(1, 100):
        h[t] = phi * h[t - 1] + 0.3 * rng.normal()
    y = np.exp((h - 1) / 2) * rng.normal(size=100)
    first = (1 - phi**2) ** -0.5
    root = np.linalg.cholesky(first**2 * phi ** np.abs(np.subtract.outer(np.arange(100), np.arange(100))))

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 2))
        sigma = numpyro.sample("sigma", dist.LogNormal(-1.5, 0.5))
        h = numpyro.sample("h", dist.ImproperUniform(dist.constraints.real_vector, (), (y.shape[0],)))
        numpyro.factor("first", dist.Normal(mu, sigma * first).log_prob(h[0]))
        numpyro.factor("steps", dist.Normal(mu + phi * (h[:-1] - mu), sigma).log_prob(h[1:]).sum())
        numpyro.sample("y", dist.Normal(0, jnp.exp(h / 2)), obs=y)

    def reference(y):
        mu = numpyro.sample("mu", dist.Normal(0, 2))
        sigma = numpyro.sample("sigma", dist.LogNormal(-1.5, 0.5))
        z = numpyro.sample("z", dist.Normal(0, 1).expand([100]).to_event(1))
        h = numpyro.deterministic("h", mu + sigma * (root @ z))
        numpyro.sample("y", dist.Normal(0, jnp.exp(h / 2)), obs=y)

    return Case(model, {"y": y}, reference=reference, compared=("mu", "sigma", "h"))


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


@target()
def random_walk_1000() -> Case:
    """A thousand states with scales known, seen with noise: Gaussian, by ``random_walk``."""
    rng = np.random.default_rng(86)
    y = np.cumsum(rng.normal(0, 0.2, 1000)) + rng.normal(0, 0.9, 1000)

    def density(x, y):
        steps = -0.5 * jnp.sum((x[1:] - x[:-1]) ** 2) / 0.2**2
        return steps - 0.5 * (x[0] / 5) ** 2 - 0.5 * jnp.sum((y - x) ** 2) / 0.9**2

    _, mean, variance = random_walk(y, np.array([0.2]), np.array([0.9]))
    return Case(lb.LogDensity(density, {"x": real(1000)}), {"y": y}, {"x": (mean[0], np.sqrt(variance[0]))})
