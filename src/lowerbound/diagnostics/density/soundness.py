r"""Is the log density a function, and is its gradient its own?

Nothing else in the library can notice that it is not. A density that draws random numbers as it runs gives
importance weights of its own noise; a gradient that is not that of the value (a ``custom_jvp`` with a wrong
rule, a ``stop_gradient`` on a part) leads q somewhere else. Two checks, a few calls of the kernel that is
compiled anyway, before the fit about the origin and after it at q's draws:

* the same points twice: the values must agree to :data:`_REPEATS` of their size (not to the bit: sums over
  threads and on a GPU may differ in the last place, and that does no harm);
* along one random direction d of length one sd of q at each of 8 points, central differences at four steps h,

      D(h) = (f(x + h d) - f(x - h d)) / 2h = d' grad f + O(h^2) + noise / h,

  against d' grad f. What D(h) itself is worth is read from its change between neighbouring steps: curvature shows
  at the large ones, rounding and quadrature noise at the small ones, and the best pair says how well the slope is
  known. A point speaks against the gradient only if no step comes near it: the smallest difference is above ten
  times that uncertainty and above 1% (5% before the fit, where nothing is known of the scales) of the typical slope. A
  kink in the way or a bad scale makes a point say nothing. Most of the points must speak against it, and the
  sites to blame are those whose own directions do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lowerbound.errors import GradientError, RandomDensityError
from lowerbound.families import Block
from lowerbound.kernel import Kernel

_REPEATS = 1e-9
_POINTS = 8
_STEPS = np.array([1e-1, 1e-2, 1e-3, 1e-4])
_SITES = 12
#: Seed of the directions. Where they point must not follow from the fit's own seed.
_SEED = 4


def check_density(kernel: Kernel, x: np.ndarray, *, seed: int = 0) -> None:
    """Before the fit: refuse a log density that is random or whose gradient is not its own.

    Args:
        kernel: The compiled log density.
        x: Starting points ``[m, p]``.
        seed: Of the directions.

    Raises:
        RandomDensityError: two evaluations of the same points differ.
        GradientError: the gradient is not that of the value; names the sites.

    Cost: three calls of the kernel.
    """
    found = random_values(kernel, x)
    if found:
        raise RandomDensityError(f"the log density of {kernel.model.name!r} {found}. {RANDOM_ADVICE}")
    rng = np.random.default_rng([seed, _SEED])
    unit = np.ones(kernel.dimension)
    found = wrong_gradient(kernel, _some(x, rng), lambda e: e * unit, rng, tolerance=0.05)
    if found:
        raise GradientError(
            f"the gradient of {kernel.model.name!r} is not that of its value: {found}. {GRADIENT_ADVICE}"
        )


def faults(kernel: Kernel, q: Block, *, seed: int = 0) -> tuple[str, str] | None:
    """After the fit: a sentence on what is wrong with the log density at q's draws, and what to do; None if nothing.

    Cost: three calls of the kernel.
    """
    rng = np.random.default_rng([seed, _SEED, 1])
    x = q.sample(rng, kernel.batch)
    found = random_values(kernel, x)
    if found:
        return f"the log density {found}", RANDOM_ADVICE
    centre = np.asarray(q.mean)
    sd = np.sqrt(np.asarray(q.variance()))

    def to_q(e: np.ndarray) -> np.ndarray:
        # A direction of length one in noise becomes one of length one sd of q, whatever its family.
        if e.shape[1] == q.noise_dimension:
            return np.asarray(q.transform(e)) - centre
        return e * sd

    found = wrong_gradient(kernel, _some(x, rng), to_q, rng, tolerance=0.01, blocks=lambda e: e * sd)
    return (f"the gradient is not that of the log density: {found}", GRADIENT_ADVICE) if found else None


def random_values(kernel: Kernel, x: np.ndarray) -> str:
    """What differs between two evaluations of the same points ``x [m, p]``; nothing if they agree."""
    with np.errstate(all="ignore"):
        (first, slope), (again, slope_again) = kernel(x), kernel(x)
        differs = np.abs(first - again) > _REPEATS * (1 + np.abs(first))
        turns = np.abs(slope - slope_again) > _REPEATS * (1 + np.abs(slope).max(1, initial=0.0)[:, None])
    # A value that is finite once and not the other time is random too.
    differs |= np.isfinite(first) != np.isfinite(again)
    if differs.any():
        i = int(differs.argmax())
        return (
            f"is not the same function at every call: at the same point it was {first[i]:.10g} and then "
            f"{again[i]:.10g} ({differs.sum()} of {len(x)} points)"
        )
    if turns.any():
        return f"has a gradient that differs between calls ({turns.any(1).sum()} of {len(x)} points)"
    return ""


def wrong_gradient(
    kernel: Kernel,
    x: np.ndarray,
    scale: Callable[[np.ndarray], np.ndarray],
    rng: np.random.Generator,
    *,
    tolerance: float,
    blocks: Callable[[np.ndarray], np.ndarray] | None = None,
) -> str:
    """How the gradient differs from central differences of the value; nothing if it agrees or cannot be told.

    Args:
        kernel: The compiled log density.
        x: Points ``[m, p]``.
        scale: From directions of length one ``[m, n]`` to steps of one sd ``[m, p]``.
        rng: Of the directions.
        tolerance: Share of the typical slope that is let pass.
        blocks: The same, coordinate by coordinate, for the directions of single sites; default ``scale``.
    """
    m, p = x.shape
    direction = scale(_unit(rng, m, p))
    if not compare(kernel, x, direction, tolerance)[0]:
        return ""
    liars, worst = [], (0.0, 0.0)
    for name, site in list(kernel.model.sites.items())[:_SITES]:
        part = np.zeros((m, p))
        part[:, site.slice] = _unit(rng, m, site.size)
        lies, slopes = compare(kernel, x, (blocks or scale)(part), tolerance)
        if lies:
            liars.append(name)
            worst = max(worst, slopes, key=lambda s: abs(s[0] - s[1]))
    if not liars:  # told from all sites together alone
        liars, worst = list(kernel.model.sites), compare(kernel, x, direction, tolerance)[1]
    return (
        f"in site(s) {', '.join(liars)} it gives a slope of {worst[0]:.4g} where central differences of the value give "
        f"{worst[1]:.4g}"
    )


def compare(kernel: Kernel, x: np.ndarray, direction: np.ndarray, tolerance: float) -> tuple[bool, tuple[float, float]]:
    """Whether most points speak against the gradient along ``direction [m, p]``, and the two slopes at the worst."""
    m, p = x.shape
    k = len(_STEPS)
    with np.errstate(all="ignore"):
        offsets = _STEPS[:, None, None] * direction
        plus, minus = (x + offsets).reshape(-1, p), (x - offsets).reshape(-1, p)
        value, _ = kernel(np.concatenate([plus, minus]))
        gradient = kernel(x)[1]
        claimed = (gradient * direction).sum(1)
        up, down = value[: k * m].reshape(k, m), value[k * m :].reshape(k, m)
        differences = (up - down) / (2 * _STEPS[:, None])
        error = np.abs(differences - claimed)
        spread = np.abs(np.diff(differences, axis=0))
    told = np.isfinite(differences).all(0) & np.isfinite(claimed)
    if told.sum() < m // 2:
        return False, (0.0, 0.0)
    best = spread.argmin(0)
    slope = differences[best + 1, np.arange(m)]
    typical = np.sqrt(np.mean(np.maximum(slope[told] ** 2, claimed[told] ** 2)))
    # How well the best pair of neighbouring steps knows the slope: by how much they differ, and by how much the
    # value's last place can move (sums of numbers of size one round, however small their total, and so do the
    # coordinates).
    last_place = 16 * np.finfo(float).eps * (np.maximum(1.0, np.abs(up).max(0)) + (np.abs(x) * np.abs(gradient)).sum(1))
    uncertain = np.maximum(spread, last_place / _STEPS[1:, None]).min(0)
    against = told & (error.min(0) > 10 * uncertain) & (error.min(0) > tolerance * typical)
    against &= uncertain < 0.1 * typical
    i = int(np.where(against, error.min(0), -1).argmax())
    # Of all points, those that tell nothing included: most.
    return bool(against.sum() > m // 2), (float(claimed[i]), float(slope[i]))


def _unit(rng: np.random.Generator, m: int, d: int) -> np.ndarray:
    e = rng.standard_normal((m, d))
    return e / np.linalg.norm(e, axis=1, keepdims=True)


def _some(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x[rng.choice(len(x), min(len(x), _POINTS), replace=False)]


RANDOM_ADVICE = (
    "A log density must give the same number for the same latents: draw random numbers once, outside the model, and "
    "hand them in as data; look for callbacks (jax.pure_callback, io_callback) and for state that they change."
)
GRADIENT_ADVICE = (
    "Look for jax.custom_jvp or jax.custom_vjp with a rule that does not match the function, for jax.lax.stop_gradient "
    "on a part of the density, and for values that pass through a callback. jax.test_util.check_grads tests a rule."
)
