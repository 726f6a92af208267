r"""From Jensen's inequality to log p(x) = ELBO(q) + KL(q ‖ p(z | x)), line by line, each with two sides to compute.

A line has its LaTeX, and each of its sides a way to its number that the other does not take: a closed form against an
integral, one integral against another.
"""

# SymPy annotates its functions more narrowly than what they take and give.
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import sympy as sp

from lowerbound.errors import DerivationError
from lowerbound.symbolic.distributions import Distribution
from lowerbound.symbolic.integrals import expectation, tidy
from lowerbound.symbolic.joint import Joint
from lowerbound.symbolic.numbers import Numbers


@dataclass(frozen=True)
class Line:
    """One step.

    Attributes:
        name: Of the step.
        left, relation, right: LaTeX; the relation is ``=`` or ``\\ge``.
        reason: Why it holds, in words.
        numbers: The two sides at numbers for the symbols.
        closed: The right side with everything put in, where it has a closed form.
    """

    name: str
    left: str
    relation: str
    right: str
    reason: str
    numbers: Callable[[Numbers], tuple[Any, Any]]
    closed: sp.Expr | None = None

    def latex(self) -> str:
        """The line, for an ``aligned`` environment."""
        out = rf"{self.left} &{self.relation} {self.right} && \text{{{self.reason}}}"
        return out if self.closed is None else rf"{out} \\" + "\n" + rf"&= {sp.latex(self.closed)}"


class Checked(NamedTuple):
    """A line at numbers: both sides, and left less right (of an inequality, what is to spare)."""

    name: str
    left: float
    right: float
    difference: float


