"""The rules by which a verdict is come to: how far a posterior can be trusted.

The rules, in order:

* NOT_TRUSTED if the fit ended for a reason that leaves no answer (flat, unbounded, interrupted, out
  of time, not finite), more than 1% of q's draws have a density that is not finite, or the log density is so large
  that float64 cannot tell 0.001 nats apart.
* By weights, TRUSTED if the stopping rule was met, the estimated gap KL(q || p) is below 0.005 nats (beyond its
  error), k-hat < 0.5, and importance weighting moves no mean by more than 0.05 sd and no sd by more
  than 5%, neither of an unconstrained coordinate nor (beyond its error) of a site or deterministic as it is reported:
  q is the posterior, for every use that a sample of some thousand draws has.
* By weights, CORRECTED if those of the defensive mixture can bear the correction: k-hat < 0.5 with a fifth of
  the draws effective, or < 0.7 with two fifths (a mixture that has been taught and is still less
  efficient has met a shape it cannot take, and what it misses k-hat cannot see), or weights so even
  that their tail means nothing; at least 1,000 effective draws, before smoothing as after; the log
  evidence known to 0.1 nats; two halves of the draws that agree; and, where there are several modes,
  few that a single search met. The draws returned are importance resamples, not q's.
* Then short Hamiltonian chains are started from the draws. *Mixed* chains have R-hat < 1.05, at least 400
  effective draws, Monte Carlo errors below 0.04 sd, fewer than 0.1% divergent, acceptance above 0.5, and have been
  wherever 99% of the importance weight is. If they
  move a reported mean or log sd by more than 0.1, significantly (at 1% for all parameters together), the weights
  had not seen everything: the draws returned are those of the chains (CORRECTED) if they are mixed, and
  NOT_TRUSTED if not. Chains so far from agreement (R-hat above 1.2) that they can say nothing overrule the weights
  too. Where several modes are known, chains that have not crossed between them say nothing.
* Where the weights could not tell, mixed chains can: TRUSTED if the stopping rule was met and they move no mean
  and no log sd of q by more than 0.05 (of what is reported on the constrained space: beyond its error), CORRECTED if
  they move some, with the draws of the chains. (Above 200 dimensions also where the weights could: they have fewer
  draws than q has digits.)
* NOT_TRUSTED where an image of q (two components exchanged, some sites of the other sign) has more than 3% of the mass
  of both, beyond three standard errors (:mod:`lowerbound.diagnostics.images`).
* NOT_TRUSTED otherwise, and where a parameter's tail is so heavy that its sd may not exist (k-hat of its second
  moment at least 0.9). If the chains came near (R-hat < 1.2) the draws are theirs all the same.

Thresholds: k-hat from Vehtari et al. (2024); 1,000 effective draws are a Monte Carlo error of 0.03 sd;
0.005 nats move a mean by at most 0.1 sd in the worst direction there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lowerbound.algorithms.base import Mode, Status
from lowerbound.diagnostics.chains import MISSED, Chains
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.importance import MANY, Weighted
from lowerbound.diagnostics.shift import Drift, Shift
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus

GAP = 0.005
#: Nats that float64 must be able to tell apart in the log density.
RESOLUTION = 1e-3
SHIFT = 0.05
#: Shift of a reported moment, in sds, that mixed chains must not show.
DRIFT = 0.1
#: R-hat from which chains say nothing, but that something is wrong.
APART = 1.2
USABLE_K = 0.7
GOOD_K = 0.5
LEARNED = 0.4
FLOOR = 0.2
EVIDENCE_SE = 0.1
MISSING = 0.2
EFFECTIVE = 1000


class Seen(NamedTuple):
    """How far what is reported on the constrained space has moved.

    Attributes:
        names: Of the numbers: ``s``, ``w[2]``.
        drift: Of each.
    """

    names: list[str]
    drift: Drift

    def moved(self, allowed: float) -> list[str]:
        """Names of those that have moved by more, beyond their errors; the worst first."""
        beyond = self.drift.beyond(allowed)
        return [self.names[i] for i in np.argsort(-self.drift.size) if beyond[i]]

    def largest(self, allowed: float) -> float:
        """The largest shift of those."""
        return float(self.drift.size[self.drift.beyond(allowed)].max(initial=0.0))


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
    """The rules at the top of this file, as far as importance weights go.

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
        reasons.append("weighting moves " + ", ".join(moved[:6]) + (" and others" if len(moved) > 6 else ""))
    if seen is not None and shown:
        reasons.append(f"as reported, by up to {seen.largest(SHIFT):.2g} (means in sds, log sds): {_few(shown)}")
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


