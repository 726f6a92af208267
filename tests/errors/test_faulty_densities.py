"""A density that is random, whose gradient is another's, or that is improper, ends as a named fault.

And honest densities that look a little like it do not.
"""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import lowerbound as lb
from lowerbound.diagnostics.density.improper import improper
from lowerbound.diagnostics.density.soundness import compare, faults, random_values
from lowerbound.errors import GradientError, ModelError, RandomDensityError, TrustWarning
from lowerbound.families import DenseGaussian
from lowerbound.kernel import Kernel
from lowerbound.model.given import as_model

ONE = {"x": lb.Site()}
TWO = {"x": lb.Site(), "z": lb.Site()}
THREE = {"x": lb.Site(constraints.real, (3,))}
stop = jax.lax.stop_gradient
state = np.random.default_rng(0)


# -- a gradient that is another function's ---------------------------------------------------------------


@jax.custom_jvp
def square(x):
    return x**2


square.defjvp(lambda primals, tangents: (primals[0] ** 2, 3 * primals[0] * tangents[0]))


@jax.custom_vjp
def quartic(x):
    return -0.25 * x**4


quartic.defvjp(lambda x: (quartic(x), x), lambda x, g: (-x * g,))


def likelihood_stopped(y):
    b = numpyro.sample("b", dist.Normal(0, 1).expand([3]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(stop(b.sum()), s), obs=y)


LIARS = {
    "custom_jvp": (lb.LogDensity(lambda x: -0.5 * jnp.sum(square(x)), THREE), None, "x"),
    "custom_vjp, one site of two": (lb.LogDensity(lambda x, z: quartic(x) - 0.5 * z**2, TWO), None, "x"),
    "stop_gradient on the likelihood": (likelihood_stopped, {"y": np.array([2.0, 3.0, 2.5])}, "b"),
    "one site beside 300 coordinates": (
        lb.LogDensity(
            lambda x, z: -0.5 * jnp.sum(x**2) - 0.5 * z**2 - 2 * stop((z - 3) ** 2),
            {"x": lb.Site(constraints.real, (300,)), "z": lb.Site()},
        ),
        None,
        "z",
    ),
    "raw units": (
        lb.LogDensity(lambda x: -0.6 * ((x - 1e6) / 1e-2) ** 2 + 0.1 * stop((x - 1e6) / 1e-2) ** 2, ONE),
        None,
        "x",
    ),
}


@pytest.mark.parametrize("model, data, site", LIARS.values(), ids=LIARS)
def test_a_gradient_that_lies_is_refused(model, data, site):
    with pytest.raises(GradientError, match=rf"in site\(s\) {site} it gives a slope of .*custom_jvp.*stop_gradient"):
        lb.fit(model, data)


def test_a_gradient_that_lies_only_where_the_posterior_is():
    # About the origin it is honest; five sd from there, where the posterior is, it is not.
    def fn(x):
        far = -0.5 * jnp.sum((x - 20) ** 2)
        return jnp.where(x.sum() > 30, 0.3 * far + 0.7 * stop(far), far)

    with pytest.warns(TrustWarning, match="the gradient is not that of the log density: in site.s. x"):
        posterior = lb.fit(lb.LogDensity(fn, THREE))
    assert posterior.verdict.status is lb.VerdictStatus.NOT_TRUSTED and posterior.verdict.fatal


def test_a_gradient_a_tenth_too_large_is_found_at_the_posterior():
    fn = lb.LogDensity(lambda x: -0.55 * jnp.sum(x**2) + 0.05 * stop(jnp.sum(x**2)), THREE)
    with pytest.warns(TrustWarning, match="the gradient is not that of the log density: in site.s. x it gives a slope"):
        lb.fit(fn)


def test_a_function_without_a_derivative():
    def fn(x):
        return (
            -0.5 * jax.pure_callback(lambda a: a, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="expand_dims") ** 2
        )

    with pytest.raises(ModelError, match=r"no gradient that JAX can compute.*custom_jvp"):
        lb.fit(lb.LogDensity(fn, ONE))
    with pytest.raises(ModelError, match=r"no gradient that JAX can compute.*while_loop has to become"):
        lb.fit(lb.LogDensity(lambda x: -jax.lax.while_loop(lambda c: c < 9, lambda c: c + x**2 + 1, x), ONE))


# -- honest ones that must not be taken for it --------------------------------------------------------------


def single(x):
    rows = jnp.linspace(-1, 1, 500, dtype=jnp.float32)
    return -0.5 * jnp.sum((rows * 3 - rows * x.astype(jnp.float32)) ** 2).astype(jnp.float64)


def euler(x):
    _, ys = jax.lax.scan(lambda s, _: (s - 0.1 * x**2 * s, s), 5.0, None, length=20)
    return -10 * jnp.sum((ys - 3.0) ** 2) - 0.5 * x**2


HONEST = {
    "kink at every mode": lambda x: -jnp.abs(x),
    "kinks": lambda x: -0.5 * x**2 - jax.nn.relu(10 * x - 3) - jax.nn.relu(-7 * x),
    "huber": lambda x: -jnp.where(jnp.abs(x) < 1, 0.5 * x**2, jnp.abs(x) - 0.5),
    "staircase": lambda x: -0.5 * x**2 - 0.05 * jnp.floor(20 * jnp.abs(x)),
    "single precision": single,
    "noise of a quadrature": lambda x: -0.5 * x**2 + stop(1e-8 * jnp.sin(1e7 * x)),
    "steps of an ODE": euler,
    "a large constant": lambda x: 1e8 - 0.5 * x**2,
    "sharp": lambda x: -0.5 * (x / 1e-6) ** 2,
    "far": lambda x: -0.5 * (x - 1e8) ** 2,
    "wide": lambda x: -0.5 * (x / 1e8) ** 2,
    "heavy tails": lambda x: -jnp.log1p(x**2),
    "very heavy tails": lambda x: -0.7 * jnp.log1p(x**2 / 0.4),
    "two scales": lambda x: jnp.logaddexp(-0.5 * x**2, -0.5 * (x / 1e3) ** 2 - 9),
}


@pytest.mark.parametrize("fn", HONEST.values(), ids=HONEST)
def test_honest_densities_pass(fn):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        verdict = lb.fit(lb.LogDensity(fn, ONE)).verdict
    for word in ("gradient is not", "improper", "same function"):
        assert word not in verdict.sentence


def test_a_vanishing_slope_is_not_a_wrong_one():
    kernel = Kernel(as_model(lb.LogDensity(lambda x: -1e-20 * x, ONE)))
    x = np.linspace(-1, 1, 8)[:, None]
    assert not compare(kernel, x, np.ones_like(x), 0.01)[0]


# -- random -------------------------------------------------------------------------------------------------


def noisy(scale, method="expand_dims"):
    @jax.custom_jvp
    def f(x):
        draw = lambda a: a + scale * state.normal(size=np.shape(a))  # noqa: E731
        return jax.pure_callback(draw, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method=method)

    f.defjvp(lambda primals, tangents: (f(*primals), tangents[0]))
    return f


def ordered_noise(x):
    @jax.custom_jvp
    def f(x):
        return jax.experimental.io_callback(lambda a: a * 0 + state.normal(), jax.ShapeDtypeStruct((), x.dtype), x)

    f.defjvp(lambda primals, tangents: (f(*primals), 0 * tangents[0]))
    return -0.5 * x**2 + f(x)


RANDOM = {
    "pure_callback": lambda x: -0.5 * noisy(0.1)(x) ** 2,
    "a little": lambda x: -0.5 * noisy(1e-5, "sequential")(x) ** 2,
    "io_callback": ordered_noise,
}


@pytest.mark.parametrize("fn", RANDOM.values(), ids=RANDOM)
def test_a_random_density_is_refused(fn):
    with pytest.raises(RandomDensityError, match=r"not the same function at every call: at the same point .*callback"):
        lb.fit(lb.LogDensity(fn, ONE))


def test_a_density_that_is_random_only_where_the_posterior_is():
    f = noisy(0.01)
    kernel = Kernel(as_model(lb.LogDensity(lambda x: -0.5 * jnp.where(x > 5, f(x) - 10, x - 10) ** 2, ONE)))
    assert random_values(kernel, np.zeros((4, 1))) == ""
    fault, advice = faults(kernel, DenseGaussian(np.array([10.0]), np.eye(1))) or ("", "")
    assert "not the same function" in fault and "callbacks" in advice


def test_random_numbers_drawn_while_tracing_are_constants():
    def model(y):
        x = numpyro.sample("x", dist.Normal(state.normal(), 1))
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    assert lb.fit(model, {"y": 1.0}).verdict.trusted


# -- improper -------------------------------------------------------------------------------------------------

Y = np.array([0.3, -1.2, 2.5, 0.7, -0.5, 0.1])
X = np.random.default_rng(0).normal(size=(20, 2))
UNIT = {"p": lb.Site(constraints.unit_interval)}


def flat_log_scale(y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    log_tau = numpyro.sample("log_tau", dist.ImproperUniform(constraints.real, (), ()))
    with numpyro.plate("n", len(y)):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu + z * jnp.exp(log_tau), 1), obs=y)


