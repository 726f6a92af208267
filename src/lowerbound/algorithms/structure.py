r"""Where is the arrow? Globals and groups of a model, found from gradients.

Groups are conditionally independent given the globals if and only if moving one changes the gradient of no other. The
compiled kernel tells this of any model, with plates, vectors or neither. Two ways, both checked on gradients:

* *From shapes.* Sites that share an axis of one size are taken for groups along it, all else for globals. Number the
  groups in binary, and for each digit move all groups that have a 1 there: a group with a 0 whose gradient changes is
  coupled to one of them. Any two groups differ in some digit, so log2(J) gradients at a point test all pairs.
* *From the Hessian's pattern.* Each coordinate is moved by itself, which takes p gradients; those that change are its
  neighbours. Globals are coordinates with many neighbours; with them taken out, groups are the connected components
  of what is left. This finds nested plates, groups of unequal sizes, and the smaller factor of two that are crossed.

Of several cuts between "many" and "few" neighbours the cheapest is taken. A dependence so weak that it is lost in
rounding, or one that vanishes at the points that were tried, is not seen.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from lowerbound.families import ArrowLayout
from lowerbound.kernel import Kernel

#: The most globals.
MOST_GLOBALS = 400
#: Dimensions up to which the Hessian's pattern is looked for, at one gradient for each.
_PATTERN = 8000
#: Globals up to which a layout read from shapes is good enough not to look further.
_FEW = 50
#: Change of a gradient, relative to its size, that counts as none.
_ROUNDING = 1e-9


def find_layout(kernel: Kernel) -> ArrowLayout | None:
    """The cheapest arrow that the model's density has; None if there is none with few enough globals.

    Cost: a few calls of the kernel, or p / 64 where shapes do not tell.
    """
    probe = _Probe(kernel)
    if not probe.usable:
        return None
    p = kernel.dimension
    found = _from_shapes(probe) if p > kernel.batch else None
    if (found is None or found.globals > _FEW) and p <= _PATTERN:
        found = min((c for c in (found, _from_pattern(probe)) if c is not None), key=work, default=None)
    return found


def work(layout: ArrowLayout) -> float:
    """Arithmetic of one step of the fit, up to a constant; a dense Gaussian's is that of all globals."""
    d = layout.classes.astype(float)
    draws = max(64.0, 3.0 * layout.width)
    local = (d[:, 0] * (draws * d[:, 1] ** 2 + d[:, 1] ** 3)).sum()
    return float(draws * layout.dimension * (1 + layout.globals) + local + layout.globals**3)


class _Probe:
    """A generic point with a finite gradient, and what moves about it change."""

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        rng = np.random.default_rng(0)
        p = kernel.dimension
        where, step = rng.uniform(-1, 1, (2, p)), np.exp(rng.uniform(-1, 0, (2, p))) * rng.choice([-1, 1], (2, p))
        self.usable = False
        for radius in (0.5, 0.1, 0.01, 1e-4):
            # Two points, and about each a move of everything at once, which shows how large gradients there are.
            points = radius * np.concatenate([where, where + step])
            with np.errstate(all="ignore"):
                gradient = kernel(points)[1]
            if np.isfinite(gradient).all():
                self.usable = True
                break
        self.points, self.moves = points[:2], radius * step
        self.gradient = gradient[:2]
        self.scale = _ROUNDING * np.maximum(np.abs(gradient[:2]), np.abs(gradient[2:])) + 1e-300

    def changed(self, moved: np.ndarray, at: int) -> np.ndarray:
        """Which coordinates' gradients change ``[k, p]`` when those of ``moved [k, p]`` move, at point 0 or 1."""
        with np.errstate(all="ignore"):
            gradient = self.kernel(self.points[at] + moved * self.moves[at])[1]
        return ~(np.abs(gradient - self.gradient[at]) <= self.scale[at])


def _from_shapes(probe: _Probe) -> ArrowLayout | None:
    sites, p = list(probe.kernel.model.sites.values()), probe.kernel.dimension
    sizes = {n for s in sites for n in s.unconstrained_shape if n > 1}
    candidates = []
    for size in sizes:
        group = np.full(p, -1)
        for s in sites:
            if size in s.unconstrained_shape:
                axis = s.unconstrained_shape.index(size)
                group[s.slice] = np.indices(s.unconstrained_shape)[axis].ravel()
        if (group < 0).sum() <= MOST_GLOBALS:
            candidates.append((int((group < 0).sum()), size, group))
    for _, size, group in sorted(candidates, key=lambda c: c[:2]):
        if _independent(probe, group, size):
            order = np.argsort(group, kind="stable")[(group < 0).sum() :]
            return ArrowLayout.of(np.flatnonzero(group < 0), list(order.reshape(size, -1)))
    return None


def _independent(probe: _Probe, group: np.ndarray, size: int) -> bool:
    digits = np.arange(int(np.ceil(np.log2(size))))
    ones = (group[None] >> digits[:, None]) & 1 == 1
    local = group >= 0
    return not any((probe.changed(ones & local, at) & ~ones & local).any() for at in (0, 1))


def _from_pattern(probe: _Probe) -> ArrowLayout | None:
    kernel, p = probe.kernel, probe.kernel.dimension
    rows, columns = [], []
    for start in range(0, p, kernel.batch):
        which = np.arange(start, min(start + kernel.batch, p))
        moved = np.zeros((len(which), p), bool)
        moved[np.arange(len(which)), which] = True
        i, j = np.nonzero(probe.changed(moved, 0))
        rows.append(which[i])
        columns.append(j)
    i, j = np.concatenate(rows), np.concatenate(columns)
    graph = csr_matrix((np.ones(len(i), np.int8), (i, j)), (p, p))
    graph = ((graph + graph.T) > 0).tocsr()
    degree = np.diff(graph.indptr)
    best: ArrowLayout | None = None
    for least in [p + 1, *np.unique(degree)[::-1]]:
        globals = degree >= least
        if globals.sum() > MOST_GLOBALS:
            break
        local = np.flatnonzero(~globals)
        count, label = connected_components(graph[local][:, local], directed=False)
        order = np.argsort(label, kind="stable")
        groups = np.split(local[order], np.cumsum(np.bincount(label, minlength=count))[:-1]) if len(local) else []
        layout = ArrowLayout.of(np.flatnonzero(globals), groups)
        if layout.width <= 2 * MOST_GLOBALS and (best is None or work(layout) < work(best)):
            best = layout
    return best
