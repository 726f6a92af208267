r"""Does the density fall off in every direction: is the posterior proper?

Along a ray x + t d the density must fall faster than 1/t, or the integral along it is infinite; by Fubini's theorem
a ray does so at almost every x of a proper density. So points are taken from the posterior's own draws, and from each
the density is followed outwards: along every coordinate, along q's widest axis and along the way to q's mean. The
slope

    d log p / d log t

between the last points within reach must stay above -1.05 at most of the draws before a direction counts as
improper. (A Cauchy has -2; at exactly -1 the integral diverges like a logarithm.) A narrowing funnel, whose density
rises on its axis alone, does not count: none of the draws is on the axis.

How far is within reach: 1e12 sd for a latent on the real line; for one with an edge (its unconstrained value is a
logarithm) to +-300, where its square is still a number. A Beta(0, 0) or a flat prior on the log of a scale is cut off
there by float64, and by nothing else: the weights alone would call it a plateau and integrate it.

A tail so low that all of it within reach holds less than a thousandth of the mass is let pass, proper or not.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from lowerbound.families import Block
from lowerbound.kernel import Kernel
from lowerbound.model.base import is_real
from lowerbound.precision import float64

_FAR = np.array([1e6, 1e9, 1e12])
_EDGE = np.array([75.0, 150.0, 300.0])
_SLOPE = -1.05
_MASS = np.log(1e-3)
_DRAWS = 4
_COORDINATES = 48


@dataclass(frozen=True)
class Tail:
    """A direction in which the density does not fall off: the sites concerned, and where it leads, in words."""

    sites: tuple[str, ...]
    where: str


def improper(kernel: Kernel, q: Block, draws: np.ndarray, rng: np.random.Generator) -> list[Tail]:
    """Directions in which the posterior cannot be told from an improper one.

    Args:
        kernel: The compiled log density, with the Jacobian.
        q: The fit; its widest axis and its mean are two of the directions.
        draws: Of the posterior, ``[n, p]``, equally weighted.
        rng: To choose among them.

    Cost: two densities per coordinate (at most 48), direction and rung at first; more where one does not fall.
    """
    p = kernel.dimension
    x = draws[rng.choice(len(draws), _DRAWS, replace=len(draws) < _DRAWS)]
    with np.errstate(all="ignore"):
        sd = np.std(draws, axis=0)
        sd = np.where(np.isfinite(sd) & (sd > 0), sd, 1.0)
        centre = kernel(x)[0]
    bounded = np.ones(p, bool)
    for s in kernel.model.sites.values():
        bounded[s.slice] = not is_real(s.support)
    found: list[Tail] = []
    for d, coordinate in _directions(kernel, q, draws, sd, bounded):
        if coordinate is not None and any(kernel.model.sites_of(np.array([coordinate]))[0] in t.sites for t in found):
            continue  # told already
        ends = _falls_not(kernel, x[:1], centre[:1], d, sd, bounded)
        if ends is None or _falls_not(kernel, x, centre, d, sd, bounded) is None:
            continue
        found.append(_tail(kernel, d, ends, coordinate))
    return found


def _directions(kernel: Kernel, q: Block, draws: np.ndarray, sd: np.ndarray, bounded: np.ndarray):
    """Unit coordinates, both ways, then axes; with the coordinate's number or None."""
    p = kernel.dimension
    chosen = range(p)
    if p > _COORDINATES:
        # From every site some, the widest first among those of one site.
        sites = list(kernel.model.sites.values())
        each = max(1, _COORDINATES // len(sites))
        chosen = [s.start + int(i) for s in sites for i in np.argsort(-sd[s.slice])[:each]][: 2 * _COORDINATES]
    for j in chosen:
        for sign in (1.0, -1.0):
            e = np.zeros(p)
            e[j] = sign * (1.0 if bounded[j] else sd[j])
            yield e, j
    if p > 1:
        centred = draws[:256] - draws[:256].mean(0)
        with np.errstate(all="ignore"):
            axes = [np.asarray(q.mean), -np.asarray(q.mean)]
            if np.isfinite(centred).all():
                widest = np.linalg.svd(centred, full_matrices=False)[2][0] * np.linalg.norm(centred) / len(centred) ** 0.5
                axes += [widest, -widest]
        for a in axes:
            if np.isfinite(a).all() and a.any():
                yield a, None


def _falls_not(
    kernel: Kernel, x: np.ndarray, centre: np.ndarray, d: np.ndarray, sd: np.ndarray, bounded: np.ndarray
) -> np.ndarray | None:
    """The far end of the first ray ``x + t d`` if the density falls off along fewer than half of them; else None."""
    edge = np.abs(d[bounded]).max(initial=0.0)
    reach = _EDGE / edge if edge > 0 else _FAR
    points = x[:, None, :] + reach[:, None] * d
    with np.errstate(all="ignore"):
        value = kernel(points.reshape(-1, x.shape[1]))[0].reshape(len(x), len(reach))
        slopes = np.diff(value, axis=1) / np.diff(np.log(reach))
        # The mass of the tail against that of the bulk, whose width along the ray is one sd.
        width = np.log(np.abs(d[bounded]).max() / max(sd[bounded].min(), 1e-300)) if edge > 0 else 0.0
        mass = value[:, -1] + np.log(reach[-1]) + width - centre
    flat = np.isfinite(value).all(1) & (slopes > _SLOPE).all(1) & (mass > _MASS)
    return points[int(flat.argmax()), -1] if flat.sum() > len(x) / 2 else None


def _tail(kernel: Kernel, d: np.ndarray, end: np.ndarray, coordinate: int | None) -> Tail:
    model = kernel.model
    size = np.abs(d)
    sites = tuple(model.sites_of(np.flatnonzero(size > 0.1 * size.max())))
    if coordinate is None:
        return Tail(sites, f"{' and '.join(sites)} go together to infinity along a line")
    name = sites[0]
    with float64(), np.errstate(all="ignore"):
        value = np.asarray(model.evaluate(model.unflatten(jnp.asarray(end)), model.arguments, False).values[name])
    label = model.coordinate_names()[coordinate]
    if is_real(model.sites[name].support):
        return Tail(sites, f"{label} goes to {'+' if d[coordinate] > 0 else '-'}infinity")
    inside = coordinate - model.sites[name].start
    at = float(np.ravel(value)[min(inside, value.size - 1)])
    limit = "0" if abs(at) < 1e-100 else "infinity" if abs(at) > 1e100 else f"{at:.6g}"
    return Tail(sites, f"{label} goes to {limit}")
