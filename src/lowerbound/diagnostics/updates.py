"""What one update of a posterior was: a step of learning as data arrive."""

from __future__ import annotations

import math
from typing import NamedTuple

from lowerbound.diagnostics.estimate import Estimate

#: Nats by which the exact ELBO and the importance estimate may differ for both to be the log evidence.
_SAME = 1e-6


class Update(NamedTuple):
    """One update: ``posterior.updates`` has one for each.

    Attributes:
        rows: Of the new data.
        forget: The forgetting factor f; 1 remembers everything.
        carried: What of the posterior before was the prior, in words.
        local: Latents that belong to the rows, and were not carried over.
        kl: KL(q_t || q_{t-1}) over the global latents, in nats: how much was learnt.
        elbo: Of this update.
        log_predictive: log p(x_t | x_<t) of the new rows given all before, in nats: exact in conjugate models,
            else with what is carried over in the place of the posterior before, whose error is not in its own.
        log_evidence: log p(x_1, ..., x_t): the first fit's log evidence, and the log predictives since.
        lost: KL in nats between this posterior and what it were, had the posterior before been the prior and not the
            Gaussian that was carried over; 0 where nothing was projected, nan where it was not measured.
        kl_gap: KL(q || p) of every fit so far and what was lost between them, added up: the errors that each carried
            into the next.
    """

    rows: int
    forget: float
    carried: str
    local: tuple[str, ...]
    kl: Estimate
    elbo: Estimate
    log_predictive: Estimate
    log_evidence: Estimate
    lost: Estimate
    kl_gap: Estimate


def added(a: Estimate, b: Estimate) -> Estimate:
    """The sum of two independent estimates."""
    return Estimate(a.value + b.value, math.hypot(a.se, b.se))


def predictive(elbo: Estimate, log_evidence: Estimate) -> Estimate:
    """log p(x): the exact ELBO where importance weights find nothing beyond it, else their estimate, where finite."""
    near = abs(log_evidence.value - elbo.value) <= _SAME * max(1.0, abs(elbo.value))
    return elbo if (elbo.se == 0 and near) or not math.isfinite(log_evidence.value) else log_evidence
