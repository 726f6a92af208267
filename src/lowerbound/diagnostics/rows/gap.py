r"""The gap of an amortized q, in two parts: what the network cannot say, and what a diagonal Gaussian cannot hold.

    KL(q(z | x_i) || p(z | x_i))  =  [L_i* - L_i]  +  [log p(x_i) - L_i*],

L_i the ELBO of the network's block of row i and L_i* that of the best block of its kind
(:mod:`lowerbound.algorithms.row_refinement`). The first bracket is the *amortization gap*: a larger network, or a
longer fit, closes it. The second is the *approximation gap*: no network closes it.

Both are taken on noise that the refinement has not seen. log p(x_i) is estimated by weights of draws of both blocks
together, as draws of their equal mixture, so that it is at least as good as either's; it is from below, and so are the
second bracket, by as much, and the first, by as much as a refinement stopped short. Where rows share latents g, each
bracket is its mean over g ~ q(g), and what a block that does not know g cannot hold is in the second.

Source: Cremer, Li & Duvenaud (2018), "Inference suboptimality in variational autoencoders".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from lowerbound.algorithms.row_refinement import Refined, Refiner
from lowerbound.algorithms.row_weights import RowWeights
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.families.linalg import standard_normal_log_prob
from lowerbound.pareto import smooth
from lowerbound.precision import float32

#: Draws of what rows share behind each row's gap.
_SHARED = 8


@dataclass(frozen=True, eq=False)
class RowGap:
    """KL(q(z | x_i) || p(z | x_i)) of some rows in its two parts, in nats.

    Attributes:
        amortization: What the network cannot say: the mean of a row, with its standard error.
        approximation: What a diagonal Gaussian cannot hold, likewise.
        each: Both of each row ``[rows, 2]``.
        pareto_k: k-hat of each row's weights, by the network's block and by the refined one ``[rows, 2]``.
        settled: Share of the rows whose refinement had nothing more to gain.
        rows: Which rows were looked at.
        location, scale: Their refined blocks ``[rows, d]``, on the unconstrained space.
    """

    amortization: Estimate
    approximation: Estimate
    each: np.ndarray
    pareto_k: np.ndarray
    settled: float
    rows: np.ndarray
    location: np.ndarray
    scale: np.ndarray

    @property
    def total(self) -> float:
        """Nats a row, both together."""
        return self.amortization.value + self.approximation.value

    def __str__(self) -> str:
        k = np.median(self.pareto_k, 0)
        stopped = "" if self.settled == 1 else f"; {1 - self.settled:.0%} of the refinements were stopped short"
        return (
            f"KL(q||p) of a row: {self.total:.3g} nats, of which {_short(self.amortization)} the network cannot say "
            f"(amortization) and {_short(self.approximation)} a diagonal Gaussian cannot hold (approximation); seen on "
            f"{len(self.rows)} rows refined by themselves, median k-hat {k[0]:.2f} before and {k[1]:.2f} after{stopped}"
        )


def row_gap(
    problem: RowWeights,
    parameters: Any,
    data: Sequence[Any] | None,
    index: np.ndarray,
    *,
    sampled: bool,
    seed: int,
    num_draws: int = 1000,
) -> RowGap:
    """Refine the blocks of some rows, and compare.

    Args:
        problem: Rows and network.
        parameters: What was learned.
        data: The arrays with rows; None for those fitted to.
        index: Which rows.
        sampled: Whether they stand for others: errors are then those of sampling rows, else of draws alone.
        seed: Of the noise.
        num_draws: Of each row and block, for what the gap is estimated from.

    Cost: the refinement's, and ``2 num_draws`` evaluations a row.
    """
    with float32():
        arrays = None if data is None else [np.asarray(data[i])[index] for i in problem.inputs]
        found = problem.blocks(
            parameters, [problem.device_rows[i][index] for i in problem.inputs] if data is None else arrays
        )
    refined = Refiner(problem, parameters, seed)(data, index, *found)
    return compare(problem, parameters, data, index, found, refined, sampled=sampled, seed=seed, num_draws=num_draws)


def compare(
    problem: RowWeights,
    parameters: Any,
    data: Sequence[Any] | None,
    index: np.ndarray,
    found: tuple[np.ndarray, np.ndarray],
    refined: Refined,
    *,
    sampled: bool,
    seed: int,
    num_draws: int,
) -> RowGap:
    """The two parts of the gap, from the network's blocks and the refined ones; see :func:`row_gap`."""
    rng = np.random.default_rng([seed, 25])
    times = _SHARED if problem.shared else 1
    k = -(-num_draws // times)
    n = len(index)
    shared = problem.draw_shared(parameters, rng, n, times)
    noise = problem.noise(rng, n * times, k)
    again = np.repeat(np.arange(n), times)
    blocks = [(m[again], s[again]) for m, s in (found, (refined.location, refined.scale))]
    with float32():
        own = [problem(parameters, data, index[again], noise, shared, b)[0] for b in blocks]
    mixed = []
    for (m, s), lw in zip(blocks, own, strict=True):
        z = m[:, None] + s[:, None] * noise
        log_q = [standard_normal_log_prob((z - a[:, None]) / b[:, None]) - np.log(b).sum(1)[:, None] for a, b in blocks]
        log_p = lw + standard_normal_log_prob(noise) - np.log(s).sum(1)[:, None]
        mixed.append(log_p - np.logaddexp(*log_q) + np.log(2))
    weights = np.concatenate(mixed, 1)
    evidence = logsumexp(weights, 1) - np.log(2 * k)
    # The same noise and g for both blocks: their difference has little of its own.
    first = own[1] - own[0]
    second = evidence - own[1].mean(1)
    relative = np.exp(weights - evidence[:, None])
    each = np.stack([first.mean(1), second], 1).reshape(n, times, 2)
    if times > 1:
        alone = each.var(1, ddof=1) / times
    else:
        alone = np.stack([first.var(1), relative.var(1) / 2 + own[1].var(1)], 1) / k
    each = each.mean(1)
    of_rows = each.var(0, ddof=1) / n if sampled and n > 1 else alone.sum(0) / n**2
    amortization, approximation = (
        Estimate(float(m), float(se)) for m, se in zip(each.mean(0), np.sqrt(of_rows), strict=True)
    )
    pareto_k = np.array([[smooth(lw[i * times])[1] for lw in own] for i in range(n)])
    settled = float(refined.settled.mean())
    return RowGap(amortization, approximation, each, pareto_k, settled, index, refined.location, refined.scale)


def _short(e: Estimate) -> str:
    return f"{e.value:.3g} ± {e.se:.1g}"
