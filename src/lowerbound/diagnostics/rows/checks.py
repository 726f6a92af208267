"""How far an amortized q can be trusted: row by row, on a sample of rows.

With K draws z_k of a row's block and w_k = p(x_i, z_k) / q(z_k | x_i), log mean w - mean log w estimates, from below,
the row's gap KL(q(z | x_i) || p(z | x_i)); k-hat of the w_k says whether weighting can repair the block. Where rows
share latents g, each row is looked at with a draw g ~ q(g) of its own. The gap has two parts, what the network cannot
say and what a diagonal Gaussian cannot hold, which :mod:`lowerbound.diagnostics.rows.gap` tells apart; the larger one
says what to do next. Where the rows are few each block is refined by itself, and the better weights count.

The rules, with the model's parameters taken as they are:

* NOT_TRUSTED if the fit ended without an answer, or more than 5% of the rows have k-hat above 0.7: there neither q nor
  its weights show the posterior. (Not counted are rows whose weights are so even that their tail means nothing: over
  half of the draws effective, and none with ten times its share of the weight.)
* TRUSTED if the fit converged, the mean gap is below 0.05 nats a row, and at most 1% of the rows have k-hat above 0.7.
* CORRECTED otherwise: what is returned of a row are its draws resampled by their weights, of which 200 draws are kept
  for each row where that many fit into memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from lowerbound.algorithms.base import Status
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.rows.gap import RowGap
from lowerbound.diagnostics.rules.thresholds import USABLE_K
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus
from lowerbound.pareto import effective_size, smooth

#: Rows that the verdict looks at, and draws of each.
SAMPLED, DRAWS = 256, 1000
#: Nats a row below which q is the row's posterior, for most uses.
ROW_GAP = 0.05
#: Shares of rows with k-hat above 0.7.
FEW, SOME = 0.01, 0.05
ENDED_BADLY = (Status.NOT_FINITE, Status.INTERRUPTED, Status.OUT_OF_TIME)


@dataclass(frozen=True, eq=False)
class RowChecks:
    """What the weights of some rows say.

    Attributes:
        gap: Mean KL(q || p) of a row, in nats: from below.
        pareto_k: k-hat of each row looked at ``[r]``.
        usable: Which of them have weights that can be used: a small k-hat, or even ones ``[r]``.
        elbo: Of a row, averaged.
        log_evidence: log p(x_i) of a row by its weights, averaged: a lower bound.
    """

    gap: Estimate
    pareto_k: np.ndarray
    usable: np.ndarray
    elbo: Estimate
    log_evidence: Estimate

    @property
    def rank(self) -> tuple[float, float]:
        """Smaller where weights are better: the share that cannot be used, and the median k-hat."""
        return self.bad, float(np.median(self.pareto_k))

    @property
    def bad(self) -> float:
        """Share of rows whose weights cannot be used."""
        return float(1 - self.usable.mean())


def check_rows(log_weights: np.ndarray, *, sampled: bool) -> RowChecks:
    """From ``log_weights [rows, draws]``.

    Args:
        log_weights: Of the rows that are looked at.
        sampled: Whether there are others, which these stand for: errors are then those of sampling rows, else those
            of the draws alone.
    """
    rows, draws = log_weights.shape
    each = log_weights.mean(1)
    marginal = logsumexp(log_weights, 1) - np.log(draws)
    k, usable = usable_rows(log_weights)
    gap = marginal - each
    if sampled:
        errors = each.std() / np.sqrt(rows), marginal.std() / np.sqrt(rows)
    else:
        relative = np.exp(log_weights - marginal[:, None]).var(1)
        errors = np.sqrt(log_weights.var(1).sum() / draws) / rows, np.sqrt(relative.sum() / draws) / rows
    return RowChecks(
        Estimate(float(gap.mean()), float(gap.std() / np.sqrt(rows))),
        k,
        usable,
        Estimate(float(each.mean()), float(errors[0])),
        Estimate(float(marginal.mean()), float(errors[1])),
    )


def usable_rows(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """k-hat of each row's weights and whether they can be used, ``[rows]``, from ``log_weights [rows, draws]``."""
    draws = log_weights.shape[1]
    smoothed = [smooth(row) for row in log_weights]
    k = np.array([shape for _, shape in smoothed])
    even = [
        effective_size(row) > 0.5 * draws and w.max() < np.log(10 / draws)
        for row, (w, _) in zip(log_weights, smoothed, strict=True)
    ]
    return k, np.array(even) | (k <= USABLE_K)


