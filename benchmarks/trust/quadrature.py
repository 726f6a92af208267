"""Moments by quadrature: what is left after the Gaussian or conjugate part has been integrated out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def weights(log_density: np.ndarray) -> np.ndarray:
    """Normalised weights of equally spaced points: the trapezoidal rule, which is exact to all orders for what
    vanishes at both ends."""
    w = np.exp(log_density - log_density.max())
    return w / w.sum()


def moments(log_density: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of ``values [m, ...]`` at equally spaced points with ``log_density [m]``."""
    w = weights(log_density)
    mean = np.tensordot(w, values, 1)
    return mean, np.sqrt(np.tensordot(w, (values - mean) ** 2, 1))


def mixture(log_density: np.ndarray, mean: np.ndarray, var: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of a mixture over the points: Var z = E Var(z | t) + Var E(z | t).

    Args:
        log_density: ``[m]`` of the points t.
        mean, var: Conditional moments ``[m, ...]``.
    """
    w = weights(log_density)
    overall = np.tensordot(w, mean, 1)
    return overall, np.sqrt(np.tensordot(w, var + (mean - overall) ** 2, 1))


def line(low: float, high: float, n: int, log_density: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Mean and sd of a scalar with ``log_density`` between two ends where it vanishes."""
    x = np.linspace(low, high, n)
    return moments(log_density(x), x)


def box(*axes: np.ndarray) -> tuple[np.ndarray, ...]:
    """All points of a product of axes, flat: ``[m]`` by axis."""
    return tuple(a.ravel() for a in np.meshgrid(*axes, indexing="ij"))
