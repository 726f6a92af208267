"""What the code of a lesson prints, beside what the page says it prints.

In the pages of ``docs/learn`` a block of text right after one of code is that code's output.
``python -m tests.docs.outputs docs/learn/*.md`` writes it anew.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PAIR = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"[-−]?\d+(?:\.\d*)?(?:e[-+]?\d+)?")


def outputs(text: str, name: str) -> Iterator[tuple[re.Match, str]]:
    """Every block of code of a page, run in order in one namespace, with what it printed."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for found in PAIR.finditer(text):
        printed = io.StringIO()
        line = text.count("\n", 0, found.start(1))
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + found[1], name, "exec"), namespace)
        yield found, printed.getvalue()


def agree(shown: str, printed: str) -> bool:
    """The same words, and numbers within two units of the last digit shown or two percent."""
    if _NUMBER.sub("#", shown).split() != _NUMBER.sub("#", printed).split():
        return False
    for a, b in zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=True):
        digits = len(a.split(".")[1]) if "." in a else 0
        if abs(float(a) - float(b)) > max(2 * 10.0**-digits, 0.02 * abs(float(a))):
            return False
    return True


def rewrite(path: Path) -> None:
    """Put what the code prints in the place of what the page says."""
    text = path.read_text(encoding="utf-8")
    parts, last = [], 0
    for found, printed in outputs(text, str(path)):
        if found[2] is not None:
            parts += [text[last : found.start(2)], printed]
            last = found.end(2)
    path.write_text("".join([*parts, text[last:]]), encoding="utf-8")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        rewrite(Path(argument))
