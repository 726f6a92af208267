"""The few matrix functions that families need, for NumPy arrays on the host and for traced JAX arrays.

A family is written once; which library computes follows from what its arrays are. On the host this
matters for time to an answer: a JAX operation outside ``jit`` compiles a program for each new shape.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular as _jax_solve
from scipy.linalg import solve_triangular as _scipy_solve

LOG_2PI = float(np.log(2 * np.pi))


def namespace(*arrays: Any) -> Any:
    """``jax.numpy`` if any array is JAX's, else ``numpy``."""
    return jnp if any(isinstance(a, jax.Array) for a in arrays) else np


def solve_lower(lower: Any, b: Any) -> Any:
    """``lower^{-1} b`` for a lower triangular matrix ``[d, d]`` and ``b [d, n]``."""
    if namespace(lower, b) is jnp:
        return _jax_solve(lower, b, lower=True)
    return _scipy_solve(lower, b, lower=True, check_finite=False)


def inverse_of(root: Any) -> Any:
    """``(L L')^{-1}``, symmetric, from traced lower triangular matrices L ``[..., d, d]``; nan where L is."""
    whole = jnp.broadcast_to(jnp.eye(root.shape[-1], dtype=root.dtype), root.shape)
    inverse = _jax_solve(root, whole, lower=True)
    return jnp.swapaxes(inverse, -1, -2) @ inverse


def log_det_of(root: Any) -> Any:
    """``log |L L'|`` ``[...]`` of traced lower triangular matrices with a positive diagonal ``[..., d, d]``."""
    return 2 * jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)).sum(-1)


def standard_normal_log_prob(e: Any) -> Any:
    """log N(e; 0, I), summed over the last axis."""
    return -0.5 * (e * e).sum(-1) - 0.5 * e.shape[-1] * LOG_2PI