def judge_chains(
    verdict: Verdict,
    chains: Chains,
    q: Drift,
    reported: Drift,
    names: list[str],
    *,
    seen: tuple[Seen, Seen] | None = None,
) -> Verdict:
    """The rules at the top of this file, once short chains have been run.

    Args:
        verdict: What the weights said; not fatal.
        chains: The short chains.
        q: Shift from q's moments to the chains'.
        reported: Shift from the moments of the draws that the weights would return.
        names: Of the coordinates.
        seen: The same two shifts of what is reported on the constrained space.
    """
    error = chains.error
    found = (
        f"short Hamiltonian chains: R-hat {chains.r_hat:.3f}, {chains.effective:.0f} effective draws, errors up to "
        f"{error:.2g} sd, {chains.divergent:.2%} divergent"
    )
    if chains.missed >= MISSED:
        found += f"; they have never been where {chains.missed:.0%} of the importance weight is"
    q_seen, own_seen = (None, None) if seen is None else seen
    also = own_seen if verdict.trusted else q_seen
    against, listed = (reported if verdict.trusted else q), list(names)
    if also is not None:
        against, listed = against.joined(also.drift), [*names, *also.names]
    beyond = against.beyond(DRIFT)
    moved = tuple(dict.fromkeys(listed[i] for i in np.argsort(-against.size) if beyond[i]))
    size = float(np.nan_to_num(against.size, nan=np.inf).max())
    changes: dict = {"reasons": (*verdict.reasons, found), "r_hat": chains.r_hat}
    right = bool(verdict.converged and chains.mixed and float(q.size.max()) <= SHIFT)
    right = right and (q_seen is None or not q_seen.moved(SHIFT))
    if verdict.status is VerdictStatus.CORRECTED and right and len(names) > MANY:
        # A thousand draws know a thousand means less well than q does.
        return replace(
            verdict,
            **changes,
            status=VerdictStatus.TRUSTED,
            sentence=f"q's means and sds are the posterior's to within {max(float(q.size.max()), 0.01):.2g} sd; "
            "its draws can be used.",
            parameters=(),
        )
    if verdict.trusted and not moved and chains.r_hat < APART:
        said = f"the chains move no reported mean or log sd by more than {size:.2g} (with their errors)"
        changes["reasons"] += (said,)
        return replace(verdict, **changes)
    if chains.mixed:
        changes |= {"next_step": "", "effective": chains.effective}
        if right and not verdict.trusted:
            return replace(
                verdict,
                **changes,
                status=VerdictStatus.TRUSTED,
                sentence=f"q's means and sds are the posterior's to within {max(size, 0.01):.2g} sd; "
                "its draws can be used.",
                parameters=(),
            )
        return replace(
            verdict,
            **changes,
            status=VerdictStatus.CORRECTED,
            sentence="q does not match the posterior; the draws returned are those of short chains started from it, "
            f"which have mixed ({chains.effective:.0f} effective).",
            parameters=moved or verdict.parameters,
        )
    changes["next_step"] = verdict.next_step or NEXT
    worst = names[chains.worst]
    if verdict.trusted:
        changes |= {"status": VerdictStatus.NOT_TRUSTED, "parameters": moved or (worst,)}
        why = "short chains started from its draws "
        if moved:
            why += f"leave them (by {size:.2g} sd in {moved[0]})"
        else:
            why += f"do not agree with one another (R-hat {chains.r_hat:.2f} in {worst})"
        sentence = f"q seemed to match the posterior by its weights, but {why}."
    else:
        changes["parameters"] = moved or verdict.parameters or (worst,)
        sentence = verdict.sentence
    if chains.usable:
        sentence += " The draws returned are those of short chains, which are nearer but have not mixed."
    return replace(verdict, **changes, sentence=sentence)


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:6]) + (" and others" if len(listed) > 6 else "")


def judge_modes(verdict: Verdict, said: list[str]) -> Verdict:
    """NOT_TRUSTED where chains inside some mode disagree with the weights; they cannot put it right."""
    if not said:
        return verdict
    return replace(
        verdict,
        status=VerdictStatus.NOT_TRUSTED,
        sentence=f"several modes were found and weighed, but {said[0]}.",
        reasons=(*verdict.reasons, *said),
        next_step=NEXT,
    )