class Derivation:
    """See the module's docstring; made by :meth:`Model.derivation`.

    Args:
        model: The model.
        q: Over the same values as its prior.

    Attributes:
        evidence: log p(x); an unevaluated integral where it has no closed form.
        elbo: ELBO(q); likewise.
        kl: KL(q ‖ p(z | x)), from q and the posterior alone; likewise, and None where the posterior has no closed form.
        lines: The steps.
    """

    def __init__(self, model: Joint, q: Distribution):
        self.model, self.q = model, q

    # -- what has a closed form ----------------------------------------------------------------------

    def _expectation(self, f: Callable[[Any], sp.Expr]) -> sp.Expr | None:
        return expectation(self.q, f, self.model.z, self.model.seconds)

    @cached_property
    def energy(self) -> sp.Expr | None:
        """E_q[log p(x, z)] in closed form; None where there is none."""
        return self._expectation(self.model.log_joint)

    @cached_property
    def entropy(self) -> sp.Expr | None:
        """H(q) in closed form; None where there is none."""
        found = self._expectation(self.q.log_density)
        return None if found is None else -found

    @cached_property
    def prior_kl(self) -> sp.Expr | None:
        """KL(q ‖ p(z)) in closed form; None where there is none."""
        prior = self._expectation(self.model.prior.log_density)
        return None if prior is None or self.entropy is None else -self.entropy - prior

    @cached_property
    def _closed_elbo(self) -> sp.Expr | None:
        return None if self.energy is None or self.entropy is None else self._tidied(self.energy + self.entropy)

    @cached_property
    def _closed_kl(self) -> sp.Expr | None:
        posterior = self.model.posterior
        if posterior is None or self.entropy is None:
            return None
        found = self._expectation(posterior.log_density)
        return None if found is None else self._tidied(-self.entropy - found)

    def _tidied(self, e: sp.Expr) -> sp.Expr:
        """Sums over values are left as they are: their exponentials have no common denominator worth finding."""
        return e if self.model.discrete else tidy(e)

    @property
    def evidence(self) -> sp.Expr:
        m = self.model
        return m.evidence if m.evidence is not None else sp.log(m.integral(lambda z: sp.exp(m.log_joint(z))))

    @property
    def elbo(self) -> sp.Expr:
        found = self._closed_elbo
        return self.model.integral(self._gain) if found is None else found

    @property
    def kl(self) -> sp.Expr | None:
        posterior = self.model.posterior
        if self._closed_kl is not None or posterior is None:
            return self._closed_kl
        return self.model.integral(self._loss(posterior))

    # -- integrands ----------------------------------------------------------------------------------

    def _q(self, z: Any) -> sp.Expr:
        return sp.exp(self.q.log_density(z))

    def _gain(self, z: Any) -> sp.Expr:
        """q log(p(x, z) / q)."""
        return self._q(z) * (self.model.log_joint(z) - self.q.log_density(z))

    def _loss(self, posterior: Distribution) -> Callable[[Any], sp.Expr]:
        """q log(q / p(z | x))."""
        return lambda z: self._q(z) * (self.q.log_density(z) - posterior.log_density(z))

    # -- the steps -----------------------------------------------------------------------------------

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        m, q = self.model, self.q
        sign, d = (r"\sum_z ", "") if m.discrete else (r"\int ", r"\,dz")
        ratio = r"\frac{p(x, z)}{q(z)}"

        def joint(z: Any) -> sp.Expr:
            return sp.exp(m.log_joint(z))

        def reweighted(z: Any) -> sp.Expr:
            return self._q(z) * sp.exp(m.log_joint(z) - q.log_density(z))

        def evidence(n: Numbers) -> Any:
            """log p(x) by its closed form, or by other nodes than the integral's."""
            return n.value(m.evidence) if m.evidence is not None else n.log(n.integral(joint, other=True))

        def elbo(n: Numbers) -> Any:
            return n.integral(self._gain)

        def closed_elbo(n: Numbers) -> Any:
            if self._closed_elbo is not None:
                return n.value(self._closed_elbo)
            return n.integral(lambda z: self._q(z) * m.log_joint(z), other=True) + entropy(n)

        def entropy(n: Numbers) -> Any:
            if self.entropy is not None:
                return n.value(self.entropy)
            return -n.integral(lambda z: self._q(z) * q.log_density(z), other=True)

        def split(n: Numbers) -> Any:
            fit = n.integral(lambda z: self._q(z) * m.log_likelihood(z), other=True)
            if self.prior_kl is not None:
                return fit - n.value(self.prior_kl)
            return fit - n.integral(self._loss(m.prior), other=True)

        def kl(n: Numbers, *, other: bool = False) -> Any:
            """By quadrature: from the posterior's own density, or from the joint over a p(x) of its own."""
            if m.posterior is not None:
                return n.integral(self._loss(m.posterior), other=other)
            log_p = n.log(n.integral(joint, other=not other))
            return n.integral(lambda z: self._q(z) * (q.log_density(z) - m.log_joint(z)), other=other) + log_p

        def closed_kl(n: Numbers) -> Any:
            return n.value(self._closed_kl) if self._closed_kl is not None else kl(n, other=True)

        def pair(left: Callable[[Numbers], Any], right: Callable[[Numbers], Any]) -> Callable[[Numbers], Any]:
            return lambda n: (left(n), right(n))

        bound = rf"{sign}q(z) \log {ratio}{d}"
        gap = rf"{sign}q(z) \log \frac{{q(z)}}{{p(z \mid x)}}{d}"
        kl_name = r"\mathrm{KL}(q \,\|\, p(z \mid x))"
        return (
            Line("evidence", r"\log p(x)", "=", rf"\log {sign}p(x, z){d}", "the joint, with z summed out",
                 pair(evidence, lambda n: n.log(n.integral(joint))), m.evidence),
            Line("insert q", rf"\log {sign}p(x, z){d}", "=", rf"\log {sign}q(z) {ratio}{d}",
                 "multiplied and divided by q, which is positive where p is",
                 pair(lambda n: n.log(n.integral(joint)), lambda n: n.log(n.integral(reweighted)))),
            Line("Jensen", rf"\log {sign}q(z) {ratio}{d}", r"\ge", bound,
                 "the log of a mean is at least the mean of the log",
                 pair(lambda n: n.log(n.integral(reweighted)), elbo)),
            Line("ELBO", bound, "=", r"\mathrm{E}_q[\log p(x, z)] + \mathrm{H}(q) = \mathrm{ELBO}(q)",
                 "the log of the ratio is a difference", pair(elbo, closed_elbo), self._closed_elbo),
            Line("fit and prior", r"\mathrm{ELBO}(q)", "=",
                 r"\mathrm{E}_q[\log p(x \mid z)] - \mathrm{KL}(q \,\|\, p(z))",
                 "the joint is likelihood times prior", pair(closed_elbo, split)),
            Line("gap", r"\log p(x) - \mathrm{ELBO}(q)", "=", rf"{gap} = {kl_name}",
                 "p(x, z) is p(z | x) p(x), and q sums to one",
                 pair(lambda n: evidence(n) - closed_elbo(n), kl)),
            Line("KL", kl_name, "=", gap, "its definition", pair(closed_kl, kl), self._closed_kl),
            Line("KL is none below zero", kl_name, r"\ge", "0", "Jensen again, of q's mean of -log p(z | x) / q",
                 pair(closed_kl, lambda n: n.zero)),
            Line("decomposition", r"\log p(x)", "=", rf"\mathrm{{ELBO}}(q) + {kl_name}", "the two together",
                 pair(evidence, lambda n: closed_elbo(n) + closed_kl(n))),
        )  # fmt: skip

    def latex(self) -> str:
        """All lines, as one ``aligned`` environment."""
        head = rf"q(z) &= {self.q.latex()}, \qquad p(z) = {self.model.prior.latex()}"
        body = " \\\\\n".join([head, *(line.latex() for line in self.lines)])
        return "\\begin{aligned}\n" + body + "\n\\end{aligned}"

    def check(self, values: Mapping[str, float], *, tol: float = 1e-9) -> list[Checked]:
        """Every line at numbers for the symbols.

        Args:
            values: A number for each symbol, by name.
            tol: Largest difference of the sides of an equation, relative to 1 and to the larger of them.

        Returns:
            Both sides of each line, and their difference.

        Raises:
            DerivationError: a line does not hold; says which, and both sides.
            DataError: a symbol has no number, a number no symbol, or one is not what the symbol may be.

        Cost: about twenty integrals of 20 digits, half a second or so together.
        """
        numbers = Numbers(self.model, self.q, values)
        out = []
        for line in self.lines:
            left, right = (float(side) for side in line.numbers(numbers))
            size = tol * (1 + max(abs(left), abs(right)))
            holds = left - right >= -size if line.relation == r"\ge" else abs(left - right) <= size
            if not holds:
                raise DerivationError(
                    f"the line {line.name!r} does not hold at {dict(values)}: {left:.12g} {line.relation} {right:.12g} "
                    f"is off by {left - right:.3g}. Needed: a difference within {size:.1e}."
                )
            out.append(Checked(line.name, left, right, left - right))
        return out
