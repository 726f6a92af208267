"""Quantiles and intervals of weighted draws."""

from __future__ import annotations

import numpy as np


def weighted_quantile(v: np.ndarray, w: np.ndarray, prob: np.ndarray) -> np.ndarray:
    """Quantiles along the first axis, interpolating the weighted empirical distribution at mid-weights."""
    flat = v.reshape(len(v), -1)
    order = np.argsort(flat, axis=0)
    out = np.empty((len(prob), flat.shape[1]))
    for j in range(flat.shape[1]):
        o = order[:, j]
        c = np.cumsum(w[o]) - 0.5 * w[o]
        out[:, j] = np.interp(prob, c / w.sum(), flat[o, j])
    return out.reshape(len(prob), *v.shape[1:])


def narrowest_interval(flat: np.ndarray, w: np.ndarray, mass: float) -> tuple[np.ndarray, np.ndarray]:
    """The narrowest interval of each column that holds ``mass`` of the weight."""
    low, high = np.empty(flat.shape[1]), np.empty(flat.shape[1])
    for j in range(flat.shape[1]):
        o = np.argsort(flat[:, j])
        x, c = flat[o, j], np.cumsum(w[o]) / w.sum()
        start = np.concatenate([[0.0], c[:-1]])
        stop = np.searchsorted(c, start + mass - 1e-12)
        ok = stop < len(x)
        if not ok.any():
            low[j], high[j] = x[0], x[-1]
            continue
        with np.errstate(invalid="ignore"):
            width = x[stop[ok]] - x[ok]
        best = int(np.argmin(np.nan_to_num(width, nan=np.inf, posinf=np.inf)))
        low[j], high[j] = x[ok][best], x[stop[ok]][best]
    return low, high
