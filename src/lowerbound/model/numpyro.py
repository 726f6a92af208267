"""NumPyro models: found sites, checked data, and an evaluation in either space.

The model is run under NumPyro's own handlers. Its latent sites are given by ``substitute`` (which
NumPyro carries into ``scan``), so nothing is ever drawn from a prior: a Gamma(1e-3, 1e-3) that
underflows to zero, or an improper prior, does no harm. A plate with ``subsample_size`` is run over
all its rows, so that no minibatch is silently mis-scaled.
"""

from __future__ import annotations

import dataclasses
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions
from jax.core import Tracer
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.primitives import Messenger

from lowerbound.errors import DataError, ModelError
from lowerbound.model.base import (
    DiscreteSite,
    Evaluation,
    Factor,
    Model,
    Site,
    abstract,
    bijection,
    is_real,
    place,
)
from lowerbound.model.checks import checks_by_numpy
from lowerbound.model.data import Data, check_array, trace_with_data
from lowerbound.model.parameters import Parameter, read_parameters
from lowerbound.model.reparameterization import depend_on_latents, enter, is_movable, leave, location_scale
from lowerbound.model.reparameterization import log_prob as moved_log_prob
from lowerbound.precision import float64

_JACOBIAN = "_lowerbound_log_det_"
_UNCONSTRAINED = "_lowerbound_unconstrained_"
#: NumPyro's stack of handlers is one for all threads, so one model is run at a time.
_one_at_a_time = threading.RLock()


class _FullPlates(Messenger):
    """Run every plate over all of its rows."""

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "plate":
            size = msg["args"][0]
            msg["args"] = (size, size)
            msg["value"] = jnp.arange(size)


