"""Models whose plans are known, with small data: name -> (model, data)."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from lowerbound import examples

rng = np.random.default_rng(0)


def ard(X, y):
    a = numpyro.sample("a", dist.Gamma(1e-3, 1e-3).expand([X.shape[1]]).to_event(1))
    w = numpyro.sample("w", dist.Normal(0, 1 / jnp.sqrt(a)).to_event(1))
    tau = numpyro.sample("tau", dist.Gamma(1e-3, 1e-3))
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.Normal(X @ w, 1 / jnp.sqrt(tau)), obs=y)


def mixture(X, K):
    d = X.shape[1]
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("k", K):
        mu = numpyro.sample("mu", dist.MultivariateNormal(jnp.zeros(d), precision_matrix=0.01 * jnp.eye(d)))
        L = numpyro.sample("L", dist.Wishart(d + 2.0, rate_matrix=jnp.eye(d)))
    with numpyro.plate("n", len(X)):
        z = numpyro.sample("z", dist.Categorical(pi))
        numpyro.sample("x", dist.MultivariateNormal(mu[z], precision_matrix=L[z]), obs=X)


def lda(doc, word, D, V, K):
    with numpyro.plate("topics", K):
        phi = numpyro.sample("phi", dist.Dirichlet(0.1 * jnp.ones(V)))
    with numpyro.plate("docs", D):
        theta = numpyro.sample("theta", dist.Dirichlet(0.1 * jnp.ones(K)))
    with numpyro.plate("words", len(word)):
        z = numpyro.sample("z", dist.Categorical(theta[doc]))
        numpyro.sample("w", dist.Categorical(phi[z]), obs=word)


def pca(Y, K):
    m, n = Y.shape
    a = numpyro.sample("a", dist.Gamma(1e-3, 1e-3).expand([K]).to_event(1))
    with numpyro.plate("m", m):
        C = numpyro.sample("C", dist.Normal(0, 1 / jnp.sqrt(a)).to_event(1))
    with numpyro.plate("n", n):
        x = numpyro.sample("x", dist.Normal(0, 1).expand([K]).to_event(1))
    tau = numpyro.sample("tau", dist.Gamma(1e-3, 1e-3))
    numpyro.sample("y", dist.Normal(C @ x.T, 1 / jnp.sqrt(tau)).to_event(2), obs=Y)


def logistic(X, y):
    b = numpyro.sample("b", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=X @ b), obs=y)


def poisson(x, y, group):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    beta = numpyro.sample("beta", dist.Normal(0, 1))
    with numpyro.plate("groups", 4):
        u = numpyro.sample("u", dist.Normal(0, 0.5))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Poisson(jnp.exp(mu + beta * x + u[group])), obs=y)


def added_variances(y):
    m = numpyro.sample("m", dist.Normal(0, 1))
    s1 = numpyro.sample("s1", dist.HalfNormal(1.0))
    s2 = numpyro.sample("s2", dist.HalfNormal(1.0))
    p = numpyro.sample("p", dist.Beta(2.0, 2.0))
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.Normal(m, jnp.sqrt(s1**2 + s2**2)), obs=y)
    numpyro.sample("heads", dist.Binomial(10, p), obs=3)


def eight_schools(y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def matrix_and_inverse(y):
    S = numpyro.sample("S", dist.InverseWishart(4.0, scale_matrix=jnp.eye(2)))
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(2), precision_matrix=S), obs=y)


def discrete_and_open(y):
    p = numpyro.sample("p", dist.Dirichlet(jnp.ones(2)))
    a = numpyro.sample("a", dist.HalfNormal(1.0).expand([2]).to_event(1))
    with numpyro.plate("n", len(y)):
        z = numpyro.sample("z", dist.Categorical(p))
        numpyro.sample("y", dist.Normal(0, jnp.sqrt(1.0 + a[z] ** 2 + a[0])), obs=y)


def discrete_and_drawn(y, total):
    p = numpyro.sample("p", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("k", 2):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("n", len(y)):
        z = numpyro.sample("z", dist.Categorical(p))
        numpyro.sample("y", dist.Normal(mu[z], 1), obs=y)
    numpyro.sample("total", dist.Normal(jnp.tanh(mu[0] + mu[1]), 1), obs=total)


X = rng.normal(size=(20, 3))
schools = examples.load("eight-schools").data
MODELS = {
    "ard": (ard, {"X": X, "y": rng.normal(size=20)}),
    "mixture": (mixture, {"X": X[:, :2], "K": 3}),
    "lda": (
        lda,
        {"doc": np.repeat(np.arange(5), 6), "word": rng.integers(0, 8, 30), "D": 5, "V": 8, "K": 3},
    ),
    "pca": (pca, {"Y": X.T, "K": 2}),
    "logistic": (logistic, {"X": X, "y": rng.integers(0, 2, 20)}),
    "poisson": (poisson, {"x": X[:, 0], "y": rng.poisson(2.0, 20), "group": np.arange(20) % 4}),
    "added_variances": (added_variances, {"y": X[:, 0]}),
    "eight_schools": (eight_schools, {"y": schools["y"], "sigma": schools["sigma"]}),
    "matrix_and_inverse": (matrix_and_inverse, {"y": X[:, :2]}),
    "discrete_and_drawn": (discrete_and_drawn, {"y": X[:, 0], "total": 0.3}),
    "discrete_and_open": (discrete_and_open, {"y": X[:, 0]}),
}
