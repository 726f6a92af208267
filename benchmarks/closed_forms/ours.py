"""Ours on one problem, in a process of its own: ``python -m benchmarks.closed_forms.ours FILE``."""

from __future__ import annotations

from benchmarks.closed_forms.stamps import Stamps

STAMPS = Stamps()

import json  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402


def fit(model: Any, data: dict[str, Any], start: dict[str, Any]) -> dict[str, Any]:
    """``lb.fit(model, data, algorithm="coordinate_ascent", init=start, seed=0)``, until it is there: its parts."""
    from lowerbound.algorithms.coordinate_ascent import CoordinateAscent
    from lowerbound.algorithms.factored import Factored
    from lowerbound.expectations.factors import random_factors
    from lowerbound.fitting import as_model
    from lowerbound.precision import float64

    STAMPS.phase("imports")
    with float64():
        factored = Factored.of(random_factors(as_model(model, data)))
    STAMPS.phase("trace")
    algorithm = CoordinateAscent().started_from(start)
    state = algorithm.init(0, factored, None)
    STAMPS.phase("compile")
    while state.status is None:
        state, info = algorithm.step(state)
        STAMPS.sweep(state.elbo, info.step)
    return {"settled": state.status.name == "CONVERGED"}


def main(path: str) -> dict[str, Any]:
    from benchmarks.closed_forms.models import MODELS
    from benchmarks.closed_forms.problems import Problem

    problem = Problem.load(Path(path))
    notes = fit(MODELS[problem.model], problem.data, problem.start)
    cpu, wall = STAMPS.read()

    from benchmarks.process import peak_memory

    return {"cpu": cpu, "wall": wall, "memory": peak_memory()} | notes | STAMPS.row()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(main(sys.argv[1])))
