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

    Cost: twelve densities per coordinate (of at most 96), and some calls where one seems not to fall.
    """
    p = kernel.dimension
    bounded = np.ones(p, bool)
    for s in kernel.model.sites.values():
        bounded[s.slice] = not is_real(s.support)
    x = _starts(draws, bounded, rng)
    with np.errstate(all="ignore"):
        sd = np.std(draws, axis=0)
        sd = np.where(np.isfinite(sd) & (sd > 0), sd, 1.0)
        centre = kernel(x)[0]
    found: list[Tail] = []
    directions = _directions(kernel, q, draws, sd, bounded)
    rays = [_Ray.along(d, bounded) for d, _ in directions]
    first = np.any(_flat(kernel, x[:2], centre[:2], rays), axis=1)  # all directions at once, from two draws
    for (d, coordinate), ray, suspicious in zip(directions, rays, first.tolist(), strict=True):
        concerned = _concerned(kernel, d)
        if not suspicious or all(any(name in t.sites for t in found) for name in concerned):
            continue
        flat = _flat(kernel, x, centre, [ray])[0]
        if flat.sum() > len(x) / 2:
            found.append(_tail(kernel, d, x[flat.argmax()] + ray.reach[-1] * d, coordinate))
    return found


def _starts(draws: np.ndarray, bounded: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some of the draws; where they reach far along an edge, those nearest to its middle.

    A plateau that float64 cuts off is followed to its end otherwise, where the density is not finite and no slope is
    seen. What holds on almost every ray holds on those from any part of the posterior.
    """
    if bounded.any():
        out = np.abs(draws[:, bounded]).max(1)
        if out.max() > _EDGE[0]:
            return draws[np.argsort(out)[:_DRAWS]]
    return draws[rng.choice(len(draws), _DRAWS, replace=len(draws) < _DRAWS)]


def _directions(kernel: Kernel, q: Block, draws: np.ndarray, sd: np.ndarray, bounded: np.ndarray) -> list:
    """Steps of one sd: coordinates, both ways, then axes; each with its coordinate's number or None."""
    p = kernel.dimension
    out: list[tuple[np.ndarray, int | None]] = []
    chosen = range(p)
    if p > _COORDINATES:
        # From every site some, the widest first among those of one site.
        sites = list(kernel.model.sites.values())
        each = max(1, _COORDINATES // len(sites))
        chosen = [s.start + int(i) for s in sites for i in np.argsort(-sd[s.slice])[:each]][: 2 * _COORDINATES]
    for j in chosen:
        for sign in (1.0, -1.0):
            e = np.zeros(p)
            e[j] = sign * sd[j]
            out.append((e, j))
    if p > 1:
        centred = draws[:256] - draws[:256].mean(0)
        with np.errstate(all="ignore"):
            axes = [np.asarray(q.mean), -np.asarray(q.mean)]
            if np.isfinite(centred).all():
                widest = np.linalg.svd(centred, full_matrices=False)[2][0]
                axes += [widest, -widest]
            for a in axes:
                size = np.abs(a / sd).max()
                if np.isfinite(size) and size > 0:
                    out.append((a / size, None))
    return out


@dataclass(frozen=True, eq=False)
class _Ray:
    """A direction, one sd long, and how often to take it: ``reach [3]``."""

    direction: np.ndarray
    reach: np.ndarray

    @staticmethod
    def along(d: np.ndarray, bounded: np.ndarray) -> _Ray:
        edge = np.abs(d[bounded]).max(initial=0.0)
        return _Ray(d, _EDGE / edge if edge > 0 else _FAR)


def _flat(kernel: Kernel, x: np.ndarray, centre: np.ndarray, rays: list[_Ray]) -> np.ndarray:
    """Whether the density does not fall off along each ray from each of the points ``x [m, p]``; ``[rays, m]``."""
    m, p = x.shape
    directions = np.stack([r.direction for r in rays])
    reach = np.stack([r.reach for r in rays])
    with np.errstate(all="ignore"):
        points = x[None, :, None, :] + reach[:, None, :, None] * directions[:, None, None, :]
        value = kernel(points.reshape(-1, p))[0].reshape(len(rays), m, -1)
        slopes = np.diff(value, axis=2) / np.diff(np.log(reach))[:, None, :]
        # The mass of the tail against that of the bulk, whose width along the ray is one sd: the unit of reach.
        mass = value[:, :, -1] + np.log(reach[:, None, -1]) - centre
    return np.isfinite(value).all(2) & (slopes > _SLOPE).all(2) & (mass > _MASS)


def _concerned(kernel: Kernel, d: np.ndarray) -> tuple[str, ...]:
    """Sites with a large part in a direction."""
    return tuple(kernel.model.sites_of(np.flatnonzero(np.abs(d) > 0.1 * np.abs(d).max())))


def _tail(kernel: Kernel, d: np.ndarray, end: np.ndarray, coordinate: int | None) -> Tail:
    model = kernel.model
    sites = _concerned(kernel, d)
    if coordinate is None:
        verb = "go together" if len(sites) > 1 else "goes"
        return Tail(sites, f"{' and '.join(sites)} {verb} to infinity along a line")
    name = sites[0]
    with float64(), np.errstate(all="ignore"):
        value = np.asarray(model.evaluate(model.unflatten(jnp.asarray(end)), model.arguments, False).values[name])
    label = model.coordinate_names()[coordinate]
    if is_real(model.sites[name].support):
        return Tail(sites, f"{label} goes to {'+' if d[coordinate] > 0 else '-'}infinity")
    inside = coordinate - model.sites[name].start
    at = float(np.ravel(value)[min(inside, value.size - 1)])
    limit = "0" if abs(at) < 1e-20 else "infinity" if abs(at) > 1e20 else f"{at:.6g}"
    return Tail(sites, f"{label} goes to {limit}")
