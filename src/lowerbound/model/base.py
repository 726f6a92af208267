"""p(x, z): what a model is to the rest of the library.

A model is a list of latent *sites* (name, support, shape, plates) and the *factors* whose log
probabilities sum to the log joint. It is evaluated in one of two spaces:

* the constrained space, where a scale is positive and a simplex sums to one, the space of
  :meth:`Model.log_joint` and of everything a person reads;
* the unconstrained space R^p, the space of Gaussian families, reached through NumPyro's
  ``biject_to(support)``. There the density gains the Jacobian of the transform,

      log p_u(u) = log p(x, T(u)) + log |det dT/du|,

  which is :meth:`Model.log_density`.

Arrays of the data are *arguments* of these functions, so that one compiled program serves every
data set of the same shape.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints

from lowerbound.errors import DataError, ModelError
from lowerbound.model.parameters import Parameter
from lowerbound.precision import float64


@dataclass(frozen=True, eq=False)
class Site:
    """A latent variable.

    Args:
        support: A NumPyro constraint, the set the variable lives in.
        shape: Its full shape, plates and event together.
        name: Filled in by the model.
        plates: Names of the plates it is in.
        start, unconstrained_shape: Where it lies in the unconstrained vector; filled in by the model.
    """

    support: Any = field(default_factory=lambda: constraints.real)
    shape: tuple[int, ...] = ()
    name: str = ""
    plates: tuple[str, ...] = ()
    start: int = 0
    unconstrained_shape: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Number of unconstrained coordinates."""
        return math.prod(self.unconstrained_shape)

    @property
    def slice(self) -> slice:
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True, eq=False)
class DiscreteSite:
    """A discrete latent variable with finitely many values.

    Args:
        name: Of the site.
        shape: Of its value.
        values: The values it can take ``[k]``, whole numbers.
        plates: Names of the plates it is in.
    """

    name: str
    shape: tuple[int, ...]
    values: np.ndarray
    plates: tuple[str, ...] = ()


class Factor(NamedTuple):
    """One term of the log joint: ``scale * distribution.log_prob(value)``, summed.

    ``plates`` names the plates it is in, each with its dimension of the batch shape, counted from the right (-1, ...).
    """

    site: str
    distribution: Any
    value: Any
    scale: Any
    log_prob: Any
    observed: bool
    plates: tuple[tuple[str, int], ...] = ()


