"""Coordinate ascent in closed form, beside BayesPy's: the same model, priors, data and start. See ``run.py``.

The two child processes import this package before their clocks are read, so that it imports nothing itself.
"""

from __future__ import annotations


def main(arguments: list[str] | None = None) -> None:
    from benchmarks.closed_forms.run import main as run

    run(arguments)
