"""The answer on a screen: the summary, the verdict, the seconds.

On a terminal a coloured table; elsewhere plain text with aligned columns, which diff and grep can read.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

#: Parameters shown; the rest are counted. ``posterior.summary()`` has them all.
MAX_ROWS = 50
_STYLE = {"TRUSTED": "bold green", "CORRECTED": "bold yellow", "NOT_TRUSTED": "bold red"}


def render(posterior: Any, *, terminal: bool | None = None, max_rows: int = MAX_ROWS) -> Any:
    """The summary table, the verdict and the timings.

    Args:
        posterior: What ``lb.fit`` returned.
        terminal: Whether to make a ``rich`` renderable; else a string. By default whether standard
            output is a terminal.
        max_rows: Parameters shown at most.

    Returns:
        A string, or something that ``rich.print`` prints.
    """
    if terminal is None:
        terminal = _is_terminal(sys.stdout)
    head, table, left_out = _table(posterior, max_rows)
    if terminal:
        return _rich(posterior, head, table, left_out)
    lines = [_title(posterior), "", *_align(head, table)]
    if left_out:
        lines.append(left_out)
    lines.append("")
    lines += [indent + text for indent, text, _ in _verdict(posterior)]
    return "\n".join(lines)


def show(posterior: Any, stream: TextIO | None = None) -> None:
    """Print :func:`render` to ``stream``, standard output by default."""
    stream = stream or sys.stdout
    if stream is None:  # pythonw has none
        return
    if _is_terminal(stream):
        from rich.console import Console

        Console(file=stream, highlight=False).print(render(posterior, terminal=True))
    else:
        stream.write(render(posterior, terminal=False) + "\n")


def _is_terminal(stream: Any) -> bool:
    try:
        return stream is not None and stream.isatty()
    except (AttributeError, ValueError):  # not a stream, or closed
        return False


# -- the parts ---------------------------------------------------------------------------------------


def _title(posterior: Any) -> str:
    name = getattr(posterior, "model_name", None) or "model"
    how = [str(h) for h in (getattr(posterior, a, None) for a in ("family_name", "algorithm_name")) if h]
    return f"Posterior of {name}" + (f" ({', '.join(how)})" if how else "")


def _table(posterior: Any, max_rows: int) -> tuple[list[str], list[list[str]], str]:
    """Column names, rows of formatted cells, and a line on what was left out."""
    summary = posterior.summary()
    columns = [str(c) for c in summary.columns]
    n = len(summary)
    rows = []
    for name, values in zip(summary.index[:max_rows], summary.iloc[:max_rows].to_numpy(), strict=True):
        rows.append([str(name), *_row(columns, values)])
    left_out = f"and {n - max_rows:,} more of {n:,}" if n > max_rows else ""
    return ["", *columns], rows, left_out


def _row(columns: Sequence[str], values: Sequence[Any]) -> list[str]:
    """Location and scale with the decimals that the sd supports (three digits of it); the rest on their own."""
    by_name = dict(zip(columns, values, strict=True))
    sd = _float(by_name.get("sd"))
    decimals = 2 - math.floor(math.log10(sd)) if sd is not None and math.isfinite(sd) and sd > 0 else None
    return [_cell(c, v, decimals) for c, v in by_name.items()]


def _cell(column: str, value: Any, decimals: int | None) -> str:
    number = _float(value)
    if number is None:
        return str(value)
    if not math.isfinite(number):
        return str(number)
    own_units = column in ("mean", "sd", "median", "mode") or column.endswith("%") or column.startswith(("hdi", "eti"))
    if column.startswith("mcse") and decimals is not None and decimals <= 6:
        return f"{number:.{max(decimals + 1, 0)}f}"
    if not own_units:
        return f"{number:.0f}" if abs(number) >= 1000 or number == 0 else f"{number:.3g}"
    if decimals is None or decimals > 6 or abs(number) >= 1e9:
        return f"{number:.4g}"
    return f"{number:.{max(decimals, 0)}f}"


def _verdict(posterior: Any) -> Iterator[tuple[str, str, str]]:
    """Indent, text and style of each line after the table."""
    verdict = posterior.verdict
    status = getattr(verdict.status, "name", str(verdict.status))
    yield "", f"{status}: {verdict.sentence}", _STYLE.get(status, "bold")
    for reason in verdict.reasons or ():
        yield "  - ", reason, ""
    if verdict.next_step:
        yield "  Next: ", verdict.next_step, ""
    if getattr(verdict, "not_checked", ()):
        yield "", f"Not checked: {'; '.join(verdict.not_checked)}.", "dim"
    seconds = _timings(getattr(posterior, "timings", None))
    if seconds:
        yield "", seconds, "dim"


def _timings(timings: Any) -> str:
    if not isinstance(timings, Mapping):
        return ""
    parts = [f"{k.replace('_', ' ')} {s:.2f} s" for k, v in timings.items() if (s := _float(v)) is not None]
    return "Time: " + ", ".join(parts) if parts else ""


def _float(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


# -- the two forms -----------------------------------------------------------------------------------


def _align(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _rich(posterior: Any, head: list[str], rows: list[list[str]], left_out: str) -> Any:
    from rich import box
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=Text(_title(posterior), style="bold"), title_justify="left")
    table.add_column("", no_wrap=True)
    for c in head[1:]:
        table.add_column(Text(c), justify="right")
    for row in rows:
        table.add_row(*(Text(c) for c in row))
    parts: list[Any] = [table]
    if left_out:
        parts.append(Text(f"  {left_out}\n", style="dim"))
    for indent, text, style in _verdict(posterior):
        parts.append(Padding(Text(indent.lstrip() + text, style=style), (0, 0, 0, len(indent) - len(indent.lstrip()))))
    return Group(*parts)
