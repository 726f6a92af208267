"""Wasserstein distances of order 1 and 2: exact, sliced, entropic."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
from numpyro.distributions import Distribution
from scipy.special import ndtr

from lowerbound.divergences.closed import gaussian
from lowerbound.divergences.draws import draws, joined
from lowerbound.divergences.estimate import Estimate
from lowerbound.divergences.kernels import distances
from lowerbound.divergences.laws import Given
from lowerbound.divergences.moments import doubt, power, without_moment
from lowerbound.divergences.quadrature import adaptive
from lowerbound.divergences.transport import Transport, on_the_line, root
from lowerbound.errors import DataError, IncompatibleError, unknown_name
from lowerbound.precision import float64

METHODS = ("auto", "exact", "sliced", "entropic")
_MOST_EXACT = 5000
_TAIL = 1e-9
#: Sinkhorn's: to a margin that is off by less than any standard error.
_STEPS, _MARGIN = 2000, 1e-6


def wasserstein(
    p: Any,
    q: Any,
    *,
    order: int = 2,
    method: str = "auto",
    projections: int = 128,
    regularization: float | None = None,
    num_draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    r"""W_r(p, q) = (min over couplings of E‖X - Y‖^r)^(1/r), in units of the draws (Villani 2009; Peyré & Cuturi 2019).

    Routes of ``"auto"``: two Gaussian distributions by their closed form (Dowson & Landau 1982; order 1 on the line
    only); two distributions on the line by quadrature of quantiles, where NumPyro has them; draws on the line by
    sorting; other draws by the exact plan of POT.

    Args:
        p: Draws ``[n, *event]``, a mapping of them by site, a NumPyro distribution, or a posterior.
        q: The same.
        order: r, 1 or 2.
        method: ``"auto"``; ``"exact"``, the plan between draws; ``"sliced"``, the root mean r-th power over random
            directions (Bonneel et al. 2015), which is at most W; ``"entropic"``, the Sinkhorn divergence's root
            (Feydy et al. 2019).
        projections: Directions of ``"sliced"``.
        regularization: Of ``"entropic"``, in units of the cost; None for 0.05 of its median.
        num_draws: Of each argument that is a distribution or a posterior.
        seed: Of draws and directions.

    Returns:
        Infinite, with the reason, between distributions on the line of which one has the r-th moment in a tail where
        the other has none. Between draws, the standard error is that of a limit law for p ≠ q, and infinite, with the
        reason, where the 2r-th moments do not exist or the draws' tails say so. The distance of two samples is larger
        than that of their distributions, by an amount of n^(-1/d) in d dimensions, which the standard error does not
        have.

    Raises:
        ImportError: POT is needed and not installed.
        DataError: too few draws, or not finite; more than 5,000 for an exact plan.
        IncompatibleError: sites or shapes that differ; another order.

    Cost: on the line a sort; sliced ``projections`` of them; a plan grows as n³, an entropic one as n² times its steps.

    Example:
        >>> import numpyro.distributions as dist
        >>> wasserstein(dist.Normal(0, 1), dist.Normal(3, 5))
        5 (exact: closed form of two Gaussians)
    """
    if order not in (1, 2):
        raise IncompatibleError(f"order is {order!r}; needed: 1 or 2.")
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if isinstance(projections, bool) or not isinstance(projections, (int, np.integer)) or projections < 2:
        raise DataError(f"projections is {projections!r}; needed: a whole number, 2 or more.")
    if regularization is not None and not 0 < regularization < inf:
        raise DataError(f"regularization is {regularization!r}; needed: a positive number, or None.")
    if method == "auto" and (found := _of_distributions(p, q, order)) is not None:
        return found
    x, y, note = draws(p, q, num_draws=num_draws, seed=seed)
    d = x.shape[1]
    if method == "sliced" and d > 1:
        found = _sliced(x, y, order, projections, seed, note)
    elif method == "entropic":
        found = _entropic(x, y, order, regularization, note)
    else:
        plan = on_the_line(x[:, 0], y[:, 0], order) if d == 1 else _plan(x, y, order)
        w, se = root(plan.cost, plan.se, order)
        bias = "" if d == 1 else f"of samples: too large by about n^(-1/{d})"
        found = Estimate(w, se, note=joined(bias, note))
    why = doubt(p, q, x, y, order=order)
    return replace(found, se=inf, note=joined(why, found.note)) if why else found


# -- distributions ---------------------------------------------------------------------------------------------


def _of_distributions(p: Any, q: Any, order: int) -> Estimate | None:
    if not (isinstance(p, Distribution) and isinstance(q, Distribution)):
        return None
    if p.batch_shape or q.batch_shape or p.event_shape != q.event_shape:
        return None
    a, b = gaussian(Given(p)), gaussian(Given(q))
    if a is not None and b is not None and (order == 2 or len(a[0]) == 1):
        value = _bures(a, b) if order == 2 else _folded(a, b)
        return Estimate(value, 0.0, exact="closed form of two Gaussians")
    if p.event_shape:
        return None
    missing = without_moment(p, order), without_moment(q, order)
    for i, name in enumerate("pq"):
        own, other = missing[i], missing[1 - i]
        if own and other is not None and (own - other):
            tail = " and ".join(sorted(own - other))
            note = f"E|X|{power(order)} of {name} has no limit in the {tail} tail, and that of {'qp'[i]} has one"
            return Estimate(inf, 0.0, exact="tails of the densities", note=note)
    return _quantiles(Given(p), Given(q), order)


def _bures(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """‖m - n‖² + tr(A + B - 2 (A^½ B A^½)^½)."""
    shift = float(((a[0] - b[0]) ** 2).sum())
    if a[1].ndim == b[1].ndim == 1:
        return float(np.sqrt(shift + ((np.sqrt(a[1]) - np.sqrt(b[1])) ** 2).sum()))
    left, right = (np.diag(c) if c.ndim == 1 else c for c in (a[1], b[1]))
    values, vectors = np.linalg.eigh(left)
    half = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(half @ right @ half), 0)).sum()
    return float(np.sqrt(max(shift + np.trace(left) + np.trace(right) - 2 * cross, 0.0)))


def _folded(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """E|m + s Z|, with the difference of means m and of standard deviations s: quantiles go to quantiles."""
    m = float((a[0] - b[0]).item())
    s = float(abs(np.sqrt(a[1].ravel()[0]) - np.sqrt(b[1].ravel()[0])))
    if s == 0:
        return abs(m)
    return float(s * np.sqrt(2 / np.pi) * np.exp(-0.5 * (m / s) ** 2) + m * (1 - 2 * ndtr(-m / s)))


def _quantiles(p: Given, q: Given, order: int) -> Estimate | None:
    """The integral over u of |F⁻¹(u) - G⁻¹(u)|^r; None where a quantile function or a moment is missing."""

    def of(law: Given, u: np.ndarray) -> np.ndarray:
        with float64():
            return np.asarray(law.distribution.icdf(u), np.float64)

    def f(v: np.ndarray) -> np.ndarray:
        # u = 1/(1 + e^-v): tails in u are exponential in v.
        u = 1 / (1 + np.exp(-v))
        with np.errstate(invalid="ignore"):
            return (np.abs(of(p, u) - of(q, u)) ** order * u / (1 + np.exp(v)))[None]

    if p.distribution.support.is_discrete or q.distribution.support.is_discrete:
        return None
    try:
        with float64():
            moments = [np.asarray(a.distribution.mean if order == 1 else a.distribution.variance) for a in (p, q)]
            for law in (p, q):
                of(law, np.array([0.5]))
    except (NotImplementedError, ImportError):
        # How NumPyro says that it knows no moment or quantile function, or that it would take it from TensorFlow.
        return None
    if not np.isfinite(moments).all():
        return None
    found, ends = adaptive(f, np.linspace(-34, 34, 35)), f(np.array([-34.0, -30.0, 30.0, 34.0]))[0]
    # 1 - u is lost to rounding beyond v = 36: what lies there must not matter.
    if not np.isfinite(found[0][0]) or found[1] > 1e-6 * found[0][0] or ends.max() > _TAIL * max(found[0][0], 1e-300):
        return None
    cost, error = float(found[0][0]), max(found[1], 1e-13)
    return Estimate(
        cost ** (1 / order), 0.0, exact=f"adaptive quadrature of quantile functions, error below {error:.0e}"
    )


# -- draws -----------------------------------------------------------------------------------------------------


def _sliced(x: np.ndarray, y: np.ndarray, order: int, projections: int, seed: int, note: str) -> Estimate:
    rng = np.random.default_rng([seed, 0x51])
    directions = rng.standard_normal((projections, x.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    costs, of_p, of_q = np.empty(projections), np.zeros(len(x)), np.zeros(len(y))
    for i, direction in enumerate(directions):
        found = on_the_line(x @ direction, y @ direction, order)
        costs[i] = found.cost
        of_p += found.of_p / projections
        of_q += found.of_q / projections
    # The draws' share of the variance is that of the mean potential, the directions' that between the costs.
    se = np.hypot(Transport(0.0, of_p, of_q).se, costs.std(ddof=1) / np.sqrt(projections))
    w, se = root(float(costs.mean()), float(se), order)
    return Estimate(w, se, note=joined(f"sliced, {projections} directions", note))


def _pot() -> Any:
    try:
        import ot  # pyright: ignore[reportMissingImports]
    except ImportError as e:
        raise ImportError(
            "this distance needs POT, which is not installed: pip install 'lowerbound[transport]'. "
            "method='sliced' does without."
        ) from e
    return ot


def _costs(x: np.ndarray, y: np.ndarray, order: int) -> np.ndarray:
    return distances(x, y) ** order


def _plan(x: np.ndarray, y: np.ndarray, order: int) -> Transport:
    if max(len(x), len(y)) > _MOST_EXACT:
        raise DataError(
            f"an exact plan between {len(x)} and {len(y)} draws is too large; needed: {_MOST_EXACT} or fewer each. "
            "Take fewer, or method='sliced' or 'entropic'."
        )
    ot = _pot()
    costs = _costs(x, y, order)
    unit = float(costs.mean()) or 1.0  # POT's tolerance is a number, not a share of the costs
    a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    cost, log = ot.emd2(a, b, costs / unit, log=True)
    return Transport(unit * float(cost), unit * np.asarray(log["u"]), unit * np.asarray(log["v"]))


def _entropic(x: np.ndarray, y: np.ndarray, order: int, regularization: float | None, note: str) -> Estimate:
    r"""S = OT_ε(p, q) - OT_ε(p, p)/2 - OT_ε(q, q)/2, from the dual potentials of each."""
    ot = _pot()
    cross = _costs(x, y, order)
    ε = 0.05 * float(np.median(cross)) if regularization is None else float(regularization)
    if ε <= 0:
        raise DataError("the median cost between draws is 0: give regularization=, in units of the cost.")

    def potentials(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n, m = cost.shape
        a, b = np.full(n, 1 / n), np.full(m, 1 / m)
        # In units of ε, as POT's own tolerances are numbers.
        _, log = ot.bregman.sinkhorn_stabilized(
            a, b, cost / ε, 1.0, numItermax=_STEPS, stopThr=_MARGIN, log=True, warn=False
        )
        # The plan is exp(logu - cost/ε + logv); relative to the product of the margins, f = ε (logu - log a).
        return ε * (log["logu"] - np.log(a)), ε * (log["logv"] - np.log(b))

    f, g = potentials(cross)
    own = [sum(potentials(_costs(z, z, order))) / 2 for z in (x, y)]
    of_p, of_q = f - own[0], g - own[1]
    w, se = root(float(of_p.mean() + of_q.mean()), Transport(0.0, of_p, of_q).se, order)
    return Estimate(w, se, note=joined(f"entropic, regularization {ε:.3g}", note))
