"""Float64 inside, whatever the user's JAX setting is.

A posterior's curvature is a difference of large sums: with 5,000 rows in raw units a log density
of -4e4 moves by 1e-3 across the posterior, below the resolution of float32. So everything here is
computed inside :func:`float64`, a context of the calling thread that leaves the global
configuration as it was found.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import jax


def float64() -> AbstractContextManager:
    """A context in which JAX computes in float64; on leaving it the user's setting is back."""
    return jax.enable_x64(True)


def float32() -> AbstractContextManager:
    """A context in which JAX computes in float32: for networks, whose gradients are noisier than its rounding."""
    return jax.enable_x64(False)
