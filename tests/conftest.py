"""What every test can take for granted."""

from __future__ import annotations

import gc
import os
import signal
import warnings

# Two thirds of the suite's time were XLA compiling what tests write for themselves, each program run a few times. XLA
# reads these when JAX first computes, here and in the processes that tests start; what the library compiles still has
# its own level. `XLA_FLAGS= make test` compiles everything as users have it.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)

import scipy.linalg  # noqa: F401  (so that its BLAS is there to be limited)
from threadpoolctl import ThreadpoolController

# ArviZ warns of its coming refactoring once a day, wherever it happens to be imported first.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz  # noqa: F401

# One BLAS thread, as in every fit (lowerbound.threads), for tests that call a part of one: with two of them some take
# four times the CPU seconds alone, and far more beside another worker.
ThreadpoolController().limit(limits=1, user_api="blas")

# A shell that runs the suite in the background makes it, and what it starts, deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tracing makes many objects that live as long as the process, which Python's default walks through again and again.
gc.freeze()
gc.set_threshold(20_000, 20, 20)
