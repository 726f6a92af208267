"""Raw results as lines of JSON, and tables written into ``BENCHMARKS.md``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "BENCHMARKS.md"


class Results:
    """Rows of one benchmark in ``results/<name>.jsonl``; a later row replaces an earlier one of the same key."""

    def __init__(self, name: str, key: Sequence[str]):
        self.path = ROOT / "benchmarks" / "results" / f"{name}.jsonl"
        self.key = tuple(key)

    def add(self, row: dict[str, Any]) -> None:
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> dict[tuple, dict[str, Any]]:
        if not self.path.exists():
            return {}
        rows = [json.loads(line) for line in self.path.read_text().splitlines() if line.strip()]
        return {tuple(r[k] for k in self.key): r for r in rows}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A markdown table; the first column to the left, the others to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in lines)


def number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(value, form)


def publish(section: str, text: str) -> None:
    """Put ``text`` between the two markers of ``section`` in ``BENCHMARKS.md``."""
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    page = PAGE.read_text(encoding="utf-8")
    if page.count(begin) != 1 or page.count(end) != 1:
        raise SystemExit(f"{PAGE.name} needs the lines {begin} and {end} once each")
    before, rest = page.split(begin)
    _, after = rest.split(end)
    PAGE.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")


def report(section: str, text: str, write: bool) -> None:
    print("\n" + text.strip())
    if write:
        publish(section, text)
