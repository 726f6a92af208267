"""Conjugate models: the posterior is a distribution with a name."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist

from benchmarks.trust.target import Case, target


@target()
def normal_mean() -> Case:
    """Normal mean, sd known: precision 1/s0² + n/s², mean weighted by precision."""
    y = np.random.default_rng(11).normal(-3.4, 1.7, 9)

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(2.0, 4.0))
        numpyro.sample("y", dist.Normal(mu, 1.7), obs=y)

    precision = 1 / 16 + 9 / 1.7**2
    return Case(model, {"y": y}, {"mu": ((2 / 16 + y.sum() / 1.7**2) / precision, precision**-0.5)})


def gaussian_regression(x: np.ndarray, y: np.ndarray, noise: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """beta ~ N(0, scale²), y ~ N(x beta, noise²): covariance (xᵀx/noise² + 1/scale²)⁻¹, mean times xᵀy/noise²."""
    covariance = np.linalg.inv(x.T @ x / noise**2 + np.eye(x.shape[1]) / scale**2)
    return covariance @ x.T @ y / noise**2, np.sqrt(np.diag(covariance))


@target()
def regression_known_noise() -> Case:
    """Six coefficients, correlated design, noise known; see ``gaussian_regression``."""
    rng = np.random.default_rng(12)
    x = rng.normal(size=(45, 6)) @ rng.normal(size=(6, 6))
    y = x @ rng.normal(size=6) + rng.normal(0, 0.8, 45)

    def model(x, y):
        beta = numpyro.sample("beta", dist.Normal(0, 3).expand([6]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ beta, 0.8), obs=y)

    return Case(model, {"x": x, "y": y}, {"beta": gaussian_regression(x, y, 0.8, 3)})


@target()
def collinear_regression() -> Case:
    """Two columns that correlate 0.9999995, a weak prior, and an intercept: a Gaussian with one long thin axis."""
    rng = np.random.default_rng(13)
    a = rng.normal(size=60)
    x = np.stack([np.ones(60), a, a + 1e-3 * rng.normal(size=60)], 1)
    y = x @ [1.0, 2.0, -1.0] + rng.normal(0, 0.5, 60)

    def model(x, y):
        beta = numpyro.sample("beta", dist.Normal(0, 100).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ beta, 0.5), obs=y)

    return Case(model, {"x": x, "y": y}, {"beta": gaussian_regression(x, y, 0.5, 100)})


@target()
def poisson_gamma() -> Case:
    """Gamma(a, b) rates and counts over exposures: Gamma(a + sum of counts, b + exposure). One rate saw no event."""
    counts, exposure = np.array([0.0, 3.0, 1.0, 42.0]), np.array([2.0, 1.5, 8.0, 3.0])

    def model(counts, exposure):
        rate = numpyro.sample("rate", dist.Gamma(1.3, 0.4).expand([4]).to_event(1))
        numpyro.sample("counts", dist.Poisson(rate * exposure), obs=counts)

    a, b = 1.3 + counts, 0.4 + exposure
    return Case(model, {"counts": counts, "exposure": exposure}, {"rate": (a / b, np.sqrt(a) / b)})


def beta_moments(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, float), np.asarray(b, float)
    return a / (a + b), np.sqrt(a * b / (a + b + 1)) / (a + b)


@target()
def beta_binomial() -> Case:
    """Beta(1.5, 4) and binomial counts: Beta(1.5 + successes, 4 + failures)."""
    tries, hits = np.array([3.0, 12.0, 40.0, 9.0, 200.0]), np.array([0.0, 11.0, 13.0, 9.0, 2.0])

    def model(tries, hits):
        p = numpyro.sample("p", dist.Beta(1.5, 4.0).expand([5]).to_event(1))
        numpyro.sample("hits", dist.Binomial(tries, probs=p), obs=hits)

    return Case(model, {"tries": tries, "hits": hits}, {"p": beta_moments(1.5 + hits, 4 + tries - hits)})


@target()
def dirichlet_multinomial() -> Case:
    """Dirichlet(a) and multinomial counts, two of them zero: Dirichlet(a + counts), whose margins are betas."""
    counts = np.array([14, 0, 3, 27, 0, 1])

    def model(counts):
        share = numpyro.sample("share", dist.Dirichlet(np.full(6, 0.7)))
        numpyro.sample("counts", dist.Multinomial(45, probs=share), obs=counts)

    a = 0.7 + counts
    return Case(model, {"counts": counts}, {"share": beta_moments(a, a.sum() - a)})


@target()
def normal_gamma() -> Case:
    """Mean and precision unknown, seven rows: tau ~ Gamma(a, b), mu | tau ~ N(m0, 1/(k tau)).

    With k' = k + n, a' = a + n/2, b' = b + (Σ(y - ȳ)² + k n (ȳ - m0)²/k')/2:  tau ~ Gamma(a', b') and mu is a
    Student t with 2a' degrees of freedom about m' = (k m0 + n ȳ)/k', variance b'/(k' (a' - 1)).
    """
    y = np.random.default_rng(14).normal(5, 2.5, 7)
    a, b, k, m0, n = 2.0, 1.0, 0.1, 0.0, 7

    def model(y):
        tau = numpyro.sample("tau", dist.Gamma(a, b))
        mu = numpyro.sample("mu", dist.Normal(m0, 1 / np.sqrt(k) / tau**0.5))
        numpyro.sample("y", dist.Normal(mu, tau**-0.5), obs=y)

    a1, k1 = a + n / 2, k + n
    b1 = b + 0.5 * (((y - y.mean()) ** 2).sum() + k * n * (y.mean() - m0) ** 2 / k1)
    mean = (k * m0 + n * y.mean()) / k1
    return Case(model, {"y": y}, {"tau": (a1 / b1, np.sqrt(a1) / b1), "mu": (mean, np.sqrt(b1 / (k1 * (a1 - 1))))})


@target()
def inverse_gamma_variance() -> Case:
    """Variance of a normal with known mean: InverseGamma(3 + n/2, 2 + Σ y²/2), n = 8."""
    y = np.random.default_rng(15).normal(0, 3, 8)

    def model(y):
        variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0))
        numpyro.sample("y", dist.Normal(0, variance**0.5), obs=y)

    a, b = 3 + 4, 2 + (y**2).sum() / 2
    return Case(model, {"y": y}, {"variance": (b / (a - 1), b / (a - 1) / np.sqrt(a - 2))})


@target()
def waiting_times_in_seconds() -> Case:
    """Exponential waits of days, in seconds, rate ~ Gamma(0.5, 1 s): Gamma(0.5 + n, 1 + Σ y), of size 1e-6."""
    y = np.random.default_rng(16).exponential(4e5, 12)

    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(0.5, 1.0))
        numpyro.sample("y", dist.Exponential(rate), obs=y)

    a, b = 12.5, 1 + y.sum()
    return Case(model, {"y": y}, {"rate": (a / b, np.sqrt(a) / b)})


@target()
def raw_units_regression() -> Case:
    """Income on the calendar year and height in mm, no centring: Normal-gamma prior, exact.

    tau ~ Gamma(a, b), beta | tau ~ N(0, diag(s²)/tau). Lambda' = diag(1/s²) + xᵀx, m' = Lambda'⁻¹ xᵀy,
    a' = a + n/2, b' = b + (yᵀy - m'ᵀ Lambda' m')/2; beta is a multivariate t with 2a' degrees of freedom and
    covariance b'/(a' - 1) Lambda'⁻¹.
    """
    rng = np.random.default_rng(17)
    n = 80
    year, height = rng.integers(1985, 2024, n).astype(float), rng.normal(1700, 90, n)
    x = np.stack([np.ones(n), year, height], 1)
    y = 35_000 + 800 * (year - 2000) + 12 * (height - 1700) + rng.normal(0, 9_000, n)
    a, b, s = 1.0, 1e6, np.array([1e4, 10.0, 10.0])

    def model(x, y):
        tau = numpyro.sample("tau", dist.Gamma(a, b))
        beta = numpyro.sample("beta", dist.Normal(0, s / tau**0.5).to_event(1))
        numpyro.sample("y", dist.Normal(x @ beta, tau**-0.5), obs=y)

    precision = np.diag(1 / s**2) + x.T @ x
    mean = np.linalg.solve(precision, x.T @ y)
    # yᵀy - m'ᵀ Lambda' m' as residuals: the difference of the two loses digits.
    rest = ((y - x @ mean) ** 2).sum() + (mean**2 / s**2).sum()
    a1, b1 = a + n / 2, b + rest / 2
    sd = np.sqrt(np.diag(np.linalg.inv(precision)) * b1 / (a1 - 1))
    return Case(model, {"x": x, "y": y}, {"tau": (a1 / b1, np.sqrt(a1) / b1), "beta": (mean, sd)})
