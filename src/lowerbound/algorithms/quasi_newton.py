"""Quasi-Newton curvature: the inverse of the negative Hessian, learned from gradients.

Both kinds start from the diagonal that the first secant pair suggests: unit scale fails on regressions
in raw units, whose coordinates differ by many orders of magnitude.
"""

from __future__ import annotations

import numpy as np

#: Secant pairs that L-BFGS keeps.
_MEMORY = 12


class DenseInverse:
    """BFGS: a dense inverse of the negative Hessian, for a function being maximised."""

    def __init__(self, p: int):
        self.p = p
        self.reset()

    def reset(self) -> None:
        self.h = np.eye(self.p)
        self.empty = True
        self.updates = 0

    def times(self, g: np.ndarray) -> np.ndarray:
        return self.h @ g

    def snapshot(self) -> np.ndarray:
        return self.h.copy()

    def update(self, s: np.ndarray, y: np.ndarray) -> None:
        """Secant pair: ``s`` the move, ``y`` minus the change of the gradient. Skipped unless s'y > 0."""
        sy = s @ y
        if not (np.isfinite(sy) and sy > 1e-12 * np.linalg.norm(s) * np.linalg.norm(y)):
            return
        if self.empty:
            self.h = np.diag(first_diagonal(s, y))
            self.empty = False
        hy = self.h @ y
        # H+ = (I - s y'/s'y) H (I - y s'/s'y) + s s'/s'y, multiplied out.
        self.h += np.outer(s, s) * ((sy + y @ hy) / sy**2) - (np.outer(hy, s) + np.outer(s, hy)) / sy
        self.updates += 1


class LimitedInverse:
    """L-BFGS: the last secant pairs; ``snapshot`` gives the diagonal it starts from."""

    def __init__(self, p: int):
        self.p = p
        self.reset()

    def reset(self) -> None:
        self.pairs: list[tuple[np.ndarray, np.ndarray, float]] = []
        self.diagonal = np.ones(self.p)
        self.empty = True
        self.updates = 0

    def times(self, g: np.ndarray) -> np.ndarray:
        q, a = g.copy(), []
        for s, y, sy in reversed(self.pairs):
            a.append((s @ q) / sy)
            q -= a[-1] * y
        q *= self.diagonal
        for (s, y, sy), c in zip(self.pairs, reversed(a), strict=True):
            q += s * (c - (y @ q) / sy)
        return q

    def snapshot(self) -> np.ndarray:
        return self.diagonal.copy()

    def update(self, s: np.ndarray, y: np.ndarray) -> None:
        sy = s @ y
        if not (np.isfinite(sy) and sy > 1e-12 * np.linalg.norm(s) * np.linalg.norm(y)):
            return
        self.diagonal = first_diagonal(s, y) if self.empty else next_diagonal(self.diagonal, s, y)
        self.pairs = [*self.pairs[1 - _MEMORY :], (s, y, float(sy))]
        self.empty = False
        self.updates += 1


def first_diagonal(s: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The inverse curvature per coordinate that one secant pair suggests.

    Coordinates that moved have y_i / s_i; it is kept within 1e-12..1e12 of the overall s'y / y'y.
    """
    overall = (s @ y) / (y @ y)
    return next_diagonal(np.full(len(s), overall), s, y)


def next_diagonal(a: np.ndarray, s: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Diagonal quasi-Newton update (Gilbert & Lemarechal 1989; equation in Zhang et al. 2022, Alg. 3)."""
    sy, yay, sas = s @ y, y @ (a * y), s @ (s / a)
    inverse = yay / (sy * a) + y * y / sy - yay * s * s / (sy * sas * a * a)
    new = 1 / np.where(inverse > 0, inverse, np.nan)
    return np.where(np.isfinite(new) & (new > 0), new, a)


def root(h: np.ndarray) -> np.ndarray:
    """A lower triangular square root of a covariance; survives one that has lost definiteness."""
    if h.ndim == 1:
        return np.sqrt(h)
    h = 0.5 * (h + h.T)
    d = np.sqrt(np.maximum(np.diagonal(h), 1e-300))
    try:
        return d[:, None] * np.linalg.cholesky(h / np.outer(d, d))
    except np.linalg.LinAlgError:
        w, v = np.linalg.eigh(np.nan_to_num(h / np.outer(d, d)))
        half = v * np.sqrt(np.clip(w, 1e-10 * max(w.max(), 1e-10), None))
        return d[:, None] * lower(half)


def lower(matrix: np.ndarray) -> np.ndarray:
    """The lower triangular L with L L' = matrix matrix', by QR, without squaring the condition number."""
    r = np.asarray(np.linalg.qr(matrix.T, mode="r")).T
    return r * np.where(np.diagonal(r) < 0, -1.0, 1.0)