def haldane(y):
    p = numpyro.sample("p", dist.ImproperUniform(constraints.unit_interval, (), ()))
    numpyro.factor("prior", -jnp.log(p) - jnp.log1p(-p))
    numpyro.sample("y", dist.Binomial(5, p), obs=y)


def separable(x, y):
    b = numpyro.sample("b", dist.ImproperUniform(constraints.real, (), (2,)))
    numpyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)


def more_columns_than_rows(x, y):
    b = numpyro.sample("b", dist.ImproperUniform(constraints.real, (), (x.shape[1],)))
    numpyro.sample("y", dist.Normal(x @ b, 1), obs=y)


def singular_mixture(y):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    m = numpyro.sample("m", dist.Normal(0, 10).expand([2]).to_event(1))
    s = numpyro.sample("s", dist.ImproperUniform(constraints.positive, (), (2,)))
    numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(probs=w), dist.Normal(m, s)), obs=y)


IMPROPER = {
    "1 / p": (lb.LogDensity(lambda p: -jnp.log(p), UNIT), None, "does not fall off as p goes to 0", "p"),
    "Beta(0, 0)": (
        lb.LogDensity(lambda p: -jnp.log(p) - jnp.log1p(-p), UNIT),
        None,
        "does not fall off as p goes",
        "p",
    ),
    "Haldane, no successes": (haldane, {"y": np.array(0.0)}, "does not fall off as p goes to 0", "p"),
    "flat log scale": (flat_log_scale, {"y": Y}, "log_tau goes to -infinity", "log_tau"),
    "separable": (separable, {"x": X, "y": 1.0 * (X[:, 0] > 0)}, r"b\[0\] goes to \+infinity", "b"),
    "separable along no axis": (separable, {"x": X, "y": 1.0 * (X.sum(1) > 0)}, "does not fall off as b", "b"),
    "more columns than rows": (
        more_columns_than_rows,
        {"x": X[:2].T[:1].repeat(3, 1)[:, :3], "y": Y[:1]},
        "flat or improper",
        "b",
    ),
    "1 / (1 + |x|)": (lb.LogDensity(lambda x: -jnp.log1p(jnp.abs(x)), ONE), None, "x goes to .infinity", "x"),
    "1 / sqrt(1 + x^2)": (lb.LogDensity(lambda x: -0.5 * jnp.log1p(x**2), ONE), None, "x goes to .infinity", "x"),
    "exp(x^2 / 2)": (lb.LogDensity(lambda x: 0.5 * x**2, ONE), None, "rises without bound", "every latent"),
    "a mixture's empty component": (singular_mixture, {"y": Y}, r"s\[\d\] goes to infinity", ".*s.*"),
}


