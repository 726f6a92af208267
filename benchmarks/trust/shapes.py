"""Densities whose shape is the difficulty: funnels, bananas, heavy and light tails, rings, bad condition numbers."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from scipy import special, stats

import lowerbound as lb
from benchmarks.trust.quadrature import moments
from benchmarks.trust.target import Case, target, unobserved

#: E log|z| and Var log|z| of a standard normal z: log z² is log chi-squared, mean digamma(1/2) + log 2, variance π²/2.
LOG_ABS_MEAN = (special.digamma(0.5) + np.log(2)) / 2
LOG_ABS_VAR = np.pi**2 / 8


def real(*shape: int) -> lb.Site:
    return lb.Site(constraints.real, shape)


def rotation(p: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(p, p)))[0]


@unobserved
def funnel_model(width, k):
    v = numpyro.sample("v", dist.Normal(0, width))
    numpyro.sample("x", dist.Normal(0, jnp.exp(v / 2)).expand([k]).to_event(1))


def log_abs_x(draws):
    return np.log(np.abs(draws["x"]) + 1e-300)


def wide_funnel_truth() -> dict:
    """v ~ N(0, 9), x | v ~ N(0, e^v). The sd of x, e^(9/4), rests on values of v three sd out, which 4,000 exact
    draws do not have; log|x| = v/2 + log|z| says the same of x and can be measured."""
    return {"v": (0, 3), "log|x|": (np.full(9, LOG_ABS_MEAN), np.full(9, np.sqrt(9 / 4 + LOG_ABS_VAR)))}


@target()
def funnel() -> Case:
    """Neal's funnel in ten dimensions, as a NumPyro model; see ``wide_funnel_truth``."""
    return Case(funnel_model, {"width": 3, "k": 9}, wide_funnel_truth(), views={"log|x|": log_abs_x})


@target()
def funnel_density() -> Case:
    """The same as a plain log density, where nothing can be seen of its structure."""

    def density(v, x):
        return -(v**2) / 18 - 0.5 * jnp.sum(x**2) * jnp.exp(-v) - 4.5 * v

    model = lb.LogDensity(density, {"v": real(), "x": real(9)})
    return Case(model, None, wide_funnel_truth(), views={"log|x|": log_abs_x})


@target()
def funnel_noncentered() -> Case:
    """The same, standardised: a spherical Gaussian of v and z, x deterministic."""

    @unobserved
    def model():
        v = numpyro.sample("v", dist.Normal(0, 3))
        z = numpyro.sample("z", dist.Normal(0, 1).expand([9]).to_event(1))
        numpyro.deterministic("x", jnp.exp(v / 2) * z)

    truth = wide_funnel_truth() | {"z": (np.zeros(9), np.ones(9))}
    return Case(model, None, truth, views={"log|x|": log_abs_x})


@target()
def funnel_narrow() -> Case:
    """v ~ N(0, 1.2²), six x's: Var x = E e^v = e^(1.2²/2)."""
    return Case(
        partial(funnel_model, 1.2, 6), None, {"v": (0, 1.2), "x": (np.zeros(6), np.full(6, np.exp(1.2**2 / 4)))}
    )


def banana(width: float, bend: float) -> Case:
    """a ~ N(0, width²), b | a ~ N(bend (a² - width²), 1): E b = 0, Var b = 1 + 2 bend² width⁴."""

    @unobserved
    def model():
        a = numpyro.sample("a", dist.Normal(0, width))
        numpyro.sample("b", dist.Normal(bend * (a**2 - width**2), 1))

    return Case(model, None, {"a": (0, width), "b": (0, np.sqrt(1 + 2 * bend**2 * width**4))})


target(name="banana_mild")(partial(banana, 1.5, 0.25))
target(name="banana_strong")(partial(banana, 8.0, 0.15))


@target()
def banana_rotated() -> Case:
    """A banana in two of six coordinates, turned at random and moved to 5: x = 5 + R z.

    The coordinates of z are uncorrelated (Cov(a, a²) = 0), so Var x = R² Var z."""
    turn = rotation(6, 21)

    def density(x):
        z = turn.T @ (x - 5)
        return -0.5 * (z[0] / 2) ** 2 - 0.5 * (z[1] - 0.6 * (z[0] ** 2 - 4)) ** 2 - 0.5 * jnp.sum(z[2:] ** 2)

    variance = np.array([4, 1 + 2 * 0.36 * 16, 1, 1, 1, 1])
    return Case(lb.LogDensity(density, {"x": real(6)}), None, {"x": (np.full(6, 5.0), np.sqrt(turn**2 @ variance))})


