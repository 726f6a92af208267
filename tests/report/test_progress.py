"""Progress: silent by default off a terminal, plain on request, live on a terminal, and never in the way."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
import time

import pytest

from lowerbound.report import Progress


def test_nothing_where_there_is_no_terminal():
    stream = io.StringIO()
    with Progress(stream=stream) as p:
        p.update("fitting", {"step": 1})
    assert stream.getvalue() == ""


def test_nothing_when_turned_off():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with Progress(enabled=False, stream=stream) as p:
        p.update("fitting")
    assert stream.getvalue() == ""


def test_one_plain_line_a_phase():
    stream = io.StringIO()
    with Progress(enabled=True, stream=stream) as p:
        p.update("compiling")
        p.update("fitting", {"step": 1})
        p.update("fitting", {"step": 1200, "elbo": -64.21234, "elbo_se": 0.031, "evaluations": 76800})
    lines = [line.split(" s  ", 1)[1] for line in stream.getvalue().splitlines()]
    assert lines == ["compiling", "fitting, step 1", "done, step 1,200, ELBO -64.212 ± 0.031, 76,800 evaluations"]


def test_says_that_it_stopped():
    stream = io.StringIO()
    with pytest.raises(ZeroDivisionError), Progress(enabled=True, stream=stream) as p:
        p.update("fitting")
        1 / 0  # noqa: B018
    assert "stopped" in stream.getvalue().splitlines()[-1]


@pytest.mark.parametrize(
    "info",
    [{"elbo": float("nan")}, {"elbo": "?", "step": None}, {"elbo": -1e300, "elbo_se": 1e-300}, {"elbo_se": 1.0}, [1]],
)
def test_odd_information_does_no_harm(info):
    with Progress(enabled=True, stream=io.StringIO()) as p:
        p.update("fitting", info)


def test_a_broken_stream_does_no_harm():
    class Broken(io.StringIO):
        def write(self, s):
            raise BrokenPipeError

    with Progress(enabled=True, stream=Broken()) as p:
        p.update("compiling")
        p.update("fitting")


def test_a_closed_stream_does_no_harm():
    stream = io.StringIO()
    stream.close()
    with Progress(enabled=True, stream=stream) as p:
        p.update("fitting")


def test_can_be_used_twice():
    stream = io.StringIO()
    p = Progress(enabled=True, stream=stream)
    for _ in range(2):
        with p:
            p.update("fitting")
    assert len(stream.getvalue().splitlines()) == 4


def test_rich_is_not_imported_without_a_display():
    code = """
        import sys
        from lowerbound.report.progress import Progress
        with Progress(enabled=True) as p:
            p.update("fitting", {"step": 1})
        assert "rich" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True)


def _in_terminal(code: str, interrupt_after: str | None = None) -> str:
    """What a program writes on a terminal."""
    pty = pytest.importorskip("pty")
    parent, child = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=child, stdout=child, stderr=child, env=env
    )
    os.close(child)
    out = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            chunk = os.read(parent, 4096)
        except OSError:  # Linux says so when the other side closes
            break
        if not chunk:
            break
        out += chunk
        if interrupt_after and interrupt_after.encode() in out:
            process.send_signal(2)
            interrupt_after = None
    process.wait(10)
    os.close(parent)
    return out.decode()


def test_live_line_on_a_terminal():
    out = _in_terminal("""
        import sys, time
        from lowerbound.report import Progress
        with Progress() as p:
            p.update("compiling")
            time.sleep(0.6)
            print("printed by the model")
            p.update("fitting", {"step": 7, "elbo": -64.2, "elbo_se": 0.1})
            time.sleep(0.4)
        print("after")
    """)
    for word in ("compiling", "printed by the model", "step 7", "ELBO -64.20 ± 0.10", "after"):
        assert word in out
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")


def test_the_cursor_is_back_after_ctrl_c():
    out = _in_terminal(
        """
        import time
        from lowerbound.report import Progress
        with Progress() as p:
            p.update("searching for a start")
            time.sleep(60)
        """,
        interrupt_after="searching",
    )
    assert "KeyboardInterrupt" in out
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")


def test_a_fast_fit_shows_no_line():
    # "Fast" is a minute here, so that a busy machine is fast as well.
    out = _in_terminal("""
        from lowerbound.report import Progress, progress
        progress.DELAY = 60
        with Progress() as p:
            p.update("compiling")
    """)
    assert "compiling" not in out
