"""What an update was: its record, and a verdict that says what it is relative to."""

from __future__ import annotations

import dataclasses

import numpy as np

from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.updates import Update, added, predictive
from lowerbound.diagnostics.verdict import VerdictStatus
from lowerbound.fitting import warn_of
from lowerbound.posterior import Posterior

#: Nats that the projection may lose: a mean is then wrong by at most sqrt(2 * 0.02) = 0.2 sd.
_LOST = 0.02


def with_record(
    before: Posterior,
    new: Posterior,
    kl: float,
    said: str,
    lost: Estimate,
    rows: int,
    forget: float,
    local: tuple[str, ...],
) -> Posterior:
    """The posterior with its record, and a verdict that says what it is relative to."""
    verdict, old = new.verdict, before.verdict
    last = before.updates[-1] if before.updates else None
    measured = added(last.kl_gap if last else old.kl_gap, verdict.kl_gap)
    gap = added(measured, lost) if np.isfinite(lost.value) else measured
    evidence = last.log_evidence if last else predictive(before.elbo, before.log_evidence)
    step = predictive(new.elbo, new.log_evidence)
    record = Update(rows, forget, said, local, Estimate(kl, 0.0), new.elbo, step, added(evidence, step), lost, gap)
    unknown = "" if np.isfinite(lost.value) else " beside what the last projection lost, which was not measured"
    relative = (
        f"relative to the posterior before it (update {len(before.updates) + 1}, prior: {said}"
        + ("" if forget == 1 else f", forget={forget:g}")
        + f"): the gaps of all fits and projections so far add up to {gap} nats{unknown}"
    )
    unseen = "errors of earlier posteriors, which are the prior of this one: compare with one fit of all data"
    verdict = dataclasses.replace(
        verdict, reasons=(*verdict.reasons, relative), not_checked=(*verdict.not_checked, unseen)
    )
    fault = ""
    if not old.trusted:
        fault = f"The posterior that was updated was not to be trusted: {old.sentence}"
    elif lost.value - 2 * lost.se > _LOST:
        fault = (
            f"The posterior that was updated is no Gaussian: what {said} lost of it moves the new one by {lost} nats."
        )
    if fault and verdict.trusted:
        advice = "Fit all data at once, or begin with more rows: a posterior of more data is nearer to a Gaussian."
        verdict = dataclasses.replace(verdict, status=VerdictStatus.NOT_TRUSTED, sentence=fault, next_step=advice)
        warn_of(verdict)
    return dataclasses.replace(new, verdict=verdict, updates=(*before.updates, record))
