r"""Where an integrand in up to three dimensions is: stretched axes, a box on them, and nodes in it.

To make an integrand die away whatever its tails, the variable is stretched,

    u = m + L sinh(s),      du = |det L| prod_i cosh(s_i) ds,

with m and L from the place and scale of the density: Gaussian and exponential tails become doubly exponential ones, and
those of a power x^-ν e^-(ν - 1) s. The box in s is the one outside of which the integrand is e^-45 of its peak. Where a
power is so slow that it is not, s ends at 60, u at 1e25 scales: what lies beyond is continued, or has no limit
(:mod:`lowerbound.divergences.ends`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lowerbound.divergences.ends import Beyond, beyond, stretch

#: Nodes on an axis of the search for the box, by number of dimensions.
SEARCH = {1: 257, 2: 41, 3: 21}
#: What is left outside the box, in nats below the peak; and what is not yet nothing at its edge.
_DEPTH, _HIGH = 45.0, 30.0
#: Widest box in s: sinh(60) is 1e25 scales.
_WIDEST = 60.0
#: Least slope of the integrand's logarithm that is told from none: there, and on the few nodes of more dimensions.
_SLACK, _COARSE_SLACK = 1e-6, 1e-2
_PANEL = np.polynomial.legendre.leggauss(16)


@dataclass(frozen=True, eq=False)
class Stretch:
    """u = m + L sinh(s) over a box of s.

    Args:
        centre, root: m ``[p]`` and L ``[p, p]``.
        low, high: The box ``[p]``.
        cut: Whether the integrand is not nothing at an edge: nodes are then those of Gauss, on panels.
    """

    centre: np.ndarray
    root: np.ndarray
    low: np.ndarray
    high: np.ndarray
    cut: bool = False

    def nodes(self, n: int, offset: float) -> tuple[np.ndarray, np.ndarray]:
        """Points u ``[n^p, p]``, and the log of their weights; ``offset`` tells two sets apart."""
        p = len(self.centre)
        if self.cut and p == 1:
            edges = np.linspace(self.low[0], self.high[0], max(n // len(_PANEL[0]), 2) + (offset != 0.5))
            reach = np.diff(edges) / 2
            s = ((edges[1:] + edges[:-1]) / 2)[:, None] + reach[:, None] * _PANEL[0]
            weight = np.log(reach[:, None] * _PANEL[1]).ravel()
            s = s.reshape(-1, 1)
            return self.at(s), self.log_jacobian(s) + weight
        step = (self.high - self.low) / n
        axes = [a + h * (np.arange(n) + offset) for a, h in zip(self.low, step, strict=True)]
        s = grid(axes)
        return self.at(s), self.log_jacobian(s) + np.log(step).sum()

    def at(self, s: np.ndarray) -> np.ndarray:
        return self.centre + np.sinh(s) @ self.root.T

    def log_jacobian(self, s: np.ndarray) -> np.ndarray:
        size = np.abs(s)  # log cosh, which would overflow
        return (size + np.log1p(np.exp(-2 * size)) - math.log(2)).sum(1) + np.linalg.slogdet(self.root)[1]


def grid(axes: list[np.ndarray]) -> np.ndarray:
    """All points with these coordinates ``[n^p, p]``."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def box(log_density: Callable[[np.ndarray], np.ndarray], centre: np.ndarray, covariance: np.ndarray) -> Stretch:
    """The stretch about a place and scale, with its box as wide as the density needs."""
    p = len(centre)
    low, high, n = np.full(p, -4.0), np.full(p, 4.0), SEARCH[len(centre)]
    grown = Stretch(centre, root_of(covariance), low, high)
    for _ in range(16):
        axes, height = _heights(log_density, grown, n)
        if not np.isfinite(height).any():
            break
        enough = height.max() - _DEPTH
        low, high, again = grown.low.copy(), grown.high.copy(), False
        for i in range(p):
            held = np.flatnonzero(_profile(height, i) > enough)
            step = axes[i][1] - axes[i][0]
            # One node beyond the last that matters; half as far again where that is the last there is.
            if held[0] == 0:
                low[i] = max(low[i] - 0.5 * (high[i] - low[i]), -_WIDEST)
            else:
                low[i] = axes[i][held[0] - 1]
            if held[-1] == n - 1:
                high[i] = min(high[i] + 0.5 * (high[i] - grown.low[i]), _WIDEST)
            else:
                high[i] = axes[i][held[-1] + 1]
            wider = low[i] < grown.low[i] or high[i] > grown.high[i]
            again = again or wider or (high[i] - low[i]) < 0.7 * n * step
        grown = Stretch(grown.centre, grown.root, low, high)
        if not again:
            break
    return grown


