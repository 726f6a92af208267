"""What a benchmark calls its peak of memory is that of its own process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from benchmarks.memory import peak_memory
from benchmarks.results import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_peak_is_not_the_parents():
    before = np.ones(2**24)  # 128 MiB
    program = "from benchmarks.memory import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert peak_memory() > before.nbytes / 2**20
    assert 1 < float(done.stdout) < before.nbytes / 2**20
