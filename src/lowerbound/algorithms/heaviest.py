r"""The largest weight w = pi / r of any point, pi ∝ p^n q^(1 - n): whether weights with a long tail can be believed.

k-hat warns of weights that no draw has met, from how the largest that were met are spread. It cannot know that there
are no larger ones: a posterior that bends to and fro has few draws in its bends, with large weights, of one size. Where
w is at most B everywhere, the variance of a mean of M of them is at most B E[w] / M: relatively B / (M E[w]), which is
the share that the largest weight *would* have in the sum of the draws'. With a hundredth of that, as if a hundred draws
or more held all of the weight, the mean and its measured error can be believed whatever k-hat is.

B is looked for by climbing log w from the heaviest draws and the likeliest far out. Where it has no end, as along tails
heavier than r's, or is far from any draw's, as in the neck of a funnel, the climbs are still rising or come to a weight
that is no small share. What no path from a draw leads up to is not seen, nor is it by k-hat.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from lowerbound.algorithms.climb import climb
from lowerbound.algorithms.tilted import Moments
from lowerbound.algorithms.weighted_moments import Drawn, log_mixture, slope_of_mixture
from lowerbound.families import Block
from lowerbound.kernel import Kernel

#: The largest share of the draws' weight that one point may have.
SHARE = 0.01


def heaviest_share(
    kernel: Kernel, drawn: Drawn, q: Moments, block: Block, starts: np.ndarray, *, power: float
) -> float:
    """The largest weight that climbing finds, as a share of the sum of the draws'; infinite where it is not at rest.

    Args:
        kernel: log p.
        drawn: The draws.
        q: The Gaussian in pi.
        block: The same.
        starts: Points to climb from ``[m, p]``.
        power: n, at least 1.

    Cost: at most 91 m evaluations, O(m p^2) each.
    """
    precision = np.linalg.inv(q.covariance)
    log_weights = drawn.log_weights(block, power)
    total = float(np.asarray(logsumexp(log_weights)))

    def log_weight(e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = drawn.about.mean + e @ drawn.factor.T
        value, score = kernel(x)
        slope = (power * score + (power - 1) * (x - q.mean) @ precision) @ drawn.factor - slope_of_mixture(e)
        if power != 1:
            value = power * value + (1 - power) * block.log_prob(x)
        value = value - log_mixture(e) - total
        return np.where(np.isfinite(value) & np.isfinite(slope).all(1), value, -np.inf), slope

    e = np.linalg.solve(drawn.factor, (starts - drawn.about.mean).T).T
    found = climb(log_weight, e, stop=lambda e, value: bool(value.max() > np.log(SHARE)))
    if not found.resting:
        return np.inf
    return float(np.exp(max(found.value.max(), log_weights.max() - total)))
