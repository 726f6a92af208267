"""After the fit of a network: its rows judged, their gap parted in two, shared latents weighed, draws repaired.

In order: weights of a sample of rows by the network's blocks; the two parts of the gap, on some of them; where that is
not enough and the rows are few, every row's block refined by itself, whose weights are better; the shared latents; and
for CORRECTED, draws of all rows by the weights of whichever blocks have the better ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import logsumexp

from lowerbound.algorithms.base import Status
from lowerbound.algorithms.row_refinement import Refiner
from lowerbound.algorithms.row_weights import RowWeights
from lowerbound.diagnostics.assessment import Assessment, Correction
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.rows.checks import DRAWS, ENDED_BADLY, SAMPLED, RowChecks, check_rows, judge_rows
from lowerbound.diagnostics.rows.gap import row_gap
from lowerbound.diagnostics.rows.shared_latents import BUDGET, SharedChecks, check_shared, judge_shared, weights_at
from lowerbound.diagnostics.verdict import VerdictStatus
from lowerbound.diagnostics.weights.evidence import Evidence
from lowerbound.precision import float32

#: Rows whose gap is parted.
_PARTED = 64
#: Gradients that may be spent on refining all rows where the network's blocks are not enough, however little the fit
#: took (a second or two of a small model), and as multiples of its evaluations.
_FREE, _TIMES = 2**22, 4
#: Weighted draws of each row that a posterior keeps, as far as all of them are no more than so many numbers.
_KEPT, _NUMBERS = 200, 2**24
#: Draws that those are chosen from; where rows share latents, for each draw of theirs, at least and at most.
_CHOICE, _GIVEN = 256, (8, 32)
#: Draws of shared latents and, for each, of a row, behind the ELBO.
_SHARED, _EACH = 16, 16


def assess_rows(
    problem: RowWeights,
    learned: Any,
    status: Status,
    rule: str,
    location: np.ndarray,
    scale: np.ndarray,
    seed: int,
    late: Callable[[], bool] = lambda: False,
) -> Assessment:
    """The verdict on an amortized q and, where it is CORRECTED, repaired draws.

    Args:
        problem: Rows and network.
        learned: What was learned.
        status, rule: How the fit ended, and its stopping rule.
        location, scale: The network's blocks of all rows ``[n, d]``.
        seed: Of the fit.
        late: Whether the time is up: nothing is refined then, and no shared latent weighed.

    Cost: 10^6 evaluations of a row, and as many as the fit took, or some seconds, where draws have to be repaired.
    """
    rows, fitted = problem.rows, problem.evaluations
    n = rows.size
    rng = np.random.default_rng([seed, 23])
    looked = np.sort(rng.choice(n, min(SAMPLED, n), replace=False))
    q = problem.shared_block(learned)
    noise = problem.noise(rng, len(looked), DRAWS)
    drawn = problem.draw_shared(learned, rng, len(looked))

    def checked(blocks: tuple[np.ndarray, np.ndarray]) -> tuple[RowChecks, np.ndarray]:
        with float32():
            w, rest = problem(learned, None, looked, noise, drawn, (blocks[0][looked], blocks[1][looked]))
        return check_rows(w, sampled=len(looked) < n), rest

    blocks, gap, better = (location, scale), None, None
    checks, rest = checked(blocks)
    outside = float(rest.mean() + q.entropy())
    if status not in ENDED_BADLY and not late():
        some = np.sort(rng.choice(looked, min(_PARTED, len(looked)), replace=False))
        gap = row_gap(problem, learned, None, some, sampled=len(some) < n, seed=seed)
    verdict = judge_rows(status, rule, checks, n, gap)
    refiner = Refiner(problem, learned, seed)
    affordable = refiner.cost(n) <= max(_FREE, _TIMES * fitted)
    if gap is not None and verdict.status is not VerdictStatus.TRUSTED and affordable:
        found = refiner(None, np.arange(n), location, scale)
        better, _ = checked((found.location, found.scale))
        if better.rank < checks.rank:
            blocks = found.location, found.scale
            verdict = judge_rows(status, rule, checks, n, gap, better)
    evidence = Estimate(n * checks.log_evidence.value + outside, n * checks.log_evidence.se)
    elbo = Estimate(verdict.elbo.value + outside, verdict.elbo.se)
    shared: SharedChecks | None = None
    if problem.shared:
        elbo = _elbo(problem, learned, looked, rng)
        names = [rows.model.coordinate_names()[i] for i in rows.shared_places]
        if not late() and status not in ENDED_BADLY:
            shared = check_shared(problem, learned, blocks, seed)
        verdict = judge_shared(verdict, shared, names, n)
        if shared is not None:
            evidence = shared.log_evidence
    verdict = dataclasses.replace(verdict, elbo=elbo)
    bounds = Evidence(evidence, None, DRAWS, "no draw of the posterior of every row is known")
    k = max(float(np.max((better if blocks[0] is not location and better else checks).pareto_k)), _k(shared))
    if verdict.status is VerdictStatus.CORRECTED and rows.model.dimension * _KEPT > _NUMBERS:
        verdict = dataclasses.replace(
            verdict,
            status=VerdictStatus.NOT_TRUSTED,
            next_step="a larger network, or fewer rows: these are too many to keep weighted draws of all.",
        )
    if verdict.status is not VerdictStatus.CORRECTED:
        none = np.zeros((1, rows.model.dimension))
        return Assessment(verdict, "q", none, np.ones(1), np.empty(0), evidence, bounds, k, 1.0)
    if shared is None:
        draws, effective, said = _by_row(problem, learned, blocks, rng)
    else:
        draws, effective, said = _given_shared(problem, learned, blocks, shared, rng)
    if blocks[0] is not location:
        said += "; each row's block refined by itself"
    even = np.full(len(draws), 1 / len(draws))
    corrections = (Correction("importance", said),)
    return Assessment(verdict, "importance", draws, even, np.empty(0), evidence, bounds, k, effective, corrections)


def _k(shared: SharedChecks | None) -> float:
    return -np.inf if shared is None else shared.pareto_k


def _elbo(problem: RowWeights, learned: Any, looked: np.ndarray, rng: np.random.Generator) -> Estimate:
    """The ELBO where rows share latents: each row at draws of its own."""
    n, r = problem.rows.size, len(looked)
    q = problem.shared_block(learned)
    drawn = problem.draw_shared(learned, rng, r, _SHARED)
    with float32():
        w, rest = problem(learned, None, np.repeat(looked, _SHARED), problem.noise(rng, r * _SHARED, _EACH), drawn)
    each = (n * w.mean(1) + rest).reshape(r, 2, _SHARED // 2).mean(1)
    # Of a sample of rows the error is that of sampling them; of all rows, that of the draws.
    of_draws = np.sqrt(each.var(1, ddof=1).sum() / each.shape[1]) / r
    se = each.mean(1).std() / np.sqrt(r) if r < n else of_draws
    return Estimate(float(each.mean() + q.entropy()), float(se))


def _by_row(problem: RowWeights, learned: Any, blocks: Any, rng: np.random.Generator) -> tuple[np.ndarray, float, str]:
    """Draws ``[kept, p]`` of rows that share nothing, each resampled by its weights."""
    n, d = problem.rows.size, problem.rows.dimension
    pool, sizes = np.empty((_KEPT, n, d)), np.empty(n)
    for i in range(0, n, SAMPLED):
        index = np.arange(i, min(i + SAMPLED, n))
        noise = problem.noise(rng, len(index), _CHOICE)
        with float32():
            w = problem(learned, None, index, noise, blocks=(blocks[0][index], blocks[1][index]))[0]
        w = np.exp(w - logsumexp(w, 1, keepdims=True))
        sizes[index] = 1 / (w**2).sum(1)
        # Systematic resampling, each row by itself and shuffled, so that rows stay independent.
        points = (np.arange(_KEPT) + rng.random((len(index), 1))) / _KEPT
        for r, row in enumerate(index):
            chosen = np.minimum(np.searchsorted(np.cumsum(w[r]), points[r]), _CHOICE - 1)
            pool[:, row] = blocks[0][row] + blocks[1][row] * noise[r, rng.permutation(chosen)]
    effective = float(np.median(sizes))
    said = f"draws of each row resampled by their weights: {effective:.0f} of {_CHOICE} effective in the median row"
    return problem.rows.flat(pool), effective, said


def _given_shared(
    problem: RowWeights, learned: Any, blocks: Any, shared: SharedChecks, rng: np.random.Generator
) -> tuple[np.ndarray, float, str]:
    """Draws ``[kept, p]``: shared latents resampled by their weights, then each row's by its own given those."""
    n, d = problem.rows.size, problem.rows.dimension
    choice = int(np.clip(BUDGET // (n * _KEPT), *_GIVEN))
    # Systematic resampling along the first latent, so that its moments are kept as far as the draws go.
    order = np.argsort(shared.draws[:, 0])
    edges = np.cumsum(np.exp(shared.log_weights[order]))
    places = np.searchsorted(edges, (np.arange(_KEPT) + rng.random()) / _KEPT * edges[-1])
    g = shared.draws[rng.permutation(order[np.minimum(places, len(order) - 1)])]
    pool = np.empty((_KEPT, n, d))
    drawn: list[np.ndarray] = []

    def noise(size: int) -> np.ndarray:
        drawn.append(problem.noise(rng, size * n, choice))
        return drawn[-1]

    for i, w, _ in weights_at(problem, learned, blocks, g, noise):
        # The largest of log weights plus Gumbel noise is a draw by the weights.
        chosen = (w + rng.gumbel(size=w.shape)).argmax(2)
        e = np.take_along_axis(drawn.pop().reshape(*w.shape, d), chosen[..., None, None], 2)[:, :, 0]
        pool[i : i + len(w)] = blocks[0] + blocks[1] * e
    said = (
        f"shared latents resampled by their weights, {shared.effective:.0f} of {len(shared.draws):,} effective, and "
        f"each row's given them, from {choice} draws"
    )
    return problem.rows.flat(pool, g), min(shared.effective, float(_KEPT)), said
