r"""Stein kernels on particles: the velocity of SVGD.

For a kernel k and the score s = grad log p, functions f of k's space have E_p[s f + grad f] = 0. How far particles are
from that is, in the direction that decreases KL fastest (Liu & Wang 2016),

    phi(x_i) = 1/n sum_j [k(x_j, x_i) s(x_j) + grad_{x_j} k(x_j, x_i)],

and in size the kernel Stein discrepancy (:mod:`lowerbound.objectives.pairs`). Kernels, with r = |x - y| and
bandwidth h:

* ``rbf``: exp(-r^2 / 2h^2);
* ``imq``: (1 + r^2 / h^2)^{-1/2}, whose slow tails see what is far away (Gorham & Mackey 2017);
* ``rbf_linear``: exp(-r^2 / 2h^2) + 1 + x'y. With the affine functions among f a Gaussian's mean and covariance are
  matched, which an RBF alone does less and less as d grows (Liu & Wang 2018).

Cost: O(n^2 d).
"""

from __future__ import annotations

import numpy as np

from lowerbound.objectives.pairs import squares

KERNELS = ("rbf", "imq", "rbf_linear")


def median_bandwidth(x: np.ndarray) -> float:
    """h with h^2 = median r^2 / (2 log(n + 1)), so that the kernel of a point sums to about one over the others."""
    square = squares(x, x)
    middle = np.median(square[np.triu_indices(len(x), 1)])
    return float(np.sqrt(max(middle, 1e-300) / (2 * np.log(len(x) + 1))))


def velocity(x: np.ndarray, scores: np.ndarray, kernel: str, h: float) -> tuple[np.ndarray, np.ndarray]:
    """The two parts of phi, ``[n, d]`` each: what draws the particles to mass, and what keeps them apart."""
    n = len(x)
    k, slope = _radial(squares(x, x), kernel, h)
    # grad_{x_j} k(x_j, x_i) = 2 slope (x_j - x_i), slope the derivative by r^2.
    apart = 2 * (slope.T @ x - slope.sum(0)[:, None] * x) / n
    drawn = k.T @ scores / n
    if kernel == "rbf_linear":
        drawn = drawn + scores.mean(0) + x @ (x.T @ scores / n)
        apart = apart + x  # grad_{x_j} (x_j' x_i) = x_i
    return drawn, apart


def _radial(square: np.ndarray, kernel: str, h: float) -> tuple[np.ndarray, np.ndarray]:
    """f(r^2) and f'(r^2)."""
    if kernel == "imq":
        base = 1 + square / h**2
        return base**-0.5, -0.5 * base**-1.5 / h**2
    k = np.exp(-0.5 * square / h**2)
    return k, -0.5 * k / h**2