def _heights(
    log_density: Callable[[np.ndarray], np.ndarray], where: Stretch, n: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Axes, and log of the integrand in s ``[n, ...]``."""
    axes = [np.linspace(a, b, n) for a, b in zip(where.low, where.high, strict=True)]
    s = grid(axes)
    with np.errstate(all="ignore"):
        height = log_density(where.at(s)) + where.log_jacobian(s)
    return axes, np.where(np.isfinite(height), height, -np.inf).reshape((n,) * len(axes))


def _profile(height: np.ndarray, axis: int) -> np.ndarray:
    return height.max(axis=tuple(j for j in range(height.ndim) if j != axis))


def ended(
    log_density: Callable[[np.ndarray], np.ndarray], where: Stretch, *, anywhere: bool
) -> tuple[Stretch, list[tuple[int, float, Beyond]]]:
    """The box, and what is beyond its edges where the integrand is not nothing there: axis, side, and how much.

    Args:
        log_density: Of the integrand in u.
        where: Its box.
        anywhere: Whether a cut short of s = 60 counts as well: there the latent itself is no number any more, where it
            is e^u. (A density that is 0 from somewhere on has such a cut too.)
    """
    axes, height = _heights(log_density, where, SEARCH[len(where.centre)])
    out = []
    for i, axis in enumerate(axes):
        profile = _profile(height, i)
        finite = np.flatnonzero(np.isfinite(profile))
        for side, last in ((-1.0, finite[:1]), (1.0, finite[-1:])):
            if not len(last) or profile[last[0]] < profile.max() - _HIGH:
                continue
            s = float(axis[last[0]])
            if abs(s) < 0.999 * _WIDEST and not anywhere:
                continue
            if len(axes) == 1:
                at = side * stretch(abs(s))[:, None]
                with np.errstate(all="ignore"):
                    along = log_density(where.at(at)) + where.log_jacobian(at)
                found = beyond(np.abs(at[:, 0]), along - profile.max(), slack=_SLACK)
            else:
                rows = np.abs(axis) >= 0.4 * abs(s)
                rows &= (np.sign(axis) == side) & np.isfinite(profile)
                v, along = np.abs(axis[rows]), _sums(height, i)[rows] - profile.max()
                order = np.argsort(v)
                found = (
                    beyond(v[order], along[order], slack=_COARSE_SLACK) if len(v) > 4 else Beyond(math.nan, math.inf)
                )
            if found.value != 0.0:
                out.append((i, side * abs(s), found))
    if len(axes) == 1 and out:
        low = min([s for _, s, _ in out if s < 0], default=where.low[0])
        high = max([s for _, s, _ in out if s > 0], default=where.high[0])
        where = replace(where, low=np.array([low]), high=np.array([high]), cut=True)
    return where, out


def _sums(height: np.ndarray, axis: int) -> np.ndarray:
    """log of the sum over the other axes."""
    others = tuple(j for j in range(height.ndim) if j != axis)
    top = height.max()
    with np.errstate(divide="ignore"):
        return top + np.log(np.exp(height - top).sum(axis=others))


def root_of(covariance: np.ndarray) -> np.ndarray:
    """A root of a covariance, of which nothing is asked but that its scale be right."""
    values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
    least = 1e-12 * max(values.max(), 1e-300)
    return vectors * np.sqrt(np.maximum(values, least))
