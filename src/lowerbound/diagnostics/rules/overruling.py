"""What overrules weights and chains: what neither of them can see."""

from __future__ import annotations

from dataclasses import replace

from lowerbound.diagnostics.rules.thresholds import NEXT
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus, few


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


def judge_tails(verdict: Verdict, heavy: tuple[str, ...]) -> Verdict:
    """NOT_TRUSTED where parameters have tails so heavy that their sd may not exist."""
    if not heavy or verdict.fatal:
        return verdict
    said = f"the tails of {few(heavy)} are so heavy that the sd may not exist"
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
