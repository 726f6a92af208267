r"""Mass in an image of q: the same draws with two components exchanged, or with the signs of some sites flipped.

A posterior often has a second mode where it has one: labels of a mixture exchanged, loadings and factors of the other
sign. Where the prior tells the two apart, even slightly, the other one is no symmetry, holds another mass, and may be
met by no search. Let pi be an exchange or a reflection (an involution of the constrained space with a Jacobian of one)
and r the proposal whose draws have been weighed. The same draws, and their images, are draws of (r + r o pi) / 2, and

    Z' = (1/2) E_r[ m(x) + m(pi x) ],      m(x) = p(x) / ( (r(x) + r(pi x)) / 2 ),

is the evidence in the reach of both. Where r has seen everything Z' = Z; what Z' is larger by is mass that only the
image has. The two are compared draw by draw.

Tried are exchanges of two components along sets of axes that are as long as a discrete latent has values, and
reflections of each real site, of every two, and of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np

from lowerbound.diagnostics.modes.exchangeable import Axis, Exchangeable, axes_of, exchangeable, swapped
from lowerbound.diagnostics.weights.importance import Weighted
from lowerbound.families import Block
from lowerbound.kernel import Kernel
from lowerbound.model.base import is_real
from lowerbound.model.sites import SiteMap

#: Draws, images, and arithmetic for all of them, at most: about two seconds.
_DRAWS, _IMAGES, _PRICE = 256, 60, 1.2e10
#: Axes of one length, and real sites, all of whose sets are tried.
_AXES, _SITES = 4, 8
#: Share of the mass that may be elsewhere, and standard errors that it has to be beyond.
SHARE, _SURE = 0.03, 3.0

Values = dict[str, np.ndarray]


def missed_image(kernel: Kernel, sites: SiteMap, q: Block, weighted: Weighted, seed: int) -> tuple[float, str] | None:
    """The largest share of the mass that an image has and q has not, and which image, in words; None for none.

    Args:
        kernel: The log density, discrete latents summed out.
        sites: Of its model.
        q: The fit.
        weighted: Draws about q, weighed.
        seed: Of the fit.

    Cost: up to 256 evaluations for each image.
    """
    r, model = weighted.proposal, kernel.model
    if r is None or r.draws is None or model.elsewhere or kernel.late:
        return None
    x = r.draws[:: -(-len(r.draws) // _DRAWS)]
    log_p = r.log_weights[:: -(-len(r.draws) // _DRAWS)]
    # Labellings that are equally probable are counted already.
    groups = exchangeable(kernel, sites, q, np.random.default_rng([seed, 7])) if model.summed else []
    images = list(_images(sites, groups))[:_IMAGES]
    if not images or not np.isfinite(log_p).any() or len(images) * len(x) * kernel.price > _PRICE:
        return None
    with np.errstate(all="ignore"):
        values = {n: v for n, v in sites.constrain(x).items() if n in model.sites}
        own = sites.unconstrain(values, len(x))[1]
        log_r = r.log_prob(x)
        here, here_r = log_p + log_r - own, log_r - own
        worst: tuple[float, str] | None = None
        for said, image in images:
            moved, log_det = sites.unconstrain(image(values), len(x))
            p, there = kernel(moved)[0] - log_det, r.log_prob(moved) - log_det
            both = np.logaddexp(here_r, there) - np.log(2)
            a, b, w = here - both, p - both, here - here_r
            a, b, w = (np.nan_to_num(v, nan=-np.inf, posinf=-np.inf) for v in (a, b, w))  # no density: no mass
            top = max(v.max() for v in (a, b, w))
            if not np.isfinite(top):
                continue
            a, b, w = (np.exp(v - top) for v in (a, b, w))
            more = (a + b) / 2 - w
            total = ((a + b) / 2).mean()
            share = more.mean() / total if total > 0 else 0.0
            sure = more.mean() > _SURE * more.std() / np.sqrt(len(more))
            if sure and share > SHARE and (worst is None or share > worst[0]):
                worst = float(share), said
    return worst


def _images(sites: SiteMap, groups: list[Exchangeable]) -> Iterator[tuple[str, Callable[[Values], Values]]]:
    """Involutions of the constrained space, and what they are in words."""
    model = sites.model
    given = sites.responsibilities
    for size in sorted({len(v) for v in given.values.values()}) if given is not None else ():
        axes = axes_of(model, size)
        for count in range(len(axes), 0, -1) if len(axes) <= _AXES else (len(axes),):
            for some in combinations(axes, count):
                for i, j in combinations(range(size), 2):
                    known = any(set(some) <= set(g.axes) and any({i, j} <= set(c) for c in g.classes) for g in groups)
                    if known or len({n for n, _ in some}) < count:
                        continue
                    which = f"components {i} and {j} of {', '.join(n for n, _ in some)} exchanged"
                    yield which, _exchanged(some, i, j)
    # The mirror image of a labelling may be another one, which is counted already.
    counted = {n for g in groups for n, _ in g.axes}
    real = [n for n, s in model.sites.items() if is_real(s.support) and n not in counted]
    sets: list[tuple[str, ...]] = [(n,) for n in real]
    if 1 < len(real) <= _SITES:
        sets += list(combinations(real, 2))
    if len(real) > 2:
        sets.append(tuple(real))
    for names in sets:
        yield f"{', '.join(names)} of the other sign", _reflected(names)


def _reflected(names: tuple[str, ...]) -> Callable[[Values], Values]:
    return lambda values: values | {n: -values[n] for n in names}


def _exchanged(axes: tuple[Axis, ...], i: int, j: int) -> Callable[[Values], Values]:
    return lambda values: swapped(values, axes, i, j)
