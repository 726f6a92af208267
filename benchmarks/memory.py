"""The peak of this process's memory. Imports little, so that a child's clock may begin before it."""

from __future__ import annotations

import os
import resource
import sys

_STATUS = "/proc/self/status"


def peak_memory() -> float:
    """Largest resident size of this process so far, in MiB.

    On Linux from ``/proc``: what ``getrusage`` says there was never less than the peak of the parent when it started
    this process, whose memory the two share for that moment.
    """
    if os.path.exists(_STATUS):
        with open(_STATUS) as file:
            (line,) = (s for s in file if s.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 2**10)