def from_numpyro(model: Callable, data: Mapping[str, Any] | None = None) -> Model:
    """Bind a NumPyro model to data and check both, without compiling anything.

    Args:
        model: The model function.
        data: Its keyword arguments. Arrays are traced, everything else stays static.

    Raises:
        ModelError: missing or unknown arguments, no latent site, data left out, a discrete latent, an unusable
            support, or an error inside the model.
        DataError: data that are empty, not finite, or outside the support of the distribution they
            are observed under.
    """
    bound = Data(data)
    _check_arguments(model, bound.names)

    parameters: dict[str, Parameter] = {}

    def run(arguments: Sequence[Any], substitute: Callable[[Any], Any]) -> dict[str, Any]:
        rows = arguments[: len(bound.arrays)]
        learned = {n: p.value(arguments) for n, p in parameters.items()} if len(arguments) > len(rows) else {}

        def fill(site: Any) -> Any:
            return learned.get(site["name"]) if site["type"] == "param" else substitute(site)

        seeded = handlers.seed(handlers.substitute(_FullPlates(model), substitute_fn=fill), rng_seed=0)
        with _one_at_a_time, checks_by_numpy():
            return handlers.trace(seeded).get_trace(**bound.rebuild(rows))

    sites: dict[str, Site] = {}
    deterministics: dict[str, tuple[int, ...]] = {}
    dynamic: dict[str, bool] = {}
    finite: dict[str, np.ndarray | None] = {}
    plate_sizes: dict[str, int] = {}
    plate_axes: dict[str, dict[str, int]] = {}
    observed: list[str] = []
    learnable: list[str] = []

    def discover(arguments: Sequence[Any]) -> None:
        for store in (sites, deterministics, dynamic, finite, plate_sizes, plate_axes):
            store.clear()
        observed.clear()
        learnable.clear()
        known = {id(a): given for a, given in zip(arguments, bound.arrays, strict=True)}
        for name, site in run(arguments, _feasible).items():
            if site["type"] == "deterministic":
                deterministics[name] = tuple(jnp.shape(site["value"]))
            elif site["type"] == "param":
                learnable.append(name)
            elif site["type"] == "sample" and site["is_observed"]:
                value = site["value"]
                known_value = known.get(id(value)) if isinstance(value, Tracer) else value
                if known_value is not None:
                    _check_support(name, site["fn"], known_value)
                _check_shape(name, site)
                observed.append(name)
            elif site["type"] == "plate":
                plate_sizes[name] = int(site["args"][0])
            elif site["type"] == "sample":
                support = site["fn"].support
                plates = tuple(f.name for f in site["cond_indep_stack"])
                batch = len(site["fn"].batch_shape)
                plate_axes[name] = {f.name: batch + f.dim for f in site["cond_indep_stack"] if batch + f.dim >= 0}
                # A support that depends on another latent is placed with its shape alone.
                fixed = not any(isinstance(v, Tracer) for v in jax.tree_util.tree_leaves(support))
                dynamic[name] = not fixed
                if site["fn"].support.is_discrete:
                    finite[name] = _values(site["fn"])
                shape = tuple(int(i) for i in jnp.shape(site["value"]))
                sites[name] = Site(support if fixed else _static(support), shape, name, plates)

    with float64():
        trace_with_data(discover, bound)
        name = _name(model)
        if not sites:
            only = (
                f" (it has parameters, {', '.join(learnable)}: give them priors, or maximise the likelihood with optax)"
            )
            raise ModelError(
                f"the model {name!r} has no latent sites, so there is nothing to infer{only if learnable else ''}. "
                "Add numpyro.sample sites without obs=."
            )
        forgotten = _left_out(model, bound.names)
        if not observed and forgotten:
            raise ModelError(
                f"the model {name!r} has no observed sites, so its posterior would be its prior, and was not given "
                f"{', '.join(forgotten)}. Pass the data that the model observes."
            )
        discrete = {n: _discrete(sites[n], finite.get(n)) for n, s in sites.items() if s.support.is_discrete}
        placed = place({n: s for n, s in sites.items() if n not in discrete})
        starts: list[np.ndarray] = []
        if learnable:
            read, starts = read_parameters(run(bound.arrays, _feasible), learnable, len(bound.arrays))
            parameters |= read

    # What every evaluation is given: the data, and the parameters as unconstrained numbers.
    first = [*bound.arrays, *starts]
    names = [*bound.array_names, *(leaf for p in parameters.values() for leaf in p.leaf_names)]
    count = len(first)
    if discrete:

        def of_discrete(values: Mapping[str, Any], arguments: Sequence[Any]) -> dict[str, Any]:
            trace = run(arguments, lambda site: values.get(site["name"], _feasible(site)))
            return {n: trace[n]["value"] for n in deterministics}

        with float64():
            stand_in = {n: np.zeros(d.shape, np.int64) for n, d in discrete.items()}
            moved_by = depend_on_latents(of_discrete, stand_in, abstract(first)) if deterministics else {}
        # Their value differs with that of a discrete latent, which the map from the vector does not have.
        deterministics = {n: s for n, s in deterministics.items() if not moved_by.get(n)}

    def evaluate(
        params: Mapping[str, Any], arguments: Sequence[Any], constrained: bool, moved: Sequence[str] = ()
    ) -> Evaluation:
        centredness = dict(zip(moved, arguments[count:], strict=True))
        trace = run(arguments[:count], lambda site: _substitute(params, site, constrained, centredness))
        values: dict[str, Any] = {}
        found: dict[str, Any] = {}
        factors: list[Factor] = []
        log_det, log_dets = jnp.zeros(()), {}
        for n, site in trace.items():
            if _stands_in(n, trace):
                site["fn"] = _unmasked(site["fn"])
            if site["type"] == "deterministic":
                # (handlers.scope puts its prefix before these names too.)
                if _JACOBIAN in n:
                    log_dets[n.split(_JACOBIAN)[1]] = jnp.sum(site["value"])
                    log_det = log_det + log_dets[n.split(_JACOBIAN)[1]]
                elif _UNCONSTRAINED in n:
                    values[n.split(_UNCONSTRAINED)[1]] = site["value"]
                else:
                    found[n] = site["value"]
            elif site["type"] == "sample":
                if n in centredness and (at := location_scale(site["fn"])) is not None:
                    own = values[n] if constrained else params[n]
                    log_prob = moved_log_prob(site["fn"], at, centredness[n], own, site["value"])
                    log_prob = log_prob if site["scale"] is None else site["scale"] * log_prob
                else:
                    log_prob = _log_prob(site)
                factors.append(
                    Factor(n, site["fn"], site["value"], site["scale"], log_prob, site["is_observed"], _plates(site))
                )
                if n in placed and not constrained:
                    values[n] = site["value"]
        return Evaluation(values, found, factors, log_det, log_dets)

    def movable() -> list[str]:
        """Sites whose location or scale depends on other latents."""
        candidates = [n for n, s in placed.items() if not dynamic[n] and is_movable(s.support)]
        if not candidates:
            return []

        def depends(params: Mapping[str, Any], arguments: Sequence[Any]) -> dict[str, Any]:
            where: dict[str, Any] = {}

            def note(site: Any) -> Any:
                if site["name"] in candidates and (at := location_scale(site["fn"])) is not None:
                    where[site["name"]] = [v for v in at if v is not None]
                return _substitute(params, site, False, {})

            run(arguments, note)
            return where

        with float64():
            latents = {n: jnp.zeros(s.unconstrained_shape) for n, s in placed.items()}
            try:
                found = depend_on_latents(depends, latents, abstract(first))
            except jax.errors.JAXTypeError:  # what happens inside a scan stays there
                return []
        return [n for n in candidates if found.get(n)]

    def reparameterize(centredness: Mapping[str, np.ndarray]) -> Model:
        moved = list(centredness)
        arrays = [
            np.array(np.broadcast_to(np.asarray(centredness[n], np.float64), placed[n].unconstrained_shape))
            for n in moved
        ]

        def elsewhere(params: Mapping[str, Any], arguments: Sequence[Any], constrained: bool) -> Evaluation:
            return evaluate(params, arguments, constrained, moved)

        all_names = [*names, *(f"centredness of {n}" for n in moved)]
        return dataclasses.replace(
            base, arguments=[*first, *arrays], argument_names=all_names, evaluate=elsewhere, elsewhere=tuple(moved)
        )

    def distributions(latents: Mapping[str, Any], arguments: Sequence[Any]) -> list[Factor]:
        trace = run(arguments[:count], lambda site: _given(latents, site))
        out = []
        for n, site in trace.items():
            if site["type"] != "sample":
                continue
            if _stands_in(n, trace):
                site["fn"] = _unmasked(site["fn"])
            own = site["fn"], site["value"], site["scale"], _log_prob(site)
            out.append(Factor(n, *own, site["is_observed"], _plates(site)))
        return out

    base = Model(
        name,
        placed,
        dict(deterministics),
        first,
        names,
        evaluate,
        movable,
        reparameterize,
        distributions=distributions,
        discrete=discrete,
        plate_sizes=dict(plate_sizes),
        plate_axes={n: dict(a) for n, a in plate_axes.items()},
        parameters=parameters,
        observed={n: bound.arrays[i] for i, n in enumerate(bound.array_names)},
        source=model,
    )
    return base


