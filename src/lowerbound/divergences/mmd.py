"""Maximum mean discrepancy."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np
from numpyro.distributions import Distribution

from lowerbound.divergences.closed import gaussian
from lowerbound.divergences.draws import draws, joined
from lowerbound.divergences.estimate import Estimate
from lowerbound.divergences.kernels import DEGREE, Kernel, kernel_of, widths
from lowerbound.divergences.laws import Given
from lowerbound.divergences.moments import doubt
from lowerbound.divergences.two_sample import check_permutations, permutation_test, u_statistic


def mmd(
    p: Any,
    q: Any,
    *,
    kernel: str | Kernel = "gaussian",
    bandwidth: float | Sequence[float] | None = None,
    permutations: int = 0,
    num_draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    r"""Squared maximum mean discrepancy, E k(X, X') + E k(Y, Y') - 2 E k(X, Y) (Gretton et al. 2012).

    The squared distance of the means of p and q in the space of functions of the kernel; zero only where p = q, but
    for ``polynomial``, which compares three moments. The estimate is unbiased, and so may be negative.

    Args:
        p: Draws ``[n, *event]``, a mapping of them by site, a NumPyro distribution, or a posterior.
        q: The same.
        kernel: ``"gaussian"``, ``"laplace"``, ``"inverse_multiquadric"``, ``"polynomial"``, or a function from
            ``[n, d]`` and ``[m, d]`` to ``[n, m]``.
        bandwidth: In units of the draws; several for the mean of the kernels; None for the median distance.
        permutations: Of the labels, for ``p_value``; 0 for no test.
        num_draws: Of each argument that is a distribution or a posterior.
        seed: Of draws and permutations.

    Returns:
        Exact, between two Gaussian distributions with a Gaussian kernel of given bandwidth. With an infinite error, and
        the reason, where the kernel is polynomial and sixth moments do not exist, or the draws' tails say so.

    Raises:
        DataError: too few draws, or not finite; a bandwidth that is not positive.
        IncompatibleError: sites or shapes that differ.

    Cost: n² + m² + n m kernels, in blocks; the test also holds (n + m)² numbers.
    """
    permutations = check_permutations(permutations)
    exact = kernel == "gaussian" and bandwidth is not None and not permutations
    if exact and isinstance(p, Distribution) and isinstance(q, Distribution) and p.event_shape == q.event_shape:
        a = None if p.batch_shape else gaussian(Given(p))
        b = None if q.batch_shape else gaussian(Given(q))
        if a is not None and b is not None and bandwidth is not None:
            scales = widths(bandwidth)
            value = sum(_between(a, a, s) + _between(b, b, s) - 2 * _between(a, b, s) for s in scales)
            return Estimate(value / len(scales), 0.0, exact="closed form of two Gaussians")
    x, y, note = draws(p, q, num_draws=num_draws, seed=seed)
    k, about = kernel_of(kernel, bandwidth, x, y)
    value, se = u_statistic(k, x, y)
    test = permutation_test(k, x, y, permutations=permutations, seed=seed) if permutations else None
    why = doubt(p, q, x, y, order=DEGREE) if kernel == "polynomial" else ""
    return Estimate(value, inf if why else se, note=joined(why, about, note), p_value=test)


def _between(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray], width: float) -> float:
    """E k(X, Y) of independent Gaussians: that of X - Y, with the kernel as a Gaussian density times a constant."""
    d = len(a[0])
    spread = sum(np.diag(c) if c.ndim == 1 else c for c in (a[1], b[1])) / width**2 + np.eye(d)
    shift = (a[0] - b[0]) / width
    return float(np.exp(-0.5 * shift @ np.linalg.solve(spread, shift)) / np.sqrt(np.linalg.det(spread)))
