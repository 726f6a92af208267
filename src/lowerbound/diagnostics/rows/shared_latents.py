r"""How far the Gaussian of latents that all rows share can be trusted: weights of its draws, the rows integrated out.

For a draw g of a proposal r, with K draws z_ik of each row's block,

    log W(g) = log p(g) + sum_i log (1/K) sum_k p(x_i, z_ik | g) / q(z_ik | x_i) - log r(g)

is the log of an unbiased estimate of p(x, g) / r(g): a *pseudo-marginal* weight, which judges g as an ordinary one
would, without the rows' latents in it. Half of the draws are q's, half those of a Student-t about it. The noise of z is
the same for every g, so that differences between draws have little of it, and is stratified and mirrored, so that what
is linear in z has none; what is left tilts the weights, by about as many sds as it has nats. It is measured row by row,
where the two halves of the K draws disagree, and adds up over rows as independent errors do. (To give it variance one
as well would tilt them more: a few draws of variance one have lighter tails than a normal's.)

Rules: the shared latents are TRUSTED if k-hat < 0.5 and weighting moves no mean by more than 0.1 sd and no log sd by
more than 0.1; CORRECTED if k-hat < 0.7 and 100 draws are effective; NOT_TRUSTED otherwise, and where the noise of
log W is above 0.15 nats or the rows are too many for :data:`_LEAST` draws of each: then they were not checked.

Source: Andrieu & Roberts (2009), pseudo-marginal weights; Deligiannidis, Doucet & Pitt (2018), common noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import logsumexp, ndtri

from lowerbound.algorithms.row_weights import RowWeights
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.rules.thresholds import DRIFT, GOOD_K, USABLE_K
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus, few
from lowerbound.diagnostics.weights.proposals import Component
from lowerbound.pareto import effective_size, smooth
from lowerbound.precision import float32

#: Evaluations of a row's density that the check may cost.
BUDGET = 2**23
#: Draws of g, and of each row for each of them.
_FEWEST, _MOST, _LEAST, _ROW_DRAWS = 256, 1024, 8, 64
#: Effective draws of g behind corrected ones: a Monte Carlo error of 0.1 sd.
ENOUGH = 100
#: Standard deviation of the noise in log W, in nats, that weights bear.
NOISE = 0.15
_DEGREES = 4.0
#: Rows times draws of g in one call.
_PACKED = 2048


@dataclass(frozen=True, eq=False)
class SharedChecks:
    """What pseudo-marginal weights say of the shared latents.

    Attributes:
        draws: g, unconstrained ``[s, m]``.
        log_weights: Smoothed, normalised ``[s]``.
        pareto_k, effective: Of the weights.
        noise: Standard deviation of what is random in log W beside g, in nats.
        log_evidence: log p(x; theta).
        mean, log_sd: How far weighting moves q's means, in its sds, and its log sds ``[m]``.
        row_draws: K.
    """

    draws: np.ndarray
    log_weights: np.ndarray
    pareto_k: float
    effective: float
    noise: float
    log_evidence: Estimate
    mean: np.ndarray
    log_sd: np.ndarray
    row_draws: int


def check_shared(
    problem: RowWeights, parameters: Any, blocks: tuple[np.ndarray, np.ndarray], seed: int
) -> SharedChecks | None:
    """Weigh draws of the shared latents' Gaussian; None where the rows are too many for it.

    Args:
        problem: Rows and network.
        parameters: What was learned.
        blocks: Locations and scales of all rows ``[n, d]``.
        seed: Of the draws.

    Cost: up to :data:`BUDGET` evaluations of a row.
    """
    n = problem.rows.size
    count = int(np.clip(BUDGET // (n * _ROW_DRAWS), _FEWEST, _MOST)) // 2 * 2
    k = min(BUDGET // (n * count), _ROW_DRAWS) // 4 * 4
    if k < _LEAST:
        return None
    rng = np.random.default_rng([seed, 26])
    q = problem.shared_block(parameters)
    parts = [Component(q, None), Component(q, _DEGREES)]
    g = np.concatenate([c.draw(rng, count // 2) for c in parts])
    own = [c.log_prob(g) for c in parts]
    log_r = np.logaddexp(*own) - np.log(2)
    noise = np.concatenate([_mirrored(rng, n, k // 4, problem.rows.dimension) for _ in range(2)], 1)
    rest, together = np.empty((2, count))
    between = np.empty((count, n))
    for i, w, outside in weights_at(problem, parameters, blocks, g, lambda size: np.tile(noise, (size, 1, 1))):
        some = slice(i, i + len(outside))
        rest[some] = outside
        together[some] = (logsumexp(w, 2) - np.log(k)).sum(1)
        parted = logsumexp(w.reshape(*w.shape[:2], 2, k // 2), 3) - np.log(k // 2)
        # Each half has twice the variance of the whole, so that half their difference has the whole's.
        between[some] = 0.5 * (parted[..., 0] - parted[..., 1])
    lw = rest + together - log_r
    lw = np.where(np.isfinite(lw), lw, -np.inf)
    smoothed, pareto_k = smooth(lw)
    w, v = np.exp(smoothed), np.exp(own[0] - log_r)
    (mean, sd), (q_mean, q_sd) = (_moments(g, a / a.sum()) for a in (w, v))
    top = lw.max()
    relative = np.exp(lw - top)
    # The error of g's draws, and that of the rows' noise, which all of them share.
    squared = relative.var() / relative.mean() ** 2 / count + w @ (between**2).sum(1)
    evidence = Estimate(float(top + np.log(relative.mean())), float(np.sqrt(squared)))
    return SharedChecks(
        g,
        smoothed,
        pareto_k,
        min(effective_size(smoothed), effective_size(lw)),
        float(np.sqrt((w @ (between - w @ between) ** 2).sum())),
        evidence,
        (mean - q_mean) / q_sd,
        np.log(sd / q_sd),
        k,
    )


def weights_at(problem: RowWeights, parameters: Any, blocks: tuple[np.ndarray, np.ndarray], g: np.ndarray, noise: Any):
    """Log weights of all rows at draws of what they share, some draws at a time.

    Args:
        problem, parameters: As above.
        blocks: Of all rows ``[n, d]``.
        g: ``[s, m]``.
        noise: From a number of draws to the noise of their rows ``[draws * n, k, d]``.

    Yields:
        The first draw's place, the weights ``[draws, n, k]`` and log p(g) ``[draws]``.
    """
    n = problem.rows.size
    size = max(1, _PACKED // n)
    for i in range(0, len(g), size):
        some = g[i : i + size]
        index = np.tile(np.arange(n), len(some))
        own = blocks[0][index], blocks[1][index]
        e = noise(len(some))
        with float32():
            w, rest = problem(parameters, None, index, e, np.repeat(some, n, 0), own)
        yield i, w.reshape(len(some), n, -1), rest[::n]


def judge_shared(verdict: Verdict, checks: SharedChecks | None, names: list[str], rows: int) -> Verdict:
    """The rules at the top of this file, after those of the rows.

    Args:
        verdict: On the rows.
        checks: None where there were none.
        names: Of the shared latents' coordinates.
        rows: In all.
    """
    listed = few(names)
    if verdict.fatal:
        return verdict
    if checks is None or checks.noise > NOISE:
        why = (
            f"{rows:,} rows are too many to weigh draws of what they share"
            if checks is None
            else f"the rows' weights leave {checks.noise:.2g} nats of noise in those of what they share"
        )
        changes: dict[str, Any] = {"not_checked": (*verdict.not_checked, f"the shared latents {listed}: {why}")}
        if verdict.trusted:
            changes |= {
                "status": VerdictStatus.NOT_TRUSTED,
                "sentence": f"The shared latents {listed} were not checked: {why}.",
                "next_step": "fit fewer rows, where they can be checked, and compare; or a better network, whose rows "
                "leave less noise.",
                "parameters": tuple(names),
            }
        return replace(verdict, **changes)
    shift = np.maximum(np.abs(checks.mean), np.abs(checks.log_sd))
    moved = tuple(names[i] for i in np.argsort(-shift) if shift[i] > DRIFT)
    good = checks.pareto_k < GOOD_K and not moved
    bearable = checks.pareto_k < USABLE_K and checks.effective >= ENOUGH
    said = (
        f"shared latents by {len(checks.draws):,} draws with {checks.row_draws} of each row: k-hat "
        f"{checks.pareto_k:.2f}, {checks.effective:.0f} effective, moments moved by up to {shift.max():.2g} sd; noise "
        f"{checks.noise:.2g} nats"
    )
    changes = {"reasons": (*verdict.reasons, said), "parameters": (*verdict.parameters, *moved)}
    if good or not verdict.trusted:
        return replace(verdict, **changes)
    if bearable:
        sentence = f"q of the shared latents {', '.join(moved) or listed} is off; all draws returned are weighted."
        if verdict.status is VerdictStatus.CORRECTED:
            sentence = f"{verdict.sentence} The shared latents' q is off too."
        return replace(verdict, **changes, status=VerdictStatus.CORRECTED, sentence=sentence)
    return replace(
        verdict,
        **changes,
        status=VerdictStatus.NOT_TRUSTED,
        sentence=f"The Gaussian of the shared latents {listed} does not match their posterior, and its weights cannot "
        "correct it.",
        next_step="objective=lb.objectives.ImportanceWeighted(8), which loosens what rows and shared latents take from "
        "each other; shared='dense'; or family='arrow' where the rows are few.",
    )


def _mirrored(rng: np.random.Generator, n: int, k: int, d: int) -> np.ndarray:
    """Normal draws ``[n, k, d]``, one in each k-th of the distribution of each row and coordinate, and their mirror
    image."""
    places = rng.random((n, k, d)).argsort(1)
    noise = ndtri((places + rng.random((n, k, d))) / k).astype(np.float32)
    return np.concatenate([noise, -noise], 1)


def _moments(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = w @ x
    return mean, np.sqrt(np.maximum(w @ (x - mean) ** 2, 1e-300))
