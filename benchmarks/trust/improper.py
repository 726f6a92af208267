"""No posterior, or one without moments: whatever is reported, it must not be trusted."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

import lowerbound as lb
from benchmarks.trust.shapes import real
from benchmarks.trust.target import Case, target, unobserved


def flat(name, support=constraints.real, event=()):
    return numpyro.sample(name, dist.ImproperUniform(support, (), event))


def heavy(distribution) -> Case:
    @unobserved
    def model():
        numpyro.sample("x", distribution)

    return Case(model)


#: No mean at all, or no variance: the verdict must not vouch for a mean and sd.
target("no_moments", name="cauchy")(partial(heavy, dist.Cauchy(2.0, 1.5)))
target("no_moments", name="cauchy_6d")(partial(heavy, dist.Cauchy(np.zeros(6), np.ones(6)).to_event(1)))
target("no_moments", name="student_1_5")(partial(heavy, dist.StudentT(1.5, np.zeros(2), np.ones(2)).to_event(1)))
target("no_moments", name="half_cauchy")(partial(heavy, dist.HalfCauchy(3.0)))
target("no_moments", name="pareto_1_5")(partial(heavy, dist.Pareto(1.0, 1.5)))
target("no_moments", name="inverse_gamma_1_5")(partial(heavy, dist.InverseGamma(1.5, 2.0)))


@target("no_moments")
def cauchy_among_normals() -> Case:
    """Nineteen normal coordinates and a Cauchy one, of which nothing is seen."""

    @unobserved
    def model():
        numpyro.sample("z", dist.Normal(0, 1).expand([19]).to_event(1))
        numpyro.sample("w", dist.Cauchy(0.0, 1.0))

    return Case(model)


@target("no_moments")
def cauchy_location_one_row() -> Case:
    """A flat prior and one row with Cauchy noise: the posterior is that Cauchy."""

    def model(y):
        mu = flat("mu")
        numpyro.sample("y", dist.Cauchy(mu, 1.0), obs=y)

    return Case(model, {"y": 3.0})


@target("improper")
def parameter_without_data() -> Case:
    """``idle`` has a flat prior and appears nowhere."""

    def model(y):
        mu = flat("mu")
        flat("idle")
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    return Case(model, {"y": np.array([1.0, 2.5, 0.3])})


@target("improper")
def positive_parameter_without_data() -> Case:
    """The same, on the positive half-line."""

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        flat("idle", constraints.positive)
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    return Case(model, {"y": np.array([1.0, 2.5, 0.3])})


@target("improper")
def only_the_sum() -> Case:
    """Two flat parameters of which only the sum is seen."""

    def model(y):
        a, b = flat("a"), flat("b")
        numpyro.sample("y", dist.Normal(a + b, 0.5), obs=y)

    return Case(model, {"y": np.array([4.0, 3.0, 5.0, 4.4])})


@target("improper")
def only_differences() -> Case:
    """Five levels known by their differences: exp(-Σ (x_i - x_j - d_ij)²) does not change when all are moved."""

    def density(x, d):
        return -0.5 * jnp.sum((x[:, None] - x - d) ** 2)

    level = np.array([0.0, 1.0, -2.0, 0.5, 3.0])
    return Case(lb.LogDensity(density, {"x": real(5)}), {"d": level[:, None] - level})


@target("improper")
def dummies_and_intercept() -> Case:
    """A regression with an intercept and one dummy for each of three groups, flat priors."""
    rng = np.random.default_rng(91)
    group = rng.integers(0, 3, 50)

    def model(group, y):
        a, b = flat("intercept"), flat("effect", constraints.real_vector, (3,))
        numpyro.sample("y", dist.Normal(a + b[group], 1.0), obs=y)

    return Case(model, {"group": group, "y": rng.normal(group, 1)})


@target("improper")
def flat_scale_two_rows() -> Case:
    """mu and sigma flat, two rows: with mu integrated out 1/sigma is left, which has no integral at infinity."""

    def model(y):
        mu, sigma = flat("mu"), flat("sigma", constraints.positive)
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)

    return Case(model, {"y": np.array([1.0, 2.0])})


@target("improper")
def inverse_tau_prior() -> Case:
    """Groups with prior 1/tau on their scale: the likelihood at tau = 0 is positive, so the integral diverges there."""

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        tau = flat("tau", constraints.positive)
        numpyro.factor("prior", -jnp.log(tau))
        theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([8]).to_event(1))
        numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)

    return Case(model, {"y": np.random.default_rng(92).normal(1, 1.1, 8)})


@target("improper")
def separable_logistic_flat() -> Case:
    """A line separates the classes and the prior is flat: the likelihood rises to 1 for ever."""
    rng = np.random.default_rng(93)
    x = np.stack([np.ones(30), rng.normal(size=30)], 1)

    def model(x, y):
        beta = flat("beta", constraints.real_vector, (2,))
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)

    return Case(model, {"x": x, "y": (x[:, 1] > 0.2).astype(float)})


@target("improper")
def one_class_logistic_flat() -> Case:
    """All outcomes are 1, an intercept with a flat prior: a plateau without end."""

    def model(y):
        a = flat("a")
        numpyro.sample("y", dist.Bernoulli(logits=a), obs=y)

    return Case(model, {"y": np.ones(12)})


@target("improper")
def mixture_flat_means() -> Case:
    """A mixture with flat means: where all rows belong to one component, the other's mean is free. Six rows that
    do not need two components, so that this has weight near the data too."""
    y = np.random.default_rng(94).normal([-1] * 3 + [1] * 3, 1)

    def model(y):
        mu = flat("mu", constraints.real_vector, (2,))
        numpyro.sample(
            "y", dist.MixtureSameFamily(dist.Categorical(probs=jnp.array([0.4, 0.6])), dist.Normal(mu, 1.0)), obs=y
        )

    return Case(model, {"y": y})


@target("improper")
def haldane() -> Case:
    """Prior 1/(p (1 - p)) and no success in 9 trials: p⁻¹ (1 - p)⁸ has no integral at zero."""

    def density(p):
        return -jnp.log(p) + 8 * jnp.log1p(-p)

    return Case(lb.LogDensity(density, {"p": lb.Site(constraints.unit_interval, ())}))


def plain(density, p: int, support=constraints.real) -> Case:
    return Case(lb.LogDensity(density, {"x": lb.Site(support, (p,))}))


target("improper", name="grows_as_square")(partial(plain, lambda x: jnp.sum(x**2) / 2, 3))
target("improper", name="grows_linearly")(partial(plain, lambda x: jnp.sum(0.5 * x), 2))
target("improper", name="saddle")(partial(plain, lambda x: -0.5 * x[0] ** 2 + 0.5 * x[1] ** 2, 2))
target("improper", name="constant")(partial(plain, lambda x: 0.0 * jnp.sum(x), 2))
target("improper", name="one_over_x")(partial(plain, lambda x: -jnp.sum(jnp.log(x)), 1, constraints.unit_interval))
target("improper", name="one_over_one_plus_x")(partial(plain, lambda x: -jnp.sum(jnp.log1p(jnp.abs(x))), 1))
target("improper", name="plateau_to_the_right")(partial(plain, lambda x: jnp.sum(jax.nn.log_sigmoid(4 * x)), 3))
target("improper", name="gaussian_on_a_shelf")(
    partial(plain, lambda x: jnp.logaddexp(-0.5 * jnp.sum(x**2), jnp.log(0.03)), 2)
)
target("improper", name="ridge_in_20d")(partial(plain, lambda x: -0.5 * jnp.sum((x - jnp.mean(x)) ** 2), 20))
