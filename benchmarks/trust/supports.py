"""Sites that are not the real line: positive, between bounds, simplex, ordered, correlation; and their edges."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from scipy import special, stats

import lowerbound as lb
from benchmarks.trust.conjugate import beta_moments
from benchmarks.trust.quadrature import moments
from benchmarks.trust.target import Case, target, unobserved


@target()
def gammas() -> Case:
    """Gamma(a, b): mean a/b, sd √a/b; with a = 0.4 the density is infinite at zero."""
    a, b = np.array([0.4, 1.0, 3.0, 60.0]), np.array([2.0, 0.01, 5.0, 1.0])

    @unobserved
    def model():
        numpyro.sample("x", dist.Gamma(a, b).to_event(1))

    return Case(model, None, {"x": (a / b, np.sqrt(a) / b)})


@target()
def betas() -> Case:
    """Beta(0.3, 0.3) and (0.3, 2) have infinite density at their ends, (90, 4) leans on one."""
    a, b = np.array([0.3, 0.3, 2.0, 90.0]), np.array([0.3, 2.0, 9.0, 4.0])

    @unobserved
    def model():
        numpyro.sample("x", dist.Beta(a, b).to_event(1))

    return Case(model, None, {"x": beta_moments(a, b)})


@target()
def dirichlet_sparse() -> Case:
    """Dirichlet(0.35, …) on five cells, most of whose mass lies on the faces of the simplex."""
    a = np.array([0.35, 0.35, 0.35, 0.6, 1.2])

    @unobserved
    def model():
        numpyro.sample("share", dist.Dirichlet(a))

    return Case(model, None, {"share": beta_moments(a, a.sum() - a)})


@target()
def dirichlet_wide() -> Case:
    """Thirty cells, concentrations from 0.8 to 12."""
    a = np.linspace(0.8, 12, 30)

    @unobserved
    def model():
        numpyro.sample("share", dist.Dirichlet(a))

    return Case(model, None, {"share": beta_moments(a, a.sum() - a)})


@target()
def half_normals() -> Case:
    """scale √(2/π) and scale √(1 - 2/π), beside a log-normal e^(m + s²/2)."""
    scale = np.array([1e-3, 1.0, 250.0])

    @unobserved
    def model():
        numpyro.sample("sigma", dist.HalfNormal(scale).to_event(1))
        numpyro.sample("size", dist.LogNormal(1.0, 0.6))

    mean = np.exp(1 + 0.18)
    return Case(
        model,
        None,
        {
            "sigma": (scale * np.sqrt(2 / np.pi), scale * np.sqrt(1 - 2 / np.pi)),
            "size": (mean, mean * np.sqrt(np.expm1(0.36))),
        },
    )


@target()
def uniform_box() -> Case:
    """Uniform on intervals: nothing but the transform gives it a shape. Mean of the ends, length/√12."""
    low, high = np.array([-3.0, 0.0, 100.0]), np.array([5.0, 1e-2, 101.0])

    @unobserved
    def model():
        numpyro.sample("x", dist.Uniform(low, high).to_event(1))

    return Case(model, None, {"x": ((low + high) / 2, (high - low) / np.sqrt(12))})


@target()
def lkj_prior() -> Case:
    """A 4 by 4 correlation matrix, LKJ(1.5): each correlation is 2B - 1, B ~ Beta(a, a), a = 1.5 + 4/2 - 1, of
    variance 1/(2a + 1). The diagonal has no spread and is not compared."""

    @unobserved
    def model():
        root = numpyro.sample("root", dist.LKJCholesky(4, 1.5))
        numpyro.deterministic("correlation", root @ root.T)

    sd = np.where(np.eye(4, dtype=bool), 0, 1 / np.sqrt(6))
    return Case(model, None, {"correlation": (np.eye(4), sd)})


@target()
def lkj_two_series() -> Case:
    """Correlation of two standardised series, n = 15, LKJ(1): rho uniform, by quadrature in rho.

    Σ log p = -n/2 log(1 - rho²) - (S_xx - 2 rho S_xy + S_yy)/(2 (1 - rho²)).
    """
    root = np.array([[1, 0], [0.9, np.sqrt(1 - 0.81)]])
    y = np.random.default_rng(31).normal(size=(15, 2)) @ root.T

    def model(y):
        root = numpyro.sample("root", dist.LKJCholesky(2, 1.0))
        numpyro.deterministic("rho", (root @ root.T)[0, 1])
        numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(2), scale_tril=root), obs=y)

    rho = np.tanh(np.linspace(-6, 6, 20_001))
    s = y.T @ y
    log_density = -7.5 * np.log1p(-(rho**2)) - (s[0, 0] - 2 * rho * s[0, 1] + s[1, 1]) / (2 * (1 - rho**2))
    log_density += np.log1p(-(rho**2))  # d rho = (1 - rho²) du
    return Case(model, {"y": y}, {"rho": moments(log_density, rho)})


@target()
def order_statistics() -> Case:
    """Four ordered values with the joint density of independent standard normals: their order statistics.

    The r-th of n has density n!/((r-1)!(n-r)!) Phi^(r-1) (1 - Phi)^(n-r) phi.
    """

    def density(x):
        return -0.5 * jnp.sum(x**2)

    u = np.linspace(-9, 9, 20_001)
    lower, upper, at = stats.norm.logcdf(u), stats.norm.logsf(u), stats.norm.logpdf(u)
    pairs = [moments(r * lower + (3 - r) * upper + at, u) for r in range(4)]
    model = lb.LogDensity(density, {"x": lb.Site(constraints.ordered_vector, (4,))})
    return Case(model, None, {"x": (np.array([m for m, _ in pairs]), np.array([s for _, s in pairs]))})


@target()
def scale_pushed_to_zero() -> Case:
    """HalfNormal(1) scale of 25 values that are all but zero (about 1e-3): by quadrature in log sigma."""
    y = np.random.default_rng(32).normal(0, 1e-3, 25)

    def model(y):
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(0, sigma), obs=y)

    u = np.linspace(-12, 2, 20_001)
    sigma = np.exp(u)
    return Case(model, {"y": y}, {"sigma": moments(-0.5 * sigma**2 - 24 * u - 0.5 * (y**2).sum() / sigma**2, sigma)})


@target()
def excess_scale_at_zero() -> Case:
    """Extra spread on top of known errors that explain everything: y ~ N(0, √(1 + sigma²)), mode at sigma = 0.

    Half-normal(2) prior; by quadrature in log sigma.
    """
    y = np.random.default_rng(33).normal(0, 0.8, 18)

    def model(y):
        sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
        numpyro.sample("y", dist.Normal(0, (1 + sigma**2) ** 0.5), obs=y)

    u = np.linspace(-18, 3, 20_001)
    sigma = np.exp(u)
    log_density = -(sigma**2) / 8 + u - 9 * np.log1p(sigma**2) - 0.5 * (y**2).sum() / (1 + sigma**2)
    return Case(model, {"y": y}, {"sigma": moments(log_density, sigma)})


@target()
def rates_without_events() -> Case:
    """Gamma(0.3, 0.1) rates that saw nothing: Gamma(0.3, 0.1 + exposure), leaning on zero."""
    exposure = np.array([1.0, 30.0, 400.0])

    def model(exposure, counts):
        rate = numpyro.sample("rate", dist.Gamma(0.3, 0.1).expand([3]).to_event(1))
        numpyro.sample("counts", dist.Poisson(rate * exposure), obs=counts)

    b = 0.1 + exposure
    return Case(model, {"exposure": exposure, "counts": np.zeros(3)}, {"rate": (0.3 / b, np.sqrt(0.3) / b)})


@target()
def log_of_gamma() -> Case:
    """log of Gamma(0.15): a long exponential tail to the left. Mean digamma(a), variance trigamma(a)."""
    model = lb.LogDensity(lambda x: 0.15 * jnp.sum(x) - jnp.sum(jnp.exp(x)), {"x": lb.Site(constraints.real, (2,))})
    mean, sd = special.digamma(0.15), np.sqrt(special.polygamma(1, 0.15))
    return Case(model, None, {"x": (np.full(2, mean), np.full(2, sd))})
