"""How far a Monte Carlo mean is from the truth, in its own standard errors.

No Monte Carlo mean is compared with a relative tolerance: the error that it may have is measured from
the same draws, and 5 of them is the limit (a chance of 6e-7 a comparison).
"""

from __future__ import annotations

from typing import Any

import numpy as np

LIMIT = 5.0


def z_score(values: Any, truth: Any) -> np.ndarray:
    """(mean - truth) / se over the first axis of ``values``, for independent rows.

    The standard error has a floor of rounding, 64 units in the last place of the largest value: values that
    do not vary must still be equal to the truth.
    """
    values, truth = np.asarray(values, float), np.asarray(truth, float)
    n = len(values)
    rounding = 64 * np.finfo(float).eps * np.maximum(np.abs(values).max(0), np.abs(truth))
    se = np.hypot(values.std(0, ddof=1) / np.sqrt(n), rounding)
    return (values.mean(0) - truth) / np.where(se > 0, se, 1.0)


def assert_mean(values: Any, truth: Any, what: str = "mean") -> None:
    """Fail unless the mean over the first axis is the truth, within 5 standard errors everywhere."""
    z = np.asarray(z_score(values, truth))
    assert np.isfinite(z).all(), f"{what}: not finite: {z}"
    assert np.abs(z).max(initial=0.0) < LIMIT, (
        f"{what}: {np.abs(z).max():.1f} standard errors from the truth: "
        f"{np.mean(values, 0)} against {np.broadcast_to(truth, np.shape(values)[1:])}"
    )


def assert_moments(draws: Any, mean: Any, covariance: Any, what: str = "draws") -> None:
    """Fail unless independent draws ``[n, d]`` have this mean and covariance, within 5 standard errors."""
    centred = np.asarray(draws) - np.asarray(mean)
    assert_mean(draws, mean, f"mean of {what}")
    assert_mean(centred[:, :, None] * centred[:, None, :], covariance, f"covariance of {what}")