@target()
def ring() -> Case:
    """Density exp(-(r - 4)²/(2·0.4²)) in the plane: Var x = E r²/2, r having density r exp(…)."""

    def density(x):
        return -0.5 * ((jnp.sqrt(jnp.sum(x**2) + 1e-12) - 4) / 0.4) ** 2

    r = np.linspace(0.01, 9, 20_001)
    square, _ = moments(np.log(r) - 0.5 * ((r - 4) / 0.4) ** 2, r**2)
    return Case(lb.LogDensity(density, {"x": real(2)}), None, {"x": (np.zeros(2), np.full(2, np.sqrt(square / 2)))})


def student(df: float, k: int) -> Case:
    """k independent Student t's. The fourth moment is infinite for df <= 4, and the sd of 4,000 exact draws with
    df = 3 is off by tens of per cent now and then, so asinh x is compared too low a df; its moments by quadrature
    in u = asinh x, where the density is t(sinh u) cosh u."""
    location, scale = np.linspace(-2, 6, k), np.linspace(0.5, 4, k)

    @unobserved
    def model():
        numpyro.sample("x", dist.StudentT(df, location, scale).to_event(1))

    if df > 4:
        return Case(model, None, {"x": (location, scale * np.sqrt(df / (df - 2)))})
    u = np.linspace(-18, 18, 20_001)
    mean, sd = moments(stats.t(df).logpdf(np.sinh(u)) + np.log(np.cosh(u)), u)
    return Case(
        model,
        None,
        {"asinh x": (np.full(k, mean), np.full(k, sd))},
        views={"asinh x": lambda d: np.arcsinh((d["x"] - location) / scale)},
    )


target(name="student_3")(partial(student, 3.0, 3))
target(name="student_5")(partial(student, 5.0, 4))


@target()
def student_multivariate() -> Case:
    """Eight dimensions, 6 degrees of freedom, one common tail: covariance Sigma · 6/4."""
    rng = np.random.default_rng(22)
    root = np.tril(rng.normal(size=(8, 8)), -1) + np.diag(np.linspace(1, 3, 8))
    location = rng.normal(0, 10, 8)

    @unobserved
    def model():
        numpyro.sample("x", dist.MultivariateStudentT(6.0, location, root))

    return Case(model, None, {"x": (location, np.sqrt(np.diag(root @ root.T) * 1.5))})


@target()
def laplace() -> Case:
    """Double exponentials: sd √2 scale; the density has a kink at its mode."""
    location, scale = np.array([0.0, 3.0, -40.0]), np.array([1.0, 0.1, 15.0])

    @unobserved
    def model():
        numpyro.sample("x", dist.Laplace(location, scale).to_event(1))

    return Case(model, None, {"x": (location, np.sqrt(2) * scale)})


@target()
def quartic() -> Case:
    """exp(-Σ x⁴) in ten dimensions, lighter tails than any Gaussian: Var x = Γ(3/4)/Γ(1/4)."""
    model = lb.LogDensity(lambda x: -jnp.sum(x**4), {"x": real(10)})
    sd = np.sqrt(special.gamma(0.75) / special.gamma(0.25))
    return Case(model, None, {"x": (np.zeros(10), np.full(10, sd))})


@target()
def gumbel() -> Case:
    """Twenty skewed coordinates: mean location + 0.5772 scale, sd π/√6 scale."""
    location, scale = np.linspace(-5, 5, 20), np.geomspace(0.01, 100, 20)

    @unobserved
    def model():
        numpyro.sample("x", dist.Gumbel(location, scale).to_event(1))

    return Case(model, None, {"x": (location + np.euler_gamma * scale, np.pi / np.sqrt(6) * scale)})


def conditioned(p: int, condition: float, seed: int) -> Case:
    """A Gaussian with variances spread evenly in the logarithm over ``condition``, along random axes."""
    turn, variance = rotation(p, seed), np.geomspace(1e-2, 1e-2 * condition, p)
    mean = np.random.default_rng(seed).normal(0, 3, p)
    whiten = turn.T / np.sqrt(variance)[:, None]

    def density(x, mean, whiten):
        return -0.5 * jnp.sum((whiten @ (x - mean)) ** 2)

    model = lb.LogDensity(density, {"x": real(p)})
    return Case(model, {"mean": mean, "whiten": whiten}, {"x": (mean, np.sqrt(turn**2 @ variance))})


target(name="gaussian_50_condition_1e10")(partial(conditioned, 50, 1e10, 23))
target(name="gaussian_200_condition_1e4")(partial(conditioned, 200, 1e4, 24))
target(name="gaussian_8_condition_1e6")(partial(conditioned, 8, 1e6, 25))