def _plates(site: Any) -> tuple[tuple[str, int], ...]:
    return tuple((f.name, int(f.dim)) for f in site["cond_indep_stack"])


def _values(fn: Any) -> np.ndarray | None:
    """The values that a discrete distribution can take, as far as they are finitely many numbers."""
    between = fn.support
    if isinstance(between, type(numpyro.distributions.constraints.integer_interval(0, 1))) and fn.has_enumerate_support:
        low, high = between.lower_bound, between.upper_bound
        if isinstance(low, int) and isinstance(high, int):
            return None if fn.event_dim else np.arange(low, high + 1)
    try:
        with jax.ensure_compile_time_eval():
            support = fn.enumerate_support(expand=False)
    except (NotImplementedError, jax.errors.JAXTypeError):  # infinitely many, or a number that a latent decides
        return None
    return None if fn.event_dim or isinstance(support, Tracer) else np.asarray(support).reshape(-1)


def _discrete(site: Site, values: np.ndarray | None) -> DiscreteSite:
    if values is None and isinstance(site.support, numpyro.distributions.constraints.independent):
        raise ModelError(
            f"the discrete latent site {site.name!r} is one event of several elements. Leave .to_event() out, and put "
            "them in a numpyro.plate: each is summed over by itself."
        )
    if values is None:
        raise ModelError(
            f"the discrete latent site {site.name!r} has support {site.support}, which has no finite list of values to "
            "sum over. Needed: Categorical, Bernoulli, Binomial or DiscreteUniform. Sum others out: a Poisson with a "
            "gamma rate is a GammaPoisson."
        )
    return DiscreteSite(site.name, site.shape, values, site.plates)


