"""Pareto-smoothed importance sampling (Vehtari, Simpson, Gelman, Yao & Gabry 2024).

The largest importance weights are replaced by the expected order statistics of a generalised Pareto
distribution fitted to them; its shape k-hat says how heavy their tail is, and so how far any average
under the weights can be trusted: below 0.5 the weights have finite variance, below 0.7 the smoothed
average is usable, above 1 they do not even have a mean.
"""

from __future__ import annotations

import numpy as np


def generalized_pareto(x: np.ndarray) -> tuple[float, float]:
    """Shape k and scale sigma of a generalised Pareto fitted to sorted excesses ``x > 0``.

    The quasi-Bayesian estimator of Zhang & Stephens (2009), with the weakly informative prior of
    Vehtari et al. (2024, appendix G) that pulls k towards 0.5 as ten observations would.
    """
    n = len(x)
    m = 30 + int(np.sqrt(n))
    j = np.arange(1, m + 1)
    theta = 1 / x[-1] + (1 - np.sqrt(m / (j - 0.5))) / (3 * x[int(n / 4 + 0.5) - 1])
    shape = np.log1p(-theta[:, None] * x).mean(1)
    profile = n * (np.log(-theta / shape) - shape - 1)
    weight = np.exp(profile - _log_sum_exp(profile))
    keep = weight > 10 * np.finfo(float).eps
    theta_hat = (theta[keep] * weight[keep]).sum() / weight[keep].sum()
    k = np.log1p(-theta_hat * x).mean()
    sigma = -k / theta_hat
    return float((n * k + 10 * 0.5) / (n + 10)), float(sigma)


def smooth(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Smoothed log weights, normalised to sum to one, and k-hat.

    Args:
        log_weights: ``[n]``; minus infinity is a weight of zero.

    Returns:
        The log weights ``[n]`` and k-hat: infinity where there are too few distinct weights to fit.
    """
    lw = np.where(np.isnan(log_weights), -np.inf, log_weights).astype(float)
    n = len(lw)
    top = lw.max()
    if not np.isfinite(top):
        return np.full(n, -np.log(n)), np.inf
    lw = lw - top
    tail = int(np.ceil(min(0.2 * n, 3 * np.sqrt(n))))
    order = np.argsort(lw, kind="stable")
    ids = order[n - tail :]
    cutoff = max(lw[order[n - tail - 1]], np.log(np.finfo(float).tiny)) if tail < n else -np.inf
    above = ids[lw[ids] > cutoff]
    k = np.inf
    if np.ptp(lw) < 1e-10:
        k = -np.inf  # constant weights: q is exact
    elif len(above) > 4:
        excess = np.exp(lw[above]) - np.exp(cutoff)
        if excess[0] > 0 and np.ptp(excess) > 0:
            k, sigma = generalized_pareto(excess)
            if np.isfinite(k):
                p = (np.arange(len(above)) + 0.5) / len(above)
                quantile = sigma * (np.expm1(-k * np.log1p(-p)) / k if abs(k) > 1e-12 else -np.log1p(-p))
                lw[above] = np.minimum(np.log(quantile + np.exp(cutoff)), 0.0)
    lw -= _log_sum_exp(lw)
    return lw, float(k)


def effective_size(log_weights: np.ndarray) -> float:
    """Effective number of draws, (sum w)^2 / sum w^2."""
    w = np.exp(log_weights - log_weights.max())
    return float(w.sum() ** 2 / (w**2).sum())


def _log_sum_exp(a: np.ndarray) -> float:
    top = a.max()
    return float(top + np.log(np.exp(a - top).sum()))
