"""Regressions and other models of rows, as people write them; moments stored where they have no closed form."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import special

from benchmarks.trust.quadrature import box, moments
from benchmarks.trust.target import Case, target


@target()
def logistic_separable_wide_prior() -> Case:
    """A line separates the classes; N(0, 10²) priors make it proper and very skewed. Quadrature over both."""
    rng = np.random.default_rng(101)
    x = rng.normal(size=24)
    y = (x > -0.1).astype(float)

    def model(x, y):
        a = numpyro.sample("a", dist.Normal(0, 10))
        b = numpyro.sample("b", dist.Normal(0, 10))
        numpyro.sample("y", dist.Bernoulli(logits=a + b * x), obs=y)

    a, b = box(np.linspace(-50, 50, 701), np.linspace(-10, 60, 701))
    log_density = -(a**2 + b**2) / 200
    for xi, yi in zip(x, y, strict=True):
        log_density += special.log_expit((2 * yi - 1) * (a + b * xi))
    truth = {"a": moments(log_density, a), "b": moments(log_density, b)}
    return Case(model, {"x": x, "y": y}, truth)


@target()
def logistic_few_rows() -> Case:
    """Nine rows, N(0, 3) priors: skewed. Quadrature over both."""
    x, y = np.linspace(-2, 2, 9), np.array([0, 0, 0, 1, 0, 1, 1, 1, 1.0])

    def model(x, y):
        beta = numpyro.sample("beta", dist.Normal(0, 3).expand([2]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=beta[0] + beta[1] * x), obs=y)

    a, b = box(np.linspace(-15, 15, 601), np.linspace(-10, 20, 601))
    log_density = -(a**2 + b**2) / 18
    for xi, yi in zip(x, y, strict=True):
        log_density += special.log_expit((2 * yi - 1) * (a + b * xi))
    return Case(model, {"x": x, "y": y}, {"beta": moments(log_density, np.stack([a, b], 1))})


def logistic(rows: int, columns: int, seed: int) -> Case:
    """Dense design, N(0, 1) priors. The truth is sampled in beta = centre + root u, root rootᵀ the inverse Hessian at
    the mode, where the posterior is close to a standard Gaussian."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns)) * (2 / np.sqrt(columns))
    y = (rng.uniform(size=rows) < special.expit(0.3 + x @ rng.normal(size=columns))).astype(float)
    x[:, 0] = 1.0

    def model(x, y):
        beta = numpyro.sample("beta", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)

    centre = np.zeros(columns)
    for _ in range(30):  # Newton
        p = special.expit(x @ centre)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.eye(columns)
        centre = centre + np.linalg.solve(hessian, x.T @ (y - p) - centre)
    root = np.linalg.inv(np.linalg.cholesky(hessian)).T

    def reference(x, y):
        u = numpyro.sample("u", dist.ImproperUniform(dist.constraints.real_vector, (), (columns,)))
        beta = numpyro.deterministic("beta", centre + root @ u)
        numpyro.factor("prior", -0.5 * jnp.sum(beta**2))
        numpyro.factor("likelihood", jnp.sum(jax.nn.log_sigmoid((2 * y - 1) * (x @ beta))))

    return Case(model, {"x": x, "y": y}, reference=reference, compared=("beta",))


target(name="logistic_100_columns")(partial(logistic, 1000, 100, 102))
target(name="logistic_1000_columns")(partial(logistic, 5000, 1000, 103))


