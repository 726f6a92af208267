"""Which of what is reported has tails so heavy that its sd may not exist: parameters, and what is computed from them.

It is asked of draws that can tell: those of usable chains, else the weighted ones if a thousand of them are effective.
Of an array of deterministics each element is asked, up to a thousand of all numbers, evenly spaced, as they are
compared elsewhere; the error of the sd of any other (:mod:`lowerbound.standard_errors`) is infinite where its tail
shows none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lowerbound.diagnostics.chains.short import Chains
from lowerbound.diagnostics.modes.each_mode import nearest
from lowerbound.diagnostics.reported import Columns
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus
from lowerbound.diagnostics.weights.importance import Weighted
from lowerbound.diagnostics.weights.tails import columns_without_sd, without_sd, without_variance
from lowerbound.families import Block, FactoredBlock, GaussianBlock
from lowerbound.kernel import Kernel
from lowerbound.model.base import label
from lowerbound.model.sites import SiteMap

#: Nats within which q is the posterior, as in conjugate models.
_EXACT = 1e-9
#: Dimensions above which it is not asked; effective draws from which weighted ones can tell; draws looked at.
_LARGE, _EFFECTIVE, _FEW = 5000, 1000, 4000


def draws_that_tell(verdict: Verdict, weighted: Weighted, chains: Chains | None) -> np.ndarray | None:
    """The draws ``[n, p]`` that can say how far the tails go; None where none can."""
    if verdict.fatal:
        return None
    if chains is not None and chains.usable:
        return chains.pool()
    if weighted.effective < _EFFECTIVE:
        return None
    # As many of the weighted draws as are effective, by systematic resampling.
    mass, n = np.cumsum(np.exp(weighted.smoothed)), int(weighted.effective)
    return weighted.draws[np.minimum(np.searchsorted(mass, (np.arange(n) + 0.5) / n * mass[-1]), len(mass) - 1)]


def heavy_parameters(
    kernel: Kernel,
    sites: SiteMap,
    q: Block | None,
    verdict: Verdict,
    draws: np.ndarray,
    *,
    mixed: bool,
    modes: Sequence[GaussianBlock] = (),
) -> tuple[str, ...]:
    """Names of parameters whose sd may not exist.

    Args:
        kernel: The compiled log density.
        sites: From the unconstrained space to what is reported.
        q: Where it is what is reported; None where that is repaired draws.
        verdict: So far.
        draws: That can tell.
        mixed: Whether they are those of chains that have mixed.
        modes: A Gaussian for each mode that is known.
    """
    if sites.dimension > _LARGE:
        return ()
    along = without_variance(kernel, draws, np.random.default_rng(0))
    # What a sample shows counts if the sample can be believed ...
    if not (verdict.trusted or mixed):
        return along
    shown = without_sd(sites, draws)
    if shown and len(modes) > 1:
        # ... and one mode by itself shows it too: a small one far away is no tail.
        labels = nearest(modes, draws)
        inside = {n for j in np.unique(labels) for n in without_sd(sites, draws[labels == j])}
        shown = tuple(n for n in shown if n in inside)
    exact = abs(verdict.kl_gap.value) + 2 * verdict.kl_gap.se < _EXACT
    if exact and verdict.status is VerdictStatus.TRUSTED and isinstance(q, FactoredBlock):
        # Where the posterior's own variance is known in closed form no sample is asked.
        known = {n: np.asarray(v) for n, (_, v) in q.moments().items() if n in sites.sites}
        named = {n: [n + label(tuple(map(int, i))) for i in np.ndindex(*v.shape)] for n, v in known.items()}
        finite = {e for n, v in known.items() for e, f in zip(named[n], np.isfinite(np.ravel(v)), strict=True) if f}
        infinite = [e for n, v in known.items() for e, f in zip(named[n], np.ravel(v), strict=True) if np.isposinf(f)]
        shown = tuple(dict.fromkeys((*shown, *infinite)))
        shown = tuple(n for n in shown if n not in finite)
    return tuple(dict.fromkeys((*along, *shown)))


def heavy_deterministics(columns: Columns | None, draws: np.ndarray) -> tuple[str, ...]:
    """Names of deterministics whose sd may not exist, at draws that can tell."""
    if columns is None:
        return ()
    computed = [i for i, n in enumerate(columns.names) if n.partition("[")[0] in columns.sites.deterministics]
    if not computed:
        return ()
    return columns_without_sd([columns.names[i] for i in computed], columns.at(draws[-_FEW:])[:, computed])
