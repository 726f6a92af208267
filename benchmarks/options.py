"""What the benchmarks' command lines have in common."""

from __future__ import annotations

import argparse
from collections.abc import Iterable


def parser(module: str, doc: str, names: str = "NAME") -> argparse.ArgumentParser:
    """Some names, ``--again`` and ``--write``; a benchmark adds its own."""
    out = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=doc.splitlines()[0])
    out.add_argument("names", nargs="*", metavar=names, help="default: all")
    out.add_argument("--again", action="store_true", help="measure even what has been measured")
    out.add_argument("--write", action="store_true", help="put the table into BENCHMARKS.md")
    return out


def known(parser: argparse.ArgumentParser, what: str, names: Iterable[str], all_names: Iterable[str]) -> list[str]:
    """The names, all of them if there are none; an error if one is not known."""
    names, all_names = list(names), list(all_names)
    if unknown := [n for n in names if n not in all_names]:
        parser.error(f"unknown {what} {', '.join(unknown)}; known: {', '.join(all_names)}")
    return names or all_names
