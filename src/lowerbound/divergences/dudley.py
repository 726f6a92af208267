"""The bounded-Lipschitz metric of Dudley."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpyro.distributions import Distribution

from lowerbound.divergences.draws import draws, joined
from lowerbound.divergences.estimate import Estimate
from lowerbound.divergences.laws import Given
from lowerbound.divergences.supports import integers
from lowerbound.errors import DataError

#: Points of both together: there are as many constraints as pairs.
_MOST = 400


def dudley(p: Any, q: Any, *, num_draws: int = 100, seed: int = 0) -> Estimate:
    r"""sup |E_p f - E_q f| over functions with ‖f‖_∞ + Lip(f) <= 1 (Dudley 1966), from 0 to 2.

    It metrizes weak convergence with no condition on moments. Between finite sets of points it is a linear program
    over the values of f: two points at a distance d are 2 d/(2 + d) apart.

    Args:
        p: Draws ``[n, *event]``, a mapping of them by site, a NumPyro distribution, or a posterior.
        q: The same.
        num_draws: Of each argument that is a distribution or a posterior.
        seed: Of those.

    Returns:
        Exact, between distributions on finitely many integers. Between draws it is larger than between what they are
        drawn from, by an amount that the standard error (that of E f at the best f) does not have.

    Raises:
        DataError: more than 400 different points together.

    Cost: a linear program with N²/2 constraints; seconds at N = 400.

    Example:
        >>> float(dudley([0.0] * 10, [2.0] * 10))
        1.0
    """
    exact = ""
    finite = _finite(p, q)
    if finite is not None:
        points, weight, exact, note = *finite, "linear program over the values", ""
        n = m = 0
    else:
        x, y, note = draws(p, q, num_draws=num_draws, seed=seed)
        n, m = len(x), len(y)
        points, where = np.unique(np.concatenate([x, y]), axis=0, return_inverse=True)
        where = where.ravel()
        weight = np.bincount(where[:n], minlength=len(points)) / n - np.bincount(where[n:], minlength=len(points)) / m
    if len(points) > _MOST:
        raise DataError(
            f"dudley is a linear program over {len(points)} points, with {len(points) ** 2 // 2} constraints; needed: "
            f"{_MOST} points or fewer. Take fewer draws, or use energy, mmd or wasserstein."
        )
    value, f = _program(points, weight)
    if exact:
        return Estimate(value, 0.0, exact=exact)
    best_x, best_y = f[where[:n]], f[where[n:]]
    se = float(np.sqrt(best_x.var(ddof=1) / n + best_y.var(ddof=1) / m))
    return Estimate(value, se, note=joined("of samples: too large", note))


def _finite(p: Any, q: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Points ``[k, 1]`` and differences of masses ``[k]`` of two distributions on finitely many integers."""
    if not all(isinstance(a, Distribution) and a.event_shape == a.batch_shape == () for a in (p, q)):
        return None
    a, b = Given(p), Given(q)
    first, second = integers(a), integers(b)
    if first is None or second is None or not np.isfinite([*first, *second]).all():
        return None
    at = np.arange(int(min(first[0], second[0])), int(max(first[1], second[1])) + 1)
    return at[:, None].astype(float), np.exp(a.log_prob(at)) - np.exp(b.log_prob(at))


def _program(points: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray]:
    """The best f at the points. Unknowns: f ``[k]``, its bound M and its Lipschitz constant L, with M + L <= 1."""
    from scipy.optimize import linprog
    from scipy.sparse import coo_array, vstack

    k = len(points)
    i, j = np.triu_indices(k, 1)
    if points.shape[1] == 1:  # on the line, neighbours decide
        i, j = np.arange(k - 1), np.arange(1, k)  # np.unique has sorted them
    apart = np.linalg.norm(points[i] - points[j], axis=1)
    pairs, r = len(i), np.arange(len(i))
    one = np.ones(pairs)

    def rows(sign: float) -> Any:
        # ±(f_i - f_j) - L d_ij <= 0
        data = np.concatenate([sign * one, -sign * one, -apart])
        return coo_array((data, (np.tile(r, 3), np.concatenate([i, j, np.full(pairs, k + 1)]))), (pairs, k + 2))

    s, unit = np.arange(k), np.ones(k)

    def bounded(sign: float) -> Any:
        # ±f_i - M <= 0
        data = np.concatenate([sign * unit, -unit])
        return coo_array((data, (np.tile(s, 2), np.concatenate([s, np.full(k, k)]))), (k, k + 2))

    total = coo_array((np.ones(2), (np.zeros(2, int), np.array([k, k + 1]))), (1, k + 2))
    matrix: Any = vstack([rows(1.0), rows(-1.0), bounded(1.0), bounded(-1.0), total], format="csr")
    limit = np.zeros(matrix.shape[0])
    limit[-1] = 1.0
    found = linprog(
        np.concatenate([-weight, [0.0, 0.0]]),
        A_ub=matrix,
        b_ub=limit,
        bounds=[(-1, 1)] * k + [(0, 1)] * 2,
        method="highs",
    )
    if found.status != 0:
        raise DataError(f"the linear program of dudley ended without an optimum: {found.message}")
    return max(-float(found.fun), 0.0), found.x[:k]
