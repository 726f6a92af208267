r"""Between constrained values and the unconstrained vector, on the host, for the supports of exponential families.

The maps are NumPyro's own (tests hold them to it); as NumPy they cost no compilation, one for each operation, where q
is drawn from and evaluated outside of any compiled program.

| support | z = T(u) | log |det dz/du| |
|---|---|---|
| real | u | 0 |
| positive | exp u | sum u |
| unit | s(u), s the logistic function | sum log s(u) + log s(-u) |
| between a and b | a + (b - a) s(u) | sum log (b - a) + log s(u) + log s(-u) |
| above a, below b | a + exp u, b - exp u | sum u |
| simplex | sticks v_k = s(u_k - log(K - k)), z_k = v_k prod_{j<k} (1 - v_j) | sum log v_k + log(1 - v_k) + log left_k |
| matrix | L L', L lower triangular with exp on its diagonal | d log 2 + sum_i (d - i + 1) log L_ii, i = 0 .. d - 1 |

left_k = prod_{j<k} (1 - v_j), what is left of the stick. The density of a simplex is over its first K - 1 elements,
that of a matrix over the elements on and below its diagonal.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import log_expit

from lowerbound.expectations.supports import ends, from_real, is_number, log_slope


def constrain(support: str, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """T(u) ``[n, *shape]`` and log |det dT/du| ``[n]`` at ``u [n, *unconstrained_shape]``."""
    with np.errstate(over="ignore", under="ignore"):
        if support == "real":
            return u, np.zeros(len(u))
        if support == "positive":
            return np.exp(u), _total(u)
        if support == "unit":
            return np.exp(log_expit(u)), _total(log_expit(u) + log_expit(-u))
        if support == "simplex":
            return _simplex(u)
        if is_number(support):
            return from_real(support, u, np.exp(log_expit(u)), np), _total(log_slope(support, u, log_expit))
        return _matrix(u)


def unconstrain(support: str, z: np.ndarray) -> np.ndarray:
    """T^-1(z) ``[n, *unconstrained_shape]``."""
    with np.errstate(divide="ignore"):
        if support == "real":
            return z
        if support == "positive":
            return np.log(z)
        if support == "unit":
            return np.log(z) - np.log1p(-z)
        if support == "simplex":
            # log v_k - log(1 - v_k) = log z_k - log of what is left after it
            left = np.cumsum(z[..., ::-1], axis=-1)[..., ::-1][..., 1:]
            return np.log(z[..., :-1]) - np.log(left) + _offset(z.shape[-1] - 1)
        if (bounds := ends(support)) is not None:
            low, high = bounds
            if np.isfinite(low) and np.isfinite(high):
                return np.log(z - low) - np.log(high - z)
            return np.log(z - low) if np.isfinite(low) else np.log(high - z)
    root = np.linalg.cholesky(z)
    d = z.shape[-1]
    rows, columns = np.tril_indices(d, -1)
    return np.concatenate([root[..., rows, columns], np.log(np.diagonal(root, axis1=-2, axis2=-1))], axis=-1)


def _offset(k: int) -> np.ndarray:
    return np.log(k - np.arange(k))


def _simplex(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    v = u - _offset(u.shape[-1])
    log_v, log_rest = log_expit(v), log_expit(-v)
    zero = np.zeros((*u.shape[:-1], 1))
    left = np.concatenate([zero, np.cumsum(log_rest, axis=-1)], axis=-1)
    z = np.exp(np.concatenate([log_v, zero], axis=-1) + left)
    return z, _total(log_v + log_rest + left[..., :-1])


def _matrix(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = u.shape[-1]
    d = (math.isqrt(8 * size + 1) - 1) // 2
    root = np.zeros((*u.shape[:-1], d, d))
    rows, columns = np.tril_indices(d, -1)
    log_diagonal = u[..., size - d :]
    root[..., rows, columns] = u[..., : size - d]
    root[..., np.arange(d), np.arange(d)] = np.exp(log_diagonal)
    # Of L -> L L' sum (d - i) log L_ii + d log 2; of the exponential on the diagonal once more log L_ii.
    log_det = d * math.log(2) + ((d - np.arange(d) + 1) * log_diagonal).sum(-1)
    return root @ np.swapaxes(root, -1, -2), _total(log_det)


def _total(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).sum(1)
