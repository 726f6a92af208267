"""A plain log density with declared supports: ``lb.LogDensity(fn, sites={...})``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from numpyro.distributions import biject_to, constraints

from lowerbound.errors import ModelError
from lowerbound.model.base import Evaluation, Factor, Model, Site, place
from lowerbound.model.data import Data, trace_with_data
from lowerbound.precision import float64


@dataclass(frozen=True)
class LogDensity:
    """log p(x, z) as a Python function of JAX arrays.

    Args:
        fn: The log density in nats, over the *constrained* space (the Jacobian of the transform to
            the unconstrained space is added here). Called with the sites as keyword arguments if its
            parameters bear their names, ``fn(mu, sigma, y)``; otherwise with one dictionary first,
            ``fn(latents, y)``. Data are given by name, or whole as a second positional argument.
        sites: The latent sites.

    Example:
        >>> import lowerbound as lb, jax.numpy as jnp
        >>> from numpyro.distributions import constraints
        >>> target = lb.LogDensity(lambda mu: -0.5 * jnp.sum((mu - 3.0) ** 2),
        ...                        sites={"mu": lb.Site(constraints.real, (2,))})
        >>> lb.fit(target).mean()["mu"].round(6).tolist()
        [3.0, 3.0]
    """

    fn: Callable[..., Any]
    sites: Mapping[str, Site]


def from_log_density(density: LogDensity, data: Mapping[str, Any] | None = None) -> Model:
    """Bind a :class:`LogDensity` to data and check it, without compiling anything."""
    if not callable(density.fn):
        raise ModelError(f"LogDensity needs a function, got {type(density.fn).__name__}.")
    if not isinstance(density.sites, Mapping) or not density.sites:
        raise ModelError(
            "LogDensity has no sites, so there is nothing to infer. Declare each latent: "
            'sites={"mu": lb.Site(constraints.real, ())}.'
        )
    for name, s in density.sites.items():
        if not isinstance(s, Site):
            raise ModelError(
                f"site {name!r} is a {type(s).__name__}; needed: lb.Site(support, shape), "
                'for example {"sigma": lb.Site(constraints.positive, ())}.'
            )
        if not isinstance(s.support, constraints.Constraint):
            raise ModelError(
                f"site {name!r}: support is {s.support!r}; needed: a numpyro constraint, "
                "for example numpyro.distributions.constraints.positive."
            )
        if s.support.is_discrete:
            raise ModelError(
                f"site {name!r} is discrete ({s.support}), which is not supported yet. Sum it out of the log density."
            )
    shapes = {n: (s.shape,) if isinstance(s.shape, int) else tuple(s.shape) for n, s in density.sites.items()}
    sites = place({n: Site(s.support, shapes[n], n) for n, s in density.sites.items()})
    bound = Data(data, owner="log density")
    call = _calling_convention(density.fn, list(sites), bound.names)
    transforms = {n: biject_to(s.support) for n, s in sites.items()}

    def evaluate(params: Mapping[str, Any], arguments: Sequence[Any], constrained: bool) -> Evaluation:
        values, flat, log_det = {}, {}, jnp.zeros(())
        for n, transform in transforms.items():
            u = transform._inverse(params[n]) if constrained else params[n]
            values[n] = jnp.asarray(params[n]) if constrained else transform(u)
            flat[n] = u
            log_det = log_det + jnp.sum(transform.log_abs_det_jacobian(u, values[n]))
        log_prob = call(values, bound.rebuild(arguments))
        factors = [Factor("log_density", None, None, None, log_prob, True)]
        return Evaluation(flat if constrained else values, {}, factors, log_det)

    def shape_of(arguments: Sequence[Any]) -> None:
        values = {n: transforms[n](jnp.zeros(s.unconstrained_shape)) for n, s in sites.items()}
        out = call(values, bound.rebuild(arguments))
        if not hasattr(out, "shape") and not isinstance(out, (int, float)):
            raise ModelError(
                f"the log density returned {type(out).__name__}; needed: a scalar JAX array, log p(x, z) in nats."
            )
        shape = jnp.shape(out)
        if shape != ():
            raise ModelError(
                f"the log density returned an array of shape {shape}; needed: a scalar. "
                "Sum over the rows: `return jnp.sum(log_prob)`."
            )
        if not jnp.issubdtype(jnp.result_type(out), jnp.floating):
            raise ModelError(
                f"the log density returned {jnp.result_type(out)}, which has no gradient; needed: a floating number."
            )

    with float64():
        trace_with_data(shape_of, bound)
    name = getattr(density.fn, "__name__", "log_density")

    def distributions(latents: Mapping[str, Any], arguments: Sequence[Any]) -> list[Factor]:
        log_prob = call(dict(latents), bound.rebuild(arguments))
        return [Factor("log_density", None, None, None, log_prob, True)]

    return Model(
        name, sites, {}, bound.arrays, bound.array_names, evaluate, distributions=distributions, source=density
    )


def _calling_convention(fn: Callable, sites: list[str], data: list[str]) -> Callable[[dict, dict], Any]:
    try:
        parameters = inspect.signature(fn).parameters
    except (TypeError, ValueError):
        return lambda values, d: fn(values, **d)
    both = [n for n in sites if n in data]
    if both:
        raise ModelError(f"{both} are names of sites and of data too. Rename one of them.")
    named = {n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    positional = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    required = {
        n for n, p in parameters.items() if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }

    def check(rest: set[str]) -> None:
        unknown = [n for n in data if n not in rest and not anything]
        missing = sorted((required & rest) - set(data))
        if unknown or missing:
            raise ModelError(
                f"the log density takes {list(parameters)}; the sites are {sites} and the data {data}."
                + (f" Unknown data: {unknown}." if unknown else "")
                + (f" Missing data: {missing}." if missing else "")
            )

    if set(sites) <= named:
        check(named - set(sites))
        return lambda values, d: fn(**values, **d)
    if anything and not positional:
        check(named)
        return lambda values, d: fn(**values, **d)
    mixed = [n for n in sites if n in named]
    if mixed and not set(sites) <= named:
        raise ModelError(
            f"the log density takes {list(parameters)}, but the sites are {sites}: {mixed} are taken by name and "
            f"{[n for n in sites if n not in named]} are not. Name a parameter for every site, or take one dictionary "
            "of them: fn(latents)."
        )
    if not positional:
        raise ModelError(
            f"the log density takes {list(parameters)}, the sites are {sites}. Name its parameters after the sites, "
            "or take one dictionary of them: fn(latents)."
        )
    rest = positional[1:]
    if len(rest) == 1 and rest[0] not in data and data:
        return lambda values, d: fn(values, d)
    check(named - {positional[0]})
    return lambda values, d: fn(values, **d)
