"""CPU time of ``import lowerbound`` over that of ``import numpyro``: ``python -m benchmarks.import_cost [--pairs N] [--write]``.

Each import has a fresh process; the two alternate, so that both meet the same machine, and the ratio is that of pairs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from statistics import median

from benchmarks import process
from benchmarks.results import ROOT, Results, report, table

RESULTS = Results("import_cost", ("pair",))
PROGRAM = "import time; t = time.process_time(); import {}; print(time.process_time() - t)"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.import_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--write", action="store_true", help="put the table into BENCHMARKS.md")
    options = parser.parse_args(arguments)
    import_seconds("lowerbound"), import_seconds("numpyro")  # writes byte code and fills the disk cache
    RESULTS.path.unlink(missing_ok=True)
    for i in range(options.pairs):
        order = ("lowerbound", "numpyro") if i % 2 else ("numpyro", "lowerbound")
        RESULTS.add({"pair": i} | process.circumstances() | {m: import_seconds(m) for m in order})
    rows = list(RESULTS.rows().values())
    ratios = [r["lowerbound"] / r["numpyro"] for r in rows]
    body = table(
        ["", "median", "least", "most"],
        [
            ["`import lowerbound`, CPU s", *spread([r["lowerbound"] for r in rows])],
            ["`import numpyro`, CPU s", *spread([r["numpyro"] for r in rows])],
            ["ratio of a pair", *spread(ratios)],
        ],
    )
    report("import", f"{body}\n\n{len(rows)} pairs; {process.setting(rows)}", options.write)


def spread(values: list[float]) -> list[str]:
    return [f"{v:.2f}" for v in (median(values), min(values), max(values))]


def import_seconds(module: str) -> float:
    command = [sys.executable, "-c", PROGRAM.format(module)]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
