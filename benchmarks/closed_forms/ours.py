"""Ours on one problem, in a process of its own: ``python -m benchmarks.closed_forms.ours FILE``."""

from __future__ import annotations

from benchmarks.closed_forms.stamps import Stamps

STAMPS = Stamps()

import json  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

#: The sweeps end when the bound changes by less than this, relatively.
TOLERANCE, SWEEPS = 1e-12, 20_000


def fit(model: Any, data: dict[str, Any], start: dict[str, Any]) -> None:
    """Sweeps over the blocks until the bound has settled, by the parts that ``lb.fit`` will have."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from lowerbound.algorithms.factored import Factored
    from lowerbound.expectations.factors import random_factors
    from lowerbound.fitting import as_model

    STAMPS.phase("imports")
    factored = Factored.of(random_factors(as_model(model, data)))
    blocks = factored.blocks
    STAMPS.phase("trace")
    first = [b.start(np.random.default_rng(0), 0.0) for b in blocks]
    for name, value in start.items():
        i = factored.index(name)
        first[i] = _at(blocks[i], name, value)
    # Those with a start last, so that it is used.
    order = sorted(range(len(blocks)), key=lambda i: any(n in start for n in blocks[i].latents))
    if "C" in start:  # as BayesPy is given it: x, C, a, tau
        order = [factored.index(n) for n in ("x", "C", "a", "tau")]

    def sweep(flat: Any) -> tuple[Any, Any]:
        naturals = [dict(zip(b.keys, n, strict=True)) for b, n in zip(blocks, flat, strict=True)]
        moments = factored.moments(naturals)
        for i in order:
            naturals[i] = factored.updated(i, naturals, moments)
            moments = {**moments, **blocks[i].moments(naturals[i])}
        return [[n[k] for k in b.keys] for b, n in zip(blocks, naturals, strict=True)], factored.elbo(naturals)

    state = [[np.asarray(n[k], float) for k in b.keys] for b, n in zip(blocks, first, strict=True)]
    lowered = jax.jit(sweep).lower(state)
    STAMPS.phase("lower")
    compiled = lowered.compile()
    STAMPS.phase("compile")
    last = -np.inf
    for _ in range(SWEEPS):
        state, bound = compiled(state)
        bound = float(bound)
        STAMPS.sweep(bound)
        if abs(bound - last) < TOLERANCE * abs(bound):
            break
        last = bound


def _at(block: Any, name: str, value: np.ndarray) -> dict[Any, Any]:
    """A block that is all but certain of a value."""
    if hasattr(block, "indicator"):
        return {block.indicator: np.where(value[..., None] == block.values, 0.0, -50.0)}
    precision = 1e10
    eye = np.eye(block.size) * np.ones((*block.plate_shape, 1, 1))
    return {block.first[name]: precision * value, block.second[name, name]: -0.5 * precision * eye}


def main(path: str) -> dict[str, Any]:
    from benchmarks.closed_forms.models import MODELS
    from benchmarks.closed_forms.problems import Problem

    problem = Problem.load(Path(path))
    fit(MODELS[problem.model], problem.data, problem.start)
    cpu, wall = STAMPS.read()

    from benchmarks.process import peak_memory

    settled = len(STAMPS.bounds) < SWEEPS
    return {"cpu": cpu, "wall": wall, "memory": peak_memory(), "settled": settled} | STAMPS.row()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(main(sys.argv[1])))
