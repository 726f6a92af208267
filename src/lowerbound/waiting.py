"""Wait for a call, but not for ever.

A compiled computation cannot be interrupted: a callback that sleeps, or a loop that never ends, holds the thread
that called it. So a call that may hang is made in a thread of its own, and the caller waits for that thread with a
limit. When the limit passes an error is raised here; the computation itself goes on in its thread, which is a daemon
and so does not keep the process from ending. A Python loop, such as one in a model that is being traced, can be
stopped, and is.

Without a limit the call is made as it is, in the calling thread, at no cost. With one it costs a thread, some
hundred microseconds. Ctrl-C reaches the waiting caller in either case. Settings of JAX that are made for one thread
(``with jax.default_device(...)``) do not hold in the other.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from lowerbound.errors import NotRespondingError

T = TypeVar("T")

#: A call is given at least so many seconds, and so many times the longest one before it, however late it is.
GRACE = 1.0
PATIENCE = 10.0
#: Seconds that a thread which has been asked to end is given. (One that still runs Python code when the interpreter
#: is taken down may crash it.)
_FAREWELL = 0.3


class Waiting:
    """Calls of one kind, each with a limit.

    Args:
        what: What is called, for the message: ``"the log density of 'model'"``.
        deadline: When to give up, on the clock of ``time.monotonic()``; None for never. A call that begins near the
            deadline or after it still has :data:`GRACE` seconds and :data:`PATIENCE` times the longest call so far:
            only one that does not respond is given up, not one that is merely the last.

    Attributes:
        longest: Seconds of the longest call that returned.
        calls: How many returned.
    """

    def __init__(self, what: str, deadline: float | None = None):
        self.what, self.deadline = what, deadline
        self.longest, self.calls = 0.0, 0

    def __call__(self, call: Callable[[], T]) -> T:
        """The result of ``call()``, or its exception.

        Raises:
            NotRespondingError: it has not returned in time.
        """
        if self.deadline is None:
            return call()
        result: list[Any] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                result.append(call())
            except BaseException as e:  # handed to the caller
                failure.append(e)

        start = time.monotonic()
        limit = max(self.deadline - start, GRACE, PATIENCE * self.longest)
        thread = threading.Thread(target=run, name="lowerbound", daemon=True)
        thread.start()
        try:
            thread.join(limit)
        except KeyboardInterrupt:
            _stop(thread)
            raise
        if thread.is_alive():
            _stop(thread)
            raise NotRespondingError(self._message(time.monotonic() - start, thread.is_alive()))
        if failure:
            raise failure[0]
        self.longest, self.calls = max(self.longest, time.monotonic() - start), self.calls + 1
        return result[0]

    def _message(self, seconds: float, alive: bool) -> str:
        if self.calls:
            before = f"the longest of the {self.calls} calls before it took {self.longest:.3g} s"
        else:
            before = "it was the first call"
        rest = (
            "A running computation cannot be killed: it goes on in the background, and keeps a core, until the process "
            "ends."
            if alive
            else "It was a Python loop, and has been stopped."
        )
        return (
            f"{self.what} has not returned after {seconds:.1f} s, and the time allowed is over ({before}). {rest} Look "
            "for a loop without an end (a Python `while` in the model, jax.lax.while_loop) and for callbacks that "
            "wait; if it is only slow, allow more max_seconds or fit fewer rows."
        )


def _stop(thread: threading.Thread) -> None:
    """Ask a thread to end: it does when it next runs Python code, and not before."""
    if thread.ident is not None and hasattr(ctypes, "pythonapi"):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        thread.join(_FAREWELL)
