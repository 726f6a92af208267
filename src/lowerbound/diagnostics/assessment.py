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

from lowerbound.algorithms.base import Status
from lowerbound.diagnostics.chains.short import MISSED, Chains, missed, run_chains
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.heavy import draws_that_tell, heavy_deterministics, heavy_parameters
from lowerbound.diagnostics.modes.each_mode import held, labelled, unlike
from lowerbound.diagnostics.modes.labellings import all_labellings
from lowerbound.diagnostics.particles import examine, judge_particles
from lowerbound.diagnostics.rules.by_chains import judge_chains
from lowerbound.diagnostics.rules.overruling import judge_image, judge_modes, judge_tails, judge_unchecked
from lowerbound.diagnostics.rules.unweighed import judge_exact, judge_itself, judge_unweighed
from lowerbound.diagnostics.shift import Seen, drift
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus
from lowerbound.diagnostics.weighing import Weighed, images_of, of_one_labelling, with_density
from lowerbound.diagnostics.weights.evidence import Evidence, sandwich
from lowerbound.diagnostics.weights.proposals import Fold
from lowerbound.families import Block, ParticleBlock, TransportedBlock

#: Numbers in the draws that are kept with a posterior: a quarter of a GiB.
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


def assess_exact(weighed: Weighed, seed: int) -> Assessment | None:
    """Of a q that is the posterior by the form of the model, which all draws bear out: the log density is log q and a
    constant, to rounding, wherever a draw has been, and that is the log evidence. None where it is not; chains have
    nothing to add where it is.

    Args:
        weighed: What the weights said.
        seed: Of the fit.
    """
    w, verdict = weighed.weighted, weighed.verdict
    if w is None or w.bad > 0 or not verdict.converged:
        return None
    apart = w.log_density - np.asarray(weighed.q.log_prob(w.draws))
    near = w.smoothed > w.smoothed.max() - _NEAR
    apart, size = apart[near], 1 + np.abs(w.log_density[near])
    if not (np.abs(apart - np.median(apart)) <= _ROUNDING * size).all():
        return None
    exact = Estimate(float(np.median(apart)), 0.0)
    verdict = judge_exact(verdict, len(apart), float(np.ptp(apart)))
    return dataclasses.replace(
        _report(weighed, weighed.q, verdict, None, seed),
        log_evidence=exact,
        evidence=Evidence(exact, exact, 1, "q is the posterior"),
    )


def assess(weighed: Weighed, seed: int, *, patience: int = 1) -> Assessment:
    """Check by short chains what the weights said, repair the draws where that is needed, and report.

    Args:
        weighed: What the weights said.
        seed: Of the fit.
        patience: How many times as much as usual the chains may cost.

    Cost: what the fit cost, or about two seconds, whichever is more; above 100 dimensions up to twice what
    it cost. As much again where several modes are known, for the chains inside each.
    """
    kernel, verdict, q = weighed.kernel, weighed.verdict, with_density(weighed.q)
    if weighed.weighted is None or weighed.shift is None:
        return _point(weighed.q, verdict)
    if verdict.fatal:
        return _report(weighed, q, _of_particles(verdict, weighed), None, seed)
    price, fitted = kernel.price, weighed.evaluations
    if isinstance(q, TransportedBlock):  # fitted with hundreds of thousands of them, which is no measure
        price, fitted = price + _TRANSPORT, 0
    times = _TIMES if kernel.dimension > _LARGE else 1
    budget = int(patience * max(times * fitted, _FREE / price))
    rng, modes = np.random.default_rng([seed, 3]), weighed.modes
    fold = Fold.of(q, modes)
    chains = run_chains(kernel, q, weighed.weighted, rng, modes=modes, budget=budget, patience=patience, fold=fold)
    found = _assessed(weighed, chains, rng, budget, seed)
    if not found.verdict.trusted and (one := of_one_labelling(weighed, chains, seed)) is not None:
        again = _assessed(*one, rng, budget, seed)
        if again.verdict.trusted:
            return again
    return found


def _assessed(weighed: Weighed, chains: Chains | None, rng: np.random.Generator, budget: int, seed: int) -> Assessment:
    """The assessment, with the chains that were run."""
    kernel, q, verdict, weighted = weighed.kernel, with_density(weighed.q), weighed.verdict, weighed.weighted
    assert weighted is not None
    several = any(m.separate for m in weighed.modes)
    if chains is not None:
        chains = dataclasses.replace(chains, missed=missed(chains, q, weighted))
    if chains is None and isinstance(q, TransportedBlock) and verdict.trusted and not several:
        verdict = judge_unchecked(verdict)
    if several and verdict.trusted and (chains is None or not chains.mixed):
        said = unlike(kernel, held(q, weighed.modes), weighted, rng, budget=budget)
        verdict = judge_modes(verdict, said)
    if chains is not None and several and not chains.mixed:
        chains = None  # they stay where they began, as chains do between modes
    if chains is not None and chains.missed >= MISSED and verdict.trusted:
        chains = None  # the weights have been where the chains were not
    if chains is not None:
        verdict = _checked(verdict, chains, q, weighed, seed)
    return _report(weighed, q, _of_particles(verdict, weighed), chains, seed)


def _of_particles(verdict: Verdict, weighed: Weighed) -> Verdict:
    """With what is to be said of particles, where q is some."""
    if not isinstance(weighed.q, ParticleBlock) or weighed.weighted is None:
        return verdict
    return judge_particles(verdict, examine(weighed.kernel, weighed.q), weighed.weighted.effective)


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
    return judge_chains(verdict, chains, from_q, reported, names, seen=seen, even=weighted.even)


def _report(weighed: Weighed, q: Block, verdict: Verdict, chains: Chains | None, seed: int) -> Assessment:
    """The draws that the verdict is about, and what was done to them."""
    kernel, modes, weighted = weighed.kernel, weighed.modes, weighed.weighted
    assert weighted is not None
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
    images = weighed.images or images_of(kernel, q, seed)
    sites = images.sites
    if (telling := draws_that_tell(verdict, weighted, chains)) is not None:
        own = q if source == "q" else None
        heavy = heavy_parameters(
            kernel,
            sites,
            own,
            verdict,
            telling,
            mixed=chains is not None and chains.mixed,
            modes=held(q, modes) if any(m.separate for m in modes) else (),
        )
        verdict = judge_tails(verdict, heavy, heavy_deterministics(weighed.columns, telling))
    # (Between images of one another chains do cross.)
    one = Fold.of(q, modes) is not None or not any(m.separate for m in modes)
    evidence = sandwich(weighted, chains, one_mode=one)
    total = Estimate(weighted.log_evidence, weighted.log_evidence_se)
    if kernel.model.summed and not verdict.fatal:
        total, evidence, said, unseen = all_labellings(
            kernel,
            sites,
            images.groups,
            labelled(q, modes),
            weighted,
            chains,
            total,
            evidence,
            (draws, weights),
            seed,
            one=weighed.one,
        )
        verdict = dataclasses.replace(
            verdict, reasons=(*verdict.reasons, *said), not_checked=(*verdict.not_checked, *unseen)
        )
    if not verdict.fatal and weighed.missed is not None:
        verdict = judge_image(verdict, weighed.missed.share, weighed.missed.said)
        evidence = dataclasses.replace(evidence, upper=None, condition="an image of q has mass that q has not")
    return Assessment(
        verdict, source, draws, weights, log_weights, total, evidence, weighted.pareto_k, effective, corrections
    )


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
