"""All seeds of one target in this process: ``python -m benchmarks.trust.child NAME FILE SEED ...``.

A row of JSON is appended to the file as each fit ends, so that a process stopped at the time limit leaves what it had.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

from benchmarks.tools import DRAWS, Clock
from benchmarks.trust.registry import REGISTRY
from benchmarks.trust.score import errors
from benchmarks.trust.target import Case, Moments


def run(case: Case, truth: dict[str, Moments], seed: int) -> dict[str, Any]:
    """One fit with no options, and how far its 4,000 draws are from the truth."""
    import lowerbound as lb

    clock = Clock()
    try:
        posterior = lb.fit(case.model, case.data, seed=seed)
        cpu, wall = clock.read()
        row: dict[str, Any] = {
            "verdict": posterior.verdict.status.name,
            "cpu": cpu,
            "wall": wall,
            "pareto_k": float(posterior.pareto_k),
            "from": posterior.source,
            "status": posterior.status.name,
            "family": posterior.family_name,
            "dimension": posterior.q.dimension,
            "fit": posterior.timings["fit"],
            "check": posterior.timings["check"],
            "evaluations": posterior.counts["evaluations"],
            "escalation": [t.name for t in posterior.trials if t.kept],
        }
        return row | (errors(case.look(posterior.sample(DRAWS, seed=seed + 1)), truth) if truth else {})
    except Exception as e:  # a fit that breaks is a row of the table
        return {"error": f"{type(e).__name__}: {e}".splitlines()[0][:300]}


def main() -> None:
    name, file, *seeds = sys.argv[1:]
    warnings.simplefilter("ignore")  # the verdict is a column
    case = REGISTRY[name].build()
    truth = REGISTRY[name].truth(case)
    for seed in map(int, seeds):
        with Path(file).open("a") as out:
            out.write(json.dumps(run(case, truth, seed) | {"seed": seed}) + "\n")
    print(json.dumps({"done": True}))


if __name__ == "__main__":
    main()
