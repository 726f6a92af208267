"""From what was asked for to the way through the fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lowerbound.algorithms.base import Algorithm, Info
from lowerbound.algorithms.black_box_vi import BlackBoxVI
from lowerbound.closed_form import CLOSED, exact, is_closed, summed_out
from lowerbound.diagnostics.density.review import condemn
from lowerbound.errors import DataError, IncompatibleError, ModelError
from lowerbound.families import Amortized, Family
from lowerbound.fitting.amortized import amortized_algorithm, fit_amortized
from lowerbound.fitting.assembly import Found, assemble, warn_of
from lowerbound.fitting.black_box import fit_black_box
from lowerbound.fitting.closed_form import fit_closed_form
from lowerbound.fitting.options import Options
from lowerbound.fitting.session import Session
from lowerbound.fitting.unconstrained import fit_unconstrained
from lowerbound.model.base import Model
from lowerbound.model.given import as_model
from lowerbound.objectives import Objective
from lowerbound.plan import choose
from lowerbound.posterior import Posterior
from lowerbound.waiting import Waiting


def fit(
    model: Any,
    data: Mapping[str, Any] | None = None,
    *,
    family: str | Family | Amortized | None = None,
    algorithm: str | Algorithm | None = None,
    objective: str | Objective | None = None,
    seed: int = 0,
    init: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
    num_draws: int | None = None,
    escalate: bool | None = None,
    max_seconds: float | None = None,
    progress: bool | None = None,
    callback: Callable[[Info], object] | None = None,
) -> Posterior:
    """Fit an approximate posterior, and say how far it can be trusted.

    log p(x) = ELBO(q) + KL(q || p(z | x)):  q is chosen from a family to maximise the ELBO; what is left
    over is then estimated, and corrected where that is justified.

    Args:
        model: A NumPyro model (discrete latents must have finitely many values), or a :class:`lowerbound.LogDensity`.
        data: Its keyword arguments: a dictionary (or DataFrame). Arrays are traced, everything else stays
            static.
        family: An object of :mod:`lowerbound.families` or its short name (``"arrow"``, ``"dense"``, ``"diagonal"``,
            ``"low_rank"``, ``"sinh_arcsinh"``, ``"flow"``, ``"point_mass"``); None chooses by dimension and structure.
        algorithm: An object of :mod:`lowerbound.algorithms` or its short name; None chooses by family.
        objective: What to optimise in place of the ELBO: an object of :mod:`lowerbound.objectives` or its short name
            (``"importance_weighted"``, ``"forward_kl"``, ...); the algorithm is then one for it.
        seed: The same seed gives the same bits on the same machine.
        init: Where to start, from names of latents to values: labels of a discrete one (``{"z": labels}``), or its
            probabilities; for ``coordinate_ascent``.
        max_steps: Overrides the algorithm's limit.
        num_draws: Draws weighed for the verdict, a round; default 2048.
        escalate: Whether to try other coordinates and richer families where the verdict fails, as
            :mod:`lowerbound.escalation` describes; None does so unless a family or algorithm was asked for.
        max_seconds: Wall seconds after which nothing more is begun: the answer is then what there is, with status
            OUT_OF_TIME if the fit itself had not ended. A log density that does not return is given up.
        progress: True or False to force the display on or off; None shows it on a terminal.
        callback: Called with each step's :class:`~lowerbound.algorithms.Info`.

    Returns:
        A :class:`~lowerbound.Posterior`. Interrupted by Ctrl-C, the posterior so far, with status
        INTERRUPTED.

    Raises:
        ModelError, DataError, IncompatibleError, UnknownNameError: bad input, before any compilation.
        NotFiniteError: the log density is finite nowhere a fit could start; names the sites.
        GradientError, RandomDensityError: the gradient is not that of the log density, or it differs between calls.
        NotRespondingError: the log density has not returned within ``max_seconds``.

    Warns:
        TrustWarning: the verdict is NOT_TRUSTED.

    Cost: one compilation of the model's log density and gradient (0.2 to 2 seconds; kept between
    processes), then some thousand evaluations of it.

    Example:
        >>> import lowerbound as lb, numpyro, numpyro.distributions as dist
        >>> def model(y):
        ...     x = numpyro.sample("x", dist.Normal(0, 1))
        ...     numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        >>> posterior = lb.fit(model, {"y": 10.0})
        >>> round(float(posterior.mean()["x"]), 4), round(float(posterior.sd()["x"]), 4)
        (8.0, 0.4472)
        >>> posterior.verdict.status.name
        'TRUSTED'
    """
    session = Session(Options(seed, max_steps, num_draws, escalate, max_seconds, progress, callback))
    bound = Waiting("the model", session.deadline)(lambda: as_model(model, data))
    with session:
        found = _way(bound, family, algorithm, objective, init, session)
    posterior = assemble(found, session)
    warn_of(posterior.verdict)
    return posterior


def _way(model: Model, family: Any, algorithm: Any, objective: Any, init: Any, session: Session) -> Found:
    """The way that the choice of family and algorithm leads, gone to its end."""
    if init is not None and not isinstance(init, Mapping):
        raise DataError(f"init is {init!r}; needed: a dictionary from names of latents to values.")
    if isinstance(family, Amortized):
        chosen = amortized_algorithm(algorithm, objective)
        _no_init(init, chosen)
        return fit_amortized(model, family, chosen, session)
    free = family is None and algorithm is None and objective is None
    asked = family is not None or (objective is not None and not _derived(algorithm))
    derived = algorithm is not None and _derived(algorithm)
    # (Parameters of the model are learned by the bound with discrete latents summed out, which is a density like any.)
    if model.discrete and (asked or not derived) and (asked or algorithm is not None or model.parameters):
        model = summed_out(model)
    chosen_family, chosen = choose(model, family, algorithm, objective=objective)
    if isinstance(chosen, CLOSED):
        chosen = chosen.started_from(init)
        try:
            return fit_closed_form(model, chosen, session)
        except ModelError:
            # No distribution is the optimum. What the posterior lacks is told better by a fit that ends anywhere.
            if not free or model.discrete:
                raise
        chosen_family, chosen = choose(model, closed=False)
        assert chosen_family is not None
        found = fit_unconstrained(model, chosen_family, chosen, session, free=free)
        return _improper(found) if found.assessment.verdict.trusted and exact(model) else found
    _no_init(init, chosen)
    if isinstance(chosen, BlackBoxVI):
        return fit_black_box(model, chosen, session)
    assert chosen_family is not None
    return fit_unconstrained(model, chosen_family, chosen, session, free=free)


def _improper(found: Found) -> Found:
    """With the verdict that there is no posterior: by its form the density is of a family, at numbers that are none of
    its members'. (On a bounded support it seems to fall off where a transform saturates.)"""
    fault = "the posterior is improper: by the form of the model its density does not integrate to a finite number"
    advice = "give every latent a proper prior: nothing in the data bounds it at an end of its support."
    verdict = condemn(found.assessment.verdict, fault, advice)
    return replace(found, assessment=replace(found.assessment, verdict=verdict))


def _no_init(init: Any, algorithm: Algorithm) -> None:
    if init is not None:
        raise IncompatibleError(
            f"init is for coordinate_ascent, memoized_vi and stochastic_vi; {algorithm.name} finds its own starts. "
            "Leave init out."
        )


def _derived(algorithm: Any) -> bool:
    """Whether an algorithm, or the short name of one, has blocks of its own for discrete latents."""
    return is_closed(algorithm) or isinstance(algorithm, BlackBoxVI) or algorithm == BlackBoxVI.name
