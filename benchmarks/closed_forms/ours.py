"""Ours on one problem, in a process of its own: ``python -m benchmarks.closed_forms.ours FILE``."""

from __future__ import annotations

from benchmarks.closed_forms.stamps import Stamps

STAMPS = Stamps()

import json  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

#: Ours ends when two sweeps in a row raise the bound by less than this, relatively; BayesPy when one does.
TOLERANCE = 1e-10


def fit(model: Any, data: dict[str, Any], start: dict[str, Any]) -> dict[str, Any]:
    """``lb.fit(model, data, algorithm=CoordinateAscent(tolerance=1e-10), init=start, seed=0)``, its sweeps stamped."""
    import lowerbound as lb
    from lowerbound.algorithms.coordinate_ascent import CoordinateAscent

    class Timed(CoordinateAscent):
        def init(self, *arguments: Any) -> Any:
            state = super().init(*arguments)
            STAMPS.phase("tracing and compiling")
            return state

    STAMPS.phase("imports")
    posterior = lb.fit(
        model,
        data,
        algorithm=Timed(tolerance=TOLERANCE),
        init=start or None,
        seed=0,
        callback=lambda info: STAMPS.sweep(info.elbo, info.step),
    )
    notes = {"settled": posterior.status.name == "CONVERGED", "verdict": posterior.verdict.status.name}
    return notes | {"elbo": float(posterior.elbo), "timings": posterior.timings}


def main(path: str) -> dict[str, Any]:
    from benchmarks.closed_forms.models import MODELS
    from benchmarks.closed_forms.problems import Problem

    problem = Problem.load(Path(path))
    notes = fit(MODELS[problem.model], problem.data, problem.start)
    cpu, wall = STAMPS.read()

    from benchmarks.memory import peak_memory

    return {"cpu": cpu, "wall": wall, "memory": peak_memory()} | notes | STAMPS.row()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(main(sys.argv[1])))
