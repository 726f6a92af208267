"""The plan as a table: plain text, a ``rich`` renderable, HTML."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import Any

from lowerbound.explanation.derivation import Open
from lowerbound.explanation.rows import Row

HEAD = ("latent", "block of q", "update", "why")
#: Columns of plain text, and the most that each of the first three cells takes of them.
WIDTH, CELLS = 120, (22, 28, 26)


def cells(row: Row) -> tuple[str, str, str, str]:
    """The four cells of a row."""
    shape = f" ({', '.join(map(str, row.shape))})" if row.shape else ""
    plates = f" in {', '.join(row.plates)}" if row.plates else ""
    return row.latent + shape + plates, row.block, row.update, row.why


def text(title: str, rows: Sequence[Row], open: Sequence[Open], notes: Sequence[str]) -> str:
    """Aligned columns, which diff and grep can read; no line is longer than :data:`WIDTH`."""
    table = [cells(r) for r in rows]
    widths = [min(most, max(len(r[i]) for r in [HEAD, *table])) for i, most in enumerate(CELLS)]
    widths.append(WIDTH - sum(widths) - 2 * len(widths))
    lines = [*textwrap.wrap(title, WIDTH), ""]
    for r in [HEAD, *table]:
        wrapped = [_wrapped(c, w) for c, w in zip(r, widths, strict=True)]
        for i in range(max(map(len, wrapped))):
            parts = [(w[i] if i < len(w) else "").ljust(n) for w, n in zip(wrapped, widths, strict=True)]
            lines.append("  ".join(parts).rstrip())
    lines.append("")
    if open:
        lines.append("Without a closed form:")
        for o in open:
            lines += textwrap.wrap(str(o), WIDTH, initial_indent="  - ", subsequent_indent="    ")
        lines.append("")
    for n in notes:
        lines += textwrap.wrap(n, WIDTH)
    return "\n".join(lines)


def _wrapped(cell: str, width: int) -> list[str]:
    return textwrap.wrap(cell, width, subsequent_indent=" " if len(cell) > width else "") or [""]


_STYLE = {"exact": "green", "damped": "green", "grid": "green", "bound": "cyan", "sampled": "yellow", "none": "red"}


def rich_table(title: str, rows: Sequence[Row], open: Sequence[Open], notes: Sequence[str]) -> Any:
    """For terminals."""
    from rich import box
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=Text(title, style="bold"), title_justify="left")
    for h in HEAD:
        table.add_column(Text(h), overflow="fold")
    for r in rows:
        latent, block, update, why = cells(r)
        table.add_row(Text(latent), Text(block), Text(update, style=_STYLE[r.kind]), Text(why, style="dim"))
    parts: list[Any] = [table]
    if open:
        parts.append(Text("Without a closed form:", style="yellow"))
        parts += [Padding(Text("- " + str(o)), (0, 0, 0, 2)) for o in open]
    parts += [Text(n) for n in notes]
    return Group(*parts)


def html_table(title: str, rows: Sequence[Row], open: Sequence[Open], notes: Sequence[str]) -> str:
    """For notebooks."""

    def line(tag: str, values: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag} style='text-align:left'>{html.escape(v)}</{tag}>" for v in values) + "</tr>"

    out = [f"<p><b>{html.escape(title)}</b></p>", "<table><thead>", line("th", HEAD), "</thead><tbody>"]
    out += [line("td", cells(r)) for r in rows]
    out.append("</tbody></table>")
    if open:
        out.append("<p>Without a closed form:</p><ul>")
        out += [f"<li>{html.escape(str(o))}</li>" for o in open]
        out.append("</ul>")
    out += [f"<p>{html.escape(n)}</p>" for n in notes]
    return "\n".join(out)
