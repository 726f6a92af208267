"""Closed forms found in distributions as they are written: products, common transforms, Gaussians in all forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import Distribution, ExpandedDistribution, Independent, TransformedDistribution
from scipy.special import ndtr

from lowerbound.divergences.exponential import (
    FORMS,
    Arrays,
    ClosedForm,
    gaussian_kl,
    gaussian_log_affinity,
    whitened,
)
from lowerbound.divergences.laws import Given, Law, Unconstrained
from lowerbound.families import DiagonalGaussian
from lowerbound.precision import float64

#: A closed form, and the value it has ``[*batch]``.
Found = tuple[np.ndarray, str]


def kl(p: Law, q: Law) -> tuple[float, str] | None:
    """KL(p ‖ q) and how it was found, or None."""
    return _of_laws(p, q, gaussian_kl, lambda form: form.kl)


def log_affinity(p: Law, q: Law, order: float) -> tuple[float, str] | None:
    """log M(λ), the log of the integral of p^λ q^(1-λ), and how it was found, or None."""

    def of_form(form: ClosedForm) -> Callable[[Arrays, Arrays], np.ndarray] | None:
        f = form.log_affinity
        return None if f is None else lambda a, b: f(a, b, order)

    return _of_laws(p, q, lambda shift, ratio: gaussian_log_affinity(shift, ratio, order), of_form)


def total_variation(p: Law, q: Law) -> tuple[float, str] | None:
    """Of two Gaussians with one covariance, 2 Φ(δ/2) - 1 at Mahalanobis distance δ; of two univariate Gaussians."""
    found = gaussians(p, q)
    if found is None:
        return None
    shift, ratio = found
    if np.allclose(ratio, 1, rtol=0, atol=1e-12):
        return float(2 * ndtr(np.linalg.norm(shift) / 2) - 1), "closed form of two Gaussians with one covariance"
    if shift.size > 1:
        return None
    # The densities cross where (x - m)²/s - x² + log s = 0: P - Q over the interval between the crossings.
    m, s = float(shift.ravel()[0]), float(ratio.ravel()[0])
    a, b, c = 1 - s, -2 * m, m * m + s * np.log(s)
    root = np.sqrt(max(b * b - 4 * a * c, 0.0))
    low, high = sorted([(-b - root) / (2 * a), (-b + root) / (2 * a)])
    difference = (ndtr((high - m) / np.sqrt(s)) - ndtr((low - m) / np.sqrt(s))) - (ndtr(high) - ndtr(low))
    return float(abs(difference)), "closed form of two univariate Gaussians"


def gaussians(p: Law, q: Law) -> tuple[np.ndarray, np.ndarray] | None:
    """Shift and ratio ``[d]`` of p where q is standard, if both are Gaussians."""
    a, b = gaussian(p), gaussian(q)
    if a is None or b is None:
        return None
    if a[1].ndim == 1 and b[1].ndim == 1:
        return (a[0] - b[0]) / np.sqrt(b[1]), a[1] / b[1]
    return whitened(a[0], _full(a[1]), b[0], _full(b[1]))


def _full(covariance: np.ndarray) -> np.ndarray:
    return np.diag(covariance) if covariance.ndim == 1 else covariance


def gaussian(law: Law) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean ``[d]`` and covariance ``[d, d]`` (``[d]``: its diagonal) of a Gaussian in any of its forms, or None."""
    if isinstance(law, Unconstrained):
        block = law.gaussian
        if block is None:
            return None
        spread = block.variance() if isinstance(block, DiagonalGaussian) else block.covariance()
        return np.asarray(block.mean), np.asarray(spread)
    if not isinstance(law, Given):
        return None
    d: Any = law.distribution
    with float64():
        if isinstance(d, (dist.MultivariateNormal, dist.LowRankMultivariateNormal)):
            return np.asarray(d.loc), np.asarray(d.covariance_matrix)
        shape = d.event_shape
        while isinstance(d, (Independent, ExpandedDistribution)):
            d = d.base_dist
        if type(d) is dist.Normal:
            return (
                np.broadcast_to(np.asarray(d.loc, float), shape).ravel(),
                np.broadcast_to(np.asarray(d.scale, float) ** 2, shape).ravel(),
            )
    return None


def _of_laws(
    p: Law,
    q: Law,
    of_gaussians: Callable[[np.ndarray, np.ndarray], np.ndarray],
    of_form: Callable[[ClosedForm], Callable[[Arrays, Arrays], np.ndarray] | None],
) -> tuple[float, str] | None:
    both = gaussians(p, q)
    if both is not None:
        return float(of_gaussians(*both).sum()), "closed form of two Gaussians"
    if not isinstance(p, Given) or not isinstance(q, Given):
        return None
    with float64():
        found = _find(p.distribution, q.distribution, of_form)
    return None if found is None else (float(found[0].sum()), found[1])


def _find(
    p: Distribution, q: Distribution, of_form: Callable[[ClosedForm], Callable[[Arrays, Arrays], np.ndarray] | None]
) -> Found | None:
    """The sum over independent elements of a closed form, ``[*batch]``."""
    if isinstance(p, Independent) or isinstance(q, Independent):
        if not (isinstance(p, Independent) and isinstance(q, Independent)):
            return None
        if p.base_dist.event_shape != q.base_dist.event_shape:
            return None
        found = _find(p.base_dist, q.base_dist, of_form)
        if found is None:
            return None
        shape = np.broadcast_shapes(p.base_dist.batch_shape, q.base_dist.batch_shape)
        value = np.broadcast_to(found[0], shape)
        n = p.reinterpreted_batch_ndims
        return value.sum(axis=tuple(range(-n, 0))) if n else value, found[1]
    if isinstance(p, ExpandedDistribution):
        return _find(p.base_dist, q, of_form)
    if isinstance(q, ExpandedDistribution):
        return _find(p, q.base_dist, of_form)
    for form in FORMS:
        a, b = form.parameters(p), form.parameters(q)
        if a is None or b is None:
            continue
        f = of_form(form)
        if f is None or (form.match is not None and not form.match(a, b)):
            return None
        return np.asarray(f(a, b)), f"closed form of {form.name}"
    if isinstance(p, TransformedDistribution) and isinstance(q, TransformedDistribution):
        same = len(p.transforms) == len(q.transforms) and all(map(_equal, p.transforms, q.transforms))
        found = _find(p.base_dist, q.base_dist, of_form) if same else None
        return None if found is None else (found[0], f"{found[1]}, through the transform that they share")
    return None


def _equal(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(np.all(np.asarray(a == b)))
