r"""The evidence of all labellings, from draws of one.

Where components may be exchanged (:mod:`~lowerbound.diagnostics.modes.exchangeable`) the posterior is the same under
each of the permutations pi of their labels, and q is about one of them. With any h >= 0 whose sum over the labellings
of a point is one, sum_pi h(pi theta) = 1, and p(x, pi theta) = p(x, theta),

    p(x) = int p(x, theta) sum_pi h(pi theta) dtheta = K! int p(x, theta) h(theta) dtheta = K! E_r[ w(theta) h(theta) ],

with the draws and weights w = p / r that there are; none of them needs to be permuted. With h = g / sum_pi g o pi and
g = q it is what weighing by the symmetric proposal (1/K!) sum_pi q o pi would give. Here g is a product over
components of Gaussians with q's moments of each component's numbers (logs of positive ones), so that with A_jk the
log density of the numbers in place j under the Gaussian of component k

    log h = sum_j A_jj - log sum_pi exp sum_j A_{j, pi(j)}.

The sum over permutations is a permanent: 2^K K operations by adding a row at a time for each set of columns, all
terms positive. Above ten components it is bounded by the product of the row sums, which gives a lower bound of h;
where components are apart both are one, and p(x) is K! times that of a labelling.

Where the draws are of several modes, which no exchange that is counted leads to from one another, g is the sum over
them, so that each has its own labelling of those that are equally probable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
from scipy.special import logsumexp

from lowerbound.diagnostics.chains.control_variates import controlled_moments
from lowerbound.diagnostics.chains.short import Chains, mixing
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.modes.exchangeable import Axis, Exchangeable
from lowerbound.diagnostics.weights.evidence import Evidence, above, error
from lowerbound.diagnostics.weights.importance import Mixture, Weighted, regressed
from lowerbound.families import Block
from lowerbound.kernel import Kernel
from lowerbound.model.sites import SiteMap

#: Components up to which the permanent is exact, and up to which all permutations are listed.
EXACT, _LISTED = 10, 6
#: Draws of q behind the moments of g, and numbers held at a time.
_DRAWS, _AT_ONCE = 1024, 2**22
#: Draws at which it is asked whose labelling what is reported has.
_LOOKED_AT = 2048
#: Nats of a bound's looseness that are not worth telling, and share of h from which labellings are apart.
_TOLD, _APART = 0.01, 0.99
#: What the verdict does not see where not all components were found to be exchangeable.
OTHER = "labellings of discrete latents other than those that log evidence counts: each is a mode of its own"


def all_labellings(
    kernel: Kernel,
    sites: SiteMap,
    groups: Sequence[Exchangeable],
    modes: Sequence[Block],
    weighted: Weighted,
    chains: Chains | None,
    total: Estimate,
    evidence: Evidence,
    reported: tuple[np.ndarray, np.ndarray],
    seed: int,
    *,
    one: bool,
) -> tuple[Estimate, Evidence, tuple[str, ...], tuple[str, ...]]:
    """The evidence with every labelling counted.

    Args:
        kernel, sites: Of the fit, its discrete latents summed out.
        groups: Components that may be exchanged.
        modes: q, or a Gaussian for each mode.
        weighted, chains: Draws about q with their weights, and short chains, if they were run.
        total, evidence: What those say of log p(x), of one labelling.
        reported: Draws that are reported ``[n, p]``, and their weights, of sum one.
        seed: Of the fit.
        one: Whether those are of q's labelling, each by its share of it.

    Returns:
        ``total`` and ``evidence`` of all labellings, what is to be said of them, and what was not checked.

    Cost: 256 evaluations for an upper bound, and the density of the proposal.
    """
    rng = np.random.default_rng([seed, 7])
    named = {n for g in groups for n in g.latents}
    counted = {n for g in groups for n in g.latents if len(g.classes[0]) == len(kernel.model.summed[n].values)}
    unseen = () if counted.issuperset(kernel.model.summed) else (OTHER,)
    if not groups:
        return total, evidence, (), unseen
    count, names = math.prod(g.labellings for g in groups), ", ".join(n for n in kernel.model.summed if n in named)
    whose = f"of the values of {names}" if len(named) > 1 else f"of {names}'s values"
    said = f"the {count:,} labellings {whose}, which are equally probable"
    most, r = math.log(count), weighted.proposal
    if r is None or r.draws is None or not np.isfinite(r.log_weights).any():
        lacking = f"log evidence may be of one of {said}: it lacks between 0 and log {count:,} = {most:.2f} nats"
        return total, evidence, (lacking,), unseen
    shares = shares_of(groups, sites, modes, rng)
    low, high = (sum(e) for e in zip(*(s.log_prob(r.draws) for s in shares), strict=True))
    lw = r.log_weights
    value, se = regressed(lw + low, r.densities(r.draws), r.shares)
    least = math.exp(_log_sum(lw + low) - _log_sum(lw))
    if least > 1 - 1e-6 and total.se < se:  # components far apart: what is known of one is known of all
        value, se = total
    below = Estimate(_log_sum(lw + low) - math.log(len(lw)) + most, error(lw + low))
    upper = None
    if evidence.upper is not None and chains is not None:
        upper = _upper(kernel, r, chains, shares, lw + low + most, rng)
    condition = evidence.condition
    if evidence.upper is not None and upper is None:
        upper = Estimate(evidence.upper.value + most, evidence.upper.se)
        condition += ", and counts each labelling as if it were apart from the others"
    few = slice(None, None, -(-len(reported[0]) // _LOOKED_AT))
    x, weight = reported[0][few], reported[1][few]
    kept = float(weight @ np.exp(sum(s.log_prob(x)[1] for s in shares)) / weight.sum())
    line = f"log evidence counts {said} (log {count:,} = {most:.2f} nats)"
    if one:
        line += "; what is reported is of q's, which each draw and state is given by its share of it"
    elif kept > _APART:
        line += "; q, its gap and what is reported are of one"
    else:
        mixed = "what is reported of a component mixes them"
        line += f"; {1 - kept:.0%} of the weight is nearer to another than to q's, and {mixed}"
    lacking = _log_sum(lw + high) - _log_sum(lw + low)
    if lacking > _TOLD:
        line += f"; where labellings overlap it lacks between 0 and {lacking:.2f} nats"
    return Estimate(value + most, se), replace(evidence, lower=below, upper=upper, condition=condition), (line,), unseen


def _upper(
    kernel: Kernel, r: Mixture, chains: Chains, shares: list[Share], log_weights: np.ndarray, rng: np.random.Generator
) -> Estimate | None:
    """The upper bound of :mod:`~lowerbound.diagnostics.weights.evidence` with weights K! w h; None for many components.

    The draw that is not of r has to be from K! p h: one of the posterior, or of any labelling of it, becomes so where
    it is given the labelling pi with probability h(pi theta).
    """
    x, _ = chains.ends()
    for s in shares:
        moved = s.relabelled(x, rng)
        if moved is None:
            return None
        x = moved
    value = kernel(x)[0] + math.log(math.prod(s.group.labellings for s in shares))
    ends = value + sum(s.log_prob(x)[0] for s in shares) - r.log_prob(x)
    return above(log_weights, ends, chains.effective)


def shares_of(
    groups: Sequence[Exchangeable], sites: SiteMap, modes: Sequence[Block], rng: np.random.Generator
) -> list[Share]:
    """h of each group of components; the product of them is a share of all labellings of all groups."""
    out = []
    for g in groups:
        others = {n for o in groups if o is not g for n, _ in o.axes}
        out.append(Share(g, sites, modes, rng, [(n, a) for n, a in g.axes if n not in others]))
    return out


def relabelled(chains: Chains, shares: Sequence[Share], rng: np.random.Generator) -> Chains | None:
    """The chains with each state given a labelling with probability h there; None if there are many labellings.

    The states are then draws of K! p h, of which no score is known: their moments have no control variates.
    """
    x = chains.draws.reshape(-1, chains.draws.shape[-1])
    for s in shares:
        moved = s.relabelled(x, rng)
        if moved is None:
            return None
        x = moved
    draws = np.reshape(x, chains.draws.shape)
    log_h = sum((s.log_prob(x)[0] for s in shares), np.zeros(len(x)))
    r_hat, worst, effective = mixing(draws)
    moments = controlled_moments(draws, np.zeros_like(draws), np.zeros(x.shape[1]))
    log_density = chains.log_density + log_h.reshape(chains.log_density.shape)
    return replace(
        chains, draws=draws, log_density=log_density, moments=moments, r_hat=r_hat, worst=worst, effective=effective
    )


class Share:
    """h, the share that q's labelling has of a point.

    Args:
        group: Components that may be exchanged.
        sites: Of the model.
        modes: q, or a Gaussian for each mode: their moments are those of g, a sum over them.
        rng: For draws of them.
        axes: Those that g looks at: of sites that no other group permutes.
    """

    def __init__(
        self, group: Exchangeable, sites: SiteMap, modes: Sequence[Block], rng: np.random.Generator, axes: list[Axis]
    ):
        self.group, self.sites, self.axes = group, sites, axes
        self.logs: list[bool] | None = None
        if axes:
            drawn = [sites.constrain(q.sample(rng, _DRAWS)) for q in modes]
            self.logs = [all(bool((v[n] > 0).all()) for v in drawn) for n, _ in axes]
            own = [self._numbers(v) for v in drawn]
            self.means = [a.mean(0) for a in own]
            self.sds = [a.std(0) + 1e-12 * (1 + np.abs(a).max(0)) for a in own]

    def log_prob(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log h at draws ``x [n, p]``: a lower and an upper bound ``[n]``, the same up to ten components."""
        if self.logs is None:  # h = 1 / K! is a share too, and no q has a smaller one on the average
            return np.full(len(x), -math.log(self.group.labellings)), np.zeros(len(x))
        own, most, least = [], [], []
        for a in self._scores(x):
            kept, above, below = (np.zeros(len(x)) for _ in range(3))
            for c in self.group.classes:
                part = a[:, c][:, :, c]
                trace, exact = np.trace(part, axis1=1, axis2=2), len(c) <= EXACT
                total = log_permanent(part) if exact else np.asarray(logsumexp(part, axis=2)).sum(1)
                kept, above, below = kept + trace, above + total, below + (total if exact else trace)
            own.append(kept)
            most.append(above)
            least.append(below)
        top = np.logaddexp.reduce(own)
        lower, upper = (top - np.logaddexp.reduce(v) for v in (most, least))
        return np.nan_to_num(lower, nan=-np.inf, neginf=-np.inf), np.nan_to_num(upper, nan=-np.inf, neginf=-np.inf)

    def relabelled(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """``x [n, p]`` with components exchanged, each labelling with probability h there; None if there are many."""
        if self.logs is None or max(map(len, self.group.classes)) > _LISTED:
            return None
        every = np.stack(self._scores(x))
        # P(pi) ~ sum_m prod_c exp(scores of pi_c by m): a mode m by its sums, and then each class by itself.
        sums = np.sum([[log_permanent(a[:, c][:, :, c]) for a in every] for c in self.group.classes], 0)
        mode = np.argmax(sums + rng.gumbel(size=sums.shape), 0)
        a = every[mode, np.arange(len(x))]
        order = np.broadcast_to(np.arange(a.shape[1]), (len(x), a.shape[1])).copy()
        for c in self.group.classes:
            orders = np.array(list(permutations(c)))
            # Place j takes what is in place order[j].
            scores = np.stack([a[:, o, c].sum(1) for o in orders], 1)
            chosen = np.argmax(scores + rng.gumbel(size=scores.shape), 1)
            order[:, c] = orders[chosen]
        values = {n: v for n, v in self.sites.constrain(x).items() if n in self.sites.sites}
        for n, axis in self.group.axes:
            shape = [1] * values[n].ndim
            shape[0], shape[axis + 1] = order.shape
            values[n] = np.take_along_axis(values[n], order.reshape(shape), axis + 1)
        return self.sites.unconstrain(values, len(x))[0]

    def _scores(self, x: np.ndarray) -> list[np.ndarray]:
        """A_jk ``[n, j, k]`` by each mode."""
        step = max(64, _AT_ONCE // (self.means[0].size * len(self.means[0])))
        parts: list[list[np.ndarray]] = [[] for _ in self.means]
        for i in range(0, len(x), step):
            f = self._numbers(self.sites.constrain(x[i : i + step]))[:, :, None, :]
            for part, mean, sd in zip(parts, self.means, self.sds, strict=True):
                part.append(-(0.5 * ((f - mean) / sd) ** 2 + np.log(sd)).sum(-1))
        return [np.concatenate(p) for p in parts]

    def _numbers(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """What belongs to each component: ``[n, k, m]``; positive numbers by their logs."""
        parts = []
        for (n, axis), log in zip(self.axes, self.logs or (), strict=True):
            v = np.moveaxis(values[n], axis + 1, 1)
            v = v.reshape(*v.shape[:2], -1)
            parts.append(np.log(np.maximum(v, 1e-300)) if log else v)
        return np.concatenate(parts, -1)


def log_permanent(a: np.ndarray) -> np.ndarray:
    """log sum_pi exp sum_j a[j, pi(j)] of each ``a [n, k, k]``: ``[n]``; 2^k k operations."""
    n, k = a.shape[:2]
    sums: dict[int, np.ndarray] = {0: np.zeros(n)}
    for row in range(k):
        new: dict[int, list[np.ndarray]] = {}
        for columns, value in sums.items():
            for j in range(k):
                if not columns >> j & 1:
                    new.setdefault(columns | 1 << j, []).append(value + a[:, row, j])
        sums = {columns: np.logaddexp.reduce(terms) for columns, terms in new.items()}
    return sums[2**k - 1]


def _log_sum(a: np.ndarray) -> float:
    return float(np.logaddexp.reduce(a))
