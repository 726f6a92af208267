"""Latent functions and vectors: Gaussian processes, factors."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from benchmarks.trust.target import Case, target


def kernel(x: np.ndarray, scale: float, length: float) -> np.ndarray:
    """Squared exponential, a little jitter."""
    return scale**2 * np.exp(-0.5 * (np.subtract.outer(x, x) / length) ** 2) + 1e-6 * np.eye(len(x))


def gaussian_process(n: int, scale: float, length: float, noise: float, centred: bool, seed: int) -> Case:
    """f ~ N(0, K), y ~ N(f, noise²), hyperparameters given: mean K (K + noise² I)⁻¹ y, covariance
    K - K (K + noise² I)⁻¹ K. Centred, f itself is the latent; else f = L z."""
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(0, 10, n))
    k = kernel(x, scale, length)
    root = np.linalg.cholesky(k)
    y = root @ rng.normal(size=n) + noise * rng.normal(size=n)

    def model(y, root):
        if centred:
            f = numpyro.sample("f", dist.MultivariateNormal(jnp.zeros(n), scale_tril=root))
        else:
            z = numpyro.sample("z", dist.Normal(0, 1).expand([n]).to_event(1))
            f = numpyro.deterministic("f", root @ z)
        numpyro.sample("y", dist.Normal(f, noise), obs=y)

    total = k + noise**2 * np.eye(n)
    gain = np.linalg.solve(total, k)
    return Case(model, {"y": y, "root": root}, {"f": (gain.T @ y, np.sqrt(np.diag(k) - (k * gain).sum(0)))})


target(name="gp_500_whitened")(partial(gaussian_process, 500, 1.5, 0.4, 0.5, False, 121))
target(name="gp_120_centred")(partial(gaussian_process, 120, 0.8, 0.15, 0.3, True, 122))


@target()
def gp_classes() -> Case:
    """Sixty labels along a line, whitened latent function, its scale unknown."""
    rng = np.random.default_rng(123)
    x = np.sort(rng.uniform(0, 10, 60))
    root = np.linalg.cholesky(kernel(x, 1.0, 1.5))
    y = (rng.uniform(size=60) < 1 / (1 + np.exp(-2 * np.sin(x)))).astype(float)

    def model(y, root):
        scale = numpyro.sample("scale", dist.LogNormal(0, 0.7))
        z = numpyro.sample("z", dist.Normal(0, 1).expand([60]).to_event(1))
        f = numpyro.deterministic("f", scale * (root @ z))
        numpyro.sample("y", dist.Bernoulli(logits=f), obs=y)

    return Case(model, {"y": y, "root": root}, reference=model, compared=("scale", "f"))


@target()
def sum_with_priors() -> Case:
    """Only a + b + c is seen, to 0.05; normal priors of unlike sizes make it a Gaussian: with total variance
    V = Σ s² + noise²/n, mean_i = m_i + s_i² (ȳ - Σ m)/V and variance s_i² - s_i⁴/V."""
    m, s = np.array([0.0, 2.0, -1.0]), np.array([1.0, 5.0, 0.3])
    y = np.array([3.1, 3.0, 3.05, 2.97])

    def model(y):
        parts = numpyro.sample("parts", dist.Normal(m, s).to_event(1))
        numpyro.sample("y", dist.Normal(parts.sum(), 0.05), obs=y)

    total = (s**2).sum() + 0.05**2 / 4
    return Case(model, {"y": y}, {"parts": (m + s**2 * (y.mean() - m.sum()) / total, np.sqrt(s**2 - s**4 / total))})


@target()
def one_factor() -> Case:
    """Scores on one factor, loadings fixed in sign, all Gaussian given the loadings; loadings and noise unknown."""
    rng = np.random.default_rng(124)
    y = np.outer(rng.normal(size=40), [1.0, 0.8, 1.3, 0.5]) + 0.6 * rng.normal(size=(40, 4))

    def model(y):
        loading = numpyro.sample("loading", dist.HalfNormal(2).expand([4]).to_event(1))
        noise = numpyro.sample("noise", dist.HalfNormal(1))
        score = numpyro.sample("score", dist.Normal(0, 1).expand([40]).to_event(1))
        numpyro.sample("y", dist.Normal(score[:, None] * loading, noise).to_event(1), obs=y)

    return Case(model, {"y": y}, reference=model)
