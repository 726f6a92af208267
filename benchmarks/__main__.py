"""``python -m benchmarks [BENCHMARK] [its options]``: one of them, or every table of ``BENCHMARKS.md`` in turn.

Without a name, options go to all: ``--write`` puts the tables into the page, ``--again`` is for those that resume.
"""

from __future__ import annotations

import sys
from importlib import import_module

TABLES = ("import_cost", "reference", "seeds", "trust", "dimensions", "large", "closed_forms")
ALL = (*TABLES, "examples")


def main(arguments: list[str]) -> None:
    if arguments[:1] and arguments[0] in ALL:
        import_module(f"benchmarks.{arguments[0]}").main(arguments[1:])
        return
    if unknown := [a for a in arguments if a not in ("--write", "--again")]:
        raise SystemExit(f"{__doc__}\n{unknown[0]!r} is none of the benchmarks: {', '.join(ALL)}.")
    for name in TABLES:
        print(f"\n== {name}", flush=True)
        # The imports are measured from the start each time.
        given = [a for a in arguments if a != "--again" or name != "import_cost"]
        import_module(f"benchmarks.{name}").main(given)


if __name__ == "__main__":
    main(sys.argv[1:])
