r"""The inverse of minus the Hessian of the fixed-noise ELBO at its maximum, applied to right-hand sides.

*Conjugate gradients*, all sides in lock-step, preconditioned by q's Fisher information: each iteration is one
difference of gradients a draw and side, whatever the family.

*Formed*, for a diagonal q. With x_m = mean + s e_m and K_m the Hessian of log p at x_m in units of s, the blocks of
H are, with u = log s,

    H_mm = E K_ij,    H_um = E e_i K_ij,    H_uu = E e_i e_j K_ij + diag(E s g e),

since moving log s_i moves draw m along coordinate i by e_mi times what moving the mean does. One difference of
gradients a draw and coordinate gives the columns of all three: M p gradients for 4 p^2 numbers.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from lowerbound.algorithms.fixed_noise import Evaluation, FixedNoise, difference_step
from lowerbound.errors import IncompatibleError

#: Conjugate gradients: relative residual, iterations, and right-hand sides at a time.
_RESIDUAL, _ITERATIONS, _SIDES = 1e-4, 500, 64
#: Numbers in the draws whose gradients are differenced at once.
_AT_ONCE = 2**21


def by_conjugate_gradients(
    function: FixedNoise, at: Evaluation, sides: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int, float]:
    """(-H)^{-1} times each row of ``sides [r, P]``; the curvatures, iterations and largest residual."""
    metric = function.metric(at.vector)
    solved, curvature = np.zeros_like(sides), np.empty(len(sides))
    most, worst = 0, 0.0
    for k in range(0, len(sides), _SIDES):
        part = slice(k, k + _SIDES)
        solved[part], curvature[part], n, residual = _lock_step(function, at, sides[part], metric)
        most, worst = max(most, n), max(worst, residual)
    return solved, curvature, most, worst


def _lock_step(
    function: FixedNoise, at: Evaluation, sides: np.ndarray, metric: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int, float]:
    x, residual = np.zeros_like(sides), sides.copy()
    z = residual / metric
    search, rz = z.copy(), (residual * z).sum(1)
    first = rz.copy()
    curvature = np.ones(len(sides))
    open_ = np.flatnonzero(rz > 0)
    iteration = 0
    while len(open_) and iteration < _ITERATIONS:
        iteration += 1
        curved = -function.products(at, search[open_])
        bend = (search[open_] * curved).sum(1)
        if not (bend > 0).all():
            raise _not_a_maximum()
        if iteration == 1:
            # The first direction is D^{-1} b: along it, -H over D is the curvature in units of q's own.
            curvature[open_] = bend / rz[open_]
        alpha = rz[open_] / bend
        x[open_] += alpha[:, None] * search[open_]
        residual[open_] -= alpha[:, None] * curved
        z = residual[open_] / metric
        after = (residual[open_] * z).sum(1)
        search[open_] = z + (after / rz[open_])[:, None] * search[open_]
        rz[open_] = after
        open_ = open_[after > _RESIDUAL**2 * first[open_]]
    return x, curvature, iteration, float(np.sqrt((rz / np.maximum(first, 1e-300)).max(initial=0.0)))


def formed(function: FixedNoise, at: Evaluation, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for all coordinates of a diagonal q at once, from H itself."""
    q, e, kernel = function.base, function.noise, function.kernel
    block = function.block(at.vector)
    location, scale = q.location + q.scale * block.location, q.scale * block.scale
    x = location + scale * e
    m, p = x.shape
    _, score = kernel(x)
    h = difference_step(location, scale)
    mm, um, uu = np.empty((p, p)), np.empty((p, p)), np.empty((p, p))
    together = max(1, _AT_ONCE // (m * p))
    for start in range(0, p, together):
        columns = np.arange(start, min(p, start + together))
        moved = np.repeat(x[None], len(columns), axis=0)
        moved[np.arange(len(columns)), :, columns] += h * scale[columns, None]
        _, other = kernel(moved.reshape(-1, p))
        change = (other.reshape(len(columns), m, p) - score) * (scale / h)
        weighed = change * e
        mm[columns] = change.mean(1)
        um[:, columns] = weighed.mean(1).T
        uu[columns] = np.einsum("cmp,mc->cp", weighed, e[:, columns]) / m
    curvature = -np.diagonal(mm)
    uu[np.arange(p), np.arange(p)] += (score * scale * e).mean(0)
    # The block of the inverse, by the Schur complement: S = -mm - um' (-uu)^{-1} um.
    try:
        factor = cho_factor(-0.5 * (uu + uu.T), check_finite=False)
        across = cho_solve(factor, um, check_finite=False)
        schur = -0.5 * (mm + mm.T) - um.T @ across
        inverse = cho_solve(cho_factor(schur, check_finite=False), np.eye(p)[:, index], check_finite=False).T
    except np.linalg.LinAlgError:
        raise _not_a_maximum() from None
    # From units of q at the maximum to those of the base, in which the parameters stand.
    solved = np.concatenate([inverse * block.scale, inverse @ across.T], 1)
    return solved * (q.scale * block.scale)[index, None], curvature[index]


def _not_a_maximum() -> IncompatibleError:
    return IncompatibleError(
        "linear response: the ELBO on this noise curves upwards at q, so that q is no maximum there. Take more "
        "num_draws, or fit again with a smaller tolerance."
    )
