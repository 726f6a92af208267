r"""KL(p ‖ q) from draws of both alone, by distances to nearest neighbours (Wang, Kulkarni & Verdú 2009).

With ρ_k(i) the distance of draw x_i of p to its k-th nearest among the others, and ν_k(i) to the k-th nearest draw of
q, k/(n ρ^d) and k/(m ν^d) are p and q there but for a common constant, so that

    KL(p ‖ q)  ≈  d/n Σ_i log(ν_k(i) / ρ_k(i)) + log(m / (n - 1)).

It is consistent for every k. Its error has two parts, and both are stated:

*Variance.* Terms share neighbours, so that theirs is not the variance. It is that of estimates from disjoint parts of
the draws, over their number: an estimate of size n has the variance of one of size n/B divided by B.

*Bias.* Densities are taken as constant over the balls. Where log f has the slope g, the mean of f over a ball of radius
ν is f (1 + ν²g²/(2(d + 2))), and more by its curvature; and draws in the ball are off its centre by ν²g/(d + 2) in the
mean, m. So one part of the bias of log f is (d + 2)|m|²/(2ν²), which is measured with twenty neighbours, less what
chance makes of |m|², for p and for q. Their difference is taken over the twentieth of p's draws that are farthest from
q's, where q's balls reach back into its bulk, and over the rest, and the two are added without sign: with tails heavier
than q's they cancel, and the bias does not. The error counts (1.2 + 3.5/d) times that, by experiment (the coverage is
in ``docs/divergences.md``): next to nothing on the line, most of the error from five dimensions on. (The bias that
follows from estimates by half of the draws has five times the noise, and does not see that of tails.)
"""

from __future__ import annotations

from math import hypot
from typing import Any

import numpy as np

from lowerbound.divergences.draws import draws, joined
from lowerbound.divergences.estimate import Estimate, finished
from lowerbound.errors import DataError

#: Draws of each, at least; parts of them, at most, and how often they are dealt.
_LEAST, _PARTS, _DEALS = 100, 20, 3
#: Neighbours that tell a density's slope, at least, and the share of draws that counts as q's outside.
_SLOPE, _OUTSIDE = 20, 0.05
#: What the part of the bias that is measured is multiplied by: this, and this over the dimension.
_WHOLE, _MORE = 1.2, 3.5
_MOST_NEIGHBOURS = 50
#: Share of draws met below which p lies outside of q's draws. (N(1, 1) and N(0, 1) have 0.23, N(2, 1) has 0.02, where
#: intervals of 95% held 53%.)
_FEWEST_MET = 0.05


