"""The last look at a fit: is what was judged a density at all, and where did it stop being finite?

The verdict compares q with the log density; it cannot know that the density itself is at fault. So the faults that
:mod:`~lowerbound.diagnostics.density.soundness` and :mod:`~lowerbound.diagnostics.density.improper` find override it:
NOT_TRUSTED, with the fault as its sentence.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from lowerbound.algorithms.base import Status
from lowerbound.diagnostics.assessment import Assessment
from lowerbound.diagnostics.density.improper import improper
from lowerbound.diagnostics.density.nonfinite import forensics
from lowerbound.diagnostics.density.soundness import faults
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus
from lowerbound.families import Block
from lowerbound.kernel import Kernel

_SEED = 5
_UNBOUNDED = (
    "look for a wrong sign (the log density is wanted, not its negative), and give every latent a proper prior: the "
    "evidence is infinite."
)


def review(
    kernel: Kernel,
    q: Block,
    status: Status,
    assessment: Assessment,
    *,
    algorithm: str = "the fit",
    broken: tuple[np.ndarray, tuple[str, int]] | None = None,
    seed: int = 0,
) -> Assessment:
    """The assessment with its verdict overridden where the density is at fault.

    Args:
        kernel, q, status: What the fit came to.
        assessment: The verdict so far, and the draws.
        algorithm: Its name, for the report of a fit that stopped being finite.
        broken: ``kernel.broken`` as it was at the end of the fit, before any draws were weighed.
        seed: Of the fit.

    Cost: three calls of the kernel, and some densities for each coordinate and direction.
    """
    verdict = assessment.verdict
    if status is Status.NOT_FINITE:
        verdict = dataclasses.replace(verdict, reasons=(*verdict.reasons, *_where(kernel, verdict, algorithm, broken)))
    advice = [r.partition("Suggestion: ")[2] for r in verdict.reasons if "Suggestion: " in r]
    if advice and verdict.fatal:
        verdict = dataclasses.replace(verdict, next_step=advice[0])
    if q.noise_dimension == 0 or status is Status.INTERRUPTED:
        return dataclasses.replace(assessment, verdict=verdict)
    fault = None
    if status not in (Status.FLAT, Status.UNBOUNDED):  # where q has run away, numbers mean little
        fault = faults(kernel, q, seed=seed) or _improper(kernel, q, assessment, seed)
    if status is Status.UNBOUNDED:
        verdict = dataclasses.replace(verdict, next_step=_UNBOUNDED)
    if fault is not None:
        verdict = condemn(verdict, *fault)
    return dataclasses.replace(assessment, verdict=verdict)


def condemn(verdict: Verdict, fault: str, advice: str) -> Verdict:
    """NOT_TRUSTED, because of the density and not of q."""
    return dataclasses.replace(
        verdict,
        status=VerdictStatus.NOT_TRUSTED,
        sentence=f"This posterior is not an answer: {fault}.",
        reasons=(*verdict.reasons, fault),
        next_step=advice,
        fatal=True,
    )


def _where(
    kernel: Kernel, verdict: Verdict, algorithm: str, broken: tuple[np.ndarray, tuple[str, int]] | None
) -> list[str]:
    phase, step = kernel.at
    out = [
        f"it stopped being finite in phase {phase!r}, step {step} of {algorithm}; the fit went back to its last good "
        "state, which is what is returned"
    ]
    if broken is not None and not any("first not finite" in r for r in verdict.reasons):
        x, (phase, step) = broken
        out += [f"met in phase {phase!r} after step {step}: {f}" for f in forensics(kernel, x)]
    return out


def _improper(kernel: Kernel, q: Block, assessment: Assessment, seed: int) -> tuple[str, str] | None:
    rng = np.random.default_rng([seed, _SEED])
    w = np.asarray(assessment.weights)
    draws = assessment.draws
    if len(w) == len(draws) and np.isfinite(w).all() and w.sum() > 0:
        draws = draws[rng.choice(len(draws), 1024, p=w / w.sum())]
    found = improper(kernel, q, draws, rng)
    if not found:
        return None
    sites = tuple(dict.fromkeys(s for t in found for s in t.sites))
    return (
        "the posterior is improper, or cannot be told from one that is: the log density does not fall off as "
        + ", nor as ".join(t.where for t in found[:4])
        + (", nor elsewhere" if len(found) > 4 else ""),
        f"give {', '.join(sites)} a proper prior: the mass in that direction is infinite, or cut off only where "
        "numbers end, so no estimate of the evidence or of a mean has a meaning.",
    )