#: These take tens of seconds of walks along what has no end.
TEDIOUS = {"a mixture's empty component", "separable"}


@pytest.mark.parametrize(
    "model, data, pattern, site",
    [
        pytest.param(*v, marks=pytest.mark.slow, id=k) if k in TEDIOUS else pytest.param(*v, id=k)
        for k, v in IMPROPER.items()
    ],
)
def test_an_improper_posterior_is_never_an_answer(model, data, pattern, site):
    with pytest.warns(TrustWarning, match=rf"not an answer: .*{pattern}.*give {site} a proper prior"):
        posterior = lb.fit(model, data)
    assert posterior.verdict.status is lb.VerdictStatus.NOT_TRUSTED and posterior.verdict.fatal


def test_a_flat_prior_that_the_data_bound_is_proper():
    def model(y):
        mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
        s = numpyro.sample("s", dist.ImproperUniform(constraints.positive, (), ()))
        numpyro.sample("y", dist.Normal(mu, s), obs=y)

    assert lb.fit(model, {"y": Y}).verdict.trusted


def test_a_ray_is_one_sd_long_however_small_the_mean():
    # A mean of 1e-17 is no direction: along it nothing would ever fall off.
    kernel = Kernel(as_model(lb.LogDensity(lambda x: -0.5 * jnp.sum(x**2), THREE)))
    q = DenseGaussian(np.array([1e-17, -1e-18, 1e-17]), np.eye(3))
    rng = np.random.default_rng(0)
    assert improper(kernel, q, q.sample(rng, 256), rng) == []


def test_a_floor_too_low_to_hold_mass_is_let_pass():
    kernel = Kernel(as_model(lb.LogDensity(lambda x: jnp.logaddexp(-0.5 * x**2, -60.0), ONE)))
    q = DenseGaussian(np.zeros(1), np.eye(1))
    rng = np.random.default_rng(0)
    assert improper(kernel, q, q.sample(rng, 256), rng) == []
    kernel = Kernel(as_model(lb.LogDensity(lambda x: jnp.logaddexp(-0.5 * x**2, -10.0), ONE)))
    assert [t.sites for t in improper(kernel, q, q.sample(rng, 256), rng)] == [("x",)]


@pytest.mark.parametrize("seed", range(8))
def test_a_plateau_that_the_draws_cover_to_the_end_of_the_numbers(seed):
    """1/x on (0, 1) is flat in the log-odds down to -745, where x is 0: rays from far out end before they are long."""
    kernel = Kernel(as_model(lb.LogDensity(lambda x: -jnp.log(x), {"x": lb.Site(constraints.unit_interval)})))
    rng = np.random.default_rng(seed)
    draws = rng.uniform(-745, 0, (1024, 1))
    q = DenseGaussian(np.array([-370.0]), np.array([[215.0]]))
    assert [t.where for t in improper(kernel, q, draws, rng)] == ["x goes to 0"]


def test_a_wide_but_proper_scale_is_let_pass():
    """log x ~ N(0, 100²): its draws reach as far, and the density falls all the same."""
    kernel = Kernel(
        as_model(lb.LogDensity(lambda x: dist.LogNormal(0, 100).log_prob(x), {"x": lb.Site(constraints.positive)}))
    )
    rng = np.random.default_rng(0)
    q = DenseGaussian(np.zeros(1), np.array([[100.0]]))
    assert improper(kernel, q, q.sample(rng, 1024), rng) == []