def neighbours_kl(p: Any, q: Any, *, neighbours: int, num_draws: int, seed: int) -> Estimate:
    """KL(p ‖ q) in nats; arguments as of :func:`~lowerbound.divergences.kl`.

    Distances are taken where p's draws have the identity for covariance: KL does not change.

    Raises:
        DataError: too few draws; draws that are repeated, as of discrete variables or of a chain that stayed where it
            was; draws of p in a plane.

    Cost: searches of k-d trees, a dozen times for all draws together: O(n log n) in few dimensions.
    """
    k = neighbours
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= _MOST_NEIGHBOURS:
        raise DataError(f"neighbours is {k!r}; needed: a whole number from 1 to {_MOST_NEIGHBOURS}.")
    x, y, note = draws(p, q, num_draws=max(num_draws // 2, _LEAST), seed=seed, least=max(_LEAST, 10 * (k + 5)))
    for side, z in (("p", x), ("q", y)):
        repeated = len(z) - len(np.unique(z, axis=0))
        different = [len(np.unique(column)) for column in z.T]
        if min(different) < len(z) / 2:
            worst = int(np.argmin(different))
            raise DataError(
                f"column {worst} of {side}'s draws has {different[worst]} different values in {len(z)} draws: a "
                "discrete variable has no density. Needed: continuous variables; compare discrete ones as Categorical "
                "distributions."
            )
        if repeated:
            raise DataError(
                f"{repeated} of {len(z)} draws of {side} are repeated, and the distance to them is 0, as of a chain "
                "that stayed where it was. Needed: draws that are all different. Thin the chain."
            )
    shared = len(x) + len(y) - len(np.unique(np.concatenate([x, y]), axis=0))
    if shared:
        raise DataError(
            f"{shared} draws of p are draws of q too, and the distance to them is 0. Needed: draws that were made "
            "independently."
        )
    spread = np.atleast_2d(np.cov(x.T))
    try:
        root = np.linalg.cholesky(spread)
    except np.linalg.LinAlgError:
        raise DataError(
            "draws of p lie in a plane (their covariance is singular), where p has no density. Leave out what is a "
            "function of the rest."
        ) from None
    x, y = (np.linalg.solve(root, (z - x.mean(0)).T).T for z in (x, y))
    value = _estimate(x, y, k)
    if _met(x, y) < _FEWEST_MET:
        far = f"{k} nearest neighbours; too low: p's draws lie where q has next to none, so that its error is not known"
        return finished(value, float("inf"), note=joined(far, note), low=0.0)
    rng = np.random.default_rng([seed, 0x4E])
    parts = min(_PARTS, min(len(x), len(y)) // (k + 5))
    variance = np.mean([np.var(_of_parts(x, y, k, parts, rng), ddof=1) / parts for _ in range(_DEALS)])
    bias = (_WHOLE + _MORE / x.shape[1]) * _sloped(x, y, k)
    chance = float(np.sqrt(variance))
    about = f"{k} nearest neighbours; standard error {chance:.2g} by chance, and up to about {bias:.2g} of bias"
    return finished(value, hypot(chance, bias), note=joined(about, note), low=0.0)


def _estimate(x: np.ndarray, y: np.ndarray, k: int) -> float:
    from scipy.spatial import KDTree

    n, d = x.shape
    own = np.asarray(KDTree(x).query(x, k=k + 1)[0])[:, -1]
    other = np.asarray(KDTree(y).query(x, k=k)[0]).reshape(n, -1)[:, -1]
    return float(d * np.log(other / own).mean() + np.log(len(y) / (n - 1)))


def _sloped(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """The bias by the slopes of log q and log p over the balls of k, outside and inside of q's draws, without sign."""
    from scipy.spatial import KDTree

    (n, d), count = x.shape, max(_SLOPE, k)

    def excess(radius: np.ndarray, at: np.ndarray, z: np.ndarray) -> np.ndarray:
        mean = (z[at] - x[:, None]).mean(1)
        # Draws even over the ball have |m|^2 = v^2 d / (d + 2) / count by chance.
        share = (mean**2).sum(1) / radius[:, -1] ** 2 - d / ((d + 2) * count)
        return (d + 2) / 2 * share * (radius[:, k - 1] / radius[:, -1]) ** 2

    own, near = (np.asarray(a)[:, 1:] for a in KDTree(x).query(x, k=count + 1))
    other, there = (np.asarray(a) for a in KDTree(y).query(x, k=count))
    bias = excess(other, there, y) - excess(own, near.astype(int), x)
    order = np.argsort(-other[:, k - 1])
    outside, inside = np.split(bias[order], [max(1, int(_OUTSIDE * n))])
    return float((abs(outside.sum()) + abs(inside.sum())) / n)


def _met(x: np.ndarray, y: np.ndarray) -> float:
    """Effective number of q's draws that are nearest to one of p's, as a share of p's draws: about 0.4 where p is q."""
    from scipy.spatial import KDTree

    count = np.bincount(np.asarray(KDTree(y).query(x, k=1)[1]), minlength=len(y)).astype(float)
    return float(len(x) / (count**2).sum())


def _of_parts(x: np.ndarray, y: np.ndarray, k: int, parts: int, rng: np.random.Generator) -> list[float]:
    """Estimates from disjoint random parts."""
    a, b = (np.array_split(rng.permutation(len(z)), parts) for z in (x, y))
    return [_estimate(x[i], y[j], k) for i, j in zip(a, b, strict=True)]
