"""The models in plain NumPyro, with nothing in them for us: what a person would write.

``theirs.py`` has the same priors in BayesPy; a bound that both reach is what says that they are the same.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def regression(X: Any, y: Any) -> None:
    """w_j ~ N(0, 1 / a_j); a_j, tau ~ Gamma(1e-3, 1e-3)."""
    n, d = X.shape
    a = numpyro.sample("a", dist.Gamma(1e-3, 1e-3).expand([d]).to_event(1))
    w = numpyro.sample("w", dist.Normal(0, 1 / jnp.sqrt(a)).to_event(1))
    tau = numpyro.sample("tau", dist.Gamma(1e-3, 1e-3))
    with numpyro.plate("rows", n):
        numpyro.sample("y", dist.Normal(X @ w, 1 / jnp.sqrt(tau)), obs=y)


def mixture(X: Any, K: int) -> None:
    """pi ~ Dirichlet(1); mu_k ~ N(0, 100 I); L_k ~ Wishart(D + 2, I)."""
    n, d = X.shape
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("components", K):
        mu = numpyro.sample("mu", dist.MultivariateNormal(jnp.zeros(d), precision_matrix=0.01 * jnp.eye(d)))
        precision = numpyro.sample("L", dist.Wishart(d + 2.0, rate_matrix=jnp.eye(d)))
    with numpyro.plate("rows", n):
        z = numpyro.sample("z", dist.Categorical(pi))
        numpyro.sample("x", dist.MultivariateNormal(mu[z], precision_matrix=precision[z]), obs=X)


def pca(Y: Any, K: int) -> None:
    """Y = C x + noise; C_mk ~ N(0, 1 / a_k), x_nk ~ N(0, 1); a_k, tau ~ Gamma(1e-5, 1e-5)."""
    m, n = Y.shape
    a = numpyro.sample("a", dist.Gamma(1e-5, 1e-5).expand([K]).to_event(1))
    with numpyro.plate("m", m):
        C = numpyro.sample("C", dist.Normal(0, 1 / jnp.sqrt(a)).to_event(1))
    with numpyro.plate("n", n):
        x = numpyro.sample("x", dist.Normal(0, 1).expand([K]).to_event(1))
    tau = numpyro.sample("tau", dist.Gamma(1e-5, 1e-5))
    numpyro.sample("y", dist.Normal(C @ x.T, 1 / jnp.sqrt(tau)).to_event(2), obs=Y)


def lda(doc: Any, word: Any, D: int, V: int, K: int) -> None:
    """theta_d ~ Dirichlet(0.1), phi_k ~ Dirichlet(0.1); a plate of tokens."""
    with numpyro.plate("topics", K):
        phi = numpyro.sample("phi", dist.Dirichlet(0.1 * jnp.ones(V)))
    with numpyro.plate("documents", D):
        theta = numpyro.sample("theta", dist.Dirichlet(0.1 * jnp.ones(K)))
    with numpyro.plate("tokens", len(word)):
        z = numpyro.sample("z", dist.Categorical(theta[doc]))
        numpyro.sample("w", dist.Categorical(phi[z]), obs=word)


MODELS = {"regression": regression, "mixture": mixture, "pca": pca, "lda": lda}
