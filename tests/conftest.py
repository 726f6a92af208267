"""What every test can take for granted."""

from __future__ import annotations

import signal
import warnings

# ArviZ warns of its coming refactoring once a day, wherever it happens to be imported first.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz  # noqa: F401

# A shell that runs the suite in the background makes it, and what it starts, deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
