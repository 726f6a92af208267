"""Several modes: far apart and overlapping, equal and not, and a mixture model whose labels may be switched."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp

import lowerbound as lb
from benchmarks.trust.quadrature import box, moments
from benchmarks.trust.shapes import real
from benchmarks.trust.target import Case, target


def spherical(weight: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> Case:
    """Σ w_k N(mean_k, scale_k² I) ``[k, p]``: Var x = Σ w_k (scale_k² + (mean_k - mean)²)."""
    p = mean.shape[1]

    def density(x, weight, mean, scale):
        return logsumexp(jnp.log(weight) - p * jnp.log(scale) - 0.5 * jnp.sum((x - mean) ** 2, 1) / scale**2)

    overall = weight @ mean
    sd = np.sqrt(weight @ (scale[:, None] ** 2 + (mean - overall) ** 2))
    data = {"weight": weight, "mean": mean, "scale": scale}
    return Case(lb.LogDensity(density, {"x": real(p)}), data, {"x": (overall, sd)})


def pair(p: int, distance: float, weight: float, scales: tuple[float, float], centre: float, seed: int) -> Case:
    """Two modes ``distance`` apart in a random direction about a centre away from the origin."""
    direction = np.random.default_rng(seed).normal(size=p)
    direction *= distance / np.linalg.norm(direction)
    mean = centre + np.stack([-direction / 2, direction / 2])
    return spherical(np.array([weight, 1 - weight]), mean, np.array(scales))


target(name="modes_2d_apart_7_equal")(partial(pair, 2, 7.0, 0.5, (1.0, 1.0), 0.0, 41))
target(name="modes_2d_apart_18_unequal")(partial(pair, 2, 18.0, 0.2, (1.0, 1.0), 4.0, 42))
target(name="modes_2d_near_3")(partial(pair, 2, 3.0, 0.4, (1.0, 1.0), -2.0, 43))
target(name="modes_2d_scales_differ")(partial(pair, 2, 9.0, 0.6, (0.3, 2.0), 1.0, 44))
target(name="modes_10d_apart_6_equal")(partial(pair, 10, 6.0, 0.5, (1.0, 1.0), 0.0, 45))
target(name="modes_10d_apart_12_unequal")(partial(pair, 10, 12.0, 0.3, (1.0, 1.0), 7.0, 46))
target(name="modes_10d_scales_differ")(partial(pair, 10, 8.0, 0.5, (0.6, 1.4), -3.0, 47))
target(name="modes_10d_near_2_5")(partial(pair, 10, 2.5, 0.7, (1.0, 1.0), 2.0, 48))
target(name="modes_10d_near_4")(partial(pair, 10, 4.0, 0.5, (1.0, 1.2), 0.0, 49))


@target()
def three_modes_2d() -> Case:
    """A triangle of three, weights 0.5, 0.3, 0.2 and three scales, far from the origin."""
    mean = np.array([[20.0, 10.0], [27.0, 12.0], [22.0, 17.0]])
    return spherical(np.array([0.5, 0.3, 0.2]), mean, np.array([1.0, 0.6, 1.3]))


@target()
def three_modes_10d() -> Case:
    """Three modes in random directions, distances 7 to 11."""
    mean = np.random.default_rng(50).normal(0, 2.0, (3, 10))
    return spherical(np.array([0.45, 0.35, 0.2]), mean, np.array([1.0, 1.0, 0.8]))


@target()
def spike_and_slab() -> Case:
    """0.3 N(0, 0.05²) + 0.7 N(0, 2²) in each of three coordinates; E x = 0, Var x = 0.3·0.05² + 0.7·4."""

    def model():
        parts = dist.Normal(jnp.zeros((3, 2)), jnp.array([0.05, 2.0]))
        numpyro.sample(
            "x", dist.MixtureSameFamily(dist.Categorical(probs=jnp.full((3, 2), jnp.array([0.3, 0.7]))), parts)
        )

    return Case(model, None, {"x": (np.zeros(3), np.full(3, np.sqrt(0.3 * 0.05**2 + 0.7 * 4)))})


@target()
def crossed_cigars() -> Case:
    """Two Gaussians at one place, correlations +0.97 and -0.97: margins are standard normals, uncorrelated."""

    def model():
        roots = np.array([[[1, 0], [r, np.sqrt(1 - r * r)]] for r in (0.97, -0.97)])
        parts = dist.MultivariateNormal(jnp.zeros((2, 2)), scale_tril=jnp.asarray(roots))
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(probs=jnp.array([0.5, 0.5])), parts))

    return Case(model, None, {"x": (np.zeros(2), np.ones(2))})


@target()
def labels_switch() -> Case:
    """Two components with unit sds and unknown means and share, priors exchangeable: modes (mu1, mu2, w) and
    (mu2, mu1, 1 - w). By quadrature over the three."""
    rng = np.random.default_rng(51)
    y = np.where(rng.uniform(size=40) < 0.35, rng.normal(-1.5, 1, 40), rng.normal(2.0, 1, 40))

    def model(y):
        share = numpyro.sample("share", dist.Beta(2.0, 2.0))
        mu = numpyro.sample("mu", dist.Normal(0, 4).expand([2]).to_event(1))
        parts = dist.Normal(mu, 1.0)
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(probs=jnp.stack([share, 1 - share])), parts), obs=y)

    grid, w = np.linspace(-5, 5, 141), np.linspace(0.005, 0.995, 100)
    lik = np.exp(-0.5 * (y - grid[:, None]) ** 2)
    total = np.log(w)[:, None, None] + np.log1p(-w)[:, None, None] - (grid[:, None] ** 2 + grid**2) / 32
    for row in lik.T:
        total = total + np.log(w[:, None, None] * row[:, None] + (1 - w)[:, None, None] * row)
    share, first, second = box(w, grid, grid)
    mu = moments(total.ravel(), np.stack([first, second], 1))
    return Case(model, {"y": y}, {"share": moments(total.ravel(), share), "mu": mu})


@target()
def sign_unknown() -> Case:
    """Only the square of x is seen: y ~ N(x², 0.5), x ~ N(0, 2). Two modes, at ±√y; by quadrature."""

    def model(y):
        x = numpyro.sample("x", dist.Normal(0, 2))
        numpyro.sample("y", dist.Normal(x**2, 0.5), obs=y)

    u = np.linspace(-8, 8, 40_001)
    return Case(model, {"y": 4.0}, {"x": moments(-(u**2) / 8 - 2 * (4 - u**2) ** 2, u)})


@target()
def product_pair() -> Case:
    """Only the product is seen: y ~ N(a b, 0.4), a, b ~ N(0, 1.5): two curved modes. By quadrature on a grid."""

    def model(y):
        a = numpyro.sample("a", dist.Normal(0, 1.5))
        b = numpyro.sample("b", dist.Normal(0, 1.5))
        numpyro.sample("y", dist.Normal(a * b, 0.4), obs=y)

    axis = np.linspace(-9, 9, 1801)
    a, b = box(axis, axis)
    log_density = -(a**2 + b**2) / 4.5 - (2 - a * b) ** 2 / 0.32
    return Case(model, {"y": 2.0}, {"a": moments(log_density, a), "b": moments(log_density, b)})
