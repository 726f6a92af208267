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


def about_images(verdict: Verdict, images: list[str], masses: tuple[float, ...]) -> Verdict:
    """With a reason for each mode that is an image of q, or of another mode.

    Args:
        verdict: Of q.
        images: Of the modes beside q's, in words; empty for those that a search met.
        masses: Of all modes, q's first.
    """
    first = len(masses) - len(images)
    said = tuple(f"a mode is q with {s}: {masses[first + i]:.2%} of the mass" for i, s in enumerate(images) if s)
    return replace(verdict, reasons=(*verdict.reasons, *said))


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


def judge_tails(verdict: Verdict, heavy: tuple[str, ...], computed: tuple[str, ...] = ()) -> Verdict:
    """NOT_TRUSTED where parameters have tails so heavy that their sd may not exist.

    A number computed from the latents with such tails is named, and the verdict stays what it is: every latent may be
    matched, and then so are this number's quantiles, which is all that a posterior without that sd has to say of it.

    Args:
        verdict: Of q.
        heavy: Parameters whose sd may not exist.
        computed: Deterministics of which the same is true.
    """
    if not (heavy or computed) or verdict.fatal:
        return verdict
    if computed:
        named = f"the tails of {few(computed)}, computed from the latents, are so heavy that the sd may not exist"
        verdict = replace(
            verdict,
            reasons=(*verdict.reasons, f"{named}: it is reported as NaN"),
            next_step=verdict.next_step or f"Report medians and quantiles of {few(computed)}.",
            not_checked=(*verdict.not_checked, f"the sd of {few(computed)}, which no draws can tell"),
            without_sd=computed,
        )
    if not heavy:
        return verdict
    said, every = f"the tails of {few(heavy)} are so heavy that the sd may not exist", (*heavy, *computed)
    if not verdict.trusted:
        return replace(verdict, reasons=(*verdict.reasons, said), without_sd=every)
    return replace(
        verdict,
        status=VerdictStatus.NOT_TRUSTED,
        sentence=f"The bulk of the posterior is matched, but {said}; no sample can tell it.",
        without_sd=every,
        parameters=heavy,
        next_step="Report medians and quantiles of these parameters, or give them priors with lighter tails.",
    )
