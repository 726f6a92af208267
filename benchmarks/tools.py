"""One tool on one posterior in this process: ``python -m benchmarks.tools TOOL POSTERIOR SEED``.

The clock starts after the imports and the loading of the data and stops when the tool has its answer; starting JAX,
tracing, compiling and whatever a tool imports only then are inside it, as they are for a person who runs a script.
Everything is in float64.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.accuracy import score
from benchmarks.posteriors import REGISTRY, Posterior

DRAWS = 4000


class Clock:
    """CPU seconds of all threads of this process, and wall seconds, since it was made."""

    def __init__(self) -> None:
        self._start = time.process_time(), time.perf_counter()

    def read(self) -> tuple[float, float]:
        return time.process_time() - self._start[0], time.perf_counter() - self._start[1]


class Answer(NamedTuple):
    """``fit``: the clock when the answer was there; ``draws``: ``[4000, *shape]`` by site; ``notes``: more columns."""

    fit: tuple[float, float]
    draws: dict[str, np.ndarray]
    notes: dict[str, Any]


def ours(p: Posterior, data: dict[str, Any], seed: int) -> Callable[[Clock], Answer]:
    """``lb.fit`` with no options; JAX's precision is left at its default, which must not matter."""
    import lowerbound as lb

    def work(clock: Clock) -> Answer:
        posterior = lb.fit(p.model, data, seed=seed)
        fitted = clock.read()
        draws = posterior.sample(DRAWS, seed=seed + 1)
        notes = {
            "verdict": posterior.verdict.status.name,
            "pareto_k": float(posterior.pareto_k),
            "elbo": float(posterior.elbo),
            "dimension": posterior.q.dimension,
            "evaluations": posterior.counts["evaluations"],
            "compile": posterior.timings["compile"],
        }
        return Answer(fitted, draws, notes)

    return work


def svi(p: Posterior, data: dict[str, Any], seed: int) -> Callable[[Clock], Answer]:
    """NumPyro's full-rank Gaussian: Adam at 0.01, 20,000 steps of 8 particles in one compiled scan.

    ``stable_update`` skips steps whose loss is not finite, without which some of these posteriors end in NaN.
    """
    import jax
    import numpyro
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoMultivariateNormal

    numpyro.enable_x64()

    def work(clock: Clock) -> Answer:
        guide = AutoMultivariateNormal(p.model)
        engine = SVI(p.model, guide, numpyro.optim.Adam(0.01), Trace_ELBO(num_particles=8))
        result = engine.run(jax.random.key(seed), 20_000, progress_bar=False, stable_update=True, **data)
        jax.block_until_ready((result.params, result.losses))
        fitted = clock.read()
        draws = guide.sample_posterior(jax.random.key(seed + 1), result.params, sample_shape=(DRAWS,))
        draws = {k: np.asarray(v) for k, v in draws.items()}
        return Answer(fitted, draws, {"elbo": -float(np.mean(np.asarray(result.losses)[-1000:]))})

    return work


def nuts(p: Posterior, data: dict[str, Any], seed: int) -> Callable[[Clock], Answer]:
    """NumPyro's NUTS: four chains one after the other, 1,000 + 1,000 each."""
    import jax
    import numpyro
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
    from numpyro.infer import MCMC, NUTS

    numpyro.enable_x64()

    def work(clock: Clock) -> Answer:
        mcmc = MCMC(
            NUTS(p.model),
            num_warmup=1000,
            num_samples=1000,
            num_chains=4,
            chain_method="sequential",
            progress_bar=False,
        )
        mcmc.run(jax.random.key(seed), **data)
        jax.block_until_ready(mcmc.get_samples())
        fitted = clock.read()
        draws = {k: np.asarray(v) for k, v in mcmc.get_samples().items()}
        chains = p.columns(draws).reshape(4, 1000, -1)
        notes = {
            "min_ess": float(np.min(effective_sample_size(chains))),
            "max_rhat": float(np.max(split_gelman_rubin(chains))),
            "divergences": int(mcmc.get_extra_fields()["diverging"].sum()),
        }
        return Answer(fitted, draws, notes)

    return work


TOOLS = {"ours": ours, "svi": svi, "nuts": nuts}


def measure(tool: str, p: Posterior, seed: int) -> dict[str, Any]:
    """A row: seconds until the answer and until 4,000 draws of it, and how right they are."""
    data = p.data()
    work = TOOLS[tool](p, data, seed)
    clock = Clock()
    answer = work(clock)
    row: dict[str, Any] = {"cpu": answer.fit[0], "wall": answer.fit[1]}
    if tool != "nuts":  # whose draws are there when it ends; its diagnostics came after
        row["cpu_draws"], row["wall_draws"] = clock.read()
    else:
        row["cpu_draws"], row["wall_draws"] = answer.fit
    return row | score(p.columns(answer.draws), p.reference()) | answer.notes


def main() -> None:
    tool, name, *seeds = sys.argv[1:]
    warnings.simplefilter("ignore")  # the verdict is a column
    rows = [measure(tool, REGISTRY[name], int(s)) | {"seed": int(s)} for s in seeds]
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
