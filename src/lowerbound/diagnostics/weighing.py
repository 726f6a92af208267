"""Weigh q's draws, judge it by them, and make modes of those of its images that have mass."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from lowerbound.algorithms.base import Mode, Status
from lowerbound.diagnostics.chains.short import Chains
from lowerbound.diagnostics.density.nonfinite import culprits, flat_sites
from lowerbound.diagnostics.modes.each_mode import held, labelled, nearest
from lowerbound.diagnostics.modes.image_modes import image_modes, recognised
from lowerbound.diagnostics.modes.images import Images, Missed
from lowerbound.diagnostics.modes.labellings import relabelled, shares_of
from lowerbound.diagnostics.reported import Columns, Moments
from lowerbound.diagnostics.rules.by_weights import judge
from lowerbound.diagnostics.rules.overruling import about_images
from lowerbound.diagnostics.rules.unweighed import judge_point
from lowerbound.diagnostics.shift import Seen, Shift, shift_of
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus
from lowerbound.diagnostics.weights.importance import Weighted, regressed, weigh
from lowerbound.diagnostics.weights.proposals import Fold
from lowerbound.families import Block, MixtureBlock, ParticleBlock
from lowerbound.kernel import Kernel
from lowerbound.model.sites import SiteMap
from lowerbound.pareto import smooth

#: Share of the weight that other labellings have, or q's own, from which they are told apart, and draws of q for that.
_FEW, _OF_Q = 0.01, 1024
#: Numbers in the draws of all rounds together: half a GiB.
_DRAWN = 2**26


@dataclass(frozen=True, eq=False)
class Weighed:
    """What importance weights say, before any chains.

    Attributes:
        kernel, q, modes: Of the fit.
        verdict: By the weights alone.
        weighted, shift: The weighted draws, and how far they move q's moments; None for a point mass.
        evaluations: Of the log density, before the weights.
        missing: Estimated share of modes that were not met.
        status, rule, num_draws: As they were given.
        columns: What is reported on the constrained space; None where that is the coordinates themselves, or too much.
        weighted_columns: Its weighted moments.
        images: The images of q that were looked at; None before.
        missed: The image that has mass which neither q nor any mode has; None for none.
        one: Whether it is about q's labelling of components that may be exchanged alone: see :func:`of_one_labelling`.
    """

    kernel: Kernel
    q: Block
    modes: list[Mode]
    verdict: Verdict
    weighted: Weighted | None
    shift: Shift | None
    evaluations: int
    missing: float
    status: Status
    rule: str
    num_draws: int | None
    columns: Columns | None = None
    weighted_columns: Moments | None = None
    images: Images | None = None
    missed: Missed | None = None
    one: bool = False


def weigh_up(
    kernel: Kernel,
    q: Block,
    status: Status,
    rule: str,
    modes: list[Mode],
    missing: float,
    seed: int,
    num_draws: int | None = None,
) -> Weighed:
    """Weigh q's draws and judge it by them. The kernel is the one of the fit; nothing else is compiled.

    Args:
        kernel, q, status, rule, modes: What the fit came to.
        missing: Estimated share of modes that were not met.
        seed: Of the fit.
        num_draws: Draws weighed a round.

    Cost: 2,048 to 12,288 evaluations.
    """
    fitted = kernel.evaluations
    if q.noise_dimension == 0:
        point = judge_point(status, rule)
        return Weighed(kernel, q, modes, point, None, None, fitted, missing, status, rule, num_draws)
    whole, q = q, with_density(q)
    size, rounds = _size(kernel, num_draws), 6
    if status in (Status.INTERRUPTED, Status.OUT_OF_TIME):  # somebody is waiting
        rounds, size = 1, min(size, 2 * kernel.batch)
    # A mixture of all the modes has them in it already.
    beside = [] if isinstance(q, MixtureBlock) else modes
    fold = Fold.of(q, modes)
    weighted = weigh(kernel, q, beside, np.random.default_rng([seed, 1]), rounds=rounds, size=size, fold=fold)
    start = Weighed(
        kernel, whole, modes, judge_point(status, rule), weighted, None, fitted, missing, status, rule, num_draws
    )
    return _judged(start, None if rounds == 1 or kernel.late else Columns.of(kernel))


def _judged(weighed: Weighed, columns: Columns | None) -> Weighed:
    """The verdict by the weights that there are."""
    kernel, q, modes, status, weighted = (
        weighed.kernel,
        with_density(weighed.q),
        weighed.modes,
        weighed.status,
        weighed.weighted,
    )
    assert weighted is not None
    shift = shift_of(weighted, q)
    flat: tuple[str, ...] = ()
    if status is Status.FLAT:
        flat = tuple(flat_sites(kernel, weighted.draws[: kernel.batch]) or _widest(kernel, q))
    names, moments, seen = kernel.model.coordinate_names(), None, None
    if columns is not None and np.isfinite(weighted.log_weights).any():
        found, moments = columns.by_weights(weighted, q)
        seen = Seen(columns.names, found)
    beside = [] if isinstance(q, MixtureBlock) else modes
    missing = weighed.missing
    verdict = judge(status, weighed.rule, weighted, beside, shift, names, missing=missing, flat=flat, seen=seen)
    if apart := [m for m in modes if m.separate]:
        verdict = about_images(verdict, [m.image for m in apart], masses := _masses(q, apart, weighted))
        verdict = dataclasses.replace(verdict, modes=masses)
    if status is Status.NOT_FINITE or weighted.bad > 0:
        worst = np.argsort(np.isfinite(weighted.log_density), kind="stable")
        found = culprits(kernel, weighted.draws[worst[: kernel.batch]])
        reasons = tuple(f"not finite somewhere: {f}" for f in found)
        verdict = dataclasses.replace(verdict, reasons=verdict.reasons + reasons)
    return dataclasses.replace(weighed, verdict=verdict, shift=shift, columns=columns, weighted_columns=moments)


def of_one_labelling(weighed: Weighed, chains: Chains | None, seed: int) -> tuple[Weighed, Chains | None] | None:
    """The same draws as those of q's labelling alone; None where they are that, or of any.

    Where components may be exchanged and overlap, draws about q touch other labellings, and moments over all of them
    are those of none. With h, the share that q's labelling has of a point
    (:mod:`~lowerbound.diagnostics.modes.labellings`), K! p h is a density: each draw of the posterior given the
    labelling pi with probability h(pi x). Its weights are w h, and states of chains become draws of it where they are
    given their labelling so.

    Args:
        weighed: What the weights said of all that they touch.
        chains: Short chains, if they were run.
        seed: Of the fit.

    Cost: h at all draws and states, no evaluation.
    """
    weighted, images, q = weighed.weighted, weighed.images, with_density(weighed.q)
    if weighted is None or images is None or not images.groups or weighted.proposal is None:
        return None
    rng = np.random.default_rng([seed, 7])
    shares = shares_of(images.groups, images.sites, labelled(q, weighed.modes), rng)

    def log_h(x: np.ndarray) -> np.ndarray:
        return sum((s.log_prob(x)[0] for s in shares), np.zeros(len(x)))

    h, r = log_h(weighted.draws), weighted.proposal
    kept = float(np.exp(weighted.smoothed) @ np.exp(h))
    if not _FEW < kept < 1 - _FEW or r.draws is None:
        return None
    log_weights = weighted.log_weights + h
    smoothed, k = smooth(log_weights)
    value, se = regressed(r.log_weights + log_h(r.draws), r.densities(r.draws), r.shares)
    # The gap is that from q to the one labelling, of which log h is a part.
    lacking = float(log_h(q.sample(rng, _OF_Q)).mean())
    one = dataclasses.replace(
        weighted,
        log_density=weighted.log_density + h,
        log_weights=log_weights,
        smoothed=smoothed,
        pareto_k=k,
        log_evidence=value,
        log_evidence_se=se,
        elbo=weighted.elbo + lacking,
    )
    found = _judged(dataclasses.replace(weighed, weighted=one, one=True), weighed.columns)
    elbo = weighed.verdict.elbo
    moved = None if chains is None else relabelled(chains, shares, rng)
    return dataclasses.replace(found, verdict=dataclasses.replace(found.verdict, elbo=elbo)), moved


def with_images(weighed: Weighed, seed: int) -> Weighed:
    """With the modes that are images of q, and weighed again if there are any; as it is if that has been done.

    Args:
        weighed: What the weights said.
        seed: Of the fit.

    Cost: 64 evaluations for each image that is tried; for each mode found, that of a walk and of a round of draws.
    """
    kernel, q, weighted = weighed.kernel, with_density(weighed.q), weighed.weighted
    waited_for = weighed.status in (Status.INTERRUPTED, Status.OUT_OF_TIME)
    if weighted is None or weighed.images is not None or weighed.verdict.fatal or waited_for:
        return weighed
    images, size = images_of(kernel, q, seed), _size(kernel, weighed.num_draws)

    def again(modes: list[Mode]) -> Weighted:
        return weigh(kernel, q, modes, np.random.default_rng([seed, 1]), rounds=1, size=size, fold=Fold.of(q, modes))

    modes = recognised(images, q, weighed.modes)
    missed = images.missed(weighted, labelled(q, modes))
    new = image_modes(images, missed, q, modes, weighted.elbo, again) if missed or any(m.moves for m in modes) else []
    if new or (modes is not weighed.modes and weighed.verdict.status is not VerdictStatus.TRUSTED):
        modes = [*modes, *new]
        fit = (weighed.status, weighed.rule, modes, weighed.missing, seed, weighed.num_draws)
        weighed = dataclasses.replace(weigh_up(kernel, weighed.q, *fit), evaluations=weighed.evaluations)
        assert weighed.weighted is not None
        missed = images.missed(weighed.weighted, labelled(q, modes))
    return dataclasses.replace(weighed, images=images, missed=missed[0] if missed else None)


def images_of(kernel: Kernel, q: Block, seed: int) -> Images:
    return Images(kernel, SiteMap(kernel.model.sites, kernel.model.deterministics, kernel.model), q, seed)


def _size(kernel: Kernel, num_draws: int | None) -> int:
    """Draws of a round."""
    return num_draws or max(128, min(2048, _DRAWN // (6 * kernel.dimension) // 64 * 64))


def with_density(q: Block) -> Block:
    """q, or for particles the Gaussian with their moments."""
    return q.gaussian if isinstance(q, ParticleBlock) else q


def _masses(q: Block, modes: list[Mode], weighted: Weighted) -> tuple[float, ...]:
    """Posterior mass of each mode: the weight of the draws that are nearest to it, q's own first."""
    each = held(q, modes)
    labels = nearest(each, weighted.draws)
    mass = np.bincount(labels, weights=np.exp(weighted.smoothed), minlength=len(each))
    return tuple(float(m) for m in mass / mass.sum())


def _widest(kernel: Kernel, q: Block) -> tuple[str, ...]:
    """Sites whose spread is within a factor of 1,000 of the widest."""
    sd = np.sqrt(np.asarray(q.variance()))
    return tuple(kernel.model.sites_of(np.flatnonzero(sd > 1e-3 * sd.max())))
