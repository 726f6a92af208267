"""Where to start: several quasi-Newton searches in lock-step on the compiled kernel.

S starts are moved together, and each tries several step sizes at once, so that one call of the kernel
(64 points) is one iteration of every search with its line search done. The spread of the starts covers
several scales; how many of them end in the same place is evidence for the verdict.

A search stops when the next quasi-Newton step promises less than a small fraction of a nat: what
follows maximises the ELBO, not the density, so an exact mode is of no use. Where the density has no
mode (a centred hierarchy, whose density is unbounded as its scale goes to zero) the path is walked
back as in Pathfinder (Zhang et al. 2022): of the Gaussians met along it, the one with the highest
ELBO is the start.

Up to 500 dimensions the inverse curvature is dense (BFGS); above, its last 12 updates are kept
(L-BFGS). Both begin from the diagonal that the first gradients suggest, because unit scale fails on
regressions in raw units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lowerbound.algorithms.quasi_newton import DenseInverse, LimitedInverse, root
from lowerbound.expectations.noise import matched_normals
from lowerbound.families import GaussianBlock
from lowerbound.kernel import Kernel

STARTS = 8
DENSE_SEARCH = 500
#: Step sizes tried at once, in units of the quasi-Newton step.
_TRIALS = np.array([1.0, 0.5, 0.2, 0.05, 2.0, 5.0, 0.005, 20.0])
#: ... and of the gradient step, for the first move: from tiny to long, in units of 10 / |g|.
_FIRST = np.logspace(-10, 0, len(_TRIALS)) * 10


@dataclass(eq=False)
class End:
    """Where one search ended: a point, the inverse of the negative curvature there, and how it ended."""

    x: np.ndarray
    value: float
    gradient: np.ndarray
    inverse: np.ndarray
    converged: bool


class Search:
    """The lock-step searches. Call :meth:`step` until :attr:`done`, then :meth:`ends`.

    Args:
        kernel: The compiled log density.
        rng: For the starts.
        max_steps: Iterations before a search counts as unfinished.
        tolerance: A search ends when its next step promises less than this many nats.
        about: A Gaussian: start far out from it, on all sides, with its covariance for the inverse curvature. By
            default the starts are spread about the origin.
        known: Gaussians at modes that are known already, ``about`` among them.
        starts: Points ``[s, p]`` to start from instead; ``about`` then gives the inverse curvature alone.
    """

    def __init__(
        self,
        kernel: Kernel,
        rng: np.random.Generator,
        *,
        max_steps: int = 200,
        tolerance: float = 0.02,
        about: GaussianBlock | None = None,
        known: Sequence[GaussianBlock] = (),
        starts: np.ndarray | None = None,
    ):
        self.kernel, self.rng = kernel, rng
        self.max_steps, self.tolerance = max_steps, tolerance
        self.iteration = 0
        self._limit: int | None = None
        if starts is not None:
            self.x = np.array(starts, float)
            self.value, self.gradient = kernel(self.x)
        elif about is None:
            self.x, self.value, self.gradient = starting_points(kernel, rng)
        else:
            self.x, self.value, self.gradient = surrounding_points(kernel, rng, about, known)
        s, p = self.x.shape
        self.dense = p <= DENSE_SEARCH
        self.curvature: list[DenseInverse | LimitedInverse] = [
            DenseInverse(p) if self.dense else LimitedInverse(p) for _ in range(s)
        ]
        if about is not None:
            for c in self.curvature:
                if isinstance(c, DenseInverse):
                    c.h, c.empty = about.covariance(), False
        self.open = np.ones(s, bool)
        self.converged = np.zeros(s, bool)
        self.small = np.zeros(s, int)
        self.promise = np.full(s, np.inf)
        self.quiet = np.zeros(s, int)
        self.path: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = [[] for _ in range(s)]

    @property
    def done(self) -> bool:
        return not self.open.any()

    def advance(self, steps: int = 8) -> bool:
        """So many iterations, or fewer where all searches end; whether they have."""
        for _ in range(steps):
            if self.done:
                break
            self.step()
        return self.done

    def step(self) -> None:
        """One iteration of every open search: one call of the kernel."""
        rows = np.flatnonzero(self.open)
        t = len(_TRIALS)
        directions = np.empty((len(rows), self.x.shape[1]))
        steps = np.empty((len(rows), t))
        for j, i in enumerate(map(int, rows)):
            g = self.gradient[i]
            if self.curvature[i].empty:
                directions[j], steps[j] = g, _FIRST / max(np.linalg.norm(g), 1e-300)
                continue
            directions[j], steps[j] = self.curvature[i].times(g), _TRIALS
            gain = 0.5 * g @ directions[j]
            self.promise[i] = gain
            promised = gain < self.tolerance and self.curvature[i].updates >= min(3, len(g))
            self.quiet[i] = self.quiet[i] + 1 if promised else 0
            if self.quiet[i] >= 2:
                self._close(i, True)
        with np.errstate(all="ignore"):
            trial = self.x[rows, None, :] + steps[:, :, None] * directions[:, None, :]
            trial = np.where(np.isfinite(trial), trial, self.x[rows, None, :])
        value, gradient = self.kernel(trial.reshape(-1, trial.shape[-1]))
        value, gradient = value.reshape(len(rows), t), gradient.reshape(len(rows), t, -1)
        usable = np.isfinite(value) & np.isfinite(gradient).all(-1)
        value = np.where(usable, value, -np.inf)
        best = value.argmax(1)
        for j, i in enumerate(map(int, rows)):
            if self.open[i]:
                self._move(i, trial[j, best[j]], value[j, best[j]], gradient[j, best[j]])
        self.iteration += 1
        if self.iteration >= self.max_steps or (self.converged.any() and self.iteration >= self._deadline()):
            for i in map(int, np.flatnonzero(self.open)):
                self._close(i, False)

    def _deadline(self) -> int:
        if self._limit is None:
            self._limit = 2 * self.iteration + 20
        return self._limit

    def _move(self, i: int, x: np.ndarray, value: float, gradient: np.ndarray) -> None:
        gain = value - self.value[i]
        if not gain > 0:
            # Nothing gained where little was promised: it is there, to rounding. Else the curvature is wrong.
            if self.promise[i] < self.tolerance:
                self._close(i, True)
            elif self.curvature[i].empty:
                self._close(i, bool(np.linalg.norm(self.gradient[i]) == 0))
            else:
                self.curvature[i].reset()
                self.promise[i] = np.inf
            return
        self.small[i] = self.small[i] + 1 if gain < 1e-6 * max(1.0, self.tolerance) else 0
        if len(self.path[i]) == 0 or self.iteration in _MILESTONES:
            self.path[i].append((x, gradient, self.curvature[i].snapshot()))
        self.curvature[i].update(x - self.x[i], self.gradient[i] - gradient)
        self.x[i], self.value[i], self.gradient[i] = x, value, gradient
        if self.small[i] >= 2:
            self._close(i, True)

    def _close(self, i: int, converged: bool) -> None:
        self.open[i], self.converged[i] = False, converged

    def ends(self) -> list[End]:
        """All searches' ends, best first; those without a mode are walked back along their path."""
        out = []
        for i in range(len(self.x)):
            end = End(self.x[i], self.value[i], self.gradient[i], self.curvature[i].snapshot(), bool(self.converged[i]))
            if not end.converged:
                end = self._walk_back(i, end)
            out.append(end)
        return sorted(out, key=lambda e: -e.value)

    def _walk_back(self, i: int, end: End) -> End:
        candidates = [End(x, end.value, g, h, False) for x, g, h in self.path[i]] + [end]
        return candidates[int(np.argmax(local_elbos(self.kernel, self.rng, candidates)))]

    def paths(self) -> list[End]:
        """Points met along the way, with the curvature known there."""
        return [End(x, -np.inf, g, h, False) for path in self.path for x, g, h in path]