def _given(latents: Mapping[str, Any], site: Any) -> Any:
    """The value of a latent site as it is; inside a scan, this turn's."""
    name = site["name"]
    if site["type"] != "sample" or name not in latents:
        return None
    value = latents[name]
    index = site["infer"].get("_scan_current_index")
    if index is not None and jnp.ndim(value) > len(site["fn"].shape()):
        value = value[index]
    return value


def _log_prob(site: Any) -> Any:
    fn, value = site["fn"], site["value"]
    log_prob = fn.log_prob(value, site["intermediates"]) if site["intermediates"] else fn.log_prob(value)
    return log_prob if site["scale"] is None else site["scale"] * log_prob


def _stands_in(name: str, trace: Mapping[str, Any]) -> bool:
    """Whether a site is the latent half of ``numpyro.sample(..., obs_mask=...)``.

    NumPyro makes it as long as the observations and masks the observed rows, which leaves them flat and
    the posterior improper. Nothing reads those rows. With their mask off, each is a draw from its
    distribution given the rest of the model: proper, and the posterior of everything else is unchanged,
    because it integrates to one.
    """
    observed = trace.get(name.removesuffix("_unobserved") + "_observed")
    return name.endswith("_unobserved") and observed is not None and bool(observed.get("is_observed"))


def _unmasked(fn: Any) -> Any:
    return fn.base_dist if isinstance(fn, numpyro.distributions.MaskedDistribution) else fn


def _feasible(site: Any) -> Any:
    """A point inside the support of every latent, without drawing from its prior."""
    if site["type"] != "sample" or site["is_observed"]:
        return None
    fn = site["fn"]
    shape = tuple(site["kwargs"].get("sample_shape", ())) + tuple(fn.shape())
    if fn.support is None or fn.support.is_discrete:
        return jnp.zeros(shape, jnp.result_type(int))
    transform = bijection(fn.support)
    if transform is None:
        return jnp.zeros(shape)  # place() names the support
    return transform(jnp.zeros(transform.inverse_shape(shape)))


def _substitute(params: Mapping[str, Any], site: Any, constrained: bool, centredness: Mapping[str, Any]) -> Any:
    """The value of a latent site, with the log Jacobian of its transform as a deterministic site beside it.

    Not a factor: plates repeat a factor, and ``handlers.mask`` and ``handlers.scale`` change it. Sites in
    ``centredness`` are in the coordinates of :mod:`lowerbound.model.reparameterization`.
    """
    name = site["name"]
    if site["type"] != "sample" or name not in params:
        return None
    p = params[name]
    support = site["fn"].support
    transform = biject_to(support)
    index = site["infer"].get("_scan_current_index")
    if index is not None:  # inside numpyro's scan: this step's slice of the stacked value
        event_shift = 0 if constrained else transform.codomain.event_dim - transform.domain.event_dim
        if jnp.ndim(p) > len(site["fn"].shape()) - event_shift:
            p = p[index]
    c = centredness.get(name)
    if c is not None and index is not None and jnp.ndim(c) > len(site["fn"].shape()):
        c = jnp.asarray(c)[index]
    at = location_scale(site["fn"]) if c is not None else None
    if constrained:
        u, value = transform._inverse(p), p
        moved, log_det = (u, None) if at is None else enter(at, c, u)
        numpyro.deterministic(_UNCONSTRAINED + name, moved)
    else:
        u, log_det = (p, None) if at is None else leave(at, c, p)
        value = transform(u)
    if log_det is not None:
        numpyro.deterministic(_JACOBIAN + "moved_" + name, log_det)
    if not is_real(support):
        numpyro.deterministic(_JACOBIAN + name, jnp.sum(transform.log_abs_det_jacobian(u, value)))
    return value


def _static(support: Any) -> Any:
    """A dynamic support with its traced bounds replaced, of the same kind and event dimension."""
    leaves, tree = jax.tree_util.tree_flatten(support)
    stand_in = [float(i) if isinstance(v, Tracer) else v for i, v in enumerate(leaves)]
    return jax.tree_util.tree_unflatten(tree, stand_in)


