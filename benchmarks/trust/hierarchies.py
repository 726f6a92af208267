"""Groups: normal ones integrated by hand down to one or two scales, counts by conjugacy, crossed effects stored."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import special

from benchmarks.trust.quadrature import box, mixture, moments, weights
from benchmarks.trust.target import Case, target


def normal_groups(
    y: np.ndarray, variance: np.ndarray, log_tau: np.ndarray, prior: tuple[float, float], log_prior: np.ndarray
) -> dict[str, Any]:
    """Posterior of  y_j ~ N(theta_j, variance_j), theta_j ~ N(mu, tau²), mu ~ N(m0, s0²)  at points of tau.

    Given tau, y_j ~ N(mu, variance_j + tau²), so that mu is normal with precision 1/s0² + Σ 1/(variance_j + tau²);
    and theta_j given mu has mean b_j y_j + (1 - b_j) mu and variance b_j variance_j, b_j = tau²/(tau² + variance_j).

    Args:
        y, variance: ``[J]``; variance may be ``[m, J]``, one row a point.
        log_tau: Equally spaced points ``[m]`` (or points of a product of such, where variance has rows).
        prior: m0 and s0.
        log_prior: log density ``[m]`` of the points, tau's Jacobian included; what else depends on them too.

    Returns:
        ``log_density [m]`` with mu and theta integrated out, and mean and sd of ``mu``, ``tau`` and ``theta``.
    """
    m0, s0 = prior
    tau2 = np.exp(2 * log_tau)[:, None]
    total = variance + tau2
    precision = 1 / s0**2 + (1 / total).sum(1)
    mean = (m0 / s0**2 + (y / total).sum(1)) / precision
    # log p(y | tau) = log p(y, mu | tau) - log p(mu | y, tau), at mu = its mean.
    log_density = log_prior - 0.5 * (np.log(total) + (y - mean[:, None]) ** 2 / total).sum(1)
    log_density += -0.5 * ((mean - m0) / s0) ** 2 - 0.5 * np.log(precision)
    share = tau2 / total
    theta = share * y + (1 - share) * mean[:, None]
    spread = share * variance + (1 - share) ** 2 / precision[:, None]
    return {
        "log_density": log_density,
        "mu": mixture(log_density, mean, 1 / precision),
        "tau": moments(log_density, np.exp(log_tau)),
        "theta": mixture(log_density, theta, spread),
    }


def grid_around(log_density: Any, low: float, high: float, n: int = 1500) -> np.ndarray:
    """n equally spaced points where the density is at least e⁻⁴⁰ of its largest."""
    x = np.linspace(low, high, 600)
    value = log_density(x)
    at = np.flatnonzero(value > value.max() - 40)
    return np.linspace(x[max(at[0] - 1, 0)], x[min(at[-1] + 1, len(x) - 1)], n)


def groups(count: int, tau: float, noise: tuple[float, float], centred: bool, half_cauchy: bool, seed: int) -> Case:
    """Group means with known errors (one row a group), in either way of writing; see ``normal_groups``."""
    rng = np.random.default_rng(seed)
    error = rng.uniform(*noise, count)
    y = rng.normal(4.0, np.sqrt(tau**2 + error**2))

    def model(y, error):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        tau = numpyro.sample("tau", dist.HalfCauchy(2.0) if half_cauchy else dist.HalfNormal(3.0))
        if centred:
            theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([y.shape[0]]).to_event(1))
        else:
            z = numpyro.sample("z", dist.Normal(0, 1).expand([y.shape[0]]).to_event(1))
            theta = numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("y", dist.Normal(theta, error), obs=y)

    def solve(log_tau):
        t = np.exp(log_tau)
        log_prior = log_tau + (-np.log1p((t / 2) ** 2) if half_cauchy else -(t**2) / 18)
        return normal_groups(y, error**2, log_tau, (0, 10), log_prior)

    out = solve(grid_around(lambda x: solve(x)["log_density"], -16, 6))
    return Case(model, {"y": y, "error": error}, {k: out[k] for k in ("mu", "tau", "theta")})


for _count, _tau, _noise, _half_cauchy, _seed in (
    (10, 1.5, (0.8, 3.0), True, 61),
    (100, 0.4, (0.5, 1.5), False, 62),
    (400, 2.0, (0.3, 1.0), True, 63),
    (2000, 0.7, (0.6, 1.2), False, 64),
):
    for _centred in (True, False):
        target(name=f"groups_{_count}_{'centred' if _centred else 'noncentred'}")(
            partial(groups, _count, _tau, _noise, _centred, _half_cauchy, _seed)
        )

#: No spread between the groups at all: the mode of tau is at, or near, zero.
target(name="groups_12_no_spread_centred")(partial(groups, 12, 0.0, (0.9, 1.1), True, True, 65))
target(name="groups_40_no_spread_noncentred")(partial(groups, 40, 0.0, (0.5, 2.0), False, False, 66))


@target()
def groups_noise_unknown() -> Case:
    """60 groups of 2 to 9 rows, sigma unknown too: quadrature over (log tau, log sigma) of ``normal_groups`` on the
    group means, whose variance is sigma²/n_j; the rest of the rows gives sigma^-(N - J) exp(-S/(2 sigma²))."""
    rng = np.random.default_rng(67)
    size = rng.integers(2, 10, 60)
    group = np.repeat(np.arange(60), size)
    y = rng.normal(-20, 5, 60)[group] + rng.normal(0, 8, len(group))

    def model(group, y, j):
        mu = numpyro.sample("mu", dist.Normal(0, 30))
        tau = numpyro.sample("tau", dist.HalfNormal(10))
        sigma = numpyro.sample("sigma", dist.HalfNormal(10))
        with numpyro.plate("groups", j):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
        with numpyro.plate("rows", y.shape[0]):
            numpyro.sample("y", dist.Normal(theta[group], sigma), obs=y)

    mean = np.bincount(group, y) / size
    rest = ((y - mean[group]) ** 2).sum()
    log_tau, log_sigma = box(np.linspace(-6, 3.5, 400), np.linspace(np.log(5), np.log(13), 120))
    t, s = np.exp(log_tau), np.exp(log_sigma)
    log_prior = log_tau + log_sigma - (t**2 + s**2) / 200 - (len(y) - 60) * log_sigma - rest / (2 * s**2)
    out = normal_groups(mean, s[:, None] ** 2 / size, log_tau, (0, 30), log_prior)
    truth = {k: out[k] for k in ("mu", "tau", "theta")} | {"sigma": moments(out["log_density"], s)}
    return Case(model, {"group": group, "y": y, "j": 60}, truth)


@target()
def counts_with_gamma_rates() -> Case:
    """70 counts over exposures, rates Gamma(a, b), a and b log-normal: rates integrate to the negative binomial
    Γ(a + y)/Γ(a) b^a/(b + e)^(a + y); given (a, b) a rate is Gamma(a + y, b + e)."""
    rng = np.random.default_rng(68)
    exposure = rng.uniform(0.5, 5, 70)
    y = rng.poisson(exposure * rng.gamma(1.5, 1 / 0.6, 70)).astype(float)

    def model(exposure, y):
        a = numpyro.sample("a", dist.LogNormal(0, 1))
        b = numpyro.sample("b", dist.LogNormal(0, 1))
        with numpyro.plate("units", y.shape[0]):
            rate = numpyro.sample("rate", dist.Gamma(a, b))
            numpyro.sample("y", dist.Poisson(rate * exposure), obs=y)

    log_a, log_b = box(np.linspace(-2.5, 3, 300), np.linspace(-3.5, 3, 300))
    a, b = np.exp(log_a)[:, None], np.exp(log_b)[:, None]
    log_density = (special.gammaln(a + y) - special.gammaln(a) + a * np.log(b) - (a + y) * np.log(b + exposure)).sum(1)
    log_density -= (log_a**2 + log_b**2) / 2  # the prior of the logarithms
    keep = weights(log_density) > 1e-18
    a, b, log_density = a[keep], b[keep], log_density[keep]
    shape, rate = a + y, b + exposure
    truth = {"a": moments(log_density, a[:, 0]), "b": moments(log_density, b[:, 0])}
    return Case(
        model,
        {"exposure": exposure, "y": y},
        truth | {"rate": mixture(log_density, shape / rate, shape / rate**2)},
    )


@target()
def shares_with_beta_prior() -> Case:
    """25 binomial groups with p ~ Beta(a, b), a, b ~ LogNormal(1, 1): p integrates to the beta-binomial
    B(a + y, b + n - y)/B(a, b); given (a, b) each p is Beta(a + y, b + n - y)."""
    rng = np.random.default_rng(69)
    n = rng.integers(5, 60, 25).astype(float)
    y = rng.binomial(n.astype(int), rng.beta(2, 6, 25)).astype(float)

    def model(n, y):
        a = numpyro.sample("a", dist.LogNormal(1, 1))
        b = numpyro.sample("b", dist.LogNormal(1, 1))
        with numpyro.plate("groups", n.shape[0]):
            p = numpyro.sample("p", dist.Beta(a, b))
            numpyro.sample("y", dist.Binomial(n, probs=p), obs=y)

    log_a, log_b = box(np.linspace(-2.5, 5.5, 300), np.linspace(-2.5, 6.5, 300))
    a, b = np.exp(log_a)[:, None], np.exp(log_b)[:, None]
    log_density = (special.betaln(a + y, b + n - y) - special.betaln(a, b)).sum(1)
    log_density -= ((log_a - 1) ** 2 + (log_b - 1) ** 2) / 2
    keep = weights(log_density) > 1e-18
    a, b, log_density = a[keep], b[keep], log_density[keep]
    mean = (a + y) / (a + b + n)
    truth = {"a": moments(log_density, a[:, 0]), "b": moments(log_density, b[:, 0])}
    truth["p"] = mixture(log_density, mean, mean * (1 - mean) / (a + b + n + 1))
    return Case(model, {"n": n, "y": y}, truth)


def crossed(data, likelihood, standard: bool):
    """Effects of rows and of columns, each with its own scale."""
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    total = mu
    for name, size, at in (
        ("row", data["rows"], data["row"]),
        ("column", data["columns"], data["column"]),
    ):
        scale = numpyro.sample(f"{name}_scale", dist.HalfNormal(1.0))
        if standard:
            z = numpyro.sample(f"{name}_z", dist.Normal(0, 1).expand([size]).to_event(1))
            effect = numpyro.deterministic(f"{name}_effect", scale * z)
        else:
            effect = numpyro.sample(f"{name}_effect", dist.Normal(0, scale).expand([size]).to_event(1))
        total = total + effect[at]
    numpyro.sample("y", likelihood(total), obs=data["y"])


def crossed_case(poisson: bool, rows: int, columns: int, scales: tuple[float, float], seed: int) -> Case:
    """Pupils by items, sites by weeks: centred as written, sampled non-centred for the truth."""
    rng = np.random.default_rng(seed)
    row, column = (v.ravel() for v in np.indices((rows, columns)))
    eta = rng.normal(0, scales[0], rows)[row] + rng.normal(0, scales[1], columns)[column]
    y = rng.poisson(np.exp(0.5 + eta)) if poisson else (rng.uniform(size=len(eta)) < special.expit(0.4 + eta))
    sizes = {"rows": rows, "columns": columns}

    def likelihood(eta):
        return dist.Poisson(jnp.exp(eta)) if poisson else dist.Bernoulli(logits=eta)

    def model(row, column, y):
        crossed({"row": row, "column": column, "y": y} | sizes, likelihood, False)

    def reference(row, column, y):
        crossed({"row": row, "column": column, "y": y} | sizes, likelihood, True)

    data = {"row": row, "column": column, "y": y.astype(float)}
    return Case(
        model,
        data,
        reference=reference,
        compared=("mu", "row_scale", "row_effect", "column_scale", "column_effect"),
    )


target(name="crossed_logistic")(partial(crossed_case, False, 30, 12, (1.0, 0.7), 70))
target(name="crossed_poisson")(partial(crossed_case, True, 15, 8, (0.5, 0.3), 71))
