"""``lb.explain``: a model's plan, before anything runs or compiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from lowerbound import plan
from lowerbound.algorithms.factored import Factored
from lowerbound.closed_form import factored_of
from lowerbound.errors import IncompatibleError
from lowerbound.explanation import table
from lowerbound.explanation.derivation import Derivation, Open, derive
from lowerbound.explanation.rows import Row, rows_of
from lowerbound.explanation.typeset import typeset
from lowerbound.explanation.written import Equations, largest_difference, written
from lowerbound.model.base import Model
from lowerbound.model.given import as_model


class Choice(NamedTuple):
    """What ``lb.fit`` does with a model when no option is given: short names, and a sentence."""

    family: str | None
    algorithm: str | None
    sentence: str


@dataclass(frozen=True, eq=False)
class Explanation:
    """A model's plan: what :func:`explain` returns. ``str(explanation)`` is a plain text table.

    Attributes:
        model_name: Of the model.
        rows: One for each latent, in the order of the model.
        open: What has no closed form: factor, operation, the model's line, and the rewrite that would give it one.
        choice: What ``lb.fit`` does when no option is given.
    """

    model_name: str
    rows: tuple[Row, ...]
    open: tuple[Open, ...]
    choice: Choice
    _derivation: Derivation = field(repr=False)

    @property
    def algorithm(self) -> str | None:
        """Short name of the algorithm that ``lb.fit`` chooses; None where it refuses the model."""
        return self.choice.algorithm

    @property
    def family(self) -> str | None:
        """Short name of the family that ``lb.fit`` chooses; None where the algorithm derives its own."""
        return self.choice.family

    @cached_property
    def equations(self) -> Equations:
        """The ELBO and the updates as sums of products, as :meth:`latex` prints them and :meth:`check` computes them.

        Raises:
            IncompatibleError: no factor has a closed form.
        """
        if self._derivation.factored is None:
            raise IncompatibleError(
                f"no factor of {self.model_name!r} has a closed form, so there is nothing to write down: "
                + "; ".join(map(str, self.open))
                + "."
            )
        return written(self._derivation)

    def latex(self) -> str:
        """The ELBO as derived, and the coordinate update of each block: two ``align*`` environments.

        Angle brackets are expectations under q; square brackets are 1 where what they hold is true, else 0. Arrays of
        the data go by the names of the model's arguments where they, their products or their sums of products over
        rows are recognised; others are numbered, and listed below.

        Raises:
            IncompatibleError: no factor has a closed form.
        """
        return typeset(self.equations)

    def check(self, *, seed: int = 0) -> float:
        """The largest relative difference between what is written and what is computed.

        The terms that :meth:`latex` prints are evaluated at random moments: the ELBO's against the exact expectation,
        each block's natural parameters against the derivative by automatic differentiation. About 1e-15 to 1e-10.

        Args:
            seed: Of the moments.

        Raises:
            IncompatibleError: no factor has a closed form.
        """
        return largest_difference(self.equations, seed)

    # -- forms -----------------------------------------------------------------------------------------

    @property
    def _parts(self) -> tuple[str, tuple[Row, ...], tuple[Open, ...], tuple[str, ...]]:
        d = self._derivation
        title = f"Plan of {self.model_name}: {_count(len(self.rows), 'latent')}"
        if all(r.kind not in ("sampled", "none") for r in self.rows):
            title += f" in {_count(len({frozenset((r.latent, *r.shared)) for r in self.rows}), 'block')}"
        if d.latents:
            title += f", {len(d.factors) + len(d.leaves)} of {_count(len(d.latents), 'factor')} in closed form"
        return title, self.rows, self.open, (self.choice.sentence,)

    def __str__(self) -> str:
        return table.text(*self._parts)

    def __repr__(self) -> str:
        return str(self)

    def __rich__(self) -> Any:
        return table.rich_table(*self._parts)

    def _repr_html_(self) -> str:
        return table.html_table(*self._parts)


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")


def explain(model: Any, data: Mapping[str, Any] | None = None) -> Explanation:
    """Which block of q each latent gets, which update, and why; nothing is compiled and nothing runs.

    E_q[log p(x, z)] is a sum over factors. The model is traced, and each factor's expectation derived as far as it has
    a closed form; what the factors ask of a latent decides its family, and the derivative with respect to those
    moments is its update.

    Args:
        model: A NumPyro model, or a :class:`lowerbound.LogDensity`.
        data: Its keyword arguments, as :func:`lowerbound.fit` takes them.

    Returns:
        An :class:`Explanation`: a table when printed; :meth:`~Explanation.latex` has the equations.

    Raises:
        ModelError, DataError: bad input, as in :func:`lowerbound.fit`.

    Cost: one trace of the model, 0.1 to 2 seconds.

    Example:
        >>> import lowerbound as lb, numpyro, numpyro.distributions as dist
        >>> def model(y):
        ...     m = numpyro.sample("m", dist.Normal(0, 10))
        ...     tau = numpyro.sample("tau", dist.Gamma(1, 1))
        ...     with numpyro.plate("rows", len(y)):
        ...         numpyro.sample("y", dist.Normal(m, tau**-0.5), obs=y)
        >>> [row.update for row in lb.explain(model, {"y": [1.0, 2.0, 4.0]}).rows]
        ['exact, in closed form', 'exact, in closed form']
    """
    bound = as_model(model, data)
    derivation = derive(bound)
    chosen, drawn = decide(bound, derivation.open)
    fallback = f"Gaussian by {(chosen.algorithm or 'score_regression').replace('_', ' ')}"
    return Explanation(bound.name, rows_of(derivation, fallback, drawn), derivation.open, chosen, derivation)


def choice(model: Model) -> Choice:
    """What ``lb.fit(model, data)`` does with no options."""
    return decide(model, derive(model).open)[0]


def decide(model: Model, open: Sequence[Open]) -> tuple[Choice, Factored | None]:
    """:func:`lowerbound.plan.choose`, asked and put into words; and the ELBO where some of its factors are drawn.

    Args:
        model: Bound to its data.
        open: What has no closed form in it.
    """
    drawn: Factored | None = None
    try:
        family, algorithm = plan.choose(model)
        if family is None and open:
            drawn = factored_of(model, num_draws=getattr(algorithm, "num_draws", None))
    except IncompatibleError as e:
        return Choice(None, None, f"lb.fit refuses the model: {e}"), None
    if family is None:
        return Choice(None, algorithm.name, f"lb.fit with no options: algorithm {algorithm.name}, these blocks."), drawn
    may = " (arrow, if the compiled density shows one)" if model.dimension > plan.ARROW_FROM else ""
    said = f"lb.fit with no options: algorithm {algorithm.name}, family {family.name}{may}."
    return Choice(family.name, algorithm.name, said), None
