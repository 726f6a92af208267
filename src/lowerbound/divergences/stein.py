r"""Kernel Stein discrepancy: how far draws are from a density of which only the score is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from numpyro.distributions import Distribution

from lowerbound.divergences.draws import draws, joined, numbers
from lowerbound.divergences.estimate import Estimate
from lowerbound.divergences.kernels import median_distance, widths
from lowerbound.divergences.laws import Given, check_counts, described
from lowerbound.divergences.two_sample import check_permutations
from lowerbound.errors import DataError, IncompatibleError, unknown_name
from lowerbound.kernel import Kernel
from lowerbound.objectives.pairs import pair_mean, stein_kernel
from lowerbound.posterior import Posterior
from lowerbound.precision import float64

STATISTICS = ("u", "v")
_MOST_BOOTSTRAPPED = 6000
_LEAST = 10


def stein(
    p: Any,
    q: Any,
    *,
    statistic: str = "u",
    bandwidth: float | None = None,
    bootstraps: int = 0,
    num_draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    r"""Squared kernel Stein discrepancy of draws of q from p (Liu, Lee & Jordan 2016; Gorham & Mackey 2017).

    E u(Y, Y') with s the score of p and the inverse multiquadric kernel k = (1 + ‖x - y‖²/bandwidth²)^-½,

        u(x, y) = s(x)·s(y) k + s(x)·∇_y k + s(y)·∇_x k + ∇_x·∇_y k.

    It needs no normalising constant of p. Zero where q = p; that it converges to zero only if q does to p is known for
    p with tails as those of a Gaussian. It does not see a mode of p that q has no draws in.

    Args:
        p: What has the score: a NumPyro distribution on all of R^d; a function from one draw (shaped as q's) to its
            log density; or a posterior, for the log joint of its *model*, on the unconstrained space.
        q: Draws ``[n, *event]``, a distribution, or a posterior; with a posterior as p, one of the same model (its
            draws are taken as they are), or a mapping by site.
        statistic: ``"u"``, unbiased, so that it may be negative; ``"v"``, with the diagonal: nonnegative, too large by
            E u(Y, Y)/n.
        bandwidth: In units of the draws; None for their median distance.
        bootstraps: Of the wild bootstrap, for ``p_value`` of q = p (Chwialkowski, Strathmann & Gretton 2016), for
            independent draws; 0 for no test.
        num_draws: Of q, if it is a distribution or a posterior.
        seed: Of draws and bootstraps.

    Raises:
        IncompatibleError: p has no score: draws, a discrete distribution, or one with an edge.
        DataError: too few draws, or not finite; a score that is not finite.

    Cost: n scores and n² kernels.
    """
    if statistic not in STATISTICS:
        raise unknown_name("statistic", statistic, STATISTICS)
    bootstraps = check_permutations(bootstraps)
    check_counts(num_draws, seed, least=_LEAST)
    scales = widths(bandwidth) if bandwidth is not None else None
    if scales is not None and len(scales) > 1:
        raise DataError(f"bandwidth is {bandwidth!r}; needed: one number, or None for the median distance.")
    x, scores, note = _scored(p, q, num_draws, seed)
    if len(x) < _LEAST:
        raise DataError(f"q has {len(x)} draws; needed: {_LEAST} or more.")
    bad = ~np.isfinite(scores).all(1)
    if bad.any():
        raise DataError(
            f"the score of p is not finite at {bad.sum()} of {len(x)} draws of q, the first {x[bad][0][:4]}; needed: "
            "draws inside p's support, where its log density has a derivative."
        )
    width = median_distance(x, x[:0]) if not scales else scales[0]
    n = len(x)
    found = pair_mean(lambda rows: stein_kernel(x[rows], scores[rows], x, scores, width), n)
    value = found.value if statistic == "u" else ((n - 1) * found.value + found.diagonal) / n
    test = None
    if bootstraps:
        if n > _MOST_BOOTSTRAPPED:
            raise DataError(
                f"the wild bootstrap holds the matrix of all {n} draws; needed: {_MOST_BOOTSTRAPPED} or fewer. Thin q."
            )
        matrix = stein_kernel(x, scores, x, scores, width)
        np.fill_diagonal(matrix, 0.0)
        signs = np.random.default_rng([seed, 0x57]).choice([-1.0, 1.0], (bootstraps, n))
        sums = ((signs @ matrix) * signs).sum(1)
        test = float((1 + (sums >= matrix.sum()).sum()) / (bootstraps + 1))
    return Estimate(value, found.se, note=joined(f"bandwidth {width:.4g}", note), p_value=test)


def _scored(p: Any, q: Any, num_draws: int, seed: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Draws of q ``[n, d]``, scores of p there ``[n, d]``, and a note."""
    if isinstance(p, Posterior):
        x = _unconstrained(p, q, num_draws, seed)
        _, scores = Kernel(p._sites.model)(x)
        return x, scores, f"target: the model {p.model_name}, on the unconstrained space"
    if isinstance(p, Distribution):
        law = Given(p)
        support: Any = law.distribution.support
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        name = type(support).__name__
        if p.batch_shape or support.is_discrete or name not in ("_Real", "_RealVector", "_RealMatrix"):
            raise IncompatibleError(
                f"p is {described(p)} with support {support}; the Stein identity needs one distribution on all of R^d. "
                "Take draws and density of a transform of it (the log of a positive number), with its Jacobian."
            )
        x, _, note = draws(q, law.sample(10, (0,)), num_draws=num_draws, seed=seed)
        with float64():
            scores = np.asarray(_slope(law.distribution, x.reshape(len(x), *p.event_shape)))
        return x, scores.reshape(x.shape), note
    if callable(p):
        x, shape, note = _alone(q, num_draws, seed)
        with float64():
            points = x.reshape(len(x), *shape)
            _check_density(p, points[0])
            scores = np.asarray(jax.jit(jax.vmap(jax.grad(p)))(points))
        return x, scores.reshape(x.shape), note
    raise IncompatibleError(
        f"p is {described(p)}, which has no score; needed: a NumPyro distribution, a log density, or a posterior. "
        "Between two sets of draws use mmd or energy."
    )


def _check_density(p: Any, point: np.ndarray) -> None:
    """Raise unless p is a function from one draw to one real number."""
    needed = (
        f"Needed: a function of one draw, of shape {point.shape}, that gives its log density, one number, such as "
        "lambda z: -0.5 * (z**2).sum()."
    )
    try:
        out = jax.eval_shape(p, jax.ShapeDtypeStruct(point.shape, np.float64))
    except Exception as e:
        raise IncompatibleError(
            f"p failed at a draw of shape {point.shape} ({type(e).__name__}: {str(e).splitlines()[0]}). {needed}"
        ) from e
    shape, kind = getattr(out, "shape", None), getattr(out, "dtype", None)
    if shape != () or kind is None or kind.kind != "f":
        came = type(out).__name__ if shape is None else f"{kind} of shape {shape}"
        raise IncompatibleError(f"p gave {came} at a draw of shape {point.shape}. {needed}")


@jax.jit
def _slope(distribution: Any, points: Any) -> Any:
    return jax.vmap(jax.grad(distribution.log_prob))(points)


def _alone(q: Any, num_draws: int, seed: int) -> tuple[np.ndarray, tuple[int, ...], str]:
    """Draws ``[n, d]`` of q, with the shape of one."""
    if isinstance(q, (Mapping, Posterior)):
        raise IncompatibleError(
            f"q is {described(q)} and p a function; needed: draws in an array [n, ...], of which p is the log density."
        )
    x, _, note = draws(q, q, num_draws=num_draws, seed=seed)
    shape = tuple(q.event_shape) if isinstance(q, Distribution) else np.asarray(q).shape[1:]
    return x, shape, note


def _unconstrained(p: Posterior, q: Any, num_draws: int, seed: int) -> np.ndarray:
    if isinstance(q, Posterior):
        if q._sites is p._sites:
            return q.sample_unconstrained(num_draws, seed=seed)
        q = q.sample(num_draws, seed=seed)
    if not isinstance(q, Mapping):
        raise IncompatibleError(
            f"q is {described(q)}; with a posterior as p, needed: a posterior of the same model, or draws by site."
        )
    values = {k: numbers("q", v, k) for k, v in q.items() if k in p._sites.sites}
    if not values:
        raise IncompatibleError(f"q has {sorted(map(str, q))}, none of the sites {list(p._sites.sites)} of p's model.")
    missing = [k for k in p._sites.sites if k not in values]
    counts = {k: len(v) for k, v in values.items()}
    if missing or len(set(counts.values())) > 1:
        raise DataError(f"q has draws {counts}; needed: one number of draws of every site {list(p._sites.sites)}.")
    for k, v in values.items():
        if v.shape[1:] != tuple(p._sites.sites[k].shape):
            raise IncompatibleError(
                f"site {k!r}: draws of q have shape {v.shape} (draws first); needed: "
                f"{(len(v), *p._sites.sites[k].shape)}."
            )
    x, _ = p._sites.unconstrain(values, len(next(iter(values.values()))))
    return x
