r"""An image of q that has mass becomes a mode: its place is known, pi applied to q's draws.

Where :mod:`~lowerbound.diagnostics.modes.images` finds mass that no known mode has, the Gaussian with the moments of
the images of a mode's draws is where a search would have ended. The draws have exact first and second moments, so that
for a reflection, or a permutation of coordinates, they are pi of the moments exactly. Where p is no symmetry the peak
may be elsewhere: from there a few steps of the walk of :mod:`~lowerbound.algorithms.score_regression`, as from the ends
of its searches. The images of all known modes are tried, so that a set of modes grows as the group that the images
generate does; then draws about all of them are weighed, and looked at again, until no image has mass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lowerbound.algorithms.base import Mode, Move
from lowerbound.algorithms.quasi_newton import root
from lowerbound.algorithms.regression import Blocks
from lowerbound.algorithms.walk import Ground, Walk
from lowerbound.diagnostics.modes.each_mode import held, labelled
from lowerbound.diagnostics.modes.images import Images, Missed
from lowerbound.diagnostics.weights.importance import MANY, Weighted
from lowerbound.expectations.noise import matched_normals
from lowerbound.families import Block, DenseGaussian, FactoredBlock, GaussianBlock, MixtureBlock
from lowerbound.kernel import Kernel

#: Modes in all, in many dimensions, and rounds of images.
_MOST, _FEW, _ROUNDS = 24, 4, 8
#: Dimensions up to which a mode may have a covariance, and arithmetic that finding all of them may cost.
_WIDE, _PRICE = 1000, 1.2e10
#: Steps of the walk from an image, and sqrt(2 KL) at which it ends.
_STEPS, _TOLERANCE = 25, 0.01
#: Nats by which a mode's ELBO may be lower and it still matters, nats by which the density dips between two modes, and
#: sds between two Gaussians that are one.
_GAP, _DIP, _NEAR = 12.0, 1.0, 0.5
#: log h from which a mode is another labelling of one that is known.
_COUNTED = -2.3


def image_modes(
    images: Images,
    missed: list[Missed],
    q: Block,
    modes: Sequence[Mode],
    elbo: float,
    again: Callable[[list[Mode]], Weighted],
) -> list[Mode]:
    """The modes that are images of q or of another mode; empty if none could be made.

    Args:
        images: Those that are tried.
        missed: Those that have mass which no known mode has.
        q: The fit.
        modes: Other modes that are known.
        elbo: Of q.
        again: One round of draws about q and these modes, weighed.

    Cost: for each new mode up to 25 steps of the fit's own size, and a round of draws for each round of images.
    """
    kernel = images.kernel
    p = kernel.dimension
    if isinstance(q, MixtureBlock) or p > _WIDE:
        return []
    until, most = kernel.evaluations + _PRICE / kernel.price, (_MOST if p <= MANY else _FEW) - len(modes)
    found: list[Mode] = []
    leading = {move for m in modes for move in m.moves}
    used = [Missed(0.0, said, move) for said, move in images.all if move in leading]

    def add(one: Missed) -> bool:
        """The modes that are images under one map of those that are known; whether there are any."""
        over = len(found) >= most or kernel.evaluations > until or kernel.late
        new = [] if over else _of_one(images, one, q, [*modes, *found], elbo, most - len(found), until)
        found.extend(new)
        return bool(new)

    for _ in range(_ROUNDS):
        # (The first as a rule: others lead to no mode of their own.)
        one = next((m for m in missed if add(m)), None)
        if one is None:
            break
        used.append(one._replace(share=0.0))
        missed = images.missed(again([*modes, *found]), labelled(q, [*modes, *found]))
    # What several maps lead to may have too little mass to be seen by itself, and as much as is missed together.
    while any([add(one) for one in used]):
        pass
    return found


def recognised(images: Images, q: Block, modes: list[Mode]) -> list[Mode]:
    """The modes, with the moves that lead to those which a search has met and an image of q is at; as they are if none.

    Where each is the image of one what is learned of that one is known of all of them.
    """
    unknown = [i for i, m in enumerate(modes) if m.separate and not m.moves]
    if not unknown or images.kernel.dimension > _WIDE or len(unknown) > _MOST:
        return modes
    out = list(modes)
    ready: list[tuple[np.ndarray, tuple[Move, ...]]] = [(np.asarray(held(q, ())[0].mean), ())]
    while ready and unknown:
        x, moves = ready.pop(0)
        for i in list(unknown):
            gaussian = out[i].gaussian
            with np.errstate(all="ignore"):
                distances = [
                    (gaussian.whiten(np.nan_to_num(move(x[None])[0], nan=np.inf)) ** 2).sum() for _, move in images.all
                ]
            if distances and min(distances) < 9 + 3 * len(x):
                path = (*moves, images.all[int(np.argmin(distances))][1])
                out[i] = out[i]._replace(moves=path)
                unknown.remove(i)
                ready.append((out[i].mean, path))
    return modes if all(a is b for a, b in zip(out, modes, strict=True)) else out


def _of_one(
    images: Images, missed: Missed, q: Block, modes: Sequence[Mode], elbo: float, most: int, until: float
) -> list[Mode]:
    """The images of q and the other modes under one map that are modes, at most so many."""
    kernel, new = images.kernel, []
    known = held(_gaussian(q, images.seed), modes)
    apart = [m for m in modes if m.separate]
    before = [("", (), True), *((m.image, m.moves, bool(m.moves)) for m in apart)]
    best = max(elbo, *(m.elbo for m in modes)) if modes else elbo
    for i, (source, (said, moves, from_q)) in enumerate(zip(list(known), before, strict=True)):
        if len(new) >= most or kernel.evaluations > until or kernel.late:
            break
        start = _moved(missed, source, images.seed)
        if start is None or _counted(images, known, start):
            continue
        name = f"{said}, then {missed.said}" if said else missed.said
        there = _walked(kernel, start, images.seed) if _apart(kernel, known, start) else None
        separate = there is not None and _apart(kernel, known, there[0])
        if not separate:  # of a peak that is known, a part that q does not reach
            part = i == 0 and missed.share > 0 and _far(known, start)
            there = (start, _elbo(kernel, start, images.seed)) if part else None
        if there is None or not there[1] > best - _GAP:
            continue
        gaussian, value = there
        path = (*moves, missed.move) if from_q else ()
        new.append(Mode(gaussian.location, gaussian.covariance(), value, separate, name, path))
        best = max(best, value)
        known = [*known, gaussian]
    return new


def _gaussian(q: Block, seed: int) -> GaussianBlock:
    """q, or the Gaussian with its moments."""
    if isinstance(q, GaussianBlock):
        return q
    if isinstance(q, FactoredBlock):
        return q.gaussian
    x = q.sample(np.random.default_rng([seed, 8]), max(2048, 8 * q.dimension))
    return DenseGaussian(x.mean(0), root(np.cov(x.T).reshape(q.dimension, -1)))


def _moved(missed: Missed, source: GaussianBlock, seed: int) -> DenseGaussian | None:
    """The Gaussian with the moments of the images of draws of another; None where those are not finite."""
    p = source.dimension
    noise = matched_normals(np.random.default_rng([seed, 8]), 64 * max(4, int(np.ceil(2 * p / 64))), p)
    with np.errstate(all="ignore"):
        x = missed.move(np.asarray(source.transform(noise)))[0]
        x = x[np.isfinite(x).all(1)]
        if 2 * len(x) < len(noise):
            return None
        mean = x.mean(0)
        covariance = (x - mean).T @ (x - mean) / len(x)
    try:
        return DenseGaussian(mean, root(covariance)) if np.isfinite(covariance).all() else None
    except np.linalg.LinAlgError:
        return None


def _counted(images: Images, known: Sequence[GaussianBlock], start: DenseGaussian) -> bool:
    """Whether it is another labelling of a known mode, equally probable."""
    return bool(images.groups) and bool(images.log_share(known)(np.asarray(start.mean)[None])[0] < _COUNTED)


def _walked(kernel: Kernel, start: DenseGaussian, seed: int) -> tuple[DenseGaussian, float] | None:
    """Some steps uphill on the ELBO, and the ELBO there."""
    pattern = Blocks([np.arange(start.dimension)])
    ground = Ground(kernel, np.random.default_rng([seed, 8]), pattern, _TOLERANCE, 2 * _STEPS)
    walk = Walk.settle(ground, start)
    for _ in range(_STEPS):
        walk.step()
        if walk.arrived or walk.averages or walk.status is not None or kernel.late:
            break
    end = walk.current
    return (end.q, end.elbo) if isinstance(end.q, DenseGaussian) and np.isfinite(end.elbo) else None


def _elbo(kernel: Kernel, gaussian: DenseGaussian, seed: int) -> float:
    pattern = Blocks([np.arange(gaussian.dimension)])
    found = pattern.evaluate(kernel, gaussian, pattern.noise(np.random.default_rng([seed, 8]), pattern.first_draws))
    return -np.inf if found is None else found.elbo


def _far(known: Sequence[GaussianBlock], new: GaussianBlock) -> bool:
    """Whether its mean is no known one's, in either's sds."""
    differences = [(np.asarray(new.mean) - np.asarray(k.mean), k) for k in known]
    sd = np.sqrt(np.asarray(new.variance()))
    return all(np.abs(d / np.minimum(sd, np.sqrt(np.asarray(k.variance())))).max() > _NEAR for d, k in differences)


def _apart(kernel: Kernel, known: Sequence[GaussianBlock], new: GaussianBlock) -> bool:
    """Whether no known mode holds it: it is out of the bulk of each, or the density dips on the way."""
    x, p = np.asarray(new.mean), new.dimension
    for k in known:
        if (np.asarray(k.whiten(x[None])) ** 2).sum() >= 9 + 3 * p:
            continue
        at = np.asarray(k.mean)
        value = kernel(at + np.linspace(0, 1, 11)[:, None] * (x - at))[0]
        if not value[1:-1].min() < min(value[0], value[-1]) - _DIP:
            return False
    return True
