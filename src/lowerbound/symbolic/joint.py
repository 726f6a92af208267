"""p(x, z) in symbols: one latent, and observations given it; log p(x) and p(z | x) where they are known."""

# SymPy annotates its functions more narrowly than what they take and give.
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import sympy as sp

from lowerbound.errors import ModelError
from lowerbound.symbolic.distributions import POSITIVE, Distribution
from lowerbound.symbolic.integrals import limits, normaliser, summed


class Joint:
    """The joint density of a :class:`~lowerbound.symbolic.Model`, which has the arguments."""

    def __init__(
        self,
        *,
        prior: Distribution,
        likelihood: Callable[[Any], Distribution],
        latent: str = "z",
        data: str | sp.Symbol | Sequence[str | sp.Symbol] = "x",
        seconds: float = 2.0,
    ):
        if not isinstance(prior, Distribution) or prior.support is None:
            raise ModelError(
                f"the prior is {type(prior).__name__}; needed: a distribution of lowerbound.symbolic over real, "
                "positive or unit numbers, or over finitely many values."
            )
        self.prior, self.likelihood, self.seconds = prior, likelihood, seconds
        assumed = {"positive": True} if prior.support in (POSITIVE, "unit") else {"real": True}
        self.z = sp.Symbol(latent, **assumed)
        names = [data] if isinstance(data, (str, sp.Symbol)) else list(data)
        self.data = tuple(sp.Symbol(d, real=True) if isinstance(d, str) else d for d in names)
        if self.z.name in [d.name for d in self.data] or not self.data:
            raise ModelError(f"data is {data!r} and the latent {latent!r}; needed: at least one, and another name.")
        first = likelihood(self.values[0] if self.discrete else self.z)
        if not isinstance(first, Distribution):
            raise ModelError(
                f"the likelihood gave {type(first).__name__}; needed: a distribution of lowerbound.symbolic, as in "
                "likelihood=lambda z: Normal(z, 1)."
            )

    @property
    def discrete(self) -> bool:
        return isinstance(self.prior.support, tuple)

    @property
    def values(self) -> tuple[int, ...]:
        """What a discrete latent can be."""
        return self.prior.support if isinstance(self.prior.support, tuple) else ()

    def log_likelihood(self, z: Any) -> sp.Expr:
        """log p(x | z), of all observations."""
        given = self.likelihood(z)
        return sp.Add(*(given.log_density(x) for x in self.data))

    def log_joint(self, z: Any) -> sp.Expr:
        """log p(x, z)."""
        return self.prior.log_density(z) + self.log_likelihood(z)

    @cached_property
    def _marginal(self) -> tuple[sp.Expr, Distribution] | None:
        if self.discrete:
            return summed(self.log_joint, self.values)
        return normaliser(self.log_joint(self.z), self.z, str(self.prior.support))

    @property
    def evidence(self) -> sp.Expr | None:
        return None if self._marginal is None else self._marginal[0]

    @property
    def posterior(self) -> Distribution | None:
        return None if self._marginal is None else self._marginal[1]

    def integral(self, f: Callable[[Any], sp.Expr], support: Any = None) -> sp.Expr:
        """The integral of f(z) over a support (the prior's, if none is given), as SymPy writes it; or the sum."""
        support = self.prior.support if support is None else support
        if isinstance(support, tuple):
            return sp.Add(*(f(k) for k in support))
        return sp.Integral(f(self.z), (self.z, *limits(support)))