def judge_rows(
    status: Status,
    rule: str,
    checks: RowChecks,
    rows: int,
    gap: RowGap | None = None,
    refined: RowChecks | None = None,
) -> Verdict:
    """The rules at the top of this file.

    Args:
        status, rule: How the fit ended, and its stopping rule.
        checks: Of the rows looked at.
        rows: In all.
        gap: Its two parts; None where they were not told apart.
        refined: What the weights of blocks say that were refined row by row, if they are better.
    """
    looked, whole = len(checks.pareto_k), checks.gap
    share = checks.bad if refined is None else refined.bad
    seen = f"all {rows:,} rows" if looked == rows else f"{looked} of {rows:,} rows, drawn at random"
    reasons = (
        status.sentence + (f" ({rule})" if status.converged else ""),
        f"seen on {seen}: a mean gap KL(q||p) of at least {whole.value:.3g} ± {whole.se:.1g} nats a row",
        f"weights with k-hat above {USABLE_K:g} in {checks.bad:.1%} of them (even ones not counted), median "
        f"{checks.rank[1]:.2f}",
    )
    if gap is not None:
        reasons += (str(gap),)
    if refined is not None:
        reasons += (
            f"every row refined by itself: k-hat above {USABLE_K:g} in {share:.1%}, median {refined.rank[1]:.2f}",
        )
    next_step = _next(gap) if gap is not None and (whole.value >= ROW_GAP or share > SOME) else ""
    if status in ENDED_BADLY:
        kind, sentence = VerdictStatus.NOT_TRUSTED, f"This posterior is not an answer: {status.sentence}."
        next_step = "run the fit to its end." if status is not Status.NOT_FINITE else "use a smaller step size."
    elif share > SOME:
        kind = VerdictStatus.NOT_TRUSTED
        sentence = f"In {share:.0%} of the rows neither the network's Gaussian nor its weights show the posterior."
        next_step = (next_step or "a larger network, or fewer latents.") + " The bound stays a lower bound."
    elif status.converged and whole.value < ROW_GAP and checks.bad <= FEW:
        kind, sentence = VerdictStatus.TRUSTED, "The network's Gaussians match the posteriors of the rows."
        next_step = ""
    else:
        kind = VerdictStatus.CORRECTED
        sentence = (
            f"The network's Gaussians are off by {whole.value:.2g} nats a row; the draws returned are weighted by row."
        )
        if not status.converged:
            next_step = f"raise max_steps. {next_step}".strip()
    return Verdict(
        kind,
        sentence,
        reasons,
        (),
        next_step,
        status.converged,
        rule,
        Estimate(rows * checks.elbo.value, rows * checks.elbo.se),
        float(np.max(checks.pareto_k)),
        Estimate(rows * whole.value, rows * whole.se),
        float("nan"),
        (
            "rows that were not looked at",
            "rows unlike those of the fit",
            "modes of a row that its block does not reach",
        ),
        fatal=status in ENDED_BADLY,
    )


def _next(gap: RowGap) -> str:
    """What closes the larger part of the gap."""
    of = f"of {gap.total:.2g} nats a row"
    if gap.amortization.value > gap.approximation.value:
        return (
            f"a larger network or a longer fit (patience=): {gap.amortization.value:.2g} {of} are what it cannot say. "
            "encoder.refine gives blocks of rows by themselves."
        )
    return (
        f"no larger network: {gap.approximation.value:.2g} {of} are what a diagonal Gaussian cannot hold. Train for "
        "weighted draws, objective=lb.objectives.ImportanceWeighted(8); where rows are few, family='dense' or 'arrow'."
    )
