r"""Which components of a model may be exchanged: labels of a discrete latent that mean nothing.

In a mixture p(x, z, theta) does not change where the values of z are permuted together with the axes that z indexes:
the weights, the means, ... Summed over z, log p(x, theta) does not change where those axes alone are. Which they are
is found by trying: of all axes as long as z has values, the smallest sets whose permutation leaves log p(x, theta) as
it is (to rounding) at draws of q, and permutes p(z | x, theta) with it. A prior that tells some components apart
leaves classes of those that it does not. Every transposition is tried at two draws; log p is an analytic function
there, and does not agree at two random points by chance.

The axes are those along which a latent's elements are independent coordinates of the constrained space, where
permuting has a Jacobian of one, and the last of a simplex (whose density is with respect to all but one of its
elements, whichever).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpyro.distributions import constraints

from lowerbound.families import Block
from lowerbound.kernel import Kernel
from lowerbound.model.base import Model
from lowerbound.model.sites import SiteMap

#: Axes of one length that are tried in all their sets, at most, and evaluations of the log density for all of it.
_AXES, _EVALUATIONS = 8, 20_000
#: Relative difference of log densities that are the same but for rounding.
_ROUNDING = 1e-9
_DRAWS = 2

#: A site and one of its axes.
Axis = tuple[str, int]


class Exchangeable(NamedTuple):
    """Components that may be exchanged.

    Attributes:
        latents: Discrete latents whose values are their labels.
        axes: Which are permuted together.
        classes: Of components that may be exchanged with one another, at least two in each.
    """

    latents: tuple[str, ...]
    axes: tuple[Axis, ...]
    classes: tuple[tuple[int, ...], ...]

    @property
    def labellings(self) -> int:
        """How many there are."""
        return math.prod(math.factorial(len(c)) for c in self.classes)


def exchangeable(kernel: Kernel, sites: SiteMap, q: Block, rng: np.random.Generator) -> list[Exchangeable]:
    """The groups of components of a model with discrete latents summed out; empty if none were found.

    Args:
        kernel: The compiled log density.
        sites: Of its model.
        q: Of which a few draws are taken.
        rng: Random numbers.

    Cost: some evaluations of the log density for each set of axes: 2 (K - 1) where all K may be exchanged.
    """
    model, given = kernel.model, sites.responsibilities
    if given is None or model.elsewhere:
        return []
    with np.errstate(all="ignore"):
        x = q.sample(rng, _DRAWS)
        values = {n: v for n, v in sites.constrain(x).items() if n in model.sites}
        base = kernel(x)[0] - sites.unconstrain(values, len(x))[1]
    if not np.isfinite(base).all():
        return []
    own = given.each(x)
    spent = kernel.evaluations

    def same(axes: tuple[Axis, ...], i: int, j: int) -> bool:
        """Whether exchanging two components along these axes leaves the log density as it is."""
        if kernel.evaluations - spent > _EVALUATIONS or kernel.late:
            return False
        moved, log_det = sites.unconstrain(swapped(values, axes, i, j), len(x))
        value = kernel(moved)[0] - log_det
        return bool(np.all(np.abs(value - base) <= _ROUNDING * np.maximum(np.abs(base), 1)))

    def labelled(axes: tuple[Axis, ...], i: int, j: int) -> tuple[str, ...]:
        """Discrete latents whose probabilities are exchanged with the components, and are not the same before."""
        moved, _ = sites.unconstrain(swapped(values, axes, i, j), len(x))
        found = given.each(moved)
        out = []
        for n, p in own.items():
            order = np.arange(p.shape[-1])
            order[[i, j]] = j, i
            if len(order) == size and np.allclose(found[n], p[..., order], rtol=1e-6, atol=1e-9):
                out += [n] if not np.allclose(found[n], p, rtol=1e-6, atol=1e-9) else []
        return tuple(out)

    groups: list[Exchangeable] = []
    for size in sorted({len(v) for v in given.values.values()}):
        candidates = axes_of(model, size)
        taken: set[Axis] = set()
        for count in range(1, len(candidates) + 1) if len(candidates) <= _AXES else ():
            for axes in combinations(candidates, count):
                if taken & set(axes) or len({n for n, _ in axes}) < count:
                    continue
                classes = _classes(size, lambda i, j, axes=axes: same(axes, i, j))
                if classes and (names := labelled(axes, *classes[0][:2])):
                    groups.append(Exchangeable(names, axes, classes))
                    taken |= set(axes)
    return groups


def axes_of(model: Model, size: int) -> list[Axis]:
    """Axes of that length along which permuting has a Jacobian of one."""
    out: list[Axis] = []
    for n, s in model.sites.items():
        independent, support = 0, s.support
        while isinstance(support, constraints.independent):
            independent, support = independent + support.reinterpreted_batch_ndims, support.base_constraint
        event = 0 if support is constraints.real_vector else int(support.event_dim)
        last = len(s.shape) if support is constraints.simplex else len(s.shape) - event
        out += [(n, a) for a in range(last) if s.shape[a] == size]
    return out


def swapped(values: Mapping[str, np.ndarray], axes: tuple[Axis, ...], i: int, j: int) -> dict[str, np.ndarray]:
    """Draws ``[n, *shape]`` by site with two components exchanged along the axes."""
    out = dict(values)
    for n, a in axes:
        order = np.arange(out[n].shape[a + 1])
        order[[i, j]] = j, i
        out[n] = np.take(out[n], order, a + 1)
    return out


def _classes(size: int, same: Callable[[int, int], bool]) -> tuple[tuple[int, ...], ...]:
    """Classes of an equivalence of ``size`` things, those of one left out."""
    left, out = list(range(size)), []
    while len(left) > 1:
        first = left.pop(0)
        alike = [k for k in left if same(first, k)]
        if alike:
            out.append((first, *alike))
        left = [k for k in left if k not in alike]
    return tuple(out)
