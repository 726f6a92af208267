"""Accuracy and time on the reference posteriors, beside NumPyro's full-rank SVI and NUTS in the same run.

``python -m benchmarks.reference [NAME ...] [--tools ours,svi,nuts] [--again] [--write]``

Each tool gets a fresh process for each posterior: ``ours`` two, the first with an empty compilation cache and the
second with what the first left in it. Raw rows go to ``results/reference.jsonl``; what is there already is not run
again (unless the library's source has changed), so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import tempfile
from typing import Any

from benchmarks import options as command
from benchmarks import process
from benchmarks.accuracy import GOAL, accurate
from benchmarks.posteriors import names
from benchmarks.results import Results, number, report, table
from benchmarks.tools import TOOLS

RESULTS = Results("reference", ("posterior", "tool"))
SEED = 0


def main(arguments: list[str] | None = None) -> None:
    parser = command.parser("reference", __doc__)
    parser.add_argument("--tools", default=",".join(TOOLS), help="some of %(default)s")
    options = parser.parse_args(arguments)
    tools = command.known(parser, "tool", options.tools.split(","), TOOLS)
    for name in names(options.names):
        for tool in tools:
            if options.again or not measured(name, tool):
                measure(name, tool)
    report("reference", tables(RESULTS.rows()), options.write)


def measured(name: str, tool: str) -> bool:
    row = RESULTS.rows().get((name, tool))
    return row is not None and "error" not in row and row.get("source") in (None, process.source_hash())


def measure(name: str, tool: str) -> None:
    with tempfile.TemporaryDirectory() as cache:
        for run in ("ours", "ours_warm") if tool == "ours" else (tool,):
            out = process.run("benchmarks.tools", tool, name, str(SEED), environment={"LOWERBOUND_CACHE": cache})
            row = {"posterior": name, "tool": run} | process.circumstances()
            row |= {"error": out["error"]} if "error" in out else out["rows"][0]
            if tool == "ours":
                row["source"] = process.source_hash()
            RESULTS.add(row)
            print(line(row), flush=True)


def line(row: dict[str, Any]) -> str:
    start = f"{row['posterior']:<26} {row['tool']:<10}"
    if "error" in row:
        return f"{start} {row['error']}"
    errors = f"mean {cell(row, 'mean'):<15} sd {cell(row, 'sd'):<15}"
    return f"{start} {errors} cpu {row['cpu']:8.2f} s  wall {row['wall']:8.2f} s  {row.get('verdict', '')}"


def cell(row: dict[str, Any] | None, error: str) -> str:
    """Average and, in brackets, largest error over the parameters."""
    if row is None:
        return "–"
    if "error" in row:
        return "failed"
    return f"{row[error + '_avg']:.3f} ({row[error + '_max']:.3f})" if row["finite"] else "not finite"


def tables(rows: dict[tuple, dict[str, Any]]) -> str:
    known = [n for n in names() if any(k[0] == n for k in rows)]

    def get(name: str, tool: str) -> dict[str, Any] | None:
        return rows.get((name, tool))

    accuracy = []
    for n in known:
        mine = get(n, "ours") or {}
        cells = [cell(get(n, t), e) for t in ("ours", "svi", "nuts") for e in ("mean", "sd")]
        accuracy.append([n, mine.get("dimension", "–"), *cells[:2], mine.get("verdict", "–"), *cells[2:]])
    right = [n for n in known if accurate(get(n, "ours") or {})]
    missed = [n for n in known if n not in right and (get(n, "ours") or {}).get("verdict") != "NOT_TRUSTED"]
    text = [
        f"{len(right)} of {len(known)} posteriors have both averages of ours at most {GOAL}; "
        f"missed without a verdict that says so: {', '.join(missed) or 'none'}.",
        table(
            ["posterior", "p", "ours: mean", "ours: sd", "verdict", "SVI: mean", "SVI: sd", "NUTS: mean", "NUTS: sd"],
            accuracy,
        ),
        "CPU seconds until the answer; cold is with an empty compilation cache, warm with that of an earlier process.",
        table(
            ["posterior", "ours, cold", "ours, warm", "SVI", "NUTS"]
            + [f"{o} / {t}" for t in ("SVI", "NUTS") for o in ("cold", "warm")],
            [times(n, get) for n in known],
        ),
        process.setting(list(rows.values())),
    ]
    return "\n\n".join(text)


def times(name: str, get: Any) -> list[str]:
    cpu = {t: (get(name, t) or {}).get("cpu") for t in ("ours", "ours_warm", "svi", "nuts")}
    ratios = [
        number(cpu[mine] / cpu[peer] if cpu[mine] and cpu[peer] else None)
        for peer in ("svi", "nuts")
        for mine in ("ours", "ours_warm")
    ]
    return [name, *(number(cpu[t], ".2f") for t in cpu), *ratios]


if __name__ == "__main__":
    main()
