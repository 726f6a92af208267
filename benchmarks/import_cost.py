"""CPU time of importing the library over that of ``import numpyro``.

``python -m benchmarks.import_cost [--rounds N] [--write]``

``import lowerbound`` loads most of itself at first use, so the first use of ``fit`` is measured as well. Each has a
fresh process; they take turns, so that all meet the same machine, and ratios are within a round.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from statistics import median

from benchmarks import process
from benchmarks.results import ROOT, Results, report, table

RESULTS = Results("import_cost", ("round",))
BASE = "import numpyro"
STATEMENTS = (BASE, "import lowerbound", "from lowerbound import fit")
PROGRAM = "import time; t = time.process_time(); {}; print(time.process_time() - t)"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.import_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--write", action="store_true", help="put the table into BENCHMARKS.md")
    options = parser.parse_args(arguments)
    for statement in STATEMENTS:
        seconds(statement)  # writes byte code and fills the disk cache
    RESULTS.path.unlink(missing_ok=True)
    for i in range(options.rounds):
        turn = i % len(STATEMENTS)
        order = STATEMENTS[turn:] + STATEMENTS[:turn]
        RESULTS.add({"round": i} | process.circumstances() | {s: seconds(s) for s in order})
    rows = list(RESULTS.rows().values())
    lines = [[f"`{s}`, CPU seconds", *spread([r[s] for r in rows])] for s in STATEMENTS]
    lines += [[f"`{s}` / `{BASE}`", *spread([r[s] / r[BASE] for r in rows])] for s in STATEMENTS[1:]]
    body = table(["", "median", "least", "most"], lines)
    report("import", f"{body}\n\n{len(rows)} rounds; {process.setting(rows)}", options.write)


def spread(values: list[float]) -> list[str]:
    return [f"{v:.2f}" for v in (median(values), min(values), max(values))]


def seconds(statement: str) -> float:
    command = [sys.executable, "-c", PROGRAM.format(statement)]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