_MILESTONES = {1, 2, 3, 5, 7, 10, 14, 20, 28, 40, 56, 80, 112, 160}


def local_elbos(kernel: Kernel, rng: np.random.Generator, ends: list[End], draws: int = 8) -> np.ndarray:
    """ELBOs, up to a constant, of the Gaussians that the ends stand for; minus infinity where not finite."""
    noise = matched_normals(rng, draws, kernel.dimension)
    out = np.full(len(ends), -np.inf)
    for i, e in enumerate(ends):
        factor = root(e.inverse)
        with np.errstate(all="ignore"):
            value, _ = kernel(e.x + (noise * factor if factor.ndim == 1 else noise @ factor.T))
            log_det = np.log(np.abs(factor if factor.ndim == 1 else np.diagonal(factor))).sum()
        if np.isfinite(value).all() and np.isfinite(log_det):
            out[i] = value.mean() + log_det
    return out


def starting_points(kernel: Kernel, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """S starts with a finite density and gradient, over several scales.

    The origin (every site in the middle of its support), four from U(-2, 2) as other samplers do, two
    from N(0, 1/4) and one from N(0, 25). Those that are not finite are drawn again, ever nearer to the
    origin, and if none can be found there, looked for far out.
    """
    p = kernel.dimension
    radii = np.array([0.0, 2.0, 2.0, 2.0, 2.0, 0.5, 0.5, 5.0])[:STARTS]

    def draw(r: np.ndarray) -> np.ndarray:
        uniform = rng.uniform(-1, 1, (len(r), p))
        normal = rng.standard_normal((len(r), p))
        return r[:, None] * np.where((r == 2.0)[:, None], uniform, normal)

    x = draw(radii)
    value, gradient = kernel(x)
    for attempt in range(12):
        bad = ~(np.isfinite(value) & np.isfinite(gradient).all(1))
        if not bad.any():
            break
        if attempt >= 3 and not bad.all():
            break
        # Every place in the batch is free, so many candidates are tried at once.
        many = np.repeat(np.maximum(radii[bad], 0.5) * 0.6 ** (attempt + 1), 4)
        tries = draw(np.where(many == 2.0, 1.999, many))
        v, g = kernel(tries)
        good = np.flatnonzero(np.isfinite(v) & np.isfinite(g).all(1))[: bad.sum()]
        where = np.flatnonzero(bad)[: len(good)]
        x[where], value[where], gradient[where] = tries[good], v[good], g[good]
    ok = np.isfinite(value) & np.isfinite(gradient).all(1)
    if not ok.any():
        x = far_points(kernel)
        value, gradient = kernel(x)
        ok = np.isfinite(value) & np.isfinite(gradient).all(1)
        ok = np.flatnonzero(ok)[np.argsort(-value[ok])][:STARTS]
    return x[ok], value[ok], gradient[ok]


#: Distances of starts about a known mode, in its own sds: two modes at distance d are told apart from both sides
#: if a start lies beyond d / 2, and from too far out only the widest mode is seen.
_RADII = np.array([5.0, 10.0, 20.0, 40.0])


#: Points of the cloud in which other modes are looked for: in one dimension and above _SEEN of them, where no number
#: would do; in between four times as many with each dimension, up to the most.
_SCANNED, _SEEN, _MOST_SCANNED = 1024, 20, 2**16
#: ... and the arithmetic that it may cost (about a fifth of a second), and how many of its points are searched from.
_SCAN, _OUTLYING = 1.3e9, 8
#: Slope outwards, in nats for every factor e in the distance, from which a point is uphill of something else.
_OUTWARD = 1.0


def surrounding_points(
    kernel: Kernel, rng: np.random.Generator, q: GaussianBlock, known: Sequence[GaussianBlock] = ()
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts about a Gaussian: pairs on opposite sides at several distances, and points that lead elsewhere.

    Opposite, because of each pair one start lies on the other mode's side whatever its direction is. That
    finds modes that are seen from afar. Those narrower than this one are seen only from near, and so a cloud of
    heavy-tailed draws is looked over (:func:`_outlying`).
    """
    mean = q.mean
    p = len(mean)
    e = rng.standard_normal((len(_RADII), p))
    away = _RADII[:, None] * (q.transform(e) - mean)
    x = mean + np.concatenate([away, -away])
    value, gradient = kernel(x)
    for _ in range(8):
        bad = ~(np.isfinite(value) & np.isfinite(gradient).all(1))
        if not bad.any():
            break
        x[bad] = mean + 0.5 * (x[bad] - mean)
        value[bad], gradient[bad] = kernel(x[bad])
    ok = np.isfinite(value) & np.isfinite(gradient).all(1)
    found, value_there, gradient_there = _outlying(kernel, rng, q, known or [q])
    joined = np.concatenate
    return joined([x[ok], found]), joined([value[ok], value_there]), joined([gradient[ok], gradient_there])


def _outlying(
    kernel: Kernel, rng: np.random.Generator, q: GaussianBlock, known: Sequence[GaussianBlock]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The points of a cloud of Student-t's about q that the known modes explain least.

    First those where the density rises away from the mean m of every known mode. A log-concave density has none, except
    for the little by which its peak is not at m, since  (x - m)' grad log p(x) <= log p(x) - log p(m);  nor have the
    ways between known modes. Within reach of another peak, on its near side, the slope is outward whatever the peak's
    width: in p dimensions such a region may be small, hence the number of points. Then those whose density is highest
    against that of a Cauchy about the nearest mode, whose tails leave least to be surprised at.
    """
    p = kernel.dimension
    most = min(_SCANNED * 4 ** min(p - 1, 3), _MOST_SCANNED) if p <= _SEEN else _SCANNED
    count = int(np.clip(_SCAN / kernel.price, _SCANNED, most))
    best: list[np.ndarray] = [np.empty((0, p)), np.empty(0), np.empty((0, p)), np.empty(0, bool), np.empty(0)]
    for begin in range(0, count, _SCANNED):
        if begin and kernel.late:
            break
        noise = rng.standard_normal((_SCANNED, p))
        # With 4 degrees of freedom and with 1, by turns.
        degrees = np.where(np.arange(_SCANNED) % 2, 4.0, 1.0)
        noise *= np.sqrt(degrees / rng.chisquare(degrees))[:, None]
        x = q.transform(noise)
        value, gradient = kernel(x)
        with np.errstate(all="ignore"):
            squares = np.stack([(k.whiten(x) ** 2).sum(1) for k in known])
            cauchy = -0.5 * (1 + p) * np.log1p(squares) - np.array([[float(k.log_det())] for k in known])
            square = squares[cauchy.argmax(0), np.arange(len(x))]
            outward = np.all([((x - k.mean) * gradient).sum(1) > _OUTWARD for k in known], axis=0)
            surprise = value - cauchy.max(0)
        usable = np.isfinite(value) & np.isfinite(gradient).all(1) & (outward | (square > p + 4 * np.sqrt(2 * p)))
        found = (x, value, gradient, outward, surprise)
        some = [np.concatenate([a, b[usable]]) for a, b in zip(best, found, strict=True)]
        top = np.lexsort((-some[4], ~some[3]))[:_OUTLYING]
        best = [a[top] for a in some]
    return best[0], best[1], best[2]


def far_points(kernel: Kernel) -> np.ndarray:
    """One batch of points at 1 to 30 from the origin, for densities that are finite only far out.

    Half of them have all coordinates alike, because in many dimensions a random corner is never the right one.
    """
    m, p = kernel.batch, kernel.dimension
    rng = np.random.default_rng(0)
    direction = rng.uniform(-1, 1, (m, p))
    direction[::2] = np.where(np.arange(m)[::2, None] % 4 == 0, 1.0, -1.0)
    return np.geomspace(1, 30, m)[:, None] * direction
