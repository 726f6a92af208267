r"""U-statistics of two samples, their standard errors, and permutation tests.

For a symmetric kernel k, D = E k(X, X') + E k(Y, Y') - 2 E k(X, Y) is the squared MMD, and for k = -‖x - y‖ the energy
distance. The unbiased estimate has the variance (Hoeffding 1948; Sutherland & Deka 2019)

    4 var(a)/n + 4 var(b)/m + 2 ζ_xx/n² + 2 ζ_yy/m² + 4 ζ_xy/(n m),    a(x) = E k(x, X') - E k(x, Y),

with b likewise for y and ζ the variance of k that is left when its means over either argument are taken out. Where
p = q only the ζ are left, and the estimate is not normal about 0: ask for permutations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerbound.divergences.kernels import Kernel
from lowerbound.errors import DataError

_ROWS = 2048
#: Of both samples together: the permutation test holds the whole matrix.
_MOST_PERMUTED = 6000


class _Sums(NamedTuple):
    """Of a kernel over pairs: means by row and by column, the mean, and the mean square."""

    rows: np.ndarray
    columns: np.ndarray
    mean: float
    square: float


def _sums(kernel: Kernel, x: np.ndarray, y: np.ndarray, *, same: bool) -> _Sums:
    n, m = len(x), len(y)
    rows, columns, square = np.empty(n), np.zeros(m), 0.0
    for i in range(0, n, _ROWS):
        block = kernel(x[i : i + _ROWS], y)
        if same:
            block[np.arange(len(block)), i + np.arange(len(block))] = 0.0
        rows[i : i + _ROWS] = block.sum(1)
        columns += block.sum(0)
        square += float((block * block).sum())
    pairs = n * (n - 1) if same else n * m
    return _Sums(rows / (m - same), columns / (n - same), float(rows.sum()) / pairs, square / pairs)


def u_statistic(kernel: Kernel, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The unbiased estimate of D and its standard error, from draws ``[n, d]`` and ``[m, d]``."""
    n, m = len(x), len(y)
    xx, yy, xy = _sums(kernel, x, x, same=True), _sums(kernel, y, y, same=True), _sums(kernel, x, y, same=False)
    value = xx.mean + yy.mean - 2 * xy.mean
    a, b = xx.rows - xy.rows, yy.rows - xy.columns

    def rest(s: _Sums) -> float:
        return max(s.square - (s.rows**2).mean() - (s.columns**2).mean() + s.mean**2, 0.0)

    left = 2 * rest(xx) / n**2 + 2 * rest(yy) / m**2 + 4 * rest(xy) / (n * m)
    # var(a) has twice what is left in it already: each mean over the others is itself noisy.
    first = 4 * (a.var(ddof=1) / n + b.var(ddof=1) / m)
    return value, float(np.sqrt(max(first - left, left)))


def permutation_test(kernel: Kernel, x: np.ndarray, y: np.ndarray, *, permutations: int, seed: int) -> float:
    """P(D at random labels >= D), with the labels as they are counted among them.

    Raises:
        DataError: too many draws for the matrix of all pairs.
    """
    n, total = len(x), len(x) + len(y)
    if total > _MOST_PERMUTED:
        raise DataError(
            f"permutations need the kernel between all {total} draws at once; needed: {_MOST_PERMUTED} or fewer. "
            "Take fewer draws, or permutations=0 for the estimate alone."
        )
    pooled = np.concatenate([x, y])
    matrix = kernel(pooled, pooled)
    np.fill_diagonal(matrix, 0.0)
    rng = np.random.default_rng([seed, 0x9E])
    labels = np.empty((permutations + 1, total))
    order = np.arange(total)
    for i in range(permutations + 1):
        labels[i] = order < n
        order = rng.permutation(total)
    inside = labels @ matrix
    xx = (inside * labels).sum(1)
    xy = (inside * (1 - labels)).sum(1)
    yy = matrix.sum() - xx - 2 * xy
    m = total - n
    found = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)
    return float((1 + (found[1:] >= found[0] - 1e-12 * abs(found[0])).sum()) / (permutations + 1))


def check_permutations(permutations: object) -> int:
    """A whole number, zero for none."""
    if isinstance(permutations, bool) or not isinstance(permutations, (int, np.integer)) or permutations < 0:
        raise DataError(f"permutations is {permutations!r}; needed: a whole number, 0 for no test.")
    return int(permutations)
