r"""Trust-region Newton steps by conjugate gradients, for a function being maximised.

The next step maximises the quadratic model g'd + d'Hd / 2 within |d|_D <= radius, |d|_D^2 = d'Dd, by conjugate
gradients preconditioned by the diagonal D: where they meet a direction in which the function curves upwards, or
the edge of the region, they go to the edge and stop there (Steihaug 1983; Nocedal & Wright 2006, algorithm 7.2).
The radius follows the ratio of what was gained to what the model promised (their algorithm 4.1).

|d|_D grows along the path of conjugate gradients, so the step for a smaller radius lies on the same path: a
step that was refused is cut without another product.

D is q's Fisher information, so the radius is in units in which q itself changes: for a move of the location, in
posterior standard deviations, about sqrt(2 KL) between the two q.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

#: A step is taken if it gains more than this share of its promise.
ACCEPTED = 1e-3


class Step(NamedTuple):
    """A step, and what the quadratic model says of it.

    Attributes:
        direction: d ``[P]``.
        promise: g'd + d'Hd / 2, the gain.
        length: |d|_D.
        inside: Whether conjugate gradients ended within the region, on their own rule.
    """

    direction: np.ndarray
    promise: float
    length: float
    inside: bool


class _Segment(NamedTuple):
    """A piece of the path: from ``start`` on, alpha times ``search`` adds alpha slope - alpha^2 curvature / 2."""

    start: np.ndarray
    search: np.ndarray
    alpha: float
    slope: float
    curvature: float
    gain: float


@dataclass(frozen=True, eq=False)
class Path:
    """The way of conjugate gradients from 0, out to the radius it was made with."""

    segments: list[_Segment]
    metric: np.ndarray
    radius: float
    products: int

    def step(self, radius: float) -> Step:
        """The end of the path, or where it leaves a smaller region."""
        for s in self.segments:
            end = s.start + s.alpha * s.search
            length = self._norm(end)
            if length >= min(radius, self.radius) * (1 - 1e-12):
                alpha = min(s.alpha, _to_edge(s.start, s.search, self.metric, radius))
                gain = s.gain + alpha * s.slope - 0.5 * alpha**2 * s.curvature
                end = s.start + alpha * s.search
                return Step(end, gain, self._norm(end), False)
        if not self.segments:
            return Step(np.zeros_like(self.metric), 0.0, 0.0, True)
        s = self.segments[-1]
        gain = s.gain + s.alpha * s.slope - 0.5 * s.alpha**2 * s.curvature
        return Step(end, gain, length, True)

    def _norm(self, d: np.ndarray) -> float:
        return float(np.sqrt((d**2 * self.metric).sum()))


def steihaug(
    product: Callable[[np.ndarray], np.ndarray],
    gradient: np.ndarray,
    metric: np.ndarray,
    radius: float,
    *,
    least: float,
    share: float = 0.1,
    most: int = 100,
) -> Path:
    """The path for one quadratic model.

    Conjugate gradients end when iteration j, were j more like it to follow, would add less than the given share
    of the gain so far, or less than ``least`` (after Nash & Sofer 1990). A residual would be no guide: what
    matters is the ELBO.

    Args:
        product: H times a vector.
        gradient: g ``[P]``.
        metric: The diagonal D ``[P]``, positive.
        radius: Of the region, in the metric.
        least: Gain that is not worth a product.
        share: Of the gain so far.
        most: Products.
    """
    segments: list[_Segment] = []
    d, gain = np.zeros_like(gradient), 0.0
    residual = gradient
    search = z = residual / metric
    slope = float(residual @ z)
    for j in range(1, most + 1):
        if not slope > 0:
            break
        curved = -product(search)
        curvature = float(search @ curved)
        edge = _to_edge(d, search, metric, radius)
        alpha = slope / curvature if curvature > 0 else np.inf
        segments.append(_Segment(d, search, min(alpha, edge), slope, curvature, gain))
        if not alpha < edge:
            break
        d = d + alpha * search
        added = 0.5 * alpha * slope
        gain += added
        if j * added <= max(share * gain, least):
            break
        residual = residual - alpha * curved
        z = residual / metric
        slope, before = float(residual @ z), slope
        search = z + (slope / before) * search
    return Path(segments, metric, radius, len(segments))


def _to_edge(d: np.ndarray, search: np.ndarray, metric: np.ndarray, radius: float) -> float:
    """The positive root alpha of |d + alpha search|_D = radius."""
    a, b = float((search**2 * metric).sum()), float((d * search * metric).sum())
    c = float((d**2 * metric).sum()) - radius**2
    return (-b + np.sqrt(max(b * b - a * c, 0.0))) / a


def next_radius(radius: float, step: Step, ratio: float) -> float:
    """The radius after a step whose gain was ``ratio`` times the promise (not a number where it was not finite)."""
    if not ratio >= 0.25:
        return 0.25 * step.length
    if ratio > 0.75 and not step.inside:
        return 3 * radius
    return radius
