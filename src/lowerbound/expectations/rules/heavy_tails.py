r"""Student-t, Cauchy, half-Cauchy and Laplace: scale mixtures of normals, as bounds.

*Student-t*: x | w ~ N(mu, sigma / sqrt(w)), w ~ Gamma(nu/2, nu/2). With d^2 = (x - mu)^2 / sigma^2 the best q(w) is
Gamma((nu + 1)/2, (nu + E d^2)/2), and what is left of the expectation when w has been integrated out is

    log G((nu+1)/2) - log G(nu/2) - 1/2 log(nu pi) - E log sigma - (nu+1)/2 log(1 + E d^2 / nu):

Student's density with d^2 replaced by its expectation, below the truth by Jensen's inequality, since -log(1 + u) is
convex. The Cauchy is nu = 1; the half-Cauchy twice that, above zero.

*Laplace*: an exponential mixture of variances (Andrews & Mallows 1974). |d| <= (d^2 / c + c) / 2 for every c, the best
c = sqrt(E d^2):

    E log p = -log 2 - E log b - E|d|  >=  -log 2 - E log b - sqrt(E d^2),          d = (x - mu) / b.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.composed import value_of
from lowerbound.expectations.elementary import lgamma, log, power
from lowerbound.expectations.rules.base import Bound, LogProb, Parameters, rule
from lowerbound.expectations.values import Value, constant_of


def student(x: Value, df: Value, loc: Value, scale: Value, name: str) -> LogProb:
    """log Student(x | df, loc, scale), from below where x, loc or scale is random."""
    if df.random:
        raise NotClosedForm("random degrees of freedom")
    squared = power(x - loc, 2) * power(scale, -2)
    constant = lgamma((df + 1.0) * 0.5) - lgamma(df * 0.5) - log(df * math.pi) * 0.5
    value = constant - log(scale)
    if not squared.random:
        return LogProb(value + log(squared * power(df, -1) + 1.0) * (df + 1.0) * -0.5)
    nu = constant_of(df)
    if not nu.axes:
        number = nu.array

        def function(d2: jax.Array) -> jax.Array:
            return -0.5 * (number + 1) * jnp.log1p(d2 / number)

        return LogProb(value, (Bound(name, (squared,), function),))
    return LogProb(value, (Bound(name, (squared, df), _tail),))


def _tail(d2: jax.Array, nu: jax.Array) -> jax.Array:
    return -0.5 * (nu + 1) * jnp.log1p(d2 / nu)


@rule(dist.StudentT, parameters=("df", "loc", "scale"))
def student_t(p: Parameters, x: object) -> LogProb:
    return student(value_of(x), p.df, p.loc, p.scale, "gamma mixture of normals")


@rule(dist.Cauchy, parameters=("loc", "scale"))
def cauchy(p: Parameters, x: object) -> LogProb:
    return student(value_of(x), value_of(1.0), p.loc, p.scale, "gamma mixture of normals")


@rule(dist.HalfCauchy, parameters=("scale",))
def half_cauchy(p: Parameters, x: object) -> LogProb:
    """2 / (pi s (1 + x^2 / s^2)); in 1 / x^2 where that is the latent's statistic.

    -log(1 + x^2/s^2) = 2 log s - 2 log x - log(1 + s^2 x^-2): concave in log x and convex in x^-2, so that
    E -log(1 + s^2 x^-2) >= -log(1 + E[s^2 x^-2]), the mixture x^-2 | w ~ Gamma(1/2, w), w ~ Gamma(1/2, s^2).
    """
    x, s = value_of(x), p.scale
    constant = log(s) * -1.0 + math.log(2 / math.pi)
    if not x.random and not s.random:
        return LogProb(constant - log(power(x, 2) * power(s, -2) + 1.0))
    ratio = power(s, 2) * power(x, -2)
    return LogProb(
        constant + log(s) * 2.0 - log(x) * 2.0,
        (Bound("gamma mixture of half-normals", (ratio,), lambda r: -jnp.log1p(r)),),
    )


@rule(dist.Laplace, parameters=("loc", "scale"))
def laplace(p: Parameters, x: object) -> LogProb:
    squared = power(value_of(x) - p.loc, 2) * power(p.scale, -2)
    value = log(p.scale) * -1.0 - math.log(2)
    if not squared.random:
        return LogProb(value - power(squared, 0.5))
    return LogProb(value, (Bound("exponential mixture of normals", (squared,), lambda d2: -jnp.sqrt(d2)),))
