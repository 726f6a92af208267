"""Log densities with declared supports, in every way that a function may take its latents and data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import lowerbound as lb
from tests.model.compare import log_densities, points

Y = np.array([0.3, -1.2, 2.5, 0.7])
SITES = {"mu": lb.Site(constraints.real, (2,)), "sigma": lb.Site(constraints.positive)}


def value(mu, sigma, y, scale=1.0):
    prior = -0.5 * jnp.sum(mu**2) - sigma / scale
    return prior + dist.Normal(mu.sum(), sigma).log_prob(y).sum()


def by_name(mu, sigma, y):
    return value(mu, sigma, y)


def in_another_order(y, sigma, mu):
    return value(mu, sigma, y)


def keywords_only(*, sigma, mu, y):
    return value(mu, sigma, y)


def one_dictionary(latents, y):
    return value(latents["mu"], latents["sigma"], y)


def two_dictionaries(latents, data):
    return value(latents["mu"], latents["sigma"], data["y"])


def positional_only(latents, data, /):
    return value(latents["mu"], latents["sigma"], data["y"])


def with_default(mu, sigma, y, scale=1.0):
    return value(mu, sigma, y, scale)


def collected(**everything):
    return value(**everything)


def sites_then_collected(mu, sigma, **data):
    return value(mu, sigma, **data)


class Density:
    def __call__(self, mu, sigma, y):
        return value(mu, sigma, y)

    def method(self, mu, sigma, y):
        return value(mu, sigma, y)


@pytest.mark.parametrize(
    "fn",
    [
        by_name,
        in_another_order,
        keywords_only,
        one_dictionary,
        two_dictionaries,
        positional_only,
        with_default,
        collected,
        sites_then_collected,
        Density(),
        Density().method,
        jax.jit(by_name),
        functools.partial(with_default, scale=1.0),
        lambda latents, y: value(y=y, **latents),
    ],
)
def test_calling_conventions(fn):
    model = lb.Model.from_log_density(lb.LogDensity(fn, SITES), {"y": Y})
    x = points(model)
    mu, sigma = x[:, :2], np.exp(x[:, 2])
    expected = [
        -0.5 * (m**2).sum()
        - s
        - 0.5 * (((Y - m.sum()) / s) ** 2).sum()
        - 4 * np.log(s)
        - 2 * np.log(2 * np.pi)
        + np.log(s)
        for m, s in zip(mu, sigma, strict=True)
    ]
    np.testing.assert_allclose(log_densities(model, x), expected, rtol=1e-12)


def test_data_override_a_default():
    model = lb.Model.from_log_density(lb.LogDensity(with_default, SITES), {"y": Y, "scale": 4.0})
    other = lb.Model.from_log_density(lb.LogDensity(with_default, SITES), {"y": Y})
    x = points(model)
    sigma = np.exp(x[:, 2])
    np.testing.assert_allclose(log_densities(model, x) - log_densities(other, x), 0.75 * sigma)


def test_data_in_the_closure():
    model = lb.Model.from_log_density(lb.LogDensity(lambda mu, sigma: value(mu, sigma, Y), SITES))
    other = lb.Model.from_log_density(lb.LogDensity(by_name, SITES), {"y": Y})
    x = points(model)
    np.testing.assert_allclose(log_densities(model, x), log_densities(other, x), rtol=1e-12)


@pytest.mark.parametrize("shape", [3, (3,), [3]])
def test_forms_of_a_shape(shape):
    model = lb.Model.from_log_density(lb.LogDensity(lambda x: -jnp.sum(x**2), {"x": lb.Site(constraints.real, shape)}))
    assert model.sites["x"].shape == (3,)


def test_numpy_functions_of_data_fall_back_to_constants():
    def fn(mu, t):
        return -0.5 * ((mu - np.diff(t).mean()) ** 2)

    posterior = lb.fit(lb.LogDensity(fn, {"mu": lb.Site()}), {"t": np.array([0.0, 1.0, 5.0])})
    np.testing.assert_allclose(posterior.mean()["mu"], 2.5, rtol=1e-9)


def test_a_python_number_is_not_asked_to_be_an_array():
    """Weakly typed results are scalars too."""
    posterior = lb.fit(lb.LogDensity(lambda mu: -0.5 * mu * mu, {"mu": lb.Site()}))
    np.testing.assert_allclose(posterior.sd()["mu"], 1.0, rtol=1e-9)


def test_the_same_density_gives_the_same_posterior():
    def model(y):
        sigma = numpyro.sample("sigma", dist.Gamma(2.0, 1.0))
        mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)

    def density(sigma, mu, y):
        prior = dist.Gamma(2.0, 1.0).log_prob(sigma) + dist.Normal(0.0, 3.0).log_prob(mu)
        return prior + dist.Normal(mu, sigma).log_prob(y).sum()

    a = lb.fit(model, {"y": Y})
    b = lb.fit(lb.LogDensity(density, {"sigma": lb.Site(constraints.positive), "mu": lb.Site()}), {"y": Y})
    assert a.sites == b.sites
    assert a.verdict.status is b.verdict.status
    for name in a.sites:
        np.testing.assert_allclose(a.mean()[name], b.mean()[name], rtol=1e-6)
        np.testing.assert_allclose(a.sd()[name], b.sd()[name], rtol=1e-6)
    np.testing.assert_allclose(a.elbo.value, b.elbo.value, rtol=1e-6)


def test_arrays_that_a_float32_program_has_met_are_float64_here():
    """JAX keeps a converted copy of an array that a program closes over, and hands it out again by identity."""
    x = np.linspace(-1.0, 1.0, 7)[:, None]
    jax.jit(lambda w: (x @ w).sum())(np.ones(1, np.float32))
    sites = {"w": lb.Site(constraints.real, (1,))}
    as_data = lb.LogDensity(lambda w, x: -0.5 * jnp.sum((x @ w - 0.1) ** 2), sites)
    closed = lb.LogDensity(lambda w: -0.5 * jnp.sum((jnp.asarray(x) @ w - 0.1) ** 2), sites)
    for found in (lb.fit(as_data, {"x": x}), lb.fit(closed)):
        np.testing.assert_allclose(found.sd()["w"], 1 / np.sqrt((x**2).sum()), rtol=1e-6)
