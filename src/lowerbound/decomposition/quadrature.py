r"""Up to three dimensions: integrals over the unconstrained vector, with the error that the nodes themselves tell.

The trapezoidal rule converges faster than any power where an analytic integrand dies away at both ends (Trefethen &
Weideman 2014). To make it die away whatever its tails, the variable is stretched,

    u = m + L sinh(s),      du = |det L| prod_i cosh(s_i) ds,

with m and L from the place and scale of the density: Gaussian and exponential tails become doubly exponential ones,
and those of a Cauchy exponential. The box in s is the one outside of which the density is e^-45 of its peak. Each
integral is taken over two sets of nodes with different steps (two shifts of one step can err by the same amount, the
same sign too, where the integrand is symmetric); their difference is the error that is reported, and the number of
nodes grows until it is that of rounding.

The evidence and the ELBO are over the first set, the divergence over the second, with p(z | x) normalised over the
second as well: nothing but the two densities is common to the three numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from lowerbound.decomposition.result import Decomposition
from lowerbound.decomposition.target import Target
from lowerbound.diagnostics.estimate import Estimate

#: Nodes on an axis, coarse to fine, by number of dimensions; and of the search for the box.
_LEVELS = {
    1: (64, 128, 256, 512, 1024, 4096, 16384),
    2: (32, 48, 72, 108, 160, 240, 360),
    3: (20, 28, 40, 56),
}
_SEARCH = {1: 257, 2: 41, 3: 21}
#: What is left outside the box, in nats below the peak.
_DEPTH = 45.0
#: Widest box in s: sinh(60) is 1e25 scales.
_WIDEST = 60.0
#: Errors that are those of rounding, relative to the numbers; and above which the draws do better.
_ROUNDING, POOR = 1e-12, 1e-4
#: Probability that q may have where log p(x, z) is not finite: rounding in the far tails.
_NOTHING = 1e-10


@dataclass(frozen=True, eq=False)
class Stretch:
    """u = m + L sinh(s) over a box of s.

    Args:
        centre, root: m ``[p]`` and L ``[p, p]``.
        low, high: The box ``[p]``.
    """

    centre: np.ndarray
    root: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def nodes(self, n: int, offset: float) -> tuple[np.ndarray, np.ndarray]:
        """Points u ``[n^p, p]``, and the log of their weights."""
        p = len(self.centre)
        step = (self.high - self.low) / n
        axes = [a + h * (np.arange(n) + offset) for a, h in zip(self.low, step, strict=True)]
        s = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, p)
        return self.at(s), self.log_jacobian(s) + np.log(step).sum()

    def at(self, s: np.ndarray) -> np.ndarray:
        return self.centre + np.sinh(s) @ self.root.T

    def log_jacobian(self, s: np.ndarray) -> np.ndarray:
        size = np.abs(s)  # log cosh, which would overflow
        return (size + np.log1p(np.exp(-2 * size)) - math.log(2)).sum(1) + np.linalg.slogdet(self.root)[1]


def box(log_density: Callable[[np.ndarray], np.ndarray], centre: np.ndarray, covariance: np.ndarray) -> Stretch:
    """The stretch about a place and scale, with its box as wide as the density needs."""
    p = len(centre)
    low, high, n = np.full(p, -4.0), np.full(p, 4.0), _SEARCH[len(centre)]
    grown = Stretch(centre, _root(covariance), low, high)
    for _ in range(16):
        axes = [np.linspace(a, b, n) for a, b in zip(grown.low, grown.high, strict=True)]
        s = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, p)
        with np.errstate(all="ignore"):
            height = log_density(grown.at(s)) + grown.log_jacobian(s)
        height = np.where(np.isfinite(height), height, -np.inf).reshape((n,) * p)
        if not np.isfinite(height).any():
            break
        enough = height.max() - _DEPTH
        low, high, again = grown.low.copy(), grown.high.copy(), False
        for i in range(p):
            held = np.flatnonzero(height.max(axis=tuple(j for j in range(p) if j != i)) > enough)
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


def _root(covariance: np.ndarray) -> np.ndarray:
    """A root of a covariance, of which nothing is asked but that its scale be right."""
    values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
    least = 1e-12 * max(values.max(), 1e-300)
    return vectors * np.sqrt(np.maximum(values, least))


def peak(target: Target, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A mode of log p(x, u) and the inverse of its curvature there."""
    p = len(start)

    def negative(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = target.kernel(x[None])
        ok = np.isfinite(value[0]) and np.isfinite(gradient[0]).all()
        return (-float(value[0]), -gradient[0]) if ok else (1e300, np.zeros(p))

    best, mode = np.inf, start
    for x in (start, np.zeros(p)):
        found = minimize(negative, x, jac=True, method="L-BFGS-B", options={"maxiter": 200})
        if found.fun < best:
            best, mode = found.fun, np.asarray(found.x)
    step = 1e-4 * (1 + np.abs(mode))
    ends = np.concatenate([mode + np.diag(step), mode - np.diag(step)])
    gradient = target.kernel(ends)[1]
    curvature = -(gradient[:p] - gradient[p:]) / (2 * step[:, None])
    if not np.isfinite(curvature).all():
        return mode, np.eye(p)
    values, vectors = np.linalg.eigh(0.5 * (curvature + curvature.T))
    return mode, (vectors / np.clip(np.abs(values), 1e-8, 1e16)) @ vectors.T


def by_quadrature(target: Target) -> Decomposition | None:
    """The three numbers of a model with up to three unconstrained dimensions; None where the nodes do not suffice.

    Args:
        target: The model and q.

    Cost: two sets of nodes for each of two densities: hundreds in one dimension, up to 10^5 in two and 2 10^5 in three.
    """
    p = target.kernel.dimension
    place, spread = target.q.place()
    q_box = box(lambda v: _height(target, v), place, spread)
    start = target.q.points(place[None]).u[0]
    p_box = box(target.log_p, *peak(target, np.where(np.isfinite(start), start, 0.0)))
    before: list[float] | None = None
    for n in _LEVELS[p]:
        sets = ((n, 0.5), (n + max(3, n // 8), 0.3))
        evidence = [_log_integral(target, p_box, *s) for s in sets]
        first, second = (_expectations(target, q_box, *s) for s in sets)
        missed = max(first[2], second[2])
        if missed > _NOTHING:
            return _infinite(evidence, missed)
        elbo = [first[0], second[0]]
        # E_q[log q - log p(x, z)] + log p(x), each over the same set of nodes.
        kl = [e[1] + z for e, z in zip((first, second), evidence, strict=True)]
        size = 1 + max(abs(evidence[0]), abs(elbo[0]))
        errors = [abs(a - b) for a, b in (evidence, elbo, kl)]
        if max(errors) < _ROUNDING * size or (before and max(errors) < 1e-9 and max(errors) > 0.5 * max(before)):
            break
        before = errors
    if not max(errors) < POOR:
        return None
    axis = f"{n:,} nodes" + ("" if p == 1 else f" on each of {p} axes")
    return Decomposition(
        Estimate(evidence[0], errors[0]),
        Estimate(elbo[0], errors[1]),
        Estimate(kl[1], errors[2]),
        "quadrature",
        (
            f"quadrature of p(x, z), {axis}",
            f"quadrature of q (log p(x, z) - log q), {axis} of its own",
            "quadrature of q log(q / p(z | x)), on other nodes, with p(z | x) normalised there",
        ),
    )


def _height(target: Target, v: np.ndarray) -> np.ndarray:
    """log of q times what is averaged under it, which may grow as fast as q dies away."""
    t = target.terms(v)
    size = np.log1p(np.abs(t.gain) + np.abs(t.loss))
    return t.log_q + np.where(np.isfinite(size), size, 0.0)


def _log_integral(target: Target, where: Stretch, n: int, offset: float) -> float:
    """log of the integral of p(x, u)."""
    u, log_weight = where.nodes(n, offset)
    return float(np.asarray(logsumexp(target.log_p(u) + log_weight)))


def _expectations(target: Target, where: Stretch, n: int, offset: float) -> tuple[float, float, float]:
    """The ELBO, E_q[log q - log p(x, z)] on terms of its own, and the share of q where p(x, z) is 0."""
    v, log_weight = where.nodes(n, offset)
    t = target.terms(v)
    mass = np.exp(t.log_q + log_weight)
    mass = np.where(np.isfinite(mass), mass, 0.0)
    lost = ~np.isfinite(t.gain) | ~np.isfinite(t.loss)
    held = np.where(lost, 0.0, mass)
    gain, loss = np.where(lost, 0.0, t.gain), np.where(lost, 0.0, t.loss)
    return float(held @ gain), float(held @ loss), float(mass[lost].sum())


def _infinite(evidence: list[float], missed: float) -> Decomposition:
    return Decomposition(
        Estimate(evidence[0], abs(evidence[0] - evidence[1])),
        Estimate(-np.inf, 0.0),
        Estimate(np.inf, 0.0),
        "quadrature",
        ("quadrature of p(x, z)", "log p(x, z) is -inf where q is not 0", "p(z | x) is 0 where q is not"),
        (
            f"q has probability {missed:.3g} where p(x, z) = 0, or is not a number, so that KL(q ‖ p(z | x)) is "
            "infinite",
        ),
    )
