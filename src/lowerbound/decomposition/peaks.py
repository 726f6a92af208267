"""Modes of log p(x, u): one by a search, and in up to three dimensions those that a wide scan comes upon."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from lowerbound.decomposition.boxes import grid, root_of
from lowerbound.decomposition.target import Target

#: Nodes of the scan on an axis by number of dimensions, to sinh(12) = 8 10^4 scales; highest local maxima of each scan
#: that are followed, and modes that are kept.
_SCAN, _WIDE, _FOLLOWED, _MOST = {1: 1601, 2: 61, 3: 19}, 12.0, 12, 6
#: Nats of mass by which a mode may be below the largest before it is nothing.
_NOTHING = 40.0
#: Squared distance in units of either's curvature from which two modes are two.
_APART = 1.0


class Peak(NamedTuple):
    """A mode of log p(x, u) ``[p]``, the inverse of its curvature there ``[p, p]``, and its height."""

    mode: np.ndarray
    covariance: np.ndarray
    height: float


def peak(target: Target, start: np.ndarray, *, origin: bool = True) -> Peak:
    """A mode near a start, or near the origin where that is higher."""
    p = len(start)

    def negative(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = target.kernel(x[None])
        ok = np.isfinite(value[0]) and np.isfinite(gradient[0]).all()
        return (-float(value[0]), -gradient[0]) if ok else (1e300, np.zeros(p))

    best, mode = np.inf, start
    for x in (start, np.zeros(p)) if origin else (start,):
        found = minimize(negative, x, jac=True, method="L-BFGS-B", options={"maxiter": 200})
        if found.fun < best:
            best, mode = found.fun, np.asarray(found.x)
    step = 1e-4 * (1 + np.abs(mode))
    ends = np.concatenate([mode + np.diag(step), mode - np.diag(step)])
    gradient = target.kernel(ends)[1]
    curvature = -(gradient[:p] - gradient[p:]) / (2 * step[:, None])
    if not np.isfinite(curvature).all():
        return Peak(mode, np.eye(p), -float(best))
    values, vectors = np.linalg.eigh(0.5 * (curvature + curvature.T))
    return Peak(mode, (vectors / np.clip(np.abs(values), 1e-8, 1e16)) @ vectors.T, -float(best))


def peaks(target: Target, middle: np.ndarray, spread: np.ndarray) -> list[Peak]:
    """Modes with mass, the largest first.

    Args:
        target: In up to three dimensions.
        middle: Where q is ``[p]``.
        spread: Its scatter ``[p, p]``.

    The scan is on a grid that widens from q, from the first mode, and from the origin. A narrow mode is met where the
    local maximum that it makes of the grid's heights leads to it.

    Cost: up to three times 7,000 evaluations, and a search from each of the highest local maxima.
    """
    p = len(middle)
    found = [peak(target, np.where(np.isfinite(middle), middle, 0.0))]
    s = grid([np.linspace(-_WIDE, _WIDE, _SCAN[p])] * p)
    places = [(found[0].mode, found[0].covariance), (np.zeros(p), np.eye(p))]
    if np.isfinite(middle).all() and np.isfinite(spread).all():
        places.append((middle, spread + 1e-12 * np.eye(p)))
    for centre, covariance in places:
        u = centre + np.sinh(s) @ root_of(covariance).T
        for i in _maxima(target.log_p(u).reshape((_SCAN[p],) * p))[:_FOLLOWED]:
            if not any(_same(k, u[i]) for k in found):
                more = peak(target, u[i], origin=False)
                if not any(_same(k, more.mode) or _same(more, k.mode) for k in found):
                    found.append(more)
    mass = [k.height + 0.5 * np.linalg.slogdet(k.covariance)[1] for k in found]
    order = [i for i in np.argsort(mass)[::-1] if mass[i] > max(mass) - _NOTHING]
    return [found[i] for i in order[:_MOST]]


def _same(of: Peak, place: np.ndarray) -> bool:
    apart = place - of.mode
    return bool(apart @ np.linalg.solve(of.covariance, apart) < _APART)


def _maxima(height: np.ndarray) -> np.ndarray:
    """Flat indices of local maxima, the highest first."""
    from scipy.ndimage import maximum_filter

    top = np.isfinite(height) & (height >= maximum_filter(height, 3))
    index = np.flatnonzero(top)
    return index[np.argsort(-height.ravel()[index], kind="stable")]


def share(of: int, among: list[Peak], u: np.ndarray) -> np.ndarray:
    """log of the part of p(x, u) ``[n]`` that is counted with a peak: its Gaussian over the sum of all."""
    logs = np.stack([k.height - 0.5 * _squares(k, u) for k in among])
    top = logs.max(0)
    return logs[of] - top - np.log(np.exp(logs - top).sum(0))


def _squares(of: Peak, u: np.ndarray) -> np.ndarray:
    apart = u - of.mode
    return (apart * np.linalg.solve(of.covariance, apart.T).T).sum(1)
