"""What is shown while a fit runs: the phase, the seconds, the ELBO so far.

On a terminal it is one live line; the seconds tick while XLA compiles, since the line is drawn by a
thread of its own. Elsewhere nothing is shown, unless asked for: then each phase is one line of plain
text. Either way it goes to the error stream, so that what a program prints stays clean.

A display must never cost an answer. Whatever goes wrong in here ends the display, not the fit; and
``rich`` is imported only when a live line starts.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, TextIO

#: Redraws a second: enough for the seconds to tick, too few to be felt.
REFRESH_PER_SECOND = 8
#: A fit that ends sooner than this many seconds shows no live line, which would only flash.
DELAY = 0.2
_SHOW_CURSOR = "\x1b[?25h"


class Progress:
    """A context that shows how far a fit has come.

    Args:
        enabled: ``None`` shows a live line on a terminal and nothing elsewhere; ``True`` shows one plain
            line a phase where there is no terminal; ``False`` shows nothing.
        stream: Where to, ``sys.stderr`` by default.

    Example:
        >>> with Progress(enabled=False) as progress:
        ...     progress.update("fitting", {"step": 3, "elbo": -64.2, "elbo_se": 0.1})
    """

    def __init__(self, enabled: bool | None = None, *, stream: TextIO | None = None):
        self._enabled = enabled
        self._stream = stream
        self._mode: Literal["off", "plain", "live"] = "off"
        self._live: Any = None
        self._phase = ""
        self._info: Mapping[str, Any] = {}
        self._start = 0.0

    def __enter__(self) -> Progress:
        self._start = time.perf_counter()
        self._phase, self._info = "", {}
        try:
            self._mode = self._choose()
        except Exception:
            self._mode = "off"
        return self

    def update(self, phase: str, info: Mapping[str, Any] | None = None) -> None:
        """Say what is being done now.

        Args:
            phase: A few words: "compiling", "fitting".
            info: Any of ``step``, ``elbo``, ``elbo_se``, ``evaluations``; others are not shown.
        """
        if self._mode == "off":
            return
        try:
            new = phase != self._phase
            self._info = dict(info) if info is not None else ({} if new else self._info)
            self._phase = phase
            if self._mode == "plain" and new:
                self._write(f"{self._seconds():6.1f} s  {self._text()}")
            elif self._mode == "live" and self._live is None:
                self._live = _start(self)
        except Exception:
            self._close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        try:
            if self._mode == "plain" and self._phase:
                self._phase = "done" if kind is None else "stopped"
                self._write(f"{self._seconds():6.1f} s  {self._text()}")
        except Exception:  # a closed pipe
            pass
        finally:
            self._close()
        return False

    # -- inside --------------------------------------------------------------------------------------

    def _choose(self) -> Literal["off", "plain", "live"]:
        if self._enabled is False:
            return "off"
        self._stream = self._stream or sys.stderr
        if self._stream is None:  # pythonw has none
            return "off"
        if self._stream.isatty() and os.environ.get("TERM") != "dumb":
            return "live"
        return "plain" if self._enabled else "off"

    def _seconds(self) -> float:
        return time.perf_counter() - self._start

    def _text(self) -> str:
        return ", ".join([self._phase, *_details(self._info)])

    def _write(self, line: str) -> None:
        assert self._stream is not None
        self._stream.write(line + "\n")
        self._stream.flush()

    def _close(self) -> None:
        """End the display and give the cursor back, also when a second Ctrl-C arrives in here."""
        live, self._live, self._mode = self._live, None, "off"
        if live is None:
            return
        try:
            live.stop()
        except Exception:
            pass
        finally:
            try:
                assert self._stream is not None
                self._stream.write(_SHOW_CURSOR)
                self._stream.flush()
            except Exception:
                pass


def _start(progress: Progress) -> Any:
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.text import Text

    spinner = Spinner("dots", style="cyan")

    def draw() -> Any:
        seconds = progress._seconds()
        if seconds < DELAY:
            return Text("")
        text = Text(progress._phase, style="bold")
        for part in (f"{seconds:.0f} s", *_details(progress._info)):
            text.append("  ·  ", style="dim not bold").append(part, style="not bold")
        text.no_wrap, text.overflow = True, "ellipsis"
        spinner.update(text=text)
        return spinner

    live = Live(
        get_renderable=draw,
        console=Console(file=progress._stream),
        refresh_per_second=REFRESH_PER_SECOND,
        transient=True,
        # A model's own print goes above the line; where standard output is a file it must stay there.
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        redirect_stderr=True,
    )
    live.start()
    return live


def _details(info: Mapping[str, Any]) -> list[str]:
    """The parts of ``info`` that can be shown, in words."""
    out = []
    step, elbo, se, evaluations = (_number(info.get(k)) for k in ("step", "elbo", "elbo_se", "evaluations"))
    if step is not None:
        out.append(f"step {step:,.0f}")
    if elbo is not None:
        decimals = _decimals(se)
        error = f" ± {se:.{decimals}f}" if se is not None and se > 0 else ""
        out.append(f"ELBO {elbo:,.{decimals}f}{error}")
    if evaluations is not None:
        out.append(f"{evaluations:,.0f} evaluations")
    return out


def _decimals(se: float | None) -> int:
    """Decimals that the standard error supports; two without one."""
    if se is None or se <= 0:
        return 2
    return min(6, max(0, 1 - math.floor(math.log10(se))))


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
