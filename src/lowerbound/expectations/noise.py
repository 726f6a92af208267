"""Standard normal noise for Monte Carlo expectations, arranged so that little of it is error.

*Stratified*: each coordinate has exactly one draw in each of n equally probable intervals (Latin
hypercube; McKay, Beckman & Conover 1979), which removes the error of the additive part of a function.

*Matched*: stratified, antithetic (e and -e together: odd moments are exactly zero) and whitened
(second moments exactly the identity), so that the mean of any quadratic, and the regression of any
affine function, is exact. For a Gaussian target this is what makes one step land on the answer.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri


def stratified_normals(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Normal draws ``[n, d]``, stratified in each coordinate; each row is N(0, I)."""
    cells = rng.permuted(np.broadcast_to(np.arange(n)[:, None], (n, d)), axis=0)
    return ndtri((cells + rng.uniform(1e-12, 1 - 1e-12, (n, d))) / n)


def matched_normals(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Normal draws ``[n, d]`` with mean exactly 0 and, if n >= 2d, second moments exactly I.

    With fewer draws than that only the marginal variances are matched.
    """
    half = stratified_normals(rng, n // 2, d)
    if n >= 2 * d:
        # Whiten by the symmetric root: of all whitenings it moves the draws least.
        w, v = np.linalg.eigh(half.T @ half / len(half))
        half = half @ (v / np.sqrt(w)) @ v.T
    else:
        half /= np.sqrt((half**2).mean(0))
    return np.concatenate([half, -half])


def student_scales(rng: np.random.Generator, n: int, degrees: float) -> np.ndarray:
    """Factors ``[n]`` that turn N(0, I) rows into multivariate Student-t ones: sqrt(nu / chi2_nu)."""
    return np.sqrt(degrees / rng.chisquare(degrees, n))
