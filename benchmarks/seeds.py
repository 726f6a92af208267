"""Our accuracy and verdict over five seeds: ``python -m benchmarks.seeds [NAME ...] [--again] [--write]``."""

from __future__ import annotations

import tempfile
from collections import Counter
from typing import Any

from benchmarks import options as command
from benchmarks import process
from benchmarks.accuracy import GOAL, accurate
from benchmarks.posteriors import names
from benchmarks.results import Results, number, report, table

RESULTS = Results("seeds", ("posterior", "seed"))
SEEDS = range(5)


def main(arguments: list[str] | None = None) -> None:
    options = command.parser("seeds", __doc__).parse_args(arguments)
    for name in names(options.names):
        if options.again or not measured(name):
            measure(name)
    report("seeds", summary(RESULTS.rows()), options.write)


def measured(name: str) -> bool:
    rows = RESULTS.rows()
    return all(rows.get((name, s), {}).get("source") == process.source_hash() for s in SEEDS)


def measure(name: str) -> None:
    """All seeds in one process: accuracy is what counts here, and the model need compile only once."""
    with tempfile.TemporaryDirectory() as cache:
        out = process.run("benchmarks.tools", "ours", name, *map(str, SEEDS), environment={"LOWERBOUND_CACHE": cache})
    if "error" in out:
        print(f"{name:<26} {out['error']}", flush=True)
        return
    for row in out["rows"]:
        RESULTS.add({"posterior": name, "source": process.source_hash()} | process.circumstances() | row)
    print(" | ".join(describe(name, out["rows"])), flush=True)


def describe(name: str, rows: list[dict[str, Any]]) -> list[str]:
    def worst(column: str) -> str:
        return number(max(r.get(column, float("inf")) for r in rows))

    verdicts = Counter(r["verdict"] for r in rows)
    silent = sum(not accurate(r) and r["verdict"] != "NOT_TRUSTED" for r in rows)
    return [
        name,
        f"{sum(map(accurate, rows))} of {len(rows)}",
        *(worst(c) for c in ("mean_avg", "mean_max", "sd_avg", "sd_max")),
        ", ".join(f"{v} × {k}" for k, v in verdicts.most_common()),
        str(silent),
    ]


def summary(rows: dict[tuple, dict[str, Any]]) -> str:
    by_name = {n: [r for (m, _), r in rows.items() if m == n] for n in names()}
    head = [
        "posterior",
        f"both ≤ {GOAL}",
        "worst mean",
        "(largest)",
        "worst sd",
        "(largest)",
        "verdicts",
        "missed, unsaid",
    ]
    body = table(head, [describe(n, r) for n, r in by_name.items() if r])
    return f"{body}\n\n{process.setting(list(rows.values()))}"


if __name__ == "__main__":
    main()
