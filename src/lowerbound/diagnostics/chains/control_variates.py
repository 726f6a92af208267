r"""Means and sds of chains with most of their Monte Carlo error taken out.

For any density that vanishes at infinity, with scores g = grad log p, integration by parts gives two
averages that are known without knowing p (Stein's identity),

    E_p[(S g)_i] = 0,        E_p[(x - m)_i (S g)_i] = -S_ii,

for any fixed m and S. Where p is nearly Gaussian with covariance S they are nearly -(x - m)_i and
-(x - m)_i^2, so as control variates (Assaraf & Caffarel 1999; Mira, Solgi & Imparato 2013) they remove
nearly all of the error of the mean and the variance: a hundred draws then say as much as ten thousand.
The scores cost nothing, since the chains have computed them. Where p is far from Gaussian the regression
on them finds little, and the estimate is the plain average.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Moments:
    """Posterior means and sds of each coordinate, with their Monte Carlo standard errors.

    Attributes:
        mean, sd: ``[p]``.
        mean_se: Error of ``mean``, in units of ``sd``.
        log_sd_se: Error of log ``sd``.
        effective: Effective draws behind the plain averages, ``[p]``: the smaller of those of x and of (x - m)^2.
    """

    mean: np.ndarray
    sd: np.ndarray
    mean_se: np.ndarray
    log_sd_se: np.ndarray
    effective: np.ndarray


def controlled_moments(draws: np.ndarray, scores: np.ndarray, variance: np.ndarray) -> Moments:
    """Moments of chains from their states and scaled scores.

    Args:
        draws: States ``[n, chains, p]``.
        scores: S grad log p at them, ``[n, chains, p]``.
        variance: The diagonal of S, ``[p]``.
    """
    centre = draws.mean((0, 1))
    x = draws - centre
    plain = np.maximum((x**2).mean((0, 1)), 1e-300)
    mean, mean_error, n_mean = _estimate(x, scores)
    second, second_error, n_second = _estimate(x**2, x * scores + variance)
    # A variance that the correction would make absurd is one that it does not help.
    wild = ~((second > 0.25 * plain) & (second < 4 * plain))
    second = np.where(wild, plain, second)
    second_error = np.where(wild, plain, second_error)
    square = np.maximum(second - mean**2, 1e-3 * plain)
    sd = np.sqrt(square)
    return Moments(centre + mean, sd, mean_error / sd, 0.5 * second_error / square, np.minimum(n_mean, n_second))


def _estimate(f: np.ndarray, control: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of f by one control of known mean zero, its standard error, and f's own effective draws."""
    flat_f, flat_c = f.reshape(-1, f.shape[-1]), control.reshape(-1, f.shape[-1])
    # Without the intercept's freedom the slope would be biased by what it is to remove.
    fc, cc = flat_f - flat_f.mean(0), flat_c - flat_c.mean(0)
    with np.errstate(all="ignore"):
        beta = np.nan_to_num((fc * cc).sum(0) / (cc**2).sum(0))
        residual = f - beta * control
        plain, reduced = effective_draws(f), effective_draws(residual)
        error_plain = f.std((0, 1)) / np.sqrt(plain)
        error_reduced = residual.std((0, 1)) / np.sqrt(reduced)
    keep = np.isfinite(error_reduced) & (error_reduced < 0.8 * error_plain)
    mean = np.where(keep, residual.mean((0, 1)), flat_f.mean(0))
    return mean, np.where(keep, error_reduced, error_plain), plain


def effective_draws(draws: np.ndarray) -> np.ndarray:
    """Effective number of draws of each coordinate's mean, ``[p]``, of chains ``[n, chains, p]``.

    Geyer's initial monotone sequence on the autocorrelations of split chains, pooled (Vehtari et al. 2021).
    """
    halves = split(draws)
    n, m, p = halves.shape
    within, total = spreads(halves)
    size = 2 ** int(np.ceil(np.log2(2 * n)))
    out = np.empty(p)
    for i in range(0, p, 256):  # the transforms of all coordinates at once would not fit
        part = slice(i, i + 256)
        centred = halves[..., part] - halves[..., part].mean(0)
        f = np.fft.rfft(centred, size, axis=0)
        covariance = np.fft.irfft(f * np.conj(f), size, axis=0)[:n].mean(1) / n
        with np.errstate(all="ignore"):
            rho = 1 - (within[part] - covariance * n / (n - 1)) / total[part]
        rho = np.nan_to_num(rho, nan=1.0)
        pairs = rho[: n // 2 * 2].reshape(n // 2, 2, -1).sum(1)
        positive = np.cumprod(pairs > 0, axis=0).astype(bool)
        pairs = np.minimum.accumulate(np.where(positive, pairs, 0.0), axis=0)
        tau = np.maximum(2 * pairs.sum(0) - 1, 1 / np.log10(n * m))
        out[part] = n * m / tau
    return out


def split(draws: np.ndarray) -> np.ndarray:
    """Each chain as two, ``[n // 2, 2 chains, p]``: one that drifts disagrees with itself."""
    n = len(draws) // 2
    return np.concatenate([draws[:n], draws[n : 2 * n]], axis=1)


def spreads(halves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variance within the chains, and the estimate of the whole from within and between, ``[p]`` each."""
    n = len(halves)
    within = halves.var(0, ddof=1).mean(0)
    return within, within * (n - 1) / n + halves.mean(0).var(0, ddof=1)
