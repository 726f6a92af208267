"""After the fit: weigh q's draws, judge it, repair the draws where they need it.

In order of cost: q as it is; importance weights with learned proposals; short chains, which check what the
weights said, and repair what they could not. What the repaired draws are worth is judged by the same step that
made them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lowerbound.algorithms.base import Mode, Status
from lowerbound.diagnostics.chains.short import MISSED, Chains, missed, run_chains
from lowerbound.diagnostics.density.nonfinite import culprits, flat_sites
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.heavy import draws_that_tell, heavy_deterministics, heavy_parameters
from lowerbound.diagnostics.modes.each_mode import nearest, unlike
from lowerbound.diagnostics.modes.images import missed_image
from lowerbound.diagnostics.modes.labellings import all_labellings
from lowerbound.diagnostics.particles import examine, judge_particles
from lowerbound.diagnostics.reported import Columns, Moments
from lowerbound.diagnostics.rules.by_chains import judge_chains
from lowerbound.diagnostics.rules.by_weights import judge
from lowerbound.diagnostics.rules.overruling import judge_image, judge_modes, judge_tails, judge_unchecked
from lowerbound.diagnostics.rules.unweighed import judge_exact, judge_itself, judge_point, judge_unweighed
from lowerbound.diagnostics.shift import Seen, Shift, drift, shift_of
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus
from lowerbound.diagnostics.weights.evidence import Evidence, sandwich
from lowerbound.diagnostics.weights.importance import Weighted, weigh
from lowerbound.families import Block, DiagonalGaussian, GaussianBlock, MixtureBlock, ParticleBlock, TransportedBlock
from lowerbound.kernel import Kernel
from lowerbound.model.sites import SiteMap

#: Numbers in the draws of all rounds together: half a GiB.
_DRAWN = 2**26
#: ... and in those kept with a posterior.
_KEPT = 2**25
#: Arithmetic that the chains may cost however little the fit did: about two seconds of it.
_FREE = 1.2e10
#: ... and in more than so many dimensions, as multiples of what the fit did: weights alone say little there.
_LARGE, _TIMES = 100, 2
#: Relative difference that is rounding, and nats below the largest weight from which a draw tells nothing.
_ROUNDING, _NEAR = 1e-10, 30.0
#: What an evaluation costs more where the chains move in the noise of a flow.
_TRANSPORT = 4e5


class Correction(NamedTuple):
    """One thing that was done to the draws.

    Attributes:
        name: ``"importance"``, ``"chains"``, ``"control_variates"``, ``"reparameterisation"``, ``"family"``.
        sentence: What it was, with its numbers.
    """

    name: str
    sentence: str


@dataclass(frozen=True, eq=False)
class Assessment:
    """The verdict, and the draws that the posterior reports.

    Attributes:
        verdict: See :class:`~lowerbound.diagnostics.Verdict`.
        source: What reported draws are: ``"q"``, ``"importance"`` (resampled by weight) or ``"chains"``.
        draws, weights: Repaired draws ``[n, p]`` and their weights, which sum to one.
        log_weights: Of the weighted draws of q, unnormalised.
        log_evidence: Importance estimate of log p(x).
        evidence: Bounds of log p(x).
        pareto_k: k-hat of the weights.
        effective: Effective number of the repaired draws.
        corrections: What was done to the draws, in order.
    """

    verdict: Verdict
    source: str
    draws: np.ndarray
    weights: np.ndarray
    log_weights: np.ndarray
    log_evidence: Estimate
    evidence: Evidence
    pareto_k: float
    effective: float
    corrections: tuple[Correction, ...] = ()


@dataclass(frozen=True, eq=False)
class Weighed:
    """What importance weights say, before any chains.

    Attributes:
        kernel, q, modes: Of the fit.
        verdict: By the weights alone.
        weighted, shift: The weighted draws, and how far they move q's moments; None for a point mass.
        evaluations: Of the log density, before the weights.
        missing: Estimated share of modes that were not met.
        columns: What is reported on the constrained space; None where that is the coordinates themselves, or too much.
        weighted_columns: Its weighted moments.
    """

    kernel: Kernel
    q: Block
    modes: list[Mode]
    verdict: Verdict
    weighted: Weighted | None
    shift: Shift | None
    evaluations: int
    missing: float = 0.0
    columns: Columns | None = None
    weighted_columns: Moments | None = None


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
        return Weighed(kernel, q, modes, judge_point(status, rule), None, None, fitted)
    whole, q = q, _with_density(q)
    p = kernel.dimension
    size = num_draws or max(128, min(2048, _DRAWN // (6 * p) // 64 * 64))
    rounds = 6
    if status in (Status.INTERRUPTED, Status.OUT_OF_TIME):  # somebody is waiting
        rounds, size = 1, min(size, 2 * kernel.batch)
    # A mixture of all the modes has them in it already.
    beside = [] if isinstance(q, MixtureBlock) else modes
    weighted = weigh(kernel, q, beside, np.random.default_rng([seed, 1]), rounds=rounds, size=size)
    shift = shift_of(weighted, q)
    flat: tuple[str, ...] = ()
    if status is Status.FLAT:
        flat = tuple(flat_sites(kernel, weighted.draws[: kernel.batch]) or _widest(kernel, q))
    names = kernel.model.coordinate_names()
    columns, moments, seen = None if rounds == 1 or kernel.late else Columns.of(kernel), None, None
    if columns is not None and np.isfinite(weighted.log_weights).any():
        found, moments = columns.by_weights(weighted, q)
        seen = Seen(columns.names, found)
    verdict = judge(status, rule, weighted, beside, shift, names, missing=missing, flat=flat, seen=seen)
    if apart := [m for m in modes if m.separate]:
        verdict = dataclasses.replace(verdict, modes=_masses(q, apart, weighted))
    if status is Status.NOT_FINITE or weighted.bad > 0:
        worst = np.argsort(np.isfinite(weighted.log_density), kind="stable")
        found = culprits(kernel, weighted.draws[worst[: kernel.batch]])
        reasons = tuple(f"not finite somewhere: {f}" for f in found)
        verdict = dataclasses.replace(verdict, reasons=verdict.reasons + reasons)
    return Weighed(kernel, whole, modes, verdict, weighted, shift, fitted, missing, columns, moments)


def exactly(weighed: Weighed) -> Weighed | None:
    """With the verdict that q is the posterior, where the form of the model says so and all draws bear it out: the log
    density is log q and a constant, to rounding, wherever a draw has been. None where it is not.
    """
    w, verdict = weighed.weighted, weighed.verdict
    if w is None or w.bad > 0 or not verdict.converged:
        return None
    apart = w.log_density - np.asarray(weighed.q.log_prob(w.draws))
    near = w.smoothed > w.smoothed.max() - _NEAR
    apart, size = apart[near], 1 + np.abs(w.log_density[near])
    if not (np.abs(apart - np.median(apart)) <= _ROUNDING * size).all():
        return None
    return dataclasses.replace(weighed, verdict=judge_exact(verdict, int(near.sum()), float(np.ptp(apart))))


def assess(weighed: Weighed, seed: int, *, patience: int = 1, check: bool = True) -> Assessment:
    """Check by short chains what the weights said, repair the draws where that is needed, and report.

    Args:
        weighed: What the weights said.
        seed: Of the fit.
        patience: How many times as much as usual the chains may cost.
        check: Whether there is anything to check.

    Cost: what the fit cost, or about two seconds, whichever is more; above 100 dimensions up to twice what
    it cost. As much again where several modes are known, for the chains inside each.
    """
    kernel, q, modes, verdict, weighted = weighed.kernel, weighed.q, weighed.modes, weighed.verdict, weighed.weighted
    if weighted is None or weighed.shift is None:
        return _point(q, verdict)
    whole, q = q, _with_density(q)
    chains, several = None, any(m.separate for m in modes)
    if check and not verdict.fatal:
        price, fitted = kernel.price, weighed.evaluations
        if isinstance(q, TransportedBlock):  # fitted with hundreds of thousands of them, which is no measure
            price, fitted = price + _TRANSPORT, 0
        times = _TIMES if kernel.dimension > _LARGE else 1
        budget = int(patience * max(times * fitted, _FREE / price))
        rng = np.random.default_rng([seed, 3])
        chains = run_chains(kernel, q, weighted, rng, modes=modes, budget=budget, patience=patience)
        if chains is not None:
            chains = dataclasses.replace(chains, missed=missed(chains, q, weighted))
        if chains is None and isinstance(q, TransportedBlock) and verdict.trusted and not several:
            verdict = judge_unchecked(verdict)
        if several and verdict.trusted and (chains is None or not chains.mixed):
            said = unlike(kernel, _held(q, modes), weighted, rng, budget=budget)
            verdict = judge_modes(verdict, said)
        if chains is not None and several and not chains.mixed:
            chains = None  # they stay where they began, as chains do between modes
        if chains is not None and chains.missed >= MISSED and verdict.trusted:
            chains = None  # the weights have been where the chains were not
        if chains is not None:
            verdict = _checked(verdict, chains, q, weighed, seed)
    if isinstance(whole, ParticleBlock):
        verdict = judge_particles(verdict, examine(kernel, whole), weighted.effective)
    return _report(kernel, q, verdict, weighted, chains, seed, one_mode=not several, columns=weighed.columns)


def _with_density(q: Block) -> Block:
    """q, or for particles the Gaussian with their moments."""
    return q.gaussian if isinstance(q, ParticleBlock) else q


def _checked(verdict: Verdict, chains: Chains, q: Block, weighed: Weighed, seed: int) -> Verdict:
    """The verdict after the chains: their shift from q, and from what would be reported."""
    names, shift, weighted = weighed.kernel.model.coordinate_names(), weighed.shift, weighed.weighted
    assert shift is not None and weighted is not None
    mean, sd = np.asarray(q.mean), np.sqrt(np.asarray(q.variance()))
    from_q = drift(chains, mean, sd)
    reported = from_q
    if verdict.status is VerdictStatus.CORRECTED:
        reported = drift(chains, shift.weighted_mean, shift.weighted_sd, weighted.effective)
    columns, seen = weighed.columns, None
    if columns is not None and weighed.weighted_columns is not None:
        own = Seen(columns.names, columns.by_chains(chains, columns.of_q(q, seed)))
        seen = own, own
        if verdict.status is VerdictStatus.CORRECTED:
            seen = own, Seen(columns.names, columns.by_chains(chains, weighed.weighted_columns))
    return judge_chains(verdict, chains, from_q, reported, names, seen=seen)


def _report(
    kernel: Kernel,
    q: Block,
    verdict: Verdict,
    weighted: Weighted,
    chains: Chains | None,
    seed: int,
    *,
    one_mode: bool,
    columns: Columns | None,
) -> Assessment:
    """The draws that the verdict is about, and what was done to them."""
    keep = slice(0, max(1, _KEPT // kernel.dimension))
    draws, log_weights = weighted.draws[keep], weighted.log_weights[keep]
    weights = np.exp(weighted.smoothed[keep])
    # A draw without weight adds nothing to a mean, and infinity to one if its scale has overflowed.
    heavy = weights > 1e-9 * weights.max()
    draws, weights = draws[heavy], weights[heavy] / weights[heavy].sum()
    source, effective = "q", weighted.effective
    corrections: tuple[Correction, ...] = ()
    by_weights = verdict.status is VerdictStatus.CORRECTED and verdict.effective == weighted.effective
    if by_weights:
        source = "importance"
        said = f"Pareto-smoothed importance resampling of {len(weighted.draws)} draws, {effective:.0f} effective"
        corrections = (Correction("importance", said),)
    elif chains is not None and chains.usable and verdict.status is not VerdictStatus.TRUSTED:
        # Better than q's draws even where the verdict stays NOT_TRUSTED.
        source, draws, effective = "chains", chains.pool(), chains.effective
        weights = np.full(len(draws), 1 / len(draws))
        steps, count, _ = chains.draws.shape
        said = f"the states of {count} short Hamiltonian chains, {steps} transitions each, {effective:.0f} effective"
        controlled = f"Stein control variates: Monte Carlo errors of at most {chains.error:.2g} sd"
        corrections = (Correction("chains", said), Correction("control_variates", controlled))
    sites = SiteMap(kernel.model.sites, kernel.model.deterministics, kernel.model)
    if (telling := draws_that_tell(verdict, weighted, chains)) is not None:
        own = q if source == "q" else None
        heavy = heavy_parameters(kernel, sites, own, verdict, telling, mixed=chains is not None and chains.mixed)
        verdict = judge_tails(verdict, heavy, heavy_deterministics(columns, telling))
    evidence = sandwich(weighted, chains, one_mode=one_mode)
    total = Estimate(weighted.log_evidence, weighted.log_evidence_se)
    if kernel.model.summed and not verdict.fatal:
        total, evidence, said, unseen = all_labellings(kernel, sites, q, weighted, chains, total, evidence, seed)
        verdict = dataclasses.replace(
            verdict, reasons=(*verdict.reasons, *said), not_checked=(*verdict.not_checked, *unseen)
        )
    if not verdict.fatal and (image := missed_image(kernel, sites, q, weighted, seed)) is not None:
        verdict = judge_image(verdict, *image)
        evidence = dataclasses.replace(evidence, upper=None, condition="an image of q has mass that q has not")
    return Assessment(
        verdict, source, draws, weights, log_weights, total, evidence, weighted.pareto_k, effective, corrections
    )


def _masses(q: Block, modes: list[Mode], weighted: Weighted) -> tuple[float, ...]:
    """Posterior mass of each mode: the weight of the draws that are nearest to it, q's own first."""
    held = _held(q, modes)
    labels = nearest(held, weighted.draws)
    mass = np.bincount(labels, weights=np.exp(weighted.smoothed), minlength=len(held))
    return tuple(float(m) for m in mass / mass.sum())


