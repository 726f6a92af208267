r"""The evidence between two bounds.

Below: the mean of K importance weights is an unbiased estimate of p(x), so by Jensen's inequality

    E[log (1/K) sum_k w_k] <= log p(x),      w_k = p(x, z_k) / r(z_k),  z_k ~ r   (Burda et al. 2016).

Above: let one of the K draws come from the posterior instead. Then each set of K has the density
(1/K) sum_k w_k / p(x) times that of K draws of r, and

    E[log (1/K) sum_k w_k] = log p(x) + KL(those sets || sets of K draws of r) >= log p(x)

(Grosse, Ghahramani & Adams 2015, with a chain's end in place of a simulated truth). It is a bound under one
condition: that the draw is from the posterior. The ends of short chains are, once those have mixed; where they
have not, there is no upper bound to give. A harmonic mean of likelihoods is never used: its error can be
infinite, and is invisible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from lowerbound.diagnostics.chains.short import Chains
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.weights.importance import Mixture, Weighted


@dataclass(frozen=True)
class Evidence:
    """Bounds of log p(x), in nats.

    Attributes:
        lower: Importance-weighted lower bound with ``num_samples`` draws.
        upper: Upper bound with as many, one of them from the posterior; None where none is honest.
        num_samples: K.
        condition: What the upper bound rests on, or why there is none.
    """

    lower: Estimate
    upper: Estimate | None
    num_samples: int
    condition: str

    @property
    def width(self) -> float:
        """upper - lower in nats; infinite without an upper bound."""
        return float("inf") if self.upper is None else self.upper.value - self.lower.value

    def __str__(self) -> str:
        above = f"<= {self.upper}" if self.upper is not None else "(no upper bound)"
        return f"{self.lower} <= log p(x) {above}; K = {self.num_samples:,}; {self.condition}"


def sandwich(weighted: Weighted, chains: Chains | None, *, one_mode: bool = True) -> Evidence:
    """Both bounds, from the most efficient proposal's weights and the chains' states.

    Args:
        weighted: Importance weights.
        chains: Short chains, if they were run.
        one_mode: Whether no other mode is known. Chains that stay in one of several have not drawn from the
            posterior, however well they agree.

    Cost: the proposal's density at 256 states; nothing of the model is evaluated.
    """
    r = weighted.proposal
    if r is None or not np.isfinite(r.log_weights).any():
        return Evidence(Estimate(-np.inf, np.inf), None, 0, "no draw has a finite log density")
    lw = r.log_weights
    k = len(lw)
    lower = Estimate(float(logsumexp(lw) - np.log(k)), error(lw))
    if not one_mode:
        return Evidence(lower, None, k, "several modes are known, and chains do not cross between them")
    if chains is None:
        return Evidence(lower, None, k, "no chains were run, whose ends an upper bound needs")
    if not chains.agreed:
        return Evidence(lower, None, k, "the short chains have not mixed, so their ends are no draws of the posterior")
    return Evidence(lower, _upper(r, chains), k, "the upper bound holds if the mixed chains have met every mode")


def _upper(r: Mixture, chains: Chains) -> Estimate:
    at, value = chains.ends()
    return above(r.log_weights, value - r.log_prob(at), chains.effective)


def above(log_weights: np.ndarray, ends: np.ndarray, effective: float) -> Estimate:
    """The upper bound from the weights of K draws of r, and those of draws of the posterior.

    Args:
        log_weights: Of draws of r ``[K]``.
        ends: Log weights of draws of the posterior.
        effective: How many of those are independent.
    """
    # log of the mean of one end's weight and K - 1 of r's; the K-th of r's draws is left out.
    rest = np.asarray(logsumexp(log_weights[:-1]))
    each = np.logaddexp(rest, ends) - np.log(len(log_weights))
    # Errors: of the average over ends, and of the weights that all of them share.
    n = min(len(each), max(effective, 1.0))
    return Estimate(float(each.mean()), float(np.hypot(each.std() / np.sqrt(n), error(log_weights))))


def error(lw: np.ndarray) -> float:
    """Standard error of log mean exp, by the delta method."""
    w = np.exp(lw - lw.max())
    return float(w.std() / np.sqrt(len(w)) / w.mean())