def horseshoe(rows: int, columns: int, seed: int) -> Case:
    """beta_j ~ N(0, (lambda_j tau)²), half-Cauchy lambda_j and tau, unit noise.

    lambda_j has a posterior with tail lambda⁻³ and no variance, so log lambda and log tau are compared. The truth is by
    the exact Gibbs sampler of Makalic and Schmidt (2016), on lambda_j² | nu_j ~ InvGamma(1/2, 1/nu_j).
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns))
    effect = np.zeros(columns)
    effect[:3] = 3.0, -2.0, 1.0
    y = x @ effect + rng.normal(size=rows)

    def model(x, y):
        tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
        scale = numpyro.sample("lambda", dist.HalfCauchy(1.0).expand([x.shape[1]]).to_event(1))
        z = numpyro.sample("z", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
        beta = numpyro.deterministic("beta", z * scale * tau)
        numpyro.sample("y", dist.Normal(x @ beta, 1.0), obs=y)

    def chain(rng, burn: int, keep: int, thin: int):
        squares, aux, tau2, tau_aux = np.ones(columns), np.ones(columns), 1.0, 1.0
        gram, right = x.T @ x, x.T @ y
        out = {"beta": np.empty((keep, columns)), "lambda": np.empty((keep, columns)), "tau": np.empty(keep)}
        for i in range(burn + keep * thin):
            root = np.linalg.cholesky(gram + np.diag(1 / (squares * tau2)))
            half = np.linalg.solve(root, right)
            beta = np.linalg.solve(root.T, half + rng.normal(size=columns))
            squares = (1 / aux + beta**2 / (2 * tau2)) / rng.exponential(size=columns)
            aux = (1 + 1 / squares) / rng.exponential(size=columns)
            tau2 = (1 / tau_aux + (beta**2 / squares).sum() / 2) / rng.gamma((columns + 1) / 2)
            tau_aux = (1 + 1 / tau2) / rng.exponential()
            if i >= burn and (i - burn) % thin == 0:
                at = (i - burn) // thin
                out["beta"][at], out["lambda"][at], out["tau"][at] = beta, np.sqrt(squares), np.sqrt(tau2)
        return out

    def reference(rng):
        runs = [chain(r, 5_000, 15_000, 6) for r in rng.spawn(4)]
        return {k: np.stack([r[k] for r in runs]) for k in runs[0]}

    return Case(
        model,
        {"x": x, "y": y},
        reference=reference,
        views={"log lambda": lambda d: np.log(d["lambda"]), "log tau": lambda d: np.log(d["tau"])},
        compared=("beta", "log lambda", "log tau"),
    )


target(name="horseshoe_8_of_40_rows")(partial(horseshoe, 40, 8, 104))
target(name="horseshoe_60_of_30_rows")(partial(horseshoe, 30, 60, 105))


@target()
def student_noise() -> Case:
    """Robust line with three outliers in 40 rows, Student t noise with 3 degrees of freedom, sigma unknown: a grid."""
    rng = np.random.default_rng(106)
    x = rng.uniform(0, 10, 40)
    y = 2 - 0.7 * x + rng.normal(0, 0.6, 40)
    y[[3, 17, 31]] += [12, -9, 15]

    def model(x, y):
        a = numpyro.sample("a", dist.Normal(0, 20))
        b = numpyro.sample("b", dist.Normal(0, 20))
        sigma = numpyro.sample("sigma", dist.HalfNormal(5))
        numpyro.sample("y", dist.StudentT(3.0, a + b * x, sigma), obs=y)

    return Case(model, {"x": x, "y": y}, reference=model)


@target()
def zero_inflated_poisson() -> Case:
    """Counts with too many zeros, 50 rows; few of the zeros can be told apart. A grid."""
    rng = np.random.default_rng(107)
    y = np.where(rng.uniform(size=50) < 0.4, 0, rng.poisson(1.4, 50)).astype(float)

    def model(y):
        gate = numpyro.sample("gate", dist.Beta(1, 1))
        rate = numpyro.sample("rate", dist.Gamma(1, 0.2))
        numpyro.sample("y", dist.ZeroInflatedPoisson(gate, rate), obs=y)

    return Case(model, {"y": y}, reference=model)


@target()
def truncated_data() -> Case:
    """Only what lies above 1 was recorded, of a normal about 0: long tail of mean and sd together. A grid."""
    draws = np.random.default_rng(108).normal(0.2, 1.3, 200)

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 3))
        sigma = numpyro.sample("sigma", dist.HalfNormal(3))
        numpyro.sample("y", dist.TruncatedNormal(mu, sigma, low=1.0), obs=y)

    return Case(model, {"y": draws[draws > 1]}, reference=model)


@target()
def censored_weibull() -> Case:
    """Lifetimes in hours, a third of them still running at 4,000: shape and scale by a grid."""
    life = 5000 * np.random.default_rng(109).weibull(1.6, 30)

    def model(time, ended):
        shape = numpyro.sample("shape", dist.LogNormal(0, 1))
        scale = numpyro.sample("scale", dist.LogNormal(8, 2))
        hazard = jnp.log(shape / scale) + (shape - 1) * jnp.log(time / scale)
        numpyro.factor("likelihood", jnp.sum(ended * hazard - (time / scale) ** shape))

    return Case(model, {"time": np.minimum(life, 4000), "ended": (life < 4000).astype(float)}, reference=model)


@target()
def change_point() -> Case:
    """A step of unknown time and height, as a steep logistic; noise known. A grid over the three."""
    rng = np.random.default_rng(110)
    t = np.linspace(0, 10, 60)
    y = 1 + 0.8 * special.expit(4 * (t - 6.3)) + rng.normal(0, 0.5, 60)

    def model(t, y):
        level = numpyro.sample("level", dist.Normal(0, 5))
        step = numpyro.sample("step", dist.HalfNormal(2))
        when = numpyro.sample("when", dist.Uniform(0, 10))
        numpyro.sample("y", dist.Normal(level + step * jax.nn.sigmoid(4 * (t - when)), 0.5), obs=y)

    return Case(model, {"t": t, "y": y}, reference=model)


@target()
def exponential_decay() -> Case:
    """y = a e^(-k t) + noise of unknown size, sampled late, so that a and k trade off: a grid."""
    rng = np.random.default_rng(111)
    t = np.linspace(1.5, 6, 14)
    y = 8 * np.exp(-0.8 * t) + rng.normal(0, 0.25, 14)

    def model(t, y):
        a = numpyro.sample("a", dist.HalfNormal(20))
        k = numpyro.sample("k", dist.LogNormal(0, 1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1))
        numpyro.sample("y", dist.Normal(a * jnp.exp(-k * t), sigma), obs=y)

    return Case(model, {"t": t, "y": y}, reference=model)


@target()
def poisson_exposures() -> Case:
    """Counts over exposures of three decades, five columns, raw units (age in years, income in currency)."""
    rng = np.random.default_rng(112)
    age, income, ill = rng.uniform(20, 80, 70), rng.lognormal(10, 0.5, 70), rng.integers(0, 2, 70)
    exposure = rng.lognormal(6, 2, 70)
    rate = np.exp(-7 + 0.03 * age - 1e-5 * income + 0.5 * ill)
    x = np.stack([np.ones(70), age, income, ill.astype(float)], 1)
    prior = np.array([10.0, 1.0, 1e-3, 2.0])

    def model(x, exposure, y):
        beta = numpyro.sample("beta", dist.Normal(0, prior).to_event(1))
        numpyro.sample("y", dist.Poisson(exposure * jnp.exp(x @ beta)), obs=y)

    scale = np.array([0.3, 0.01, 1e-5, 0.3])  # of the posterior, roughly, for the sampler
    middle = np.array([0, 50.0, 25_000.0, 0])

    def reference(x, exposure, y):
        u = numpyro.sample("u", dist.ImproperUniform(dist.constraints.real_vector, (), (4,)))
        slopes = u * scale
        beta = slopes.at[0].set(slopes[0] - 7 - slopes @ middle)  # Jacobian constant
        beta = numpyro.deterministic("beta", beta)
        numpyro.factor("prior", -0.5 * jnp.sum((beta / prior) ** 2))
        numpyro.sample("y", dist.Poisson(exposure * jnp.exp(x @ beta)), obs=y)

    data = {"x": x, "exposure": exposure, "y": rng.poisson(exposure * rate).astype(float)}
    return Case(model, data, reference=reference, compared=("beta",))


@target()
def negative_binomial() -> Case:
    """Overdispersed counts, one slope, concentration nearly Poisson, so that it has a long tail: a grid."""
    rng = np.random.default_rng(113)
    x = rng.normal(size=35)
    y = rng.poisson(np.exp(1 + 0.4 * x) * rng.gamma(6, 1 / 6, 35)).astype(float)

    def model(x, y):
        a = numpyro.sample("a", dist.Normal(0, 3))
        b = numpyro.sample("b", dist.Normal(0, 3))
        size = numpyro.sample("size", dist.Gamma(2, 0.1))
        numpyro.sample("y", dist.NegativeBinomial2(jnp.exp(a + b * x), size), obs=y)

    return Case(model, {"x": x, "y": y}, reference=model)


@target()
def ordered_logit() -> Case:
    """Four answers, ordered cut points, one slope."""
    rng = np.random.default_rng(114)
    x = rng.normal(size=80)
    y = (1.2 * x + rng.logistic(size=80))[:, None] > np.array([-1.5, 0.2, 2.5])

    def model(x, y):
        slope = numpyro.sample("slope", dist.Normal(0, 2))
        cut = numpyro.sample(
            "cut",
            dist.TransformedDistribution(dist.Normal(0, 3).expand([3]).to_event(1), dist.transforms.OrderedTransform()),
        )
        numpyro.sample("y", dist.OrderedLogistic(slope * x, cut), obs=y)

    return Case(model, {"x": x, "y": y.sum(1)}, reference=model)
