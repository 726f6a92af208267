"""The evidence lower bound, in the three forms in which it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lowerbound.errors import IncompatibleError
from lowerbound.objectives.base import Objective, Target, check_draws

FORMS = ("joint", "entropy", "prior")


@dataclass(frozen=True)
class ELBO(Objective):
    r"""ELBO(q) = E_q[log p(x, z) - log q(z)] = log p(x) - KL(q || p(z | x)).

    Three ways to write it, equal in expectation and not in what is left to chance:

        joint     E_q[log p(x, z) - log q(z)]                      nothing in closed form
        entropy   E_q[log p(x, z)] + H(q)                          q's entropy is
        prior     E_q[log p(x | z)] - KL(q || p(z))                the divergence from the prior is

    ``prior`` takes those latents apart whose prior is a Gaussian with numbers for parameters; priors of others stay
    among what is sampled. ``joint`` has no variance where q is the posterior (with sticking the landing, its gradient
    has none either); the others do, but vary less while q is far from it.

    Args:
        num_samples: Draws of q a step. More make a step dearer and less noisy.
        form: ``"joint"``, ``"entropy"`` or ``"prior"``.

    Source: Jordan, Ghahramani, Jaakkola & Saul (1999); the forms as Kingma & Welling (2014) number them.
    """

    num_samples: int = 8
    form: Literal["joint", "entropy", "prior"] = "joint"
    tendency = "mode-seeking: q lies inside the posterior, its variances too small where the family has no correlations"
    learns = True
    caution = "never: it is a plain mean, with a standard error"

    def __post_init__(self) -> None:
        check_draws("ELBO", self.num_samples)
        if self.form not in FORMS:
            raise IncompatibleError(f"ELBO(form={self.form!r}): needed: one of {', '.join(FORMS)}.")

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "elbo" if self.form == "joint" else f"elbo_{self.form}"

    @property
    def needs_prior(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.form == "prior"

    def value(self, log_weights: Any) -> Any:
        return log_weights.mean()

    def integrand(self, target: Target, z: Any, log_q: Any) -> Any:
        if self.form == "joint":
            return target.log_joint(z) - log_q
        if self.form == "entropy":
            return target.log_joint(z)
        assert target.prior is not None
        return target.log_joint(z) - target.prior.log_prob(z)

    def analytic(self, target: Target, q: Any) -> Any:
        if self.form == "joint":
            return 0.0
        if self.form == "entropy":
            return q.entropy()
        assert target.prior is not None
        return q.entropy() + target.prior.expected(q)
