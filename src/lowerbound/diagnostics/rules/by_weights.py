"""The verdict by importance weights."""

from __future__ import annotations

import numpy as np

from lowerbound.algorithms.base import Mode, Status
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.rules.thresholds import (
    EFFECTIVE,
    EVIDENCE_SE,
    FLOOR,
    GAP,
    GOOD_K,
    LEARNED,
    MISSING,
    NEXT,
    RESOLUTION,
    SHIFT,
    USABLE_K,
)
from lowerbound.diagnostics.shift import Seen, Shift
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus, few
from lowerbound.diagnostics.weights.importance import Weighted


def judge(
    status: Status,
    rule: str,
    weighted: Weighted,
    modes: list[Mode],
    shift: Shift,
    names: list[str],
    *,
    missing: float = 0.0,
    flat: tuple[str, ...] = (),
    seen: Seen | None = None,
) -> Verdict:
    """The rules of :mod:`lowerbound.diagnostics.rules`, as far as importance weights go.

    Args:
        status, rule: How the fit ended, and the stopping rule in words.
        weighted: The weighted draws.
        modes: Other modes.
        shift: How far the weights move q's moments.
        names: Of the coordinates.
        missing: Estimated share of modes that were not met.
        flat: Sites in which the density is flat.
        seen: How far the weights move what is reported.
    """
    w = weighted
    gap = Estimate(w.gap, w.gap_se)
    apart = [m for m in modes if m.separate]
    reasons: list[str] = []
    parameters: tuple[str, ...] = ()
    next_step = ""
    k_text = f"k-hat = {w.pareto_k:.2f}" if np.isfinite(w.pareto_k) else "the importance weights are constant"
    fatal = status in (Status.FLAT, Status.UNBOUNDED, Status.NOT_FINITE, Status.INTERRUPTED, Status.OUT_OF_TIME)
    means, sds = np.abs(shift.mean), np.abs(shift.log_sd)
    worst = np.argsort(-np.nan_to_num(np.maximum(means, sds), nan=np.inf))
    moved = [names[i] for i in worst if means[i] > SHIFT or sds[i] > SHIFT]
    shown = [] if seen is None else seen.moved(SHIFT)
    moved = list(dict.fromkeys((*moved, *shown)))
    share = w.effective / len(w.draws)
    usable = w.even or (w.pareto_k < GOOD_K and share > FLOOR) or (w.pareto_k < USABLE_K and share > LEARNED)
    weights_good = (
        usable
        and w.effective >= EFFECTIVE
        and w.log_evidence_se < EVIDENCE_SE
        and w.bad <= 0.01
        and shift.agree
        and missing <= MISSING
    )
    reasons.append(status.sentence + (f" ({rule})" if status is Status.CONVERGED and rule else ""))
    # Draws that carry weight; far in a tail the density may be as large as it likes.
    heavy = np.abs(w.log_density[np.isfinite(w.log_density) & (w.smoothed > w.smoothed.max() - 20)])
    coarse = heavy.size > 0 and np.spacing(heavy.max()) > RESOLUTION
    if fatal or coarse or w.bad > 0.01:
        verdict = VerdictStatus.NOT_TRUSTED
        why_not = status.sentence
        if coarse and not fatal:
            why_not = f"the log density is of size {heavy.max():.1g}, where float64 cannot resolve a posterior"
        elif not fatal:
            why_not = f"the log density is not finite at {w.bad:.0%} of q's draws"
        sentence = f"This posterior is not an answer: {why_not}."
        if status is Status.FLAT:
            parameters = flat
            next_step = (
                f"give {', '.join(flat)} a proper prior" if flat else "give every latent a proper prior"
            ) + ": nothing in the model or the data bounds it."
        elif status is Status.INTERRUPTED:
            next_step = "run the fit to its end."
        elif status is Status.OUT_OF_TIME:
            next_step = "allow more max_seconds, or fit fewer rows first."
        else:
            next_step = "look for a prior or a transform that overflows there."
    elif (
        status.converged
        and gap.value - 2 * min(gap.se, GAP) < GAP
        and gap.value < 4 * GAP
        and w.pareto_k < GOOD_K
        and w.bad == 0
        and not moved
        and not apart
        and missing <= MISSING
    ):
        verdict = VerdictStatus.TRUSTED
        sentence = "q matches the posterior; its draws can be used as they are."
    elif weights_good:
        verdict = VerdictStatus.CORRECTED
        parameters = tuple(moved)
        sentence = (
            f"q is {gap.value:.2g} nats from the posterior; the draws returned are importance-corrected "
            f"({w.effective:.0f} effective)."
        )
    else:
        verdict = VerdictStatus.NOT_TRUSTED
        parameters = tuple(moved)
        why = []
        if not usable:
            why.append(f"k-hat is {w.pareto_k:.2f} with {share:.0%} of the draws effective")
        if w.effective < EFFECTIVE:
            why.append(f"only {w.effective:.0f} effective draws of {len(w.draws)}")
        if w.log_evidence_se >= EVIDENCE_SE:
            why.append(f"the log evidence is known to {w.log_evidence_se:.2g} nats only")
        if missing > MISSING:
            why.append("modes were met once each, or new ones until the search ended: there are probably more")
        if not shift.agree:
            why.append("two halves of the weighted draws disagree")
        sentence = "q does not match the posterior and could not be corrected: " + ", ".join(why) + "."
        next_step = NEXT
        if missing > MISSING:
            next_step = "Restrict the prior to one mode, or order components that can be exchanged."
    if np.isfinite(w.elbo):
        fisher = f", Fisher divergence {w.fisher:.2g}" if np.isfinite(w.fisher) else ""
        estimated = f"estimated gap KL(q||p) = {max(gap.value, 0):.3g} ± {gap.se:.2g} nats{fisher}"
        reasons.append(f"ELBO {Estimate(w.elbo, w.elbo_se)}, {estimated}")
        reasons.append(f"{k_text}, {w.effective:.0f} effective of {len(w.draws)} weighted draws")
    if apart:
        lower = ", ".join(f"{w.elbo - m.elbo:.1f}" for m in apart)
        reasons.append(f"{len(apart)} other mode(s) found, their ELBO lower by {lower} nats")
    if len(apart) < len(modes):
        reasons.append(f"{len(modes) - len(apart)} other local maxima of the ELBO about the same peak")
    if moved:
        reasons.append(f"weighting moves {few(moved)}")
    if seen is not None and shown:
        reasons.append(f"as reported, by up to {seen.largest(SHIFT):.2g} (means in sds, log sds): {few(shown)}")
    return Verdict(
        verdict,
        sentence,
        tuple(reasons),
        parameters,
        next_step,
        status.converged,
        rule,
        Estimate(w.elbo, w.elbo_se),
        w.pareto_k,
        gap,
        w.effective,
        ("modes that no start found", "tails that neither q nor its Student-t reaches"),
        bool(fatal or coarse or w.bad > 0.01),
        w.fisher,
    )