def _held(q: Block, modes: list[Mode]) -> list[GaussianBlock]:
    """A Gaussian for each mode: q's own first."""
    if isinstance(q, MixtureBlock):
        return list(q.components)
    own = q if isinstance(q, GaussianBlock) else DiagonalGaussian(np.asarray(q.mean), np.sqrt(np.asarray(q.variance())))
    return [own, *(m.gaussian for m in modes if m.separate)]


def unchecked(q: Block, status: Status, rule: str, why: str) -> Assessment:
    """q as it is, with a verdict that says that nothing was checked.

    Args:
        q, status, rule: What the fit came to.
        why: Why not.
    """
    verdict = judge_unweighed(status, rule, why)
    nothing = Estimate(np.nan, np.nan)
    none = Evidence(Estimate(-np.inf, 0.0), None, 0, "nothing was weighed")
    # (No pool of draws: those that are reported are fresh ones of q.)
    return Assessment(verdict, "q", np.zeros((1, q.dimension)), np.ones(1), np.empty(0), nothing, none, np.inf, 1.0)


def itself(status: Status, rule: str, elbo: float) -> Assessment:
    """Where q is the posterior by construction, one block of independent discrete latents: its ELBO is the evidence."""
    verdict, exact = judge_itself(status, rule), Estimate(elbo, 0.0)
    sandwiched = Evidence(exact, exact, 1, "q is the posterior")
    return Assessment(verdict, "q", np.zeros((1, 0)), np.ones(1), np.empty(0), exact, sandwiched, -np.inf, 1.0)


def _point(q: Block, verdict: Verdict) -> Assessment:
    nothing = Estimate(np.nan, np.nan)
    mean = np.asarray(q.mean)[None]
    none = Evidence(Estimate(-np.inf, 0.0), None, 0, "a point mass has no evidence bound")
    return Assessment(verdict, "q", mean, np.ones(1), np.empty(0), nothing, none, np.inf, 1.0)


def _widest(kernel: Kernel, q: Block) -> tuple[str, ...]:
    """Sites whose spread is within a factor of 1,000 of the widest."""
    sd = np.sqrt(np.asarray(q.variance()))
    return tuple(kernel.model.sites_of(np.flatnonzero(sd > 1e-3 * sd.max())))
