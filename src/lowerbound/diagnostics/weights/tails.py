r"""Does a parameter, or another number that is reported, have an sd at all?

Where a posterior's tails fall off too slowly its variance is infinite, and whatever number a sample gives
for the sd is an accident of that sample. The sample shows it: the largest of the x^2 follow a generalised Pareto
distribution, and k-hat is its shape for that functional (Vehtari et al. 2024, section 3.2). k >= 1 is a variance
that does not exist; below 1/2 its estimate has a standard error that can be believed.

A sample that does not reach far shows nothing; the density itself does. Along a coordinate, from a draw outwards,
a density that falls more slowly than t^-3 leaves the variance infinite, given the rest and so in all. (The other
way round it does not hold: in a multivariate Student-t the rest widens too.) A posterior has no sd there if either
says so.

It is asked in the units that the person sees: of x for a real parameter, of exp(x) for a positive one,
whose log may be as well behaved as can be. Bounded ones have all their moments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpyro.distributions import biject_to, transforms

from lowerbound.kernel import Kernel
from lowerbound.model.base import is_real, label
from lowerbound.model.sites import SiteMap
from lowerbound.pareto import smooth

#: k-hat of a parameter's second moment from which its sd is not to be believed.
NO_SD = 0.9
#: Draws below which a tail has too few points to speak.
_FEWEST = 400
#: ... and that are enough.
_FEW = 4000
#: Share of the largest of n squares in their sum below which k-hat is nowhere near NO_SD: with k = 0.9 it is 5% of
#: 4,000 in the middle, and 2% with a chance of 1 in 20.
_SHARE = 0.005
#: Draws that rays start from, how far they go in sds (on a log scale: in units of it), and coordinates at most.
_RAYS, _FAR, _UP, _MOST = 4, np.array([1e3, 1e5]), np.array([40.0, 80.0]), 200


def without_sd(sites: SiteMap, draws: np.ndarray) -> tuple[str, ...]:
    """Names of the parameters whose variance seems to be infinite.

    Args:
        sites: The model's sites.
        draws: Of the posterior, unconstrained ``[n, p]``.

    Cost: sorting; and where sites are in other coordinates, the program that gives their values is compiled, as for
    any later summary.
    """
    model = sites.model
    if len(draws) < _FEWEST:
        return ()
    if model.elsewhere:
        values = sites.constrain(draws[-_FEW:])
        columns = [
            (n + label(i), values[n][(slice(None), *i)], False)
            for n in model.sites
            for i in np.ndindex(*values[n].shape[1:])
        ]
    else:
        names, columns = model.coordinate_names(), []
        for site in model.sites.values():
            if (kind := _kind(site.support)) is not None:
                some = range(site.start, site.start + site.size)
                columns += [(names[i], draws[:, i], kind == "positive") for i in some]
    return tuple(name for name, x, positive in columns if _shape(x, positive=positive) >= NO_SD)


def columns_without_sd(names: Sequence[str], values: np.ndarray) -> tuple[str, ...]:
    """Names of numbers computed from the latents whose variance seems to be infinite.

    Args:
        names: Of the columns.
        values: At draws of the posterior, as they are reported ``[n, m]``; the last 4,000 are looked at.

    Cost: sorting those columns of which one draw has a large share in the variance.
    """
    if len(values) < _FEWEST:
        return ()
    values = values[-_FEW:]
    with np.errstate(all="ignore"):
        squares = (values - np.median(values, axis=0)) ** 2
        heavy = np.flatnonzero(~(squares.max(0) <= _SHARE * squares.sum(0)) & (squares.max(0) > 0))
    return tuple(names[int(j)] for j in heavy if _shape(values[:, j], positive=False) >= NO_SD)


def without_variance(kernel: Kernel, draws: np.ndarray, rng: np.random.Generator) -> tuple[str, ...]:
    """Names of the parameters along which the density falls too slowly for a variance, from most of a few draws.

    Args:
        kernel: The compiled log density.
        draws: Of the posterior, unconstrained ``[n, p]``.
        rng: To choose among them.

    Cost: 16 densities for each coordinate, of at most 200.
    """
    model, p = kernel.model, kernel.dimension
    if p > _MOST or not len(draws):
        return ()
    x = draws[rng.choice(len(draws), _RAYS)]
    sd = np.maximum(draws.std(0), 1e-300)
    rays, names = [], model.coordinate_names()
    for site in model.sites.values():
        if (kind := _kind(site.support)) is not None:
            for i in range(site.start, site.start + site.size):
                rays += [(i, sign * sd[i], _FAR) for sign in (1.0, -1.0)] if kind == "real" else [(i, 1.0, _UP)]
    if not rays:
        return ()
    points = np.repeat(x[None, :, None, :], len(rays), 0).repeat(2, 2)
    for j, (i, step, reach) in enumerate(rays):
        points[j, :, :, i] += step * reach
    value = kernel(points.reshape(-1, p))[0].reshape(len(rays), _RAYS, 2)
    with np.errstate(all="ignore"):
        fall = value[:, :, 1] - value[:, :, 0]
    slow = np.empty((len(rays), _RAYS), bool)
    for j, (_, _, reach) in enumerate(rays):
        # t^-3 along the line; for u = log t the density of u is that of t times t, so exp(-2u).
        slope = fall[j] / np.log(reach[1] / reach[0]) if reach is _FAR else fall[j] / (reach[1] - reach[0])
        slow[j] = np.isfinite(slope) & (slope > (-3.05 if reach is _FAR else -2.05))
    found = {rays[j][0] for j in np.flatnonzero(slow.mean(1) > 0.5)}
    return tuple(names[i] for i in sorted(found))


def _kind(support) -> str | None:
    if is_real(support):
        return "real"
    transform = biject_to(support)
    while isinstance(transform, (transforms.IndependentTransform, transforms.ComposeTransform)):
        transform = (
            transform.base_transform if isinstance(transform, transforms.IndependentTransform) else transform.parts[0]
        )
    return "positive" if isinstance(transform, transforms.ExpTransform) else None


def _shape(x: np.ndarray, *, positive: bool) -> float:
    """k-hat of the square of x about its median, or of exp(x)."""
    with np.errstate(all="ignore"):
        log_square = 2 * x if positive else 2 * np.log(np.abs(x - np.median(x)))
    return smooth(np.where(np.isfinite(log_square), log_square, -np.inf))[1]
