r"""From a model and any q to the three numbers of log p(x) = ELBO(q) + KL(q ‖ p(z | x))."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lowerbound.decomposition.approximation import Approximation, outside, read, whole
from lowerbound.decomposition.conjugate import of_conjugate, single_block
from lowerbound.decomposition.enumeration import enumerate_states
from lowerbound.decomposition.quadrature import by_quadrature
from lowerbound.decomposition.result import Decomposition
from lowerbound.decomposition.sampling import by_sampling
from lowerbound.decomposition.target import Target
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.errors import DataError, IncompatibleError
from lowerbound.families import Block
from lowerbound.model.base import Model
from lowerbound.model.given import as_model
from lowerbound.posterior import Posterior

ROUTES = ("enumeration", "conjugate", "quadrature", "sampling")
#: Unconstrained dimensions up to which integrals are taken by quadrature.
_DIMENSIONS = 3


def decompose(
    model: Any,
    data: Mapping[str, Any] | None = None,
    q: Any = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    route: str | None = None,
    num_draws: int = 8192,
    seed: int = 0,
) -> Decomposition:
    r"""log p(x), the ELBO and the KL divergence of any q, each computed by itself.

        log p(x) = E_q[log p(x, z) - log q(z)] + E_q[log q(z) - log p(z | x)]

    None of the three is obtained from the others, so that :attr:`Decomposition.residual` checks them.

    Args:
        model, data: As for :func:`lowerbound.fit`.
        q: A fitted :class:`~lowerbound.Posterior` (its q, not its corrected draws), a block of
            :mod:`lowerbound.families` over the unconstrained vector, a NumPyro distribution of a single latent, or a
            dictionary from sites to distributions on the constrained space; of discrete latents, to probabilities
            ``[*shape, k]``. Discrete latents that q leaves out are summed out of the model.
        parameters: What the model itself has to learn (``numpyro.param``), by name, as ``posterior.parameters`` has
            it: a ``Posterior`` brings its own, any other q needs them. log p(x) is then log p(x; theta).
        route: How: ``"enumeration"`` where all latents are discrete; ``"conjugate"`` where the posterior is one block
            of an exponential family and q a member of it; ``"quadrature"`` in up to three unconstrained dimensions;
            ``"sampling"``. None takes the first that serves.
        num_draws: Draws of q for the ELBO, and as many for the KL; ``"sampling"`` alone.
        seed: Of the draws.

    Returns:
        Values in nats with their errors; ``print`` shows a table.

    Raises:
        DataError: q has a site too many or too few, or of another shape; or parameters are missing, or too many.
        IncompatibleError: the route does not serve this model, or q is a posterior of other data.

    Cost: enumeration, one log joint for each of up to 262,144 states; conjugate, two small compilations; quadrature, up
    to 4 x 10^5 log densities; sampling, about 4 x 10^4.

    Example:
        >>> import lowerbound as lb, numpyro, numpyro.distributions as dist
        >>> def coin(heads):
        ...     p = numpyro.sample("p", dist.Beta(1.0, 1.0))
        ...     numpyro.sample("heads", dist.Binomial(10, p), obs=heads)
        >>> d = lb.decompose(coin, {"heads": 7}, dist.Beta(8.0, 4.0))
        >>> f"{d.log_evidence:.6f} {d.elbo:.6f} {abs(d.kl.value) < 1e-9}"   # the posterior; log 1/11
        '-2.397895 -2.397895 True'

    Source: Jordan, Ghahramani, Jaakkola & Saul 1999, section 6; Chib 1995 for the evidence of conjugate models.
    """
    if route is not None and route not in ROUTES:
        raise IncompatibleError(f"route is {route!r}; needed: one of {', '.join(map(repr, ROUTES))}, or None.")
    if isinstance(num_draws, bool) or not isinstance(num_draws, (int, np.integer)) or num_draws < 2:
        raise DataError(f"num_draws is {num_draws!r}; needed: a whole number, two or more.")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise DataError(f"seed is {seed!r}; needed: a whole number, zero or more.")
    bound = as_model(model, data)
    if isinstance(q, Posterior):
        if parameters is not None:
            raise DataError("parameters= beside a Posterior, which brings those it was fitted with. Leave it out.")
        bound, q = _of_posterior(bound, q)
    else:
        bound = _at(bound, parameters)
    if isinstance(q, Block) and not q.has_density:
        return _point(bound)
    found = read(bound, q)
    if not bound.dimension:
        if route not in (None, "enumeration"):
            raise IncompatibleError(
                f"all latents of {bound.name!r} are discrete; route={route!r} is for continuous ones."
            )
        return enumerate_states(bound, found.labels)
    if route == "enumeration":
        raise IncompatibleError(f"{bound.name!r} has continuous latents ({', '.join(bound.sites)}); leave route out.")
    reason = outside(bound, found)
    if reason is not None:
        return _beyond(bound, reason, num_draws=num_draws, seed=seed)
    return _continuous(bound, found, route, num_draws, seed)


def _continuous(model: Model, q: Approximation, route: str | None, num_draws: int, seed: int) -> Decomposition:
    if route in (None, "conjugate"):
        factored = single_block(model) if whole(model, q) else None
        exact = None if factored is None else of_conjugate(model, factored, q)
        if exact is not None:
            return exact
        if route is not None:
            why = "the posterior is no single exponential family, or q is not one of its members"
            raise IncompatibleError(f"route='conjugate' of {model.name!r}: {why}. Leave route out.")
    if route == "quadrature" and model.dimension > _DIMENSIONS:
        raise IncompatibleError(
            f"route='quadrature' takes up to {_DIMENSIONS} unconstrained dimensions, {model.name!r} has "
            f"{model.dimension}. Leave route out."
        )
    target = Target(model, q)
    if route in (None, "quadrature") and model.dimension <= _DIMENSIONS:
        found = by_quadrature(target)
        if found is not None:
            return found
        if route is not None:
            raise IncompatibleError(
                f"route='quadrature' of {model.name!r}: the most nodes there are do not suffice. Leave route out."
            )
    return by_sampling(target, num_draws=num_draws, seed=seed)


def _at(model: Model, parameters: Mapping[str, Any] | None) -> Model:
    """The model with its parameters where they are given."""
    if parameters is None and model.parameters:
        names = [n.removesuffix("$params") for n in model.parameters]
        raise DataError(
            f"{model.name!r} has the parameters {names} (numpyro.param), and log p(x) depends on them. Give their "
            "values, parameters={...}, or a fitted Posterior, which brings its own."
        )
    if parameters is None:
        return model
    if not isinstance(parameters, Mapping):
        raise DataError(f"parameters is a {type(parameters).__name__}; needed: a dictionary from names to values.")
    return model.with_parameter_values(parameters).held()


def _of_posterior(model: Model, posterior: Posterior) -> tuple[Model, Any]:
    """The model in the coordinates in which a posterior was fitted, and its q."""
    own = posterior._sites.model
    learned = set(model.parameter_places)
    same = len(own.arguments) >= len(model.arguments) and all(
        i in learned or np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for i, (a, b) in enumerate(zip(map(np.asarray, model.arguments), map(np.asarray, own.arguments), strict=False))
    )
    if posterior.updates:
        # Its prior is the posterior before it, which the model that is given does not have: q against all the rows.
        if same:
            raise IncompatibleError(
                f"q was updated, with the posterior before it as its prior, and the data are its last "
                f"{posterior.updates[-1].rows} rows alone. Give all the rows that it has learnt from."
            )
        same = not own.elsewhere
    if own.name != model.name or list(own.sites) != list(model.sites) or not same:
        raise IncompatibleError(
            f"q is a posterior of {own.name!r}, and {model.name!r} has other sites or other data. Give the model and "
            "the data that it was fitted to."
        )
    if own.elsewhere:
        return own, posterior.q
    return model.with_parameters([own.arguments[i] for i in model.parameter_places]).held(), posterior.q


def _point(model: Model) -> Decomposition:
    return Decomposition(
        Estimate(float("nan"), float("nan")),
        Estimate(-np.inf, 0.0),
        Estimate(np.inf, 0.0),
        "none",
        ("not computed", "points have no density", "points have no density"),
        ("q is made of points: all its probability is where the posterior has none, so that the KL is infinite",),
    )


def _beyond(model: Model, reason: str, *, num_draws: int, seed: int) -> Decomposition:
    """q reaches beyond the posterior's support: the evidence is found with a q that does not."""
    from lowerbound.families import DenseGaussian

    own = Approximation(DenseGaussian(np.zeros(model.dimension), np.eye(model.dimension)), {})
    found = _continuous(model, own, None, num_draws, seed)
    return Decomposition(
        found.log_evidence,
        Estimate(-np.inf, 0.0),
        Estimate(np.inf, 0.0),
        found.route,
        (found.how[0], "log p(x, z) is -inf where q is not 0", "p(z | x) is 0 where q is not"),
        (reason, *found.reasons),
    )