def judge_image(verdict: Verdict, share: float, image: str) -> Verdict:
    """NOT_TRUSTED where an image of q has mass that q has not.

    Args:
        verdict: Of q.
        share: Of the mass.
        image: In words.
    """
    sentence = f"Another mode was missed: {image}, it holds about {share:.0%} of the posterior's mass."
    return replace(
        verdict,
        status=VerdictStatus.NOT_TRUSTED,
        sentence=sentence,
        reasons=(*verdict.reasons, f"q with {image} has mass that q has not: about {share:.2g} of both"),
        next_step="Say in the prior which of the two is meant (a positive prior for a sign, an ordered one for an "
        "order), or take the answer as that of one mode.",
    )


def judge_unchecked(verdict: Verdict) -> Verdict:
    """NOT_TRUSTED: a flow's weights alone, which do not see what the flow left out."""
    return replace(
        verdict,
        status=VerdictStatus.NOT_TRUSTED,
        sentence="q seems to match the posterior by its weights, but no chains could be afforded to check it.",
        next_step=NEXT,
    )


def judge_itself(status: Status, rule: str) -> Verdict:
    """TRUSTED: q is the posterior, by construction."""
    return Verdict(
        VerdictStatus.TRUSTED,
        "q is the posterior: every latent is discrete, and independent of the others given the data.",
        (status.sentence + (f" ({rule})" if status is Status.CONVERGED and rule else ""),),
        (),
        "",
        status.converged,
        rule,
        Estimate(np.nan, 0.0),
        -np.inf,
        Estimate(0.0, 0.0),
        np.inf,
    )


def judge_unweighed(status: Status, rule: str, why: str) -> Verdict:
    """NOT_TRUSTED: the ELBO is exact, but how far below the evidence it is has not been asked."""
    return Verdict(
        VerdictStatus.NOT_TRUSTED,
        f"q {'maximises the exact ELBO' if status.converged else 'is where the fit stopped'}, and was not compared "
        f"with the posterior: {why}.",
        (status.sentence + (f" ({rule})" if status is Status.CONVERGED and rule else ""),),
        (),
        "Means and predictions of a product of independent blocks are usually good, its sds too small where latents "
        "are correlated: check them on a part of the data that is small enough to be checked.",
        status.converged,
        rule,
        Estimate(np.nan, 0.0),
        np.inf,
        Estimate(np.nan, np.nan),
        0.0,
        ("the posterior itself: q's draws were not weighed",),
    )


def judge_tails(verdict: Verdict, heavy: tuple[str, ...]) -> Verdict:
    """NOT_TRUSTED where parameters have tails so heavy that their sd may not exist."""
    if not heavy or verdict.fatal:
        return verdict
    few = ", ".join(heavy[:6]) + (" and others" if len(heavy) > 6 else "")
    said = f"the tails of {few} are so heavy that the sd may not exist"
    if not verdict.trusted:
        return replace(verdict, reasons=(*verdict.reasons, said), without_sd=heavy)
    return replace(
        verdict,
        status=VerdictStatus.NOT_TRUSTED,
        sentence=f"The bulk of the posterior is matched, but {said}; no sample can tell it.",
        without_sd=heavy,
        parameters=heavy,
        next_step="Report medians and quantiles of these parameters, or give them priors with lighter tails.",
    )


#: What to try where q does not match and could not be corrected.
NEXT = (
    "Tighten vague priors on the parameters named, fix what the data cannot tell apart, or check them with MCMC. "
    "(Other parameterisations and families are tried unless escalate=False or a family or algorithm is asked for.)"
)


def judge_point(status: Status, rule: str) -> Verdict:
    """The verdict on a point mass: it has no spread to be trusted."""
    return Verdict(
        VerdictStatus.NOT_TRUSTED,
        "a point mass is the mode of the posterior, not an approximation of it: it has no spread.",
        (status.sentence + (f" ({rule})" if status is Status.CONVERGED else ""),),
        (),
        "leave family out for an approximate posterior.",
        status.converged,
        rule,
        Estimate(-np.inf, 0.0),
        np.inf,
        Estimate(np.inf, 0.0),
        0.0,
    )
