"""Coordinate ascent beside BayesPy: ``python -m benchmarks.closed_forms [PROBLEM ...] --bayespy PYTHON [--write]``.

The same model, priors, data, start and, where the start needs it, order of updates; both in float64 and with every
constant of the bound. One fresh process each, one after the other in the same run. Each goes on until its bound has
settled (BayesPy on the topics for 20 sweeps at most), and *the same bound* is the lower of the two ends, less one part
in a million: how long each took to get there is what is compared, from the start of the process, so that imports,
tracing and compilation (with an empty cache) are inside. The verdict on q, which BayesPy does not have, comes after
that: its wall seconds and memory are columns of their own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import options as command
from benchmarks import process
from benchmarks.closed_forms.problems import PROBLEMS, corpus
from benchmarks.results import Results, number, report, table

RESULTS = Results("closed_forms", ("problem",))
#: Bounds that differ relatively by no more than this are the same.
SAME = 1e-6
VARIABLE = "LOWERBOUND_BAYESPY"
_MISSING = f"""BayesPy is not there: {{python}} says {{reason!r}}.
It is no dependency of this project. Put it into an environment of its own,
    python -m venv /somewhere && /somewhere/bin/pip install bayespy "numpy<2"
and say where that is with --bayespy /somewhere/bin/python, or in the variable {VARIABLE}."""
#: One thread of BLAS: matrices are small, and threads that wait would count as CPU.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def main(arguments: list[str] | None = None) -> None:
    parser = command.parser("closed_forms", __doc__, "PROBLEM")
    parser.add_argument("--bayespy", metavar="PYTHON", help=f"a Python that has BayesPy; default: ${VARIABLE}, or this")
    parser.add_argument("--corpus", type=Path, help="counts of words (.npz, compressed rows), a problem more")
    options = parser.parse_args(arguments)
    known = PROBLEMS | ({"corpus": lambda: corpus(options.corpus)} if options.corpus else {})
    names = command.known(parser, "problem", options.names, known)
    theirs = python_with_bayespy(parser, options.bayespy)
    for name in names:
        row = RESULTS.rows().get((name,), {})
        if options.again or "ours" not in row or row.get("source") != process.source_hash():
            row = {"problem": name, "source": process.source_hash()} | process.circumstances()
            row = race(row, known[name], theirs)
            RESULTS.add(row)
            print(" | ".join(map(str, cells(row))), flush=True)
    report("closed forms", summary(RESULTS.rows()), options.write)


def python_with_bayespy(parser: argparse.ArgumentParser, given: str | None) -> str:
    """Checked before anything is measured."""
    python = given or os.environ.get(VARIABLE) or sys.executable
    try:
        done = subprocess.run([python, "-c", "import bayespy"], capture_output=True, text=True)
        reason = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["nothing"])[-1]
    except OSError as e:
        reason = str(e)
    if reason:
        parser.exit(2, _MISSING.format(python=python, reason=reason) + "\n")
    return python


def race(row: dict[str, Any], make: Any, theirs: str) -> dict[str, Any]:
    """Both, and what each needed for the bound that both have."""
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/problem.npz"
        make().save(Path(file))
        sides = {
            "ours": process.run(
                "benchmarks.closed_forms.ours", file, environment={"LOWERBOUND_CACHE": f"{folder}/cache"}
            ),
            "bayespy": process.run("benchmarks.closed_forms.theirs", file, python=theirs, environment=_ONE_THREAD),
        }
    if errors := [f"{k}: {v['error']}" for k, v in sides.items() if "error" in v]:
        return row | {"error": "; ".join(errors)}
    target = min(s["bounds"][-1] for s in sides.values())
    target -= SAME * abs(target)
    row = row | {"versions": row["versions"] | sides["bayespy"].pop("versions")}
    return row | {k: sides[k] | measured(sides[k], target) for k in sides}


def measured(side: dict[str, Any], target: float) -> dict[str, Any]:
    """Of one side: its bound, the seconds of a sweep, and those until ``target``. Replaces the stamps of sweeps."""
    bounds, counts, stamps = side.pop("bounds"), side.pop("counts"), side.pop("sweeps")
    there = next(i for i, b in enumerate(bounds) if b >= target)
    before = max(side["phases"].values())
    return {
        "bound": bounds[-1],
        "first_bounds": bounds[:10],
        "sweeps": counts[-1],
        "sweep_cpu": (stamps[-1][0] - before[0]) / counts[-1],
        "sweep_wall": (stamps[-1][1] - before[1]) / counts[-1],
        "sweeps_to_bound": counts[there],
        "cpu_to_bound": stamps[there][0],
        "wall_to_bound": stamps[there][1],
    }


def cells(row: dict[str, Any]) -> list[Any]:
    if "error" in row:
        return [row["problem"], row["error"], *["–"] * 13]
    a, b = row["ours"], row["bayespy"]
    behind = (b["bound"] - a["bound"]) / abs(b["bound"])
    return [
        row["problem"],
        f"{a['bound']:,.4f}" + (" (lower)" if behind > SAME else ""),
        f"{b['bound']:,.4f}" + ("" if b["settled"] else f" ({b['sweeps']:,} sweeps)"),
        f"{a['sweeps_to_bound']:,}",
        f"{b['sweeps_to_bound']:,}",
        number(1e3 * a["sweep_cpu"], ".2f"),
        number(1e3 * b["sweep_cpu"], ".2f"),
        number(b["sweep_cpu"] / a["sweep_cpu"], ".1f"),
        f"{a['cpu_to_bound']:.2f} / {a['wall_to_bound']:.2f}",
        f"{b['cpu_to_bound']:.2f} / {b['wall_to_bound']:.2f}",
        number(b["cpu_to_bound"] / a["cpu_to_bound"], ".2f"),
        f"{a['memory_of_sweeps']:,.0f} / {a['memory']:,.0f}",
        f"{b['memory']:,.0f}",
        number(b["memory"] / a["memory_of_sweeps"], ".1f"),
        f"{a['timings']['check']:.1f}",
    ]


def summary(rows: dict[tuple, dict[str, Any]]) -> str:
    head = [
        "problem",
        "bound: ours",
        "BayesPy",
        "sweeps: ours",
        "BayesPy",
        "CPU ms a sweep: ours",
        "BayesPy",
        "times",
        "cold CPU / wall s: ours",
        "BayesPy",
        "times",
        "peak MiB: ours, / with the verdict",
        "BayesPy",
        "times",
        "verdict, s",
    ]
    ordered = [rows[n,] for n in (*PROBLEMS, "corpus") if (n,) in rows]
    return f"{table(head, map(cells, ordered))}\n\n{process.setting(ordered)}"
