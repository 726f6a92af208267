r"""Stein kernels on particles: the velocity of SVGD, and the kernel Stein discrepancy.

For a kernel k and the score s = grad log p, functions f of k's space have E_p[s f + grad f] = 0. How far particles are
from that is, in the direction that decreases KL fastest (Liu & Wang 2016),

    phi(x_i) = 1/n sum_j [k(x_j, x_i) s(x_j) + grad_{x_j} k(x_j, x_i)],

and in size (the kernel Stein discrepancy, Liu, Lee & Jordan 2016; Chwialkowski, Strathmann & Gretton 2016)

    KSD^2 = 1/n^2 sum_ij u(x_i, x_j),
    u(x, y) = s(x)'s(y) k + s(x)' grad_y k + s(y)' grad_x k + trace(grad_x grad_y' k).

For n independent draws of p the expectation of KSD^2 is that of its diagonal alone, E[u(x, x)] / n: what it is
compared with. Kernels, with r = |x - y| and bandwidth h:

* ``rbf``: exp(-r^2 / 2h^2);
* ``imq``: (1 + r^2 / h^2)^{-1/2}, whose slow tails see what is far away (Gorham & Mackey 2017);
* ``rbf_linear``: exp(-r^2 / 2h^2) + 1 + x'y. With the affine functions among f a Gaussian's mean and covariance are
  matched, which an RBF alone does less and less as d grows (Liu & Wang 2018).

Cost: O(n^2 d).
"""

from __future__ import annotations

import numpy as np

KERNELS = ("rbf", "imq", "rbf_linear")


def median_bandwidth(x: np.ndarray) -> float:
    """h with h^2 = median r^2 / (2 log(n + 1)), so that the kernel of a point sums to about one over the others."""
    square = _squares(x)
    middle = np.median(square[np.triu_indices(len(x), 1)])
    return float(np.sqrt(max(middle, 1e-300) / (2 * np.log(len(x) + 1))))


def velocity(x: np.ndarray, scores: np.ndarray, kernel: str, h: float) -> tuple[np.ndarray, np.ndarray]:
    """The two parts of phi, ``[n, d]`` each: what draws the particles to mass, and what keeps them apart."""
    n = len(x)
    k, slope = _radial(_squares(x), kernel, h)
    # grad_{x_j} k(x_j, x_i) = 2 slope (x_j - x_i), slope the derivative by r^2.
    apart = 2 * (slope.T @ x - slope.sum(0)[:, None] * x) / n
    drawn = k.T @ scores / n
    if kernel == "rbf_linear":
        drawn = drawn + scores.mean(0) + x @ (x.T @ scores / n)
        apart = apart + x  # grad_{x_j} (x_j' x_i) = x_i
    return drawn, apart


def discrepancy(
    x: np.ndarray, scores: np.ndarray, kernel: str = "imq", *, h: float | None = None
) -> tuple[float, float]:
    """KSD^2 of the particles, and what it would be, on average, of as many independent draws of p.

    Args:
        x: Particles ``[n, d]``.
        scores: grad log p at them ``[n, d]``.
        kernel: ``"rbf"`` or ``"imq"``.
        h: Bandwidth; the median heuristic's by default.
    """
    n, d = x.shape
    h = median_bandwidth(x) if h is None else h
    square = _squares(x)
    k, slope = _radial(square, kernel, h)
    bend = _bend(square, kernel, h)
    # With k = f(r^2): grad_y k = -2 f' (x - y), grad_x k = 2 f' (x - y), trace = -2 d f' - 4 r^2 f''.
    along = scores @ x.T  # s_i' x_j
    towards = np.diagonal(along)[:, None] - along  # s_i'(x_i - x_j)
    u = k * (scores @ scores.T) - 2 * slope * (towards + towards.T) - 2 * d * slope - 4 * square * bend
    return float(u.mean()), float(np.diagonal(u).mean() / n)


def _squares(x: np.ndarray) -> np.ndarray:
    norms = (x**2).sum(1)
    out = np.maximum(norms[:, None] + norms - 2 * x @ x.T, 0.0)
    np.fill_diagonal(out, 0.0)
    return out


def _radial(square: np.ndarray, kernel: str, h: float) -> tuple[np.ndarray, np.ndarray]:
    """f(r^2) and f'(r^2)."""
    if kernel == "imq":
        base = 1 + square / h**2
        return base**-0.5, -0.5 * base**-1.5 / h**2
    k = np.exp(-0.5 * square / h**2)
    return k, -0.5 * k / h**2


def _bend(square: np.ndarray, kernel: str, h: float) -> np.ndarray:
    """f''(r^2)."""
    if kernel == "imq":
        return 0.75 * (1 + square / h**2) ** -2.5 / h**4
    return 0.25 * np.exp(-0.5 * square / h**2) / h**4
