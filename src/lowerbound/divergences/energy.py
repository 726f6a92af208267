"""Energy distance."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
from numpyro.distributions import Distribution
from scipy.special import ndtr

from lowerbound.divergences.closed import gaussian
from lowerbound.divergences.draws import draws, joined
from lowerbound.divergences.estimate import Estimate
from lowerbound.divergences.kernels import distances
from lowerbound.divergences.laws import Given
from lowerbound.divergences.moments import doubt
from lowerbound.divergences.two_sample import check_permutations, permutation_test, u_statistic


def energy(p: Any, q: Any, *, permutations: int = 0, num_draws: int = 1000, seed: int = 0) -> Estimate:
    r"""2 E‖X - Y‖ - E‖X - X'‖ - E‖Y - Y'‖, in units of the draws (Székely & Rizzo 2013).

    Zero only where p = q, if means exist. There is no bandwidth to choose; the scale of the sites decides which count,
    so put them on one. The estimate is unbiased, and so may be negative.

    Args:
        p: Draws ``[n, *event]``, a mapping of them by site, a NumPyro distribution, or a posterior.
        q: The same.
        permutations: Of the labels, for ``p_value``; 0 for no test.
        num_draws: Of each argument that is a distribution or a posterior.
        seed: Of draws and permutations.

    Returns:
        Exact, between two univariate Gaussian distributions. With an infinite error, and the reason, where means do not
        exist, or the draws' tails say so. Where p and q are near, an estimate that comes out low has a low error too:
        intervals of 95% held 89, 92 and 93% with 150 and 250, 300 and 500, 1,000 and 1,000 draws of an exponential and
        a gamma distribution.

    Raises:
        DataError: too few draws, or not finite.
        IncompatibleError: sites or shapes that differ.

    Cost: n² + m² + n m distances.
    """
    permutations = check_permutations(permutations)
    if not permutations and all(isinstance(a, Distribution) and a.event_shape == a.batch_shape == () for a in (p, q)):
        a, b = gaussian(Given(p)), gaussian(Given(q))
        if a is not None and b is not None:
            value = 2 * _distance(a, b) - _distance(a, a) - _distance(b, b)
            return Estimate(value, 0.0, exact="closed form of two univariate Gaussians")
    x, y, note = draws(p, q, num_draws=num_draws, seed=seed)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return -distances(a, b)

    value, se = u_statistic(kernel, x, y)
    test = permutation_test(kernel, x, y, permutations=permutations, seed=seed) if permutations else None
    # E‖x - Y‖ - E‖x - X'‖ is bounded in x, so that the error needs means alone.
    why = doubt(p, q, x, y, order=1, bounded=True)
    return Estimate(value, inf if why else se, note=joined(why, note), p_value=test)


def _distance(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """E|X - Y|: the mean of a folded normal."""
    m, v = float((a[0] - b[0]).item()), float(a[1].ravel()[0] + b[1].ravel()[0])
    s = np.sqrt(v)
    return float(s * np.sqrt(2 / np.pi) * np.exp(-0.5 * m * m / v) + m * (1 - 2 * ndtr(-m / s)))
