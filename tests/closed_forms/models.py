"""Plain NumPyro models with closed forms, their data, and what is known about their posteriors."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.special import betaln, gammaln, multigammaln
from scipy.stats import multivariate_normal

X = np.random.default_rng(0).standard_normal((60, 3))
SLOPES = np.array([1.0, -1.0, 0.5])


# -- conjugate models: the data, and the log evidence --------------------------------------------------


def beta_bernoulli(y):
    p = numpyro.sample("p", dist.Beta(2.0, 3.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(p), obs=y)


def gamma_poisson(y):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def dirichlet_categorical(y):
    p = numpyro.sample("p", dist.Dirichlet(jnp.array([1.0, 2.0, 0.5, 1.0])))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Categorical(p), obs=y)


def gaussian_regression(x, y):
    w = numpyro.sample("w", dist.Normal(0, 2).expand([x.shape[1]]).to_event(1))
    b = numpyro.sample("b", dist.Normal(0, 3))
    numpyro.sample("y", dist.Normal(x @ w + b, 0.5), obs=y)


def wishart_precision(y):
    precision = numpyro.sample("precision", dist.Wishart(5.0, rate_matrix=jnp.eye(3)))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(3), precision_matrix=precision), obs=y)


def inverse_gamma_variance(y):
    variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(1.0, jnp.sqrt(variance)), obs=y)


def exponential_gamma(y):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    numpyro.sample("y", dist.Exponential(rate).expand([len(y)]).to_event(1), obs=y)


def unknown_variance_regression(x, y):
    variance = numpyro.sample("variance", dist.InverseGamma(2.0, 1.0))
    w = numpyro.sample("w", dist.Normal(0, 2 * jnp.sqrt(variance)).expand([x.shape[1]]).to_event(1))
    b = numpyro.sample("b", dist.Normal(0, 3 * jnp.sqrt(variance)))
    numpyro.sample("y", dist.Normal(x @ w + b, jnp.sqrt(variance)), obs=y)


def normal_gamma(y):
    tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
    mu = numpyro.sample("mu", dist.Normal(0.0, 1 / jnp.sqrt(0.1 * tau)))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1 / jnp.sqrt(tau)), obs=y)


def normal_wishart(y):
    precision = numpyro.sample("precision", dist.Wishart(5.0, rate_matrix=jnp.eye(3)))
    mu = numpyro.sample("mu", dist.MultivariateNormal(jnp.ones(3), precision_matrix=0.1 * precision))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.MultivariateNormal(mu, precision_matrix=precision), obs=y)


def conjugate() -> dict[str, tuple]:
    """model, data, log evidence."""
    rng = np.random.default_rng(1)
    out = {}
    y = (rng.random(50) < 0.3).astype(int)
    out["beta_bernoulli"] = beta_bernoulli, {"y": y}, betaln(2 + y.sum(), 3 + (1 - y).sum()) - betaln(2, 3)
    y = rng.poisson(3, 20)
    s = y.sum()
    evidence = 2 * np.log(0.5) - gammaln(2) + gammaln(2 + s) - (2 + s) * np.log(0.5 + 20) - gammaln(y + 1).sum()
    out["gamma_poisson"] = gamma_poisson, {"y": y}, evidence
    y, a = rng.integers(0, 4, 40), np.array([1.0, 2.0, 0.5, 1.0])
    counts = np.bincount(y, minlength=4)
    evidence = gammaln(a.sum()) - gammaln(a.sum() + 40) + (gammaln(a + counts) - gammaln(a)).sum()
    out["dirichlet_categorical"] = dirichlet_categorical, {"y": y}, evidence
    y = X @ SLOPES + 0.3 + 0.5 * rng.standard_normal(60)
    covariance = 4 * X @ X.T + 9 + 0.25 * np.eye(60)
    evidence = multivariate_normal(np.zeros(60), covariance).logpdf(y)
    out["gaussian_regression"] = gaussian_regression, {"x": X, "y": y}, evidence
    y = rng.standard_normal((30, 3))
    log_det = np.linalg.slogdet(np.eye(3) + y.T @ y)[1]
    evidence = -45 * np.log(np.pi) + multigammaln(17.5, 3) - multigammaln(2.5, 3) - 17.5 * log_det
    out["wishart_precision"] = wishart_precision, {"y": y}, evidence
    y = 1 + rng.standard_normal(12)
    rate = 2 + 0.5 * ((y - 1) ** 2).sum()
    evidence = 3 * np.log(2) - gammaln(3) + gammaln(9) - 9 * np.log(rate) - 6 * np.log(2 * np.pi)
    out["inverse_gamma_variance"] = inverse_gamma_variance, {"y": y}, evidence
    y = rng.exponential(1, 15)
    evidence = 0 - gammaln(2) + gammaln(17) - 17 * np.log(1 + y.sum())
    out["exponential_gamma"] = exponential_gamma, {"y": y}, evidence
    y = X @ SLOPES + 0.3 + 0.5 * rng.standard_normal(60)
    design, prior = np.column_stack([X, np.ones(60)]), np.diag([1 / 4] * 3 + [1 / 9])
    precision = prior + design.T @ design
    mean = np.linalg.solve(precision, design.T @ y)
    rate = 1 + 0.5 * (y @ y - mean @ precision @ mean)
    evidence = -30 * np.log(2 * np.pi) + gammaln(32) - gammaln(2) - 32 * np.log(rate)
    evidence += 0.5 * (np.linalg.slogdet(prior)[1] - np.linalg.slogdet(precision)[1])
    out["unknown_variance_regression"] = unknown_variance_regression, {"x": X, "y": y}, evidence
    y = 1 + 2 * rng.standard_normal(10)
    rate = 2 + 0.5 * ((y - y.mean()) ** 2).sum() + 0.5 * 0.1 * 10 * y.mean() ** 2 / 10.1
    evidence = 2 * np.log(2) - gammaln(2) + gammaln(7) - 7 * np.log(rate) + 0.5 * np.log(0.1 / 10.1)
    out["normal_gamma"] = normal_gamma, {"y": y}, evidence - 5 * np.log(2 * np.pi)
    y = rng.standard_normal((30, 3))
    away = y - y.mean(0)
    scatter = np.eye(3) + away.T @ away + 3 / 30.1 * np.outer(y.mean(0) - 1, y.mean(0) - 1)
    evidence = -45 * np.log(np.pi) + multigammaln(17.5, 3) - multigammaln(2.5, 3) + 1.5 * np.log(0.1 / 30.1)
    out["normal_wishart"] = normal_wishart, {"y": y}, evidence - 17.5 * np.linalg.slogdet(scatter)[1]
    return out


# -- models with several blocks ------------------------------------------------------------------------


def mixture(x, k):
    n, d = x.shape
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(k)))
    with numpyro.plate("components", k):
        mu = numpyro.sample("mu", dist.MultivariateNormal(jnp.zeros(d), precision_matrix=0.01 * jnp.eye(d)))
        precision = numpyro.sample("precision", dist.Wishart(d + 2.0, rate_matrix=jnp.eye(d)))
    with numpyro.plate("rows", n):
        z = numpyro.sample("z", dist.Categorical(pi))
        numpyro.sample("x", dist.MultivariateNormal(mu[z], precision_matrix=precision[z]), obs=x)


def small_mixture(y):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(2)))
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(pi))
        numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def automatic_relevance(x, y):
    n, d = x.shape
    alpha = numpyro.sample("alpha", dist.Gamma(1e-3, 1e-3).expand([d]).to_event(1))
    w = numpyro.sample("w", dist.Normal(0, 1 / jnp.sqrt(alpha)).to_event(1))
    tau = numpyro.sample("tau", dist.Gamma(1e-3, 1e-3))
    with numpyro.plate("rows", n):
        numpyro.sample("y", dist.Normal(x @ w, 1 / jnp.sqrt(tau)), obs=y)


def factors(y, k):
    n, d = y.shape
    alpha = numpyro.sample("alpha", dist.Gamma(1e-3, 1e-3).expand([k]).to_event(1))
    with numpyro.plate("columns", d):
        loadings = numpyro.sample("loadings", dist.Normal(0, 1 / jnp.sqrt(alpha)).to_event(1))
    tau = numpyro.sample("tau", dist.Gamma(1e-3, 1e-3))
    with numpyro.plate("rows", n):
        x = numpyro.sample("x", dist.Normal(0, 1).expand([k]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ loadings.T, 1 / jnp.sqrt(tau)).to_event(1), obs=y)


def robust(x, y):
    w = numpyro.sample("w", dist.Normal(0, 2).expand([3]).to_event(1))
    variance = numpyro.sample("variance", dist.InverseGamma(2.0, 2.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.StudentT(4.0, x @ w, jnp.sqrt(variance)), obs=y)


def logistic(x, y):
    w = numpyro.sample("w", dist.Normal(0, 2).expand([3]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def counts(x, y):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([3]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Poisson(jnp.exp(x @ w)), obs=y)


def open_scale(x, y):
    """The scale has no closed form: the root of a sum of two squares."""
    w = numpyro.sample("w", dist.Normal(0, 2).expand([3]).to_event(1))
    s, t = (numpyro.sample(n, dist.Gamma(2.0, 2.0)) for n in ("s", "t"))
    numpyro.sample("y", dist.Normal(x @ w, jnp.sqrt(s**2 + t**2)), obs=y)


def several() -> dict[str, tuple]:
    """model, data: with several blocks, bounds, or expectations that are not linear in the moments."""
    rng = np.random.default_rng(2)
    linear = X @ SLOPES
    return {
        "mixture": (mixture, {"x": np.concatenate([rng.normal(-2, 1, (40, 2)), rng.normal(2, 0.5, (30, 2))]), "k": 3}),
        "small_mixture": (small_mixture, {"y": np.concatenate([rng.normal(-2, 1, 30), rng.normal(3, 1, 20)])}),
        "automatic_relevance": (automatic_relevance, {"x": X, "y": linear + 0.3 * rng.standard_normal(60)}),
        "factors": (
            factors,
            {"y": rng.normal(size=(80, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(80, 5)), "k": 2},
        ),
        "robust": (robust, {"x": X, "y": linear + rng.standard_t(4, 60)}),
        "logistic": (logistic, {"x": X, "y": (rng.random(60) < 1 / (1 + np.exp(-linear))).astype(int)}),
        "counts": (counts, {"x": X, "y": rng.poisson(np.exp(0.5 * linear))}),
    }