def _check_arguments(model: Callable, names: list[str]) -> None:
    if not callable(model):
        raise ModelError(
            f"the model is a {type(model).__name__}; needed: a NumPyro model (a function) or a lb.LogDensity."
        )
    try:
        parameters = inspect.signature(model).parameters
    except (TypeError, ValueError):
        return
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = [n for n in known if parameters[n].default is inspect.Parameter.empty]
    missing = [n for n in required if n not in names]
    unknown = [] if anything else [n for n in names if n not in known]
    only = [n for n, p in parameters.items() if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    if only:
        raise ModelError(f"the model takes {only} by position only; data are given by name. Remove the `/`.")
    if missing or unknown:
        came = ", ".join(names) or "nothing"
        raise ModelError(
            f"the model takes ({', '.join(parameters)}); data gave {came}."
            + (f" Missing: {', '.join(missing)}." if missing else "")
            + (f" Unknown: {', '.join(unknown)}." if unknown else "")
            + " data is a dictionary from argument names to values."
        )


def _left_out(model: Callable, names: list[str]) -> list[str]:
    """Arguments that default to None, as ``obs=`` values do, and were not given."""
    try:
        parameters = inspect.signature(model).parameters
    except (TypeError, ValueError):
        return []
    return [n for n, p in parameters.items() if p.default is None and n not in names]


def _name(model: Any) -> str:
    while hasattr(model, "func"):  # functools.partial
        model = model.func
    return getattr(model, "__name__", type(model).__name__)


def _check_shape(name: str, site: Any) -> None:
    """Observed values must fit their distribution without multiplying each other's rows."""
    fn, shape = site["fn"], tuple(jnp.shape(site["value"]))
    if isinstance(fn, numpyro.distributions.Unit):
        return
    plates = ", ".join(f"{f.name!r} of {f.size}" for f in site["cond_indep_stack"])
    came = f"observed {name!r} has shape {shape}, but its distribution {_inner(fn)} has shape {tuple(fn.shape())}" + (
        f" (in plate {plates})" if plates else ""
    )
    try:
        got = tuple(jnp.shape(_log_prob(site)))
    except (TypeError, ValueError) as e:
        raise ModelError(f"{came}: they do not broadcast together.") from e
    of_value = shape[: len(shape) - fn.event_dim]
    if got not in (tuple(fn.batch_shape), of_value):
        raise ModelError(
            f"{came}: together they give {got} log probabilities, each row counted many times. "
            f"Reshape one to the other, for example {name}.reshape({tuple(fn.shape())})."
        )


def _inner(fn: Any) -> str:
    """The name of a distribution under its masks and expansions."""
    while isinstance(fn, (numpyro.distributions.MaskedDistribution, numpyro.distributions.ExpandedDistribution)):
        fn = fn.base_dist
    return type(fn).__name__


def _check_support(name: str, fn: Any, value: Any) -> None:
    """Observed values must lie in the support of their distribution, where that is known beforehand."""
    while isinstance(fn, (numpyro.distributions.MaskedDistribution, numpyro.distributions.ExpandedDistribution)):
        if isinstance(fn, numpyro.distributions.MaskedDistribution):
            return  # a masked value may be anything
        fn = fn.base_dist
    if isinstance(fn, numpyro.distributions.Unit):  # numpyro.factor
        return
    value = check_array(name, value)
    support = getattr(fn, "support", None)
    if support is None or any(isinstance(v, Tracer) for v in jax.tree_util.tree_leaves(support)):
        return
    try:
        with jax.ensure_compile_time_eval():
            inside = np.asarray(support(value))
    except Exception:  # a support that cannot be checked outside a trace is checked by its log probability
        return
    if inside.all():
        return
    first = tuple(int(i) for i in np.argwhere(~inside)[0]) if inside.ndim else ()
    row = f", the first in row {first[0]}" if first else ""
    culprit = np.broadcast_to(value, (*inside.shape, *value.shape[inside.ndim :]))[first]
    raise DataError(
        f"observed {name!r} has {int((~inside).sum())} of {inside.size} values outside the support of "
        f"{type(fn).__name__} ({support}){row}: {culprit}."
    )
