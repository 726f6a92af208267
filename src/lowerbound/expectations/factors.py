"""E_q[log p(x, z)] factor by factor: a model, traced to the log densities of its factors as random values.

Each factor comes out exact (a value), as a bound, or *open*: with the operation that had no closed form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer
from numpyro.distributions import constraints
from numpyro.distributions.distribution import validation_enabled

from lowerbound.expectations.apart import apart
from lowerbound.expectations.atoms import Latent, NotClosedForm
from lowerbound.expectations.axes import Axis
from lowerbound.expectations.composed import finite, masked, value_of
from lowerbound.expectations.interpret import Graph, data_node, latent_node, run
from lowerbound.expectations.rules import Bound, Parameters, rule_for
from lowerbound.expectations.rules.mixture import log_prob_of
from lowerbound.expectations.supports import between
from lowerbound.expectations.tables import refuse_exclusions
from lowerbound.expectations.values import Value, align, array_of, as_value, latent_value
from lowerbound.model.base import Model, Site
from lowerbound.precision import float64


@dataclass(frozen=True, eq=False)
class RandomFactor:
    """One factor of the log joint.

    Attributes:
        name: Of its site.
        observed: Whether it is the likelihood of data.
        kind: Class of its distribution.
        value: Its log density summed over all elements, where it has a closed form.
        bounds: Bounds to be added, each with the weights (scale and mask) of its elements.
        open: Why it has none.
        latents: Names of the latents in it.
        rows: Which of the axes of its terms and bounds run along which plate.
        normalised: Whether its exponential is a distribution of its site's own latent, unscaled and unmasked.
    """

    name: str
    observed: bool
    kind: str
    value: Value
    bounds: tuple[tuple[Bound, Value], ...] = ()
    open: NotClosedForm | None = None
    latents: tuple[str, ...] = ()
    rows: dict[Axis, str] = field(default_factory=dict)
    normalised: bool = False


def opened(f: RandomFactor, why: NotClosedForm) -> RandomFactor:
    """A factor left without its closed form."""
    return RandomFactor(f.name, f.observed, f.kind, as_value(0.0), (), why, f.latents)


@dataclass(frozen=True, eq=False)
class Joint:
    """All factors of a model, and its latents as the algebra sees them.

    Attributes:
        latents: By name.
        factors: In the order of the model.
        plate_axes: Of every latent, which axis of it runs along which plate.
    """

    latents: dict[str, Latent]
    factors: list[RandomFactor]
    plate_axes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def open(self) -> list[RandomFactor]:
        """Factors without a closed form."""
        return [f for f in self.factors if f.open is not None]


def latents_of(model: Model) -> dict[str, Latent]:
    """The latents of a model, continuous and discrete."""
    out = {n: Latent(n, tuple(s.shape), support_kind(s)) for n, s in model.sites.items()}
    return out | {n: Latent(n, tuple(s.shape), "discrete", s.values) for n, s in model.discrete.items()}


def support_kind(site: Site) -> str:
    """The kind of a support, as :class:`~lowerbound.expectations.values.Latent` names it."""
    support = site.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support in (constraints.real, constraints.real_vector, constraints.real_matrix):
        return "real"
    if support in (constraints.positive, constraints.nonnegative):
        return "positive"
    if support is constraints.unit_interval or _is_unit(support):
        return "unit"
    found = _ends(support)
    if found is not None:
        return between(*found)
    if support is constraints.simplex:
        return "simplex"
    if support is constraints.positive_definite:
        return "matrix"
    return "other"


def _is_unit(support: Any) -> bool:
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None or high is None or isinstance(low, Tracer) or isinstance(high, Tracer):
        return False
    return np.ndim(low) == 0 and np.ndim(high) == 0 and float(low) == 0.0 and float(high) == 1.0


def _ends(support: Any) -> tuple[float, float] | None:
    """The ends of a support between bounds that are numbers, the same for all elements."""
    sides = []
    for name, none in (("lower_bound", -np.inf), ("upper_bound", np.inf)):
        bound = getattr(support, name, none)
        if isinstance(bound, Tracer) or not np.size(bound) or not np.all(np.asarray(bound) == np.ravel(bound)[0]):
            return None
        sides.append(float(np.ravel(bound)[0]))
    low, high = sides
    real = type(support) in _BETWEEN and low < high and not (np.isinf(low) and np.isinf(high))
    return (low, high) if real else None


#: Supports between bounds; not those of whole numbers, nor the circle, whose ends are one point.
_BETWEEN = tuple(
    type(c)
    for c in (
        constraints.interval(0.0, 2.0),
        constraints.open_interval(0.0, 2.0),
        constraints.greater_than(1.0),
        constraints.greater_than_eq(1.0),
        constraints.less_than(1.0),
        constraints.less_than_eq(1.0),
    )
)


@dataclass(eq=False)
class _Traced:
    """What tracing leaves about one factor: where its arrays are among the outputs."""

    name: str
    observed: bool
    kind: str
    entry: Any
    parameters: dict[str, int] = field(default_factory=dict)
    value: int = -1
    log_prob: int = -1
    scale: int = -1
    masks: list[tuple[int, int]] = field(default_factory=list)
    batch: tuple[int, ...] = ()
    inner: int = 0
    plates: tuple[tuple[str, int], ...] = ()


def random_factors(model: Model, arguments: Sequence[Any] | None = None) -> Joint:
    """Trace a model and take its factors apart.

    Args:
        model: Bound to its data.
        arguments: Its arrays; None for its own. Tracers keep everything inside the trace they are of.
    """
    arguments = model.arguments if arguments is None else arguments
    traced = any(isinstance(a, Tracer) for a in arguments)
    latents = latents_of(model)
    # What is not finite is dealt with where it is used, as in JAX: a mask or a choice may leave it out.
    # Latents lie in their supports, and data have been checked: no density is to be cut off outside of them.
    with float64(), np.errstate(all="ignore"), validation_enabled(False):
        notes: list[_Traced] = []

        def arrays(values: Mapping[str, Any], data: Sequence[Any]) -> list[Any]:
            notes.clear()
            out: list[Any] = []
            assert model.distributions is not None
            for f in model.distributions(values, data):
                notes.append(_noted(f, out))
            return out

        shapes = {
            n: jax.ShapeDtypeStruct(v.shape, np.int64 if v.values is not None else np.float64)
            for n, v in latents.items()
        }
        data = [jax.ShapeDtypeStruct(np.shape(a), a.dtype) for a in arguments]
        closed = jax.make_jaxpr(arrays)(shapes, data)
        names = sorted(latents)  # as JAX flattens a dictionary
        nodes = [latent_node(latent_value(latents[n]), shapes[n].shape, shapes[n].dtype) for n in names]
        graph = Graph.of(closed, [*nodes, *(data_node(a) for a in arguments)])
        wanted = [i for t in notes for i in _wanted(t)]
        run(graph, [graph.outputs[i] for i in wanted], traced=traced)
        factors = [_factor(t, graph) for t in notes]
    return Joint(latents, factors, model.plate_axes)


def _noted(f: Any, out: list[Any]) -> _Traced:
    """The arrays of a factor added to ``out``, and a note of where they are."""

    def put(x: Any) -> int:
        out.append(jax.numpy.asarray(x))
        return len(out) - 1

    d = f.distribution
    note = _Traced(f.site, f.observed, type(d).__name__, None, plates=f.plates)
    if d is not None:
        outer = d
        while isinstance(d, (dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)):
            if isinstance(d, dist.MaskedDistribution):
                note.masks.append((put(True if d._mask is None else d._mask), d.event_dim))
            d = d.base_dist
        note.kind = type(d).__name__
        note.entry = rule_for(d)
        # What is observed may have more elements than the distribution. Dimensions that to_event has made part of an
        # event are elements of the rule all the same.
        own = np.shape(f.value)[: max(np.ndim(f.value) - outer.event_dim, 0)]
        whole = np.broadcast_shapes(outer.batch_shape, own) + tuple(outer.event_shape)
        note.batch, note.inner = whole[: len(whole) - d.event_dim], outer.event_dim - d.event_dim
        note.masks = [(i, e - d.event_dim) for i, e in note.masks]
    if note.entry is not None:
        note.parameters = {n: put(a) for n, a in note.entry.parameters(d).items()}
        note.value = put(f.value) if f.value is not None else put(0.0)
        if f.scale is not None:
            note.scale = put(f.scale)
    else:
        note.log_prob = put(jax.numpy.sum(f.log_prob))
    return note


def _wanted(t: _Traced) -> list[int]:
    if t.entry is None:
        return [t.log_prob]
    return [*t.parameters.values(), t.value, *(i for i, _ in t.masks), *([t.scale] if t.scale >= 0 else [])]


def _factor(t: _Traced, graph: Graph) -> RandomFactor:
    def read(i: int) -> Any:
        return graph.outputs[i].value

    try:
        if t.entry is None:
            value, bounds = log_prob_of(_raised(read(t.log_prob)))
        else:
            value, bounds = t.entry.rule(
                Parameters({n: read(i) for n, i in t.parameters.items()}), _raised(read(t.value))
            )
        weight: Value = as_value(1.0)
        for i, inside in t.masks:
            weight = weight * _inside(as_value(read(i)), inside)
        value = _spread(value, t.batch) if t.entry is not None else value
        if t.masks:
            value = masked(value, weight)
            bounds = tuple(replace(b, inputs=tuple(finite(x, weight) for x in b.inputs)) for b in bounds)
        if t.scale >= 0:
            scale = _inside(_of(read(t.scale)), t.inner)
            if bounds and scale.random:
                raise NotClosedForm("a bound times a random scale")
            weight, value = weight * scale, value * scale
        rows: dict[Axis, str] = {}
        held = []
        for b in bounds:
            whole = value_of(0.0)
            for x in b.inputs:
                whole = align(whole, x)[0]
            own = _spread(_inside(weight, b.inside), np.broadcast_shapes((*t.batch, *(1,) * b.inside), whole.shape))
            rows |= _rows(Value(own.axes[: own.ndim - b.inside], ()), t)
            held.append((replace(b, inputs=tuple(map(apart, b.inputs))), own))
        origin: dict[Axis, Axis] = {}
        total = apart(value.sum(*range(value.ndim), origin=origin))
        known = _rows(value, t)
        for term in total.terms:
            refuse_exclusions(term)
        rows |= {new: known[old] for new, old in origin.items() if old in known}
    except NotClosedForm as e:
        e.factor = t.name
        return RandomFactor(t.name, t.observed, t.kind, as_value(0.0), (), e, _latents(t, graph))
    whole = t.entry is not None and not t.observed and not t.masks and t.scale < 0
    return RandomFactor(t.name, t.observed, t.kind, total, tuple(held), None, _latents(t, graph), rows, whole)


def _rows(value: Value, t: _Traced) -> dict[Axis, str]:
    """The axes of a value that run along plates."""
    out = {}
    for name, dim in t.plates:
        place = value.ndim - t.inner + dim
        if t.entry is not None and 0 <= place < value.ndim and (axis := value.axes[place]) is not None:
            out[axis] = name
    return out


def _inside(v: Value, dims: int) -> Value:
    """With so many dimensions of size one at its end."""
    return v.expand(*range(v.ndim, v.ndim + dims)) if v.ndim else v


def _of(x: Any) -> Value:
    return value_of(_raised(x))


def _raised(x: Any) -> Any:
    if isinstance(x, NotClosedForm):
        raise x
    return x


def _spread(value: Value, batch: tuple[int, ...]) -> Value:
    """With every axis of the batch, so that a sum counts each element."""
    shape = np.broadcast_shapes(value.shape, batch)
    axes = (None,) * (len(shape) - value.ndim) + value.axes
    axes = tuple(a if a is not None else (Axis(n) if n != 1 else None) for a, n in zip(axes, shape, strict=True))
    return Value(axes, value.terms)


def _latents(t: _Traced, graph: Graph) -> tuple[str, ...]:
    """Names of the latents that the factor's arrays depend on."""
    names: dict[str, None] = {}
    seen: set[int] = set()
    todo = [graph.outputs[i] for i in _wanted(t)]
    while todo:
        n = todo.pop()
        if id(n) in seen or not n.random:
            continue
        seen.add(id(n))
        if n.made is None:
            for term in n.value.terms:
                names.update(dict.fromkeys(a.latent.name for a in term.atoms))
        else:
            todo.extend(n.made[2])
    return tuple(sorted(names))


__all__ = ["Joint", "RandomFactor", "array_of", "latents_of", "random_factors", "support_kind"]
