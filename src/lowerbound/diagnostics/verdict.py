"""What is said about a posterior: TRUSTED, CORRECTED or NOT_TRUSTED, and why.

The rules by which it is come to are in :mod:`lowerbound.diagnostics.rules`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum

from lowerbound.diagnostics.estimate import Estimate


class VerdictStatus(Enum):
    """TRUSTED, CORRECTED (the returned draws are repaired ones) or NOT_TRUSTED."""

    TRUSTED = "trusted"
    CORRECTED = "corrected"
    NOT_TRUSTED = "not trusted"


@dataclass(frozen=True)
class Verdict:
    """What can be said about a posterior.

    Attributes:
        status: TRUSTED, CORRECTED or NOT_TRUSTED.
        sentence: For the person.
        reasons: What it rests on.
        parameters: The coordinates concerned, worst first.
        next_step: What to try.
        converged, rule: Whether the stopping rule was met, and which it is.
        elbo: The evidence lower bound, in nats.
        pareto_k: k-hat of the importance weights.
        kl_gap: Estimated KL(q || p), in nats.
        effective: Effective draws behind the weights.
        not_checked: What this verdict does not cover.
        fatal: Whether the fit ended for a reason that leaves no answer.
        fisher: Covariance-weighted Fisher divergence of q: 0 at the posterior; NaN where q is no Gaussian.
        r_hat: Of the short chains; NaN where none were run.
        modes: The posterior mass of each mode that was found, by the weights; a single 1.0 for one.
        without_sd: Parameters and deterministics whose tails are so heavy that their sd may not exist.
    """

    status: VerdictStatus
    sentence: str
    reasons: tuple[str, ...]
    parameters: tuple[str, ...]
    next_step: str
    converged: bool
    rule: str
    elbo: Estimate
    pareto_k: float
    kl_gap: Estimate
    effective: float
    not_checked: tuple[str, ...] = field(default=())
    fatal: bool = False
    fisher: float = float("nan")
    r_hat: float = float("nan")
    modes: tuple[float, ...] = (1.0,)
    without_sd: tuple[str, ...] = ()

    @property
    def trusted(self) -> bool:
        """Whether the returned draws may be used: TRUSTED or CORRECTED."""
        return self.status is not VerdictStatus.NOT_TRUSTED

    def __str__(self) -> str:
        lines = [f"{self.status.name}: {self.sentence}"]
        lines += [f"  - {r}" for r in self.reasons]
        if self.next_step:
            lines.append(f"  Next: {self.next_step}")
        return "\n".join(lines)


def about_parameters(verdict: Verdict, names: Iterable[str], doubts: tuple[str, ...] = ()) -> Verdict:
    """What a verdict on latents leaves open where the model's own parameters were learned.

    Args:
        verdict: On q, with the parameters fixed.
        names: Of the parameters.
        doubts: What else is not known of them.
    """
    listed = ", ".join(names)
    said = f"the parameters {listed}: they are point estimates, and their own uncertainty is in no interval"
    return replace(verdict, not_checked=(*verdict.not_checked, said, *doubts))


def few(names: Iterable[str]) -> str:
    """The first six, in words."""
    listed = list(names)
    return ", ".join(listed[:6]) + (" and others" if len(listed) > 6 else "")