class Evaluation(NamedTuple):
    """What one run of the model gives."""

    values: dict[str, Any]
    deterministics: dict[str, Any]
    factors: list[Factor]
    log_det: Any
    #: log |det| of each site's own transform, where it is not zero.
    log_dets: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Model:
    """A probabilistic model bound to data. Make one with ``Model.from_numpyro`` or
    ``Model.from_log_density``, or hand either straight to ``lb.fit``.

    Args:
        name: For display.
        sites: Latent sites by name, in the order in which the model declares them.
        deterministics: Shapes of the ``deterministic`` sites.
        arguments: The arrays of the data, in the order in which ``evaluate`` takes them.
        argument_names: Their names.
        evaluate: ``evaluate(params, arguments, constrained) -> Evaluation``; ``params`` maps a site
            to its unconstrained (or, with ``constrained=True``, constrained) value.
        movable: ``movable()`` names the sites that :meth:`moved` can put into other coordinates.
        reparameterize: See :meth:`moved`.
        elsewhere: The sites that are in other coordinates.
        distributions: ``distributions(latents, arguments)`` gives the factors at constrained latents, the discrete
            ones among them; without Jacobians, and with ``log_prob`` as the model has it.
        discrete: Discrete latent sites by name. ``sites`` has the continuous ones alone.
        responsibilities: Where discrete latents have been summed out: ``responsibilities(latents, arguments)``
            gives p(z = k | x, latents) of each ``[*shape, k]``.
        summed: The discrete latents that have been summed out, by name.
        plate_sizes: Of every plate, by name.
        plate_axes: Of every latent, which axis of its value runs along which plate.
        parameters: What is learned and not inferred, by name: ``numpyro.param`` sites. Their numbers are among
            ``arguments``, unconstrained. Empty where they are held fixed.
        observed: The data's arrays by name; None for all of ``arguments``.
        traced: Whether ``evaluate`` knows the data from its arguments alone; where the model needs their values to be
            traced, it has them as constants.
        reused: Whether what is traced of it is kept for others on other data: see :meth:`on`.
        source: What it was made from: the model function, or the log density.
    """

    name: str
    sites: Mapping[str, Site]
    deterministics: Mapping[str, tuple[int, ...]]
    arguments: Sequence[np.ndarray]
    argument_names: Sequence[str]
    evaluate: Callable[[Mapping[str, Any], Sequence[Any], bool], Evaluation] = field(repr=False)
    movable: Callable[[], list[str]] = field(default=list, repr=False)
    reparameterize: Callable[[Mapping[str, Any]], Model] | None = field(default=None, repr=False)
    elsewhere: tuple[str, ...] = ()
    distributions: Callable[[Mapping[str, Any], Sequence[Any]], list[Factor]] | None = field(default=None, repr=False)
    discrete: Mapping[str, DiscreteSite] = field(default_factory=dict)
    responsibilities: Callable[[Mapping[str, Any], Sequence[Any]], dict[str, Any]] | None = field(
        default=None, repr=False
    )
    summed: Mapping[str, DiscreteSite] = field(default_factory=dict)
    plate_sizes: Mapping[str, int] = field(default_factory=dict)
    plate_axes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    observed: Mapping[str, np.ndarray] | None = field(default=None, repr=False)
    traced: bool = False
    reused: bool = False
    source: Any = field(default=None, repr=False)

    def moved(self, centredness: Mapping[str, Any]) -> Model:
        """The same model with other unconstrained coordinates: see :mod:`lowerbound.model.reparameterization`.

        Args:
            centredness: From names of :attr:`movable` sites to numbers or arrays between 0 (non-centred) and 1
                (as written).
        """
        assert self.reparameterize is not None, "only what movable() names can be moved"
        other = self.reparameterize(centredness)
        own = len(self.arguments) - len(self.elsewhere)
        arguments = [*self.arguments[:own], *other.arguments[own:]]
        return dataclasses.replace(other, arguments=arguments, parameters=self.parameters)

    def on(self, other: Model) -> Model:
        """The same model on the data of another binding, which differs in the numbers of its arrays alone.

        What has been traced and compiled of this one serves for that one too: :func:`lowerbound.compilation.of_model`.
        Where ``evaluate`` has the data as constants, that is the other binding itself.
        """
        if not (self.traced and other.traced):
            return other
        return dataclasses.replace(self, arguments=other.arguments, observed=other.observed, reused=True)

    # -- parameters, which are learned -----------------------------------------------------------

    @property
    def parameter_places(self) -> list[int]:
        """Where among :attr:`arguments` the parameters' numbers are."""
        return [i for p in self.parameters.values() for i in p.places]

    def with_parameters(self, leaves: Sequence[Any]) -> Model:
        """The same model with other numbers, unconstrained, in :attr:`parameter_places`."""
        arguments = list(self.arguments)
        for i, leaf in zip(self.parameter_places, leaves, strict=True):
            arguments[i] = np.asarray(leaf, np.float64)
        return dataclasses.replace(self, arguments=arguments)

    def with_parameter_values(self, values: Mapping[str, Any]) -> Model:
        """The same model at other parameters, as :meth:`parameter_values` gives them.

        Raises:
            DataError: one too many or too few, or a value that is none of the parameter's.
        """
        names = {n.removesuffix("$params"): p for n, p in self.parameters.items()}
        wrong = [n for n in [*names, *values] if n not in names or n not in values]
        if wrong:
            raise DataError(f"parameters are {[*values]}; needed: all of {[*names]} of {self.name!r}, and no others.")
        with float64():
            return self.with_parameters([a for n, p in names.items() for a in p.leaves(values[n], self.arguments)])

    def held(self) -> Model:
        """The same model with its parameters fixed where they are: what is left has latents alone."""
        return dataclasses.replace(self, parameters={})

    def parameter_values(self) -> dict[str, Any]:
        """The parameters as the model sees them: arrays, and modules as they were given."""
        with float64():
            return {n.removesuffix("$params"): p.outside(self.arguments) for n, p in self.parameters.items()}

    @staticmethod
    def from_numpyro(model: Callable, data: Mapping[str, Any] | None = None) -> Model:
        """A NumPyro model; ``data`` are its keyword arguments."""
        from lowerbound.model.numpyro import from_numpyro

        return from_numpyro(model, data)

    @staticmethod
    def from_log_density(density: Any, data: Mapping[str, Any] | None = None) -> Model:
        """A :class:`~lowerbound.LogDensity`."""
        from lowerbound.model.log_density import from_log_density

        return from_log_density(density, data)

    @property
    def dimension(self) -> int:
        """p, the number of unconstrained coordinates."""
        return sum(s.size for s in self.sites.values())

    # -- evaluation, traceable by JAX ------------------------------------------------------------

    def unflatten(self, x: Any) -> dict[str, Any]:
        """The vector ``[p]`` as a dictionary of unconstrained values."""
        return {n: x[s.slice].reshape(s.unconstrained_shape) for n, s in self.sites.items()}

    def factors(self, latents: Mapping[str, Any], batch: Sequence[Any] | None = None) -> list[Factor]:
        """The factors at constrained ``latents``."""
        with float64():
            return self.evaluate(latents, self.arguments if batch is None else batch, True).factors

    def log_joint(self, latents: Mapping[str, Any], batch: Sequence[Any] | None = None) -> Any:
        """log p(x, z) in nats at constrained ``latents``, all constants kept."""
        with float64():
            return total(self.factors(latents, batch))

    def log_density(self, x: Any, batch: Sequence[Any], *, jacobian: bool = True) -> Any:
        """log p(x, T(u)) (+ log |det dT/du|) at the unconstrained vector ``x [p]``."""
        e = self.evaluate(self.unflatten(x), batch, False)
        return total(e.factors) + (e.log_det if jacobian else 0.0)

    def constrain(self, x: Any, batch: Sequence[Any]) -> dict[str, Any]:
        """Latents in the constrained space and deterministics, at ``x [p]``."""
        e = self.evaluate(self.unflatten(x), batch, False)
        return {**{n: e.values[n] for n in self.sites}, **{n: e.deterministics[n] for n in self.deterministics}}

    def unconstrain(self, latents: Mapping[str, Any], batch: Sequence[Any]) -> tuple[Any, Any]:
        """The vector ``[p]`` of constrained ``latents`` and log |det dT/du| there."""
        e = self.evaluate(latents, batch, True)
        x = jnp.concatenate([jnp.zeros(0), *(jnp.ravel(e.values[n]) for n in self.sites)])
        return x, e.log_det

    # -- names -----------------------------------------------------------------------------------

    def coordinate_names(self) -> list[str]:
        """A name for each unconstrained coordinate: ``theta[3]``."""
        out = []
        for n, s in self.sites.items():
            out += [n + label(i) for i in np.ndindex(*s.unconstrained_shape)] if s.unconstrained_shape else [n]
        return out

    def sites_of(self, coordinates: np.ndarray) -> list[str]:
        """The sites that a set of unconstrained coordinates belongs to."""
        coordinates = np.asarray(coordinates)
        return [n for n, s in self.sites.items() if np.any((coordinates >= s.start) & (coordinates < s.start + s.size))]


