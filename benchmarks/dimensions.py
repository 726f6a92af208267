"""Time and memory of ``lb.fit`` as the dimension grows: ``python -m benchmarks.dimensions [TARGET ...] [--write]``.

Three targets, their data drawn from a fixed seed, each fit in a fresh process with an empty compilation cache. The
memory is the largest resident size of the process, beside what it was before the fit.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from typing import Any

import numpy as np

from benchmarks import options as command
from benchmarks import process
from benchmarks.memory import peak_memory
from benchmarks.results import Results, number, report, table
from benchmarks.tools import Clock

RESULTS = Results("dimensions", ("target", "p"))
SIZES = (10, 100, 500, 2_000, 20_000)


def gaussian(p: int) -> tuple[Any, dict[str, Any]]:
    """A correlated Gaussian with scales over four decades: precision S⁻¹ (I + V Vᵀ) S⁻¹ with V of five columns."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.distributions import constraints

    rng = np.random.default_rng(p)
    data = {
        "centre": rng.normal(size=p) * 10,
        "scale": 10 ** rng.uniform(-2, 2, p),
        "directions": rng.normal(size=(p, 5)) / np.sqrt(p) * 3,
        "observed": np.zeros(5),
    }

    def model(centre, scale, directions, observed):
        x = numpyro.sample("x", dist.ImproperUniform(constraints.real_vector, (), (p,)))
        z = (x - centre) / scale
        numpyro.factor("independent", -0.5 * jnp.sum(z**2))
        numpyro.sample("obs", dist.Normal(z @ directions, 1.0), obs=observed)

    return model, data


def gaussian_errors(data: dict[str, Any], mean: np.ndarray, sd: np.ndarray) -> dict[str, float]:
    """Against the exact moments: (I + V Vᵀ)⁻¹ = I - V (I + Vᵀ V)⁻¹ Vᵀ."""
    v = data["directions"]
    variance = 1 - np.einsum("ij,jk,ik->i", v, np.linalg.inv(np.eye(5) + v.T @ v), v)
    exact = data["scale"] * np.sqrt(variance)
    return {
        "mean_avg": float(np.mean(np.abs(mean - data["centre"]) / exact)),
        "sd_avg": float(np.mean(np.abs(np.log(sd / exact)))),
    }


def logistic(p: int) -> tuple[Any, dict[str, Any]]:
    """Logistic regression on p correlated columns with four rows a column, at most 2,000 rows."""
    import numpyro
    import numpyro.distributions as dist

    rng = np.random.default_rng(p)
    n = min(4 * p, 2_000)
    X = rng.normal(size=(n, p)) + rng.normal(size=(n, 1))
    y = rng.random(n) < 1 / (1 + np.exp(-X @ rng.normal(size=p) / np.sqrt(p)))

    def model(X, y):
        beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=X @ beta), obs=y)

    return model, {"X": X, "y": y.astype(float)}


def hierarchical(p: int) -> tuple[Any, dict[str, Any]]:
    """p - 2 groups of five counts: rates that share a mean and a scale."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    rng = np.random.default_rng(p)
    groups = p - 2
    group = np.repeat(np.arange(groups), 5)
    y = rng.poisson(np.exp(1 + 0.5 * rng.normal(size=groups)[group]))

    def model(group, y):
        mu = numpyro.sample("mu", dist.Normal(0, 2))
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        with numpyro.plate("groups", groups):
            rate = numpyro.sample("rate", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Poisson(jnp.exp(rate[group])), obs=y)

    return model, {"group": group, "y": y}


TARGETS = {"gaussian": (gaussian, SIZES), "logistic": (logistic, SIZES[:-1]), "hierarchical": (hierarchical, SIZES)}


def measure(target: str, p: int) -> dict[str, Any]:
    """In this process."""
    import lowerbound as lb

    warnings.simplefilter("ignore")
    model, data = TARGETS[target][0](p)
    before = peak_memory()
    clock = Clock()
    posterior = lb.fit(model, data, seed=0)
    cpu, wall = clock.read()
    row = {
        "cpu": cpu,
        "wall": wall,
        "memory_before": before,
        "memory": peak_memory(),
        "family": posterior.family_name,
        "verdict": posterior.verdict.status.name,
        "pareto_k": float(posterior.pareto_k),
        "elbo": str(posterior.elbo),
        "evaluations": posterior.counts["evaluations"],
    }
    if target == "gaussian":
        mean, sd = posterior.q.mean, np.sqrt(posterior.q.variance())
        row |= gaussian_errors(data, np.asarray(mean), np.asarray(sd))
    return row


def main(arguments: list[str] | None = None) -> None:
    parser = command.parser("dimensions", __doc__, "TARGET")
    parser.add_argument("--largest", type=int, default=max(SIZES), help="leave out larger dimensions")
    options = parser.parse_args(arguments)
    for target in command.known(parser, "target", options.names, TARGETS):
        for p in (p for p in TARGETS[target][1] if p <= options.largest):
            row = RESULTS.rows().get((target, p), {})
            if options.again or "error" in row or row.get("source") != process.source_hash():
                row = (
                    {"target": target, "p": p, "source": process.source_hash()}
                    | process.circumstances()
                    | fresh(target, p)
                )
                RESULTS.add(row)
                print(" | ".join(map(str, cells(row))), flush=True)
    report("dimensions", summary(RESULTS.rows()), options.write)


def fresh(target: str, p: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache:
        return process.run("benchmarks.dimensions", "--one", target, str(p), environment={"LOWERBOUND_CACHE": cache})


def cells(row: dict[str, Any]) -> list[Any]:
    if "error" in row:
        return [row["target"], f"{row['p']:,}", row["error"], *["–"] * 7]
    return [
        row["target"],
        f"{row['p']:,}",
        row["family"],
        *(number(row[k], ".1f") for k in ("cpu", "wall")),
        f"{row['memory']:,.0f}",
        f"{row['memory_before']:,.0f}",
        f"{row['evaluations']:,}",
        row["verdict"],
        f"{row['mean_avg']:.3f}, {row['sd_avg']:.3f}" if "mean_avg" in row else "–",
    ]


def summary(rows: dict[tuple, dict[str, Any]]) -> str:
    head = [
        "target",
        "p",
        "family",
        "CPU s",
        "wall s",
        "peak MiB",
        "before",
        "evaluations",
        "verdict",
        "exact: mean, sd",
    ]
    ordered = [rows[t, p] for t in TARGETS for p in SIZES if (t, p) in rows]
    return f"{table(head, map(cells, ordered))}\n\n{process.setting(ordered)}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
    else:
        main()
