"""After the fit: weigh q's draws, judge it, repair the draws where they need it.

In order of cost: q as it is; importance weights with learned proposals; short chains, where the weights are
not enough. What the repaired draws are worth is judged by the same step that made them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from lowerbound.algorithms.base import Mode, Status
from lowerbound.diagnostics.chains import LARGEST, Chains, run_chains
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.importance import weigh
from lowerbound.diagnostics.nonfinite import culprits, flat_sites
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus, judge, judge_chains, judge_point, shift_of
from lowerbound.families import Block
from lowerbound.kernel import Kernel

#: Numbers in the draws of all rounds together: half a GiB.
_DRAWN = 2**26
#: ... and in those kept with a posterior.
_KEPT = 2**25


@dataclass(frozen=True, eq=False)
class Assessment:
    """The verdict, and the draws that the posterior reports.

    Attributes:
        verdict: See :class:`~lowerbound.diagnostics.Verdict`.
        source: What reported draws are: ``"q"``, ``"importance"`` (resampled by weight) or ``"chains"``.
        draws, weights: Repaired draws ``[n, p]`` and their weights, which sum to one.
        log_weights: Of the weighted draws of q, unnormalised.
        log_evidence: Importance estimate of log p(x).
        pareto_k: k-hat of the weights.
        effective: Effective number of the repaired draws.
    """

    verdict: Verdict
    source: str
    draws: np.ndarray
    weights: np.ndarray
    log_weights: np.ndarray
    log_evidence: Estimate
    pareto_k: float
    effective: float


def assess(
    kernel: Kernel,
    q: Block,
    status: Status,
    rule: str,
    modes: list[Mode],
    missing: float,
    seed: int,
    num_draws: int | None = None,
) -> Assessment:
    """Weigh, judge and repair. The kernel is the one of the fit; nothing else is compiled.

    Args:
        kernel, q, status, rule, modes: What the fit came to.
        missing: Estimated share of modes that were not met.
        seed: Of the fit.
        num_draws: Draws weighed a round.
    """
    if q.noise_dimension == 0:
        nothing = Estimate(np.nan, np.nan)
        mean = np.asarray(q.mean)[None]
        return Assessment(judge_point(status, rule), "q", mean, np.ones(1), np.empty(0), nothing, np.inf, 1.0)
    p = kernel.dimension
    size = num_draws or max(128, min(2048, _DRAWN // (6 * p) // 64 * 64))
    rounds = 6
    if status is Status.INTERRUPTED:  # whoever pressed Ctrl-C is waiting
        rounds, size = 1, min(size, 2 * kernel.batch)
    weighted = weigh(kernel, q, modes, np.random.default_rng([seed, 1]), rounds=rounds, size=size)
    flat: tuple[str, ...] = ()
    if status is Status.FLAT:
        flat = tuple(flat_sites(kernel, weighted.draws[: kernel.batch])) or _widest(kernel, q)
    shift = shift_of(weighted, q, flat)
    verdict = judge(status, rule, weighted, modes, shift, kernel.model.coordinate_names(), missing)
    chains: Chains | None = None
    if verdict.status is VerdictStatus.NOT_TRUSTED and not verdict.fatal and p <= LARGEST:
        chains = run_chains(kernel, weighted, np.random.default_rng([seed, 3]))
        if chains is not None:
            verdict = judge_chains(verdict, chains, crossing=not modes)
    if status is Status.NOT_FINITE or weighted.bad > 0:
        worst = np.argsort(np.isfinite(weighted.log_density), kind="stable")
        found = culprits(kernel, weighted.draws[worst[: kernel.batch]])
        reasons = tuple(f"not finite somewhere: {f}" for f in found)
        verdict = dataclasses.replace(verdict, reasons=verdict.reasons + reasons)
    keep = slice(0, max(1, _KEPT // p))
    draws, log_weights = weighted.draws[keep], weighted.log_weights[keep]
    weights = np.exp(weighted.smoothed[keep])
    # A draw without weight adds nothing to a mean, and infinity to one if its scale has overflowed.
    heavy = weights > 1e-9 * weights.max()
    draws, weights = draws[heavy], weights[heavy] / weights[heavy].sum()
    source, effective = ("importance" if verdict.trusted else "q"), weighted.effective
    if verdict.status is VerdictStatus.TRUSTED:
        source = "q"
    if chains is not None and chains.usable:
        # Better than q's draws even where the verdict stays NOT_TRUSTED.
        source, draws, effective = "chains", chains.pool(), chains.effective
        weights = np.full(len(draws), 1 / len(draws))
    evidence = Estimate(weighted.log_evidence, weighted.log_evidence_se)
    return Assessment(verdict, source, draws, weights, log_weights, evidence, weighted.pareto_k, effective)


def _widest(kernel: Kernel, q: Block) -> tuple[str, ...]:
    """Sites whose spread is within a factor of 1,000 of the widest."""
    sd = np.sqrt(np.asarray(q.variance()))
    return tuple(kernel.model.sites_of(np.flatnonzero(sd > 1e-3 * sd.max())))