def label(index: tuple[int, ...]) -> str:
    """``[i,j]`` for an index, nothing for a scalar."""
    return f"[{','.join(map(str, index))}]" if index else ""


def is_real(support: Any) -> bool:
    """Whether a support is all of R^n, so that its transform is the identity."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real


def total(factors: Sequence[Factor]) -> Any:
    """The sum of all factors' log probabilities."""
    return sum((jnp.sum(f.log_prob) for f in factors), start=jnp.zeros((), jnp.result_type(float)))


def bijection(support: Any) -> Any:
    """NumPyro's transform from an unconstrained vector onto a support; None where there is none that serves.

    NumPyro has one for complex numbers too, but no real log density on R^p is behind it.
    """
    base = support.base_constraint if isinstance(support, constraints.independent) else support
    if isinstance(base, type(constraints.complex)):
        return None
    try:
        return biject_to(support)
    except NotImplementedError:  # how NumPyro's registry says that it has none; the callers name site and support
        return None


def place(sites: Mapping[str, Site]) -> dict[str, Site]:
    """Give each site its unconstrained shape and its place in the vector.

    Raises:
        ModelError: a support that has no bijection from R^p, or needs more dimensions than the
            shape has.
    """
    out, start = {}, 0
    for name, s in sites.items():
        if not all(isinstance(i, (int, np.integer)) and i > 0 for i in s.shape):
            raise ModelError(
                f"site {name!r} has shape {tuple(s.shape)}; needed: positive whole numbers, or () for a scalar."
            )
        transform = bijection(s.support)
        if transform is None:
            raise ModelError(
                f"site {name!r} has support {s.support}, which no smooth bijection maps from an unconstrained "
                "vector. Needed: a continuous support that numpyro's biject_to knows (real, positive, interval, "
                "simplex, ordered_vector, corr_cholesky, positive_definite, ...). For points on a sphere use "
                "numpyro's ProjectedNormalReparam; for a direction on a circle, CircularReparam."
            )
        event_dim = int(s.support.event_dim)
        if event_dim > len(s.shape):
            raise ModelError(
                f"site {name!r} has shape {s.shape}, but its support {s.support} is over arrays of "
                f"{event_dim} dimension(s). Give a shape with at least {event_dim}: for example shape=(3,)."
                if event_dim == 1
                else f"site {name!r} has shape {s.shape}, but its support {s.support} is over matrices. "
                "Give a shape with at least 2 dimensions: for example shape=(3, 3)."
            )
        try:
            with float64():
                shape = tuple(int(i) for i in transform.inverse_shape(tuple(s.shape)))
                back = tuple(int(i) for i in transform.forward_shape(shape))
        except ValueError as e:
            raise ModelError(
                f"site {name!r} has shape {tuple(s.shape)}, which its support {s.support} does not admit: {e}."
            ) from e
        if back != tuple(s.shape):
            raise ModelError(
                f"site {name!r} has shape {tuple(s.shape)}, which its support {s.support} does not admit "
                f"(the nearest shape it does is {back})."
            )
        out[name] = Site(s.support, tuple(s.shape), name, tuple(s.plates), start, shape)
        start += math.prod(shape)
    return out


def abstract(arrays: Sequence[np.ndarray]) -> list[jax.ShapeDtypeStruct]:
    """Shapes and types of arrays, for tracing without computing."""
    return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays]
