"""Whether the verdicts are right: ``python -m benchmarks.trust [NAME ...] [--seeds 0,1,2,3,4] [--again] [--write]``.

A NAME is a target or a theme. What has been measured with the same source of library and
target is not measured again without ``--again``.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import options as command
from benchmarks import process
from benchmarks.results import Results, report
from benchmarks.trust.registry import REGISTRY, names
from benchmarks.trust.score import describe, details, summary, wrong
from benchmarks.trust.target import STORED

RESULTS = Results("trust", ("target", "seed"))
SEEDS = (0, 1, 2, 3, 4)
LIMIT = 300


def main(arguments: list[str] | None = None) -> None:
    parser = command.parser("trust", __doc__)
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="comma-separated; default %(default)s")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for all seeds of one target, default 300")
    options = parser.parse_args(arguments)
    seeds = [int(s) for s in options.seeds.split(",")]
    for name in names(options.names):
        missing = [s for s in seeds if options.again or not measured(name, s)]
        if missing:
            measure(name, missing, options.limit)
    chosen, rows = set(names(options.names)), RESULTS.rows().values()
    shown = [r for r in rows if r["target"] in chosen and r["seed"] in seeds]
    text = f"{summary(shown)}\n\n{details(shown)}\n\n{process.setting(shown)}"
    report("trust", text, options.write)


def measured(name: str, seed: int) -> bool:
    row = RESULTS.rows().get((name, seed), {})
    return (row.get("source"), row.get("definition")) == (process.source_hash(), definition(name))


def definition(name: str) -> str:
    """Of the target: the file of its theme, and its truth where that is stored."""
    target = REGISTRY[name]
    files = (Path(__file__).parent / f"{target.theme}.py", STORED / f"{name}.json")
    return hashlib.sha256(b"".join(f.read_bytes() for f in files if f.exists())).hexdigest()[:12]


def measure(name: str, seeds: list[int], limit: float) -> None:
    """All seeds in one fresh process with an empty compilation cache; the first pays for the compilation."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        out = process.run(
            "benchmarks.trust.child",
            name,
            str(file),
            *map(str, seeds),
            environment={"LOWERBOUND_CACHE": f"{folder}/cache"},
            timeout=limit,
        )
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {r["seed"] for r in rows}
    rows += [{"error": out.get("error", "no answer"), "seed": s} for s in seeds if s not in done]
    known = {"definition": definition(name), "target": name, "kind": REGISTRY[name].kind, "theme": REGISTRY[name].theme}
    full: list[dict[str, Any]] = [
        known | {"source": process.source_hash()} | process.circumstances() | row for row in rows
    ]
    for row in full:
        RESULTS.add(row)
    mark = "WRONG " if any(map(wrong, full)) else ""
    print(f"{name:<28} {mark}{' | '.join(map(describe, full))}", flush=True)
