"""(z, x) ~ p(z) p(x | z): latents and data sets from a NumPyro model, on one compiled program.

The model is run under its handlers with the latents drawn from the prior, and each observed site drawn from its
distribution in place of taking ``obs``. Which argument of the data holds which observed site is found by
identity: the value that reaches ``numpyro.sample(..., obs=)`` is the argument itself. Those arguments are
replaced by what was drawn; the others (covariates, group indices, sizes) stay.

That gives a draw of the joint distribution only where the density that is fitted is the one simulated from. So
whatever breaks this is refused: a factor, an improper prior, a scaled log probability, a masked latent, an
argument that the model reads other than by observing it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.extend import core as jex
from numpyro import handlers
from numpyro.primitives import Messenger

from lowerbound.compilation import Lifted, compile_once
from lowerbound.errors import LowerboundError, ModelError
from lowerbound.model.data import Data
from lowerbound.model.running import FullPlates, one_at_a_time
from lowerbound.precision import float64

_NEEDED = (
    " Give simulate=, a function of a numpy.random.Generator that returns (latents, data): a dictionary from sites to "
    "values drawn from the prior, and the data drawn given them, with the model's argument names."
)
_NEEDS_VALUES = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)


class Simulator:
    """Draws of latents and data from a NumPyro model and a data set that gives shapes and covariates.

    Args:
        model: The NumPyro model.
        data: Its arguments. Values of observed ones serve for their shape alone.

    Attributes:
        replaced: Names of the arguments that are simulated, by observed site.

    Raises:
        ModelError: the model cannot be simulated from; says why, and what is needed.

    Cost: one compilation; then one run of the model a data set.

    Example:
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> def model(x, y):
        ...     b = numpyro.sample("b", dist.Normal(0, 1))
        ...     numpyro.sample("obs", dist.Normal(b * x, 1), obs=y)
        >>> simulate = Simulator(model, {"x": np.arange(3.0), "y": np.zeros(3)})
        >>> simulate.replaced
        {'obs': 'y'}
        >>> latents, data = simulate(np.random.default_rng(0))
        >>> data["x"].tolist(), data["y"].shape
        ([0.0, 1.0, 2.0], (3,))
    """

    def __init__(self, model: Callable, data: Mapping[str, Any] | None = None):
        with float64():
            self._data, self._places, program = _trace(model, Data(data))
            self.replaced = {site: self._data.array_names[i] for site, i in self._places.items()}
            self._arguments = jax.device_put(program.arguments)
            seed = jax.ShapeDtypeStruct((), np.int64)
            self._program, _ = compile_once(lambda s, a: program.call(s, a)[0], seed, self._arguments)

    def __call__(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """One draw: latents by site in the constrained space, and the data with the same shapes as those given."""
        with float64():
            latents, drawn = self._program(np.int64(rng.integers(2**62)), self._arguments)
        arrays = list(self._data.arrays)
        for site, i in self._places.items():
            value = np.asarray(drawn[site])
            # Counts under a float argument, or labels under a boolean one, keep the argument's kind.
            kind = arrays[i].dtype.kind
            arrays[i] = value.astype(bool if kind == "b" else np.float64) if kind in "bf" else value
        return {n: np.asarray(v) for n, v in latents.items()}, self._data.filled(arrays)


class _Draw(Messenger):
    """Draw what the model observes; keep what it was observed under."""

    def __init__(self, fn: Callable, place_of: Callable[[str, Any], int]):
        super().__init__(fn)
        self.place_of = place_of
        self.places: dict[str, int] = {}
        self.latents: list[str] = []
        self.read: list[Any] = []

    def process_message(self, msg: Any) -> None:
        if msg["type"] != "sample":
            return
        name, fn = msg["name"], msg["fn"]
        what = "observed" if msg["is_observed"] else "latent"
        if msg["scale"] is not None:
            raise ModelError(
                f"{what} site {name!r} has a scaled log probability (handlers.scale), so the model is not the "
                "distribution that its data would be drawn from." + _NEEDED
            )
        base, masks = _unmasked(fn)
        self.read += [leaf for leaf in jax.tree_util.tree_leaves((fn, masks)) if isinstance(leaf, jax.Array)]
        if not msg["is_observed"]:
            if masks and not name.endswith("_unobserved"):
                raise ModelError(
                    f"latent site {name!r} is masked, which leaves it without a prior to draw from." + _NEEDED
                )
            if isinstance(_inner(base), dist.ImproperUniform):
                raise ModelError(
                    f"latent site {name!r} has an improper prior, which cannot be drawn from. Give it a proper prior, "
                    "such as dist.Normal(0, 10): calibration is over the prior."
                )
            msg["fn"] = base
            self.latents.append(name)
            return
        if isinstance(fn, dist.Unit):
            raise ModelError(
                f"the model has a numpyro.factor {name!r}, whose data cannot be simulated from the model." + _NEEDED
            )
        shape = tuple(jnp.shape(msg["value"]))
        self.places[name] = self.place_of(name, msg["value"])
        batch = shape[: len(shape) - base.event_dim]
        if tuple(base.batch_shape) != batch:
            try:  # rows that only the observation has are independent given the latents
                base = base.expand(batch)
            except (ValueError, AssertionError) as e:
                raise ModelError(
                    f"observed site {name!r} has shape {shape}, and a draw from its distribution has "
                    f"{tuple(base.shape())}." + _NEEDED
                ) from e
        msg["fn"], msg["value"], msg["is_observed"] = base, None, False


def _trace(model: Callable, data: Data) -> tuple[Data, dict[str, int], Lifted]:
    """The data with every observed argument an array, which array each site observes, and the traced program."""
    try:
        places = _find(model, data)
    except _IsScalar as e:
        values = data.filled(data.arrays)
        same = [n for n, v in values.items() if v is e.value]
        same = same or [n for n, v in values.items() if type(v) is type(e.value) and v == e.value]
        for name in same:  # one number, observed: an argument like any other, once it is an array
            try:
                return _trace(model, Data(values | {name: np.asarray(values[name])}))
            except LowerboundError:
                if name == same[-1]:
                    raise
        raise _not_an_argument(e.site) from None
    return data, places, _lifted(model, data, places)


class _IsScalar(Exception):
    """An observed value is a Python number, which bears no identity."""

    def __init__(self, site: str, value: Any):
        self.site, self.value = site, value


def _run(model: Callable, keywords: dict[str, Any], seed: Any, place_of: Callable[[str, Any], int]) -> tuple[Any, Any]:
    draw = _Draw(FullPlates(model), place_of)
    with one_at_a_time:
        return draw, handlers.trace(handlers.seed(draw, rng_seed=jax.random.key(seed))).get_trace(**keywords)


def _find(model: Callable, data: Data) -> dict[str, int]:
    """Which array each observed site takes, by identity; with data that are constants if the model needs values."""
    places: dict[str, int] = {}

    def look(arguments: Sequence[Any]) -> None:
        known = {id(a): i for i, a in enumerate(arguments)}

        def place_of(site: str, value: Any) -> int:
            if id(value) not in known:
                if isinstance(value, (bool, int, float, np.number)):
                    raise _IsScalar(site, value)
                raise _not_an_argument(site)
            if known[id(value)] in places.values():
                raise ModelError(f"{data.array_names[known[id(value)]]!r} is observed by two sites." + _NEEDED)
            places[site] = known[id(value)]
            return places[site]

        places.clear()
        _run(model, data.filled(arguments), 0, place_of)

    try:
        jax.eval_shape(look, [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in data.arrays])
    except _NEEDS_VALUES:
        jax.eval_shape(lambda: look(data.arrays))
    if not places:
        raise ModelError("the model observes nothing, so there is nothing to simulate." + _NEEDED)
    return places


def _lifted(model: Callable, data: Data, places: dict[str, int]) -> Lifted:
    """Trace ``seed -> (latents, drawn)`` with the observed arguments as variables that nothing may read."""
    order = list(places.values())
    names = [data.array_names[i] for i in order]

    def simulate(seed: Any, observed: Sequence[Any]) -> Any:
        arrays: list[Any] = list(constants)
        for i, a in zip(order, observed, strict=True):
            arrays[i] = a
        draw, trace = _run(model, data.filled(arrays), seed, lambda site, _: places[site])
        latents, drawn = ({n: trace[n]["value"] for n in which} for which in (draw.latents, places))
        return (latents, drawn), draw.read

    constants = [jnp.asarray(a) for a in data.arrays]
    variables = [data.arrays[i] for i in order]
    try:
        closed, out = jax.make_jaxpr(simulate, return_shape=True)(np.int64(0), variables)
    except _NEEDS_VALUES as e:
        raise _reads(names) from e
    read = [n for v, n in zip(closed.jaxpr.invars[1:], names, strict=True) if depends(closed.jaxpr, v)]
    if read:
        raise _reads(read)
    return Lifted(closed, variables, jax.tree_util.tree_structure(out))


def depends(jaxpr: Any, variable: Any) -> bool:
    """Whether any output of a jaxpr is computed from one of its inputs."""
    reached = {variable}
    for eqn in jaxpr.eqns:
        if any(isinstance(v, jex.Var) and v in reached for v in eqn.invars):
            reached.update(eqn.outvars)
    return any(isinstance(v, jex.Var) and v in reached for v in jaxpr.outvars)


def _not_an_argument(site: str) -> ModelError:
    return ModelError(
        f"the value that site {site!r} observes is not an argument of the model as it was given, but something "
        "computed from one (an index, a slice, a transform) or a constant. Pass to the model what it observes: obs=y, "
        "with y in data." + _NEEDED
    )


def _reads(names: list[str]) -> ModelError:
    return ModelError(
        f"the model computes with {', '.join(map(repr, names))} besides observing it (or observes it in a scan), "
        "so a simulated value would change the model. Where one observation depends on another, use what "
        "numpyro.sample returned." + _NEEDED
    )


def _unmasked(fn: Any) -> tuple[Any, list[Any]]:
    """A distribution without its masks, which do not change what is drawn, and the masks."""
    masks = []
    while isinstance(fn, dist.MaskedDistribution):
        masks.append(fn._mask)
        fn = fn.base_dist
    return fn, masks


def _inner(fn: Any) -> Any:
    while isinstance(fn, (dist.MaskedDistribution, dist.ExpandedDistribution, dist.Independent)):
        fn = fn.base_dist
    return fn
