"""The three numbers of the identity, how each was obtained, and what is left when they are put together."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lowerbound.diagnostics.estimate import Estimate


@dataclass(frozen=True)
class Decomposition:
    r"""log p(x) = ELBO(q) + KL(q ‖ p(z | x)), in nats, the three computed apart from each other.

    Attributes:
        log_evidence, elbo, kl: Each with its error: zero where it is exact, a standard error where it is estimated from
            draws, and the difference between two sets of nodes where it is by quadrature.
        route: ``"enumeration"``, ``"conjugate"``, ``"quadrature"`` or ``"sampling"``.
        how: How each was obtained, in the order of the three.
        reasons: What to know before they are believed: why the KL is infinite, or an estimate poor.
    """

    log_evidence: Estimate
    elbo: Estimate
    kl: Estimate
    route: str
    how: tuple[str, str, str]
    reasons: tuple[str, ...] = ()

    @property
    def residual(self) -> float:
        """log p(x) - ELBO - KL: zero but for the errors of the three; nan where q misses (infinity less infinity)."""
        if not math.isfinite(self.kl.value) or not math.isfinite(self.elbo.value):
            return math.nan
        return self.log_evidence.value - self.elbo.value - self.kl.value

    @property
    def residual_error(self) -> float:
        """The errors of the three together: in squares where they are independent standard errors, else summed."""
        errors = (self.log_evidence.se, self.elbo.se, self.kl.se)
        return math.hypot(*errors) if self.route == "sampling" else math.fsum(errors)

    @property
    def z(self) -> float:
        """The residual in standard errors, where the three are estimated from draws; else nan.

        Beyond 5 in size one of the three is not what it should be.
        """
        return self.residual / self.residual_error if self.route == "sampling" else math.nan

    def __str__(self) -> str:
        names = ("log p(x)", "= ELBO(q)", "+ KL(q ‖ p(z | x))")
        values = [str(e) for e in (self.log_evidence, self.elbo, self.kl)]
        width = max(map(len, values))
        lines = [f"{n:<19} {v:>{width}}   {h}" for n, v, h in zip(names, values, self.how, strict=True)]
        if math.isnan(self.residual):
            left = f"{'residual':<19} {'none':>{width}}   the sum is -inf + inf"
        elif self.route == "sampling":
            left = f"{'residual':<19} {self.residual:>{width}.3g}   {abs(self.z):.1f} standard errors"
        else:
            error = f"error of the three together {self.residual_error:.1e}" if self.residual_error else "rounding"
            left = f"{'residual':<19} {self.residual:>{width}.1e}   {error}"
        return "\n".join([*lines, left, *(f"  - {r}" for r in self.reasons)])
