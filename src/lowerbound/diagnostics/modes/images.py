r"""Mass in an image of q: the same draws with two components exchanged, or with the signs of some sites flipped.

A posterior often has a second mode where it has one: labels of a mixture exchanged, loadings and factors of the other
sign. Where the prior tells the two apart, even slightly, the other one is no symmetry, holds another mass, and may be
met by no search. Let pi be an exchange (an involution of the constrained space with a Jacobian of one) or a reflection
(of unconstrained coordinates), and r the proposal whose draws have been weighed. The same draws, and their images, are
draws of (r + r o pi) / 2, and

    Z' = (1/2) E_r[ m(x) + m(pi x) ],      m(x) = p(x) / ( (r(x) + r(pi x)) / 2 ),

is the evidence in the reach of both. Where r has seen everything Z' = Z; what Z' is larger by is mass that only the
image has. The two are compared draw by draw. Where components may be exchanged, p is K! times that of one of their
labellings (:mod:`~lowerbound.diagnostics.modes.labellings`), so that a labelling that is counted is no mass missed.

Tried are exchanges of two components along sets of axes that are as long as a discrete latent has values, and
reflections of each real site, of every two, and of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np

from lowerbound.algorithms.base import Move
from lowerbound.diagnostics.modes.exchangeable import Axis, Exchangeable, axes_of, exchangeable, swapped
from lowerbound.diagnostics.modes.labellings import shares_of
from lowerbound.diagnostics.weights.importance import Weighted
from lowerbound.families import Block
from lowerbound.kernel import Kernel
from lowerbound.model.base import is_real
from lowerbound.model.sites import SiteMap

#: Draws, the first of them that say whether an image is worth the others, images, and arithmetic for all of them, at
#: most: about two seconds.
_DRAWS, _FIRST, _IMAGES, _PRICE = 256, 64, 60, 1.2e10
#: Axes of one length, and real sites, all of whose sets are tried.
_AXES, _SITES = 4, 8
#: Share of the mass that may be elsewhere, and standard errors that it has to be beyond.
SHARE, _SURE = 0.03, 3.0
#: ... and a share, of the first draws, from which the others are looked at.
_SOME = 0.003


class Missed(NamedTuple):
    """An image that has mass.

    Attributes:
        share: Of the mass of q and of the image, that which the image alone has.
        said: Which image, in words.
        move: The map.
    """

    share: float
    said: str
    move: Move


class Images:
    """The images of a posterior that are tried.

    Args:
        kernel: The log density, discrete latents summed out.
        sites: Of its model.
        q: The fit.
        seed: Of the fit.
    """

    def __init__(self, kernel: Kernel, sites: SiteMap, q: Block, seed: int):
        self.kernel, self.sites, self._q, self.seed = kernel, sites, q, seed

    @cached_property
    def groups(self) -> list[Exchangeable]:
        """Components that may be exchanged: their labellings are counted, and are no images."""
        if not self.kernel.model.summed:
            return []
        return exchangeable(self.kernel, self.sites, self._q, np.random.default_rng([self.seed, 7]))

    @cached_property
    def all(self) -> list[tuple[str, Move]]:
        """Every image that is tried, in words and as a map."""
        out = []
        for image in self._exchanges():
            out.append(image)
            if len(out) == _IMAGES:  # (of many components there may be very many)
                return out
        return [*out, *self._reflections()][:_IMAGES]

    def log_share(self, modes: Sequence[Block]) -> Callable[[np.ndarray], np.ndarray]:
        """From draws to log h, the share that the labelling of these modes has of each; 0 where nothing is counted."""
        if not self.groups:
            return lambda x: np.zeros(len(x))
        shares = shares_of(self.groups, self.sites, modes, np.random.default_rng([self.seed, 7]))
        return lambda x: sum((s.log_prob(x)[0] for s in shares), np.zeros(len(x)))

    def missed(self, weighted: Weighted, modes: Sequence[Block]) -> list[Missed]:
        """The images that have mass which q and the modes that are known have not, the surest first.

        Args:
            weighted: Draws about all of them, weighed.
            modes: q, or a Gaussian for each mode.

        Cost: 64 evaluations for each image, and up to 256 where those meet mass.
        """
        r, kernel = weighted.proposal, self.kernel
        if r is None or r.draws is None or kernel.late or not np.isfinite(r.log_weights).any():
            return []
        every = -(-len(r.draws) // _DRAWS)
        x, log_w = r.draws[::every], r.log_weights[::every]
        if kernel.price * _FIRST > _PRICE or not self.all or len(self.all) * _FIRST * kernel.price > _PRICE:
            return []
        out: list[tuple[float, Missed]] = []
        with np.errstate(all="ignore"):
            # Of one labelling, and as much as all of them.
            h, log_r = self.log_share(modes), r.log_prob(x)
            count = math.log(math.prod(g.labellings for g in self.groups))
            own = log_w + log_r + h(x) + count

            def target(x: np.ndarray) -> np.ndarray:
                return self.kernel(x)[0] + h(x) + count

            first = slice(None, None, -(-len(x) // _FIRST))
            for said, move in self.all:
                for some in (first, slice(None)):
                    share, z = self._share(x[some], own[some], log_r[some], move, target, r.log_prob)
                    if not share > _SOME:
                        break
                else:
                    if z > _SURE and share > SHARE:
                        out.append((z, Missed(share, said, move)))
        # (Of two that lead to the same place the one that is the symmetry has the more even weights.)
        return [m for _, m in sorted(out, key=lambda o: -o[0])]

    def _share(
        self, x: np.ndarray, own: np.ndarray, log_r: np.ndarray, move: Move, target: Callable, log_prob: Callable
    ) -> tuple[float, float]:
        """The share of the mass that an image alone has, and by how many standard errors."""
        moved, log_det = move(x)
        p, there = target(moved) + log_det, log_prob(moved) + log_det
        both = np.logaddexp(log_r, there) - np.log(2)
        # No density: no mass.
        a, b, w = (
            np.nan_to_num(v, nan=-np.inf, posinf=-np.inf, neginf=-np.inf) for v in (own - both, p - both, own - log_r)
        )
        top = max(v.max() for v in (a, b, w))
        if not np.isfinite(top):
            return 0.0, 0.0
        a, b, w = (np.exp(v - top) for v in (a, b, w))
        more = (a + b) / 2 - w
        total = ((a + b) / 2).mean()
        share = float(more.mean() / total) if total > 0 else 0.0
        return share, float(more.mean() / (more.std() / np.sqrt(len(more)) + 1e-300))

    # -- which there are ---------------------------------------------------------------------------

    def _exchanges(self) -> Iterator[tuple[str, Move]]:
        """Two components exchanged along a set of axes, the larger sets first."""
        model, given = self.kernel.model, self.sites.responsibilities
        for size in sorted({len(v) for v in given.values.values()}) if given is not None and model.summed else ():
            axes = axes_of(model, size)
            for count in range(len(axes), 0, -1) if len(axes) <= _AXES else (len(axes),):
                for some in combinations(axes, count):
                    for i, j in combinations(range(size), 2):
                        if self._counted(some, i, j) or len({n for n, _ in some}) < count:
                            continue
                        which = f"components {i} and {j} of {', '.join(n for n, _ in some)} exchanged"
                        yield which, self._exchanged(some, i, j)

    def _counted(self, axes: Sequence[Axis], i: int, j: int) -> bool:
        """Whether exchanging the two leads to a labelling that is counted."""
        return any(set(axes) <= set(g.axes) and any({i, j} <= set(c) for c in g.classes) for g in self.groups)

    def _reflections(self) -> Iterator[tuple[str, Move]]:
        """Signs of sites whose coordinates are their values; of those that have been moved, of the coordinates."""
        # The mirror image of a labelling may be another one, which is counted already.
        counted, sites = {n for g in self.groups for n, _ in g.axes}, self.kernel.model.sites
        real = [n for n, s in sites.items() if is_real(s.support) and n not in counted]
        sets: list[tuple[str, ...]] = [(n,) for n in real]
        if 1 < len(real) <= _SITES:
            sets += list(combinations(real, 2))
        if len(real) > 2:
            sets.append(tuple(real))
        for names in sets:
            signs = np.ones(self.kernel.dimension)
            for n in names:
                signs[sites[n].slice] = -1.0
            yield f"{', '.join(names)} of the other sign", _reflected(signs)

    def _exchanged(self, axes: tuple[Axis, ...], i: int, j: int) -> Move:
        def move(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            values = {n: v for n, v in self.sites.constrain(x).items() if n in self.sites.sites}
            own = self.sites.unconstrain(values, len(x))[1]
            moved, there = self.sites.unconstrain(swapped(values, axes, i, j), len(x))
            return moved, own - there

        return move


def _reflected(signs: np.ndarray) -> Move:
    return lambda x: (x * signs, np.zeros(len(x)))
