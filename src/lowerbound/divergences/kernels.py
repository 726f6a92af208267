"""Positive definite kernels k(x, y), by name, and their bandwidths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, sqrt
from typing import Any

import numpy as np

from lowerbound.errors import DataError, IncompatibleError, unknown_name

#: From points ``[n, d]`` and ``[m, d]`` to a matrix ``[n, m]``.
Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
_MEDIAN_POINTS = 1000
_NEEDED = "Needed: a function of points [n, d] and [m, d] that gives [n, m], such as lambda x, y: np.exp(-cdist(x, y))."
#: Of the polynomial kernel.
DEGREE = 3


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Euclidean ``[n, m]``."""
    from scipy.spatial.distance import cdist

    return cdist(x, y)


def _gaussian(r: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * r * r)


def _laplace(r: np.ndarray) -> np.ndarray:
    return np.exp(-r)


def _inverse_multiquadric(r: np.ndarray) -> np.ndarray:
    return 1 / np.sqrt(1 + r * r)


#: Of r = ‖x - y‖ / bandwidth.
RADIAL = {"gaussian": _gaussian, "laplace": _laplace, "inverse_multiquadric": _inverse_multiquadric}
NAMES = (*RADIAL, "polynomial")


def kernel_of(
    kernel: str | Kernel, bandwidth: float | Sequence[float] | None, x: np.ndarray, y: np.ndarray
) -> tuple[Kernel, str]:
    """A kernel as a function of two sets of points, and its name with its bandwidth.

    Args:
        kernel: ``"gaussian"`` exp(-r²/2), ``"laplace"`` exp(-r), ``"inverse_multiquadric"`` (1 + r²)^-½, with
            r = ‖x - y‖/bandwidth; ``"polynomial"`` (x·y/bandwidth² + 1)³; or a function.
        bandwidth: None for the median distance of the pooled draws (``polynomial``: √d); several for the mean of
            the kernels.
        x: Draws ``[n, d]``.
        y: Draws ``[m, d]``.

    Raises:
        UnknownNameError: no such kernel.
        DataError: a bandwidth that is not positive; a median distance of zero.
    """
    if callable(kernel):
        if bandwidth is not None:
            raise IncompatibleError("bandwidth is for kernels by name; a function has its own.")
        return _checked(kernel), getattr(kernel, "__name__", "kernel")
    if kernel not in NAMES:
        raise unknown_name("kernel", kernel, NAMES)
    scales = widths(bandwidth) if bandwidth is not None else None
    if kernel == "polynomial":
        scales = scales or (sqrt(x.shape[1]),)
        return lambda a, b: np.mean([(a @ b.T / s**2 + 1) ** DEGREE for s in scales], 0), kernel
    scales = scales or (median_distance(x, y),)
    radial = RADIAL[kernel]

    def matrix(a: np.ndarray, b: np.ndarray) -> Any:
        r = distances(a, b)
        return sum(radial(r / s) for s in scales) / len(scales)

    return matrix, f"{kernel} kernel, bandwidth {', '.join(f'{s:.4g}' for s in scales)}"


def _checked(kernel: Kernel) -> Kernel:
    """A person's kernel, each matrix of which is looked at."""

    def matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        try:
            out = np.array(kernel(a, b), np.float64)
        except Exception as e:
            raise IncompatibleError(
                f"the kernel failed at points of shapes {a.shape} and {b.shape} ({type(e).__name__}: {e}). {_NEEDED}"
            ) from e
        if out.shape != (len(a), len(b)):
            raise IncompatibleError(
                f"the kernel gave shape {out.shape} at points of shapes {a.shape} and {b.shape}; needed: "
                f"({len(a)}, {len(b)}). {_NEEDED}"
            )
        bad = np.argwhere(~np.isfinite(out))
        if len(bad):
            i, j = bad[0]
            raise DataError(
                f"the kernel is {out[i, j]} at {a[i][:4]} and {b[j][:4]}, and not finite at {len(bad)} pairs; needed: "
                "numbers."
            )
        return out

    return matrix


def widths(bandwidth: float | Sequence[float]) -> tuple[float, ...]:
    """Bandwidths as numbers, checked."""
    try:
        out = tuple(float(b) for b in np.atleast_1d(np.asarray(bandwidth, float)))
    except (TypeError, ValueError):
        out = ()
    if not out or not all(isfinite(b) and b > 0 for b in out):
        raise DataError(
            f"bandwidth is {bandwidth!r}; needed: a positive number, or several, in units of the draws; None for the "
            "median distance."
        )
    return out


def median_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Of the pooled draws, up to 1,000 evenly taken."""
    pooled = np.concatenate([x, y])
    pooled = pooled[:: max(1, len(pooled) // _MEDIAN_POINTS)]
    out = float(np.median(distances(pooled, pooled)[np.triu_indices(len(pooled), 1)]))
    if out <= 0:
        raise DataError(
            "the median distance between draws is 0: half of them are equal, so that it is no bandwidth. "
            "Give bandwidth=, or compare their frequencies as Categorical distributions by total_variation."
        )
    return out
