"""Stochastic VI after five passes, beside coordinate ascent's bound: ``python -m benchmarks.stochastic [--write]``.

Defaults on both sides but for the number of passes. The *gap* is coordinate ascent's bound less stochastic VI's exact
ELBO of all rows. It is negative where stochastic VI found a better optimum.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import options as command
from benchmarks.results import report, table

PASSES = 5


def mixture() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    rng = np.random.default_rng(0)
    n, k = 50_000, 5
    centres = 4 * rng.standard_normal((k, 2))
    x = centres[rng.integers(0, k, n)] + rng.standard_normal((n, 2))

    def model(x: Any) -> None:
        pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(5)))
        with numpyro.plate("components", 5):
            mu = numpyro.sample("mu", dist.Normal(0, 10).expand([2]).to_event(1))
        tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(pi))
            numpyro.sample("x", dist.Normal(mu[z], 1 / jnp.sqrt(tau)).to_event(1), obs=x)

    return model, {"x": x}, {}


def labels_summed_out() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    rng = np.random.default_rng(1)
    y = np.where(rng.random(20_000) < 0.3, rng.normal(-2, 1, 20_000), rng.normal(2, 1, 20_000))

    def model(y: Any) -> None:
        pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(2)))
        m = numpyro.sample("m", dist.Normal(0, 5).expand([2]).to_event(1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(pi), dist.Normal(m, 1.0)), obs=y)

    return model, {"y": y}, {}


def topics() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    rng = np.random.default_rng(2)
    documents, words, k, tokens = 300, 400, 5, 50_000
    phi, theta = rng.dirichlet(np.full(words, 0.1), k), rng.dirichlet(np.full(k, 0.2), documents)
    doc = rng.integers(0, documents, tokens)
    z = (rng.random((tokens, 1)) > theta[doc].cumsum(1)).sum(1).clip(max=k - 1)
    word = (rng.random((tokens, 1)) > phi[z].cumsum(1)).sum(1).clip(max=words - 1)

    def model(doc: Any, word: Any) -> None:
        with numpyro.plate("topics", k):
            phi = numpyro.sample("phi", dist.Dirichlet(0.1 * jnp.ones(words)))
        with numpyro.plate("documents", documents):
            theta = numpyro.sample("theta", dist.Dirichlet(0.2 * jnp.ones(k)))
        with numpyro.plate("tokens", len(word)):
            z = numpyro.sample("z", dist.Categorical(theta[doc]))
            numpyro.sample("w", dist.Categorical(phi[z]), obs=word)

    return model, {"doc": doc, "word": word}, {}


def ratings() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    rng = np.random.default_rng(3)
    n, users, items = 50_000, 500, 200
    i, j = rng.integers(0, users, n), rng.integers(0, items, n)
    u, v = rng.standard_normal((users, 3)), rng.standard_normal((items, 3))
    y = (u[i] * v[j]).sum(1) + 0.5 * rng.standard_normal(n)

    def model(i: Any, j: Any, y: Any) -> None:
        with numpyro.plate("users", users):
            u = numpyro.sample("u", dist.Normal(0, 1).expand([3]).to_event(1))
        with numpyro.plate("items", items):
            v = numpyro.sample("v", dist.Normal(0, 1).expand([3]).to_event(1))
        tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal((u[i] * v[j]).sum(-1), 1 / jnp.sqrt(tau)), obs=y)

    return model, {"i": i, "j": j, "y": y}, {}


def _regression(link: str) -> Callable[[], tuple[Any, dict[str, Any], dict[str, Any]]]:
    def make() -> tuple[Any, dict[str, Any], dict[str, Any]]:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist

        rng = np.random.default_rng(4)
        n, d = 50_000, 10
        x, w = rng.standard_normal((n, d)), rng.standard_normal(d)
        eta = 0.5 * x @ w
        y = {
            "logistic": lambda: (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(int),
            "probit": lambda: (rng.standard_normal(n) < eta).astype(int),
            "poisson": lambda: rng.poisson(np.exp(0.3 * eta)),
            "student": lambda: eta + rng.standard_t(3, n),
        }[link]()

        def model(x: Any, y: Any) -> None:
            w = numpyro.sample("w", dist.Normal(0, 1).expand([d]).to_event(1))
            scale = numpyro.sample("tau", dist.Gamma(2.0, 2.0)) if link == "student" else 1.0
            with numpyro.plate("rows", len(y)):
                site = {
                    "logistic": lambda: dist.Bernoulli(logits=x @ w),
                    "probit": lambda: dist.Bernoulli(probs=jax.scipy.special.ndtr(x @ w)),
                    "poisson": lambda: dist.Poisson(jnp.exp(x @ w)),
                    "student": lambda: dist.StudentT(3.0, x @ w, 1 / jnp.sqrt(scale)),
                }[link]()
                numpyro.sample("y", site, obs=y)

        return model, {"x": x, "y": y}, {}

    return make


def groups() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    import numpyro
    import numpyro.distributions as dist

    rng = np.random.default_rng(5)
    n, k = 50_000, 500
    g, a = rng.integers(0, k, n), rng.normal(1, 0.7, k)
    y = (rng.random(n) < 1 / (1 + np.exp(-a[g]))).astype(int)

    def model(g: Any, y: Any) -> None:
        import jax.numpy as jnp

        mu, tau = numpyro.sample("mu", dist.Normal(0, 3)), numpyro.sample("tau", dist.Gamma(2.0, 2.0))
        with numpyro.plate("groups", k):
            a = numpyro.sample("a", dist.Normal(mu, 1 / jnp.sqrt(tau)))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=a[g]), obs=y)

    return model, {"g": g, "y": y}, {}


def classes() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    rng = np.random.default_rng(6)
    n, d, k = 20_000, 12, 4
    p = rng.beta(0.6, 0.6, (k, d))
    y = (rng.random((n, d)) < p[rng.integers(0, k, n)]).astype(int)

    def model(y: Any) -> None:
        pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(k)))
        with numpyro.plate("classes", k):
            p = numpyro.sample("p", dist.Beta(1.0, 1.0).expand([d]).to_event(1))
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Categorical(pi))
            numpyro.sample("y", dist.Bernoulli(p[z]).to_event(1), obs=y)

    return model, {"y": y}, {}


def factors() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    rng = np.random.default_rng(7)
    n, d, k = 20_000, 10, 2
    y = rng.standard_normal((n, k)) @ rng.standard_normal((k, d)) + 0.5 * rng.standard_normal((n, d))

    def model(y: Any) -> None:
        w = numpyro.sample("w", dist.Normal(0, 1).expand([d, k]).to_event(2))
        tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
        with numpyro.plate("rows", len(y)):
            f = numpyro.sample("f", dist.Normal(0, 1).expand([k]).to_event(1))
            numpyro.sample("y", dist.Normal(f @ w.T, 1 / jnp.sqrt(tau)).to_event(1), obs=y)

    return model, {"y": y}, {}


def overdispersed() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    rng = np.random.default_rng(8)
    n, k = 30_000, 50
    g = rng.integers(0, k, n)
    y = rng.poisson(rng.gamma(2.0, 1.0, k)[g] * rng.gamma(3.0, 1 / 3.0, n))

    def model(g: Any, y: Any) -> None:
        b = numpyro.sample("b", dist.Gamma(1.0, 1.0))
        with numpyro.plate("groups", k):
            rate = numpyro.sample("rate", dist.Gamma(2.0, b))
        with numpyro.plate("rows", len(y)):
            own = numpyro.sample("own", dist.Gamma(3.0, 3.0))
            numpyro.sample("y", dist.Poisson(rate[jnp.asarray(g)] * own), obs=y)

    return model, {"g": g, "y": y}, {}


MODELS: dict[str, Callable[[], tuple[Any, dict[str, Any], dict[str, Any]]]] = {
    "mixture": mixture,
    "labels summed out": labels_summed_out,
    "topics": topics,
    "ratings": ratings,
    "logistic": _regression("logistic"),
    "probit": _regression("probit"),
    "poisson": _regression("poisson"),
    "student": _regression("student"),
    "groups": groups,
    "classes": classes,
    "factors": factors,
    "overdispersed counts": overdispersed,
}


def climbed(algorithm: Any, factored: Any) -> tuple[float, float]:
    """The ELBO at the end, and CPU seconds without those of compiling."""
    state = algorithm.init(0, factored, None)
    began = time.process_time()
    while True:
        state, info = algorithm.step(state)
        if info.status is not None:
            return float(state.elbo), time.process_time() - began


def main(arguments: list[str] | None = None) -> None:
    options = command.parser("stochastic", __doc__).parse_args(arguments)
    from lowerbound.algorithms import CoordinateAscent, StochasticVI
    from lowerbound.algorithms.minibatch import Batched, data_plate
    from lowerbound.closed_form import factored_of
    from lowerbound.model.given import as_model

    rows = []
    for name in options.names or MODELS:
        model, data, _ = MODELS[name]()
        factored = factored_of(as_model(model, data), joined=True)
        n = Batched(factored, data_plate(factored), 1).rows
        best, cpu = climbed(CoordinateAscent(), factored)
        found, seconds = climbed(StochasticVI(max_steps=PASSES), factored)
        gap = best - found
        rows.append([name, f"{n:,}", f"{best:,.1f}", f"{gap:,.2f}", f"{gap / n:.1e}", f"{gap / abs(best):.1e}"])
        rows[-1] += [f"{cpu:.1f}", f"{seconds:.1f}"]
        print(" | ".join(rows[-1]), flush=True)
    head = [
        "model",
        "rows",
        "bound of coordinate ascent",
        "gap, nats",
        "a row",
        "relative",
        "CPU s after the start",
        "of five passes",
    ]
    report("stochastic", table(head, rows), options.write)


if __name__ == "__main__":
    main()
