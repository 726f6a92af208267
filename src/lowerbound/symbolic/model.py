"""A small model in symbols, and the derivation of log p(x) = ELBO(q) + KL(q ‖ p(z | x)) for it."""

# SymPy annotates its functions more narrowly than what they take and give.
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportReturnType=false

from __future__ import annotations

from lowerbound.errors import ModelError
from lowerbound.symbolic.derivation import Derivation
from lowerbound.symbolic.distributions import Distribution
from lowerbound.symbolic.joint import Joint


class Model(Joint):
    r"""One latent z with a prior, and observations that are independent given it.

    Args:
        prior: p(z): continuous (Normal, Gamma, Exponential, Beta), or with finitely many values (Bernoulli,
            Categorical).
        likelihood: From z to p(x | z). Of a discrete latent it is called with each value: ``lambda k: Normal(means[k],
            1)``; else with a symbol.
        latent: Name of z.
        data: Name of x, or names (or SymPy symbols) of several.
        seconds: That SymPy may take for an integral without a rule; it is then left as it is.

    Attributes:
        evidence: log p(x) in closed form; None where none is found.
        posterior: p(z | x), a :class:`Distribution`; None where it is none of those here.

    Raises:
        ModelError: a prior over infinitely many separate values, or a likelihood that is no distribution.

    Example:
        >>> from lowerbound.symbolic import Model, Normal
        >>> m = Model(prior=Normal(0, "tau"), likelihood=lambda z: Normal(z, "sigma"))
        >>> m.posterior.mean
        tau**2*x/(sigma**2 + tau**2)
        >>> found = m.derivation(Normal("m", "s")).check({"x": 1.3, "tau": 2, "sigma": 0.5, "m": 0.7, "s": 0.4})
        >>> f"{found[-1].name}: {found[-1].left:.6f} = {found[-1].right:.6f}"
        'decomposition: -1.841222 = -1.841222'
    """

    def derivation(self, q: Distribution) -> Derivation:
        """From Jensen's inequality to the decomposition, for this q, line by line.

        Args:
            q: With the prior's support.

        Raises:
            ModelError: it is over other values than the prior.
        """
        if not isinstance(q, Distribution) or q.support != self.prior.support:
            came = q.support if isinstance(q, Distribution) else type(q).__name__
            raise ModelError(
                f"q is over {came}, the prior over {self.prior.support}. Where q reaches beyond the prior "
                "KL(q ‖ p(z | x)) is infinite, and nothing is to be derived: give a q over the same values."
            )
        return Derivation(self, q)
