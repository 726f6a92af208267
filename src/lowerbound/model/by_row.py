r"""A model row by row: log p(x, z) as a sum over the rows of one plate.

    log p(x, z, g; theta) = log p(g; theta) + sum_i log p(x_i, z_i | g; theta)

where z_i are the latents inside of the plate and g those outside of it, which all rows share (there may be none), so
that no row knows of another but through g and the parameters theta. A row's term is the model itself, run on data of
that one row; vectorised over rows it costs what the whole does. Then b of n rows, drawn anew each step and counted
n / b times, estimate the whole without bias, and a bound of several draws can be taken row by row: sum_i log mean_k
w_ik, which is far tighter than the log of a mean of products of n weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.errors import DataError, IncompatibleError, LowerboundError, ModelError
from lowerbound.model.base import Model
from lowerbound.precision import float64

#: Rows on which the sum over rows is compared with the whole.
_COMPARED = 3


class RowModel:
    """The rows of a model's plate.

    Args:
        model: Bound to its data; every latent continuous, some of them in one plate.
        site: A latent whose plate it is; None for the largest plate that a latent is in.

    Attributes:
        plate, size: Its name, and how many rows it has.
        shapes: Unconstrained shapes of a row's latents, by name.
        dimension: d, their numbers together.
        shared: Names of the latents outside of the plate.
        row_places: Where in the model's unconstrained vector each row's latents are ``[n, d]``.
        shared_places: Where those that rows share are ``[m]``.
        arrays: Names of the data's arrays that have rows, the plate's size long.

    Raises:
        IncompatibleError: latents that are discrete; none in a plate; rows that are not independent given the others.
        ModelError: a plate whose size does not follow the data.
    """

    def __init__(self, model: Model, site: str | None = None):
        self.model = model
        if model.discrete or model.summed or model.distributions is None or model.observed is None:
            raise IncompatibleError(
                f"{model.name!r} has {'discrete latents' if model.discrete or model.summed else 'no plates'}; a "
                "network that maps rows to blocks needs a NumPyro model whose latents are continuous and in a plate."
            )
        if site is not None and site not in model.sites:
            raise IncompatibleError(f"there is no latent {site!r} in {model.name!r}: it has {', '.join(model.sites)}.")
        inside = {n: max(model.plate_sizes[p] for p in s.plates) for n, s in model.sites.items() if s.plates}
        first = model.sites[site or max(inside, key=lambda n: inside[n], default=next(iter(model.sites)))]
        if not first.plates:
            raise IncompatibleError(
                f"latent {first.name!r} is in no plate, so that no row has one of its own. Put it, and what is "
                "observed with it, inside `with numpyro.plate('rows', x.shape[0]):`."
            )
        self.plate = max(first.plates, key=lambda p: model.plate_sizes[p])
        self.size = model.plate_sizes[self.plate]
        local = [p.name for p in model.parameters.values() if self.plate in p.local]
        if local:
            raise IncompatibleError(
                f"parameter {local[0]!r} has a value for each row of {self.plate!r}; needed: shared."
            )
        own = {n: s for n, s in model.sites.items() if self.plate in s.plates}
        self.axes = {n: model.plate_axes[n][self.plate] for n in own}
        self.shapes = {
            n: tuple(v for i, v in enumerate(s.unconstrained_shape) if i != self.axes[n]) for n, s in own.items()
        }
        self.dimension = sum(math.prod(s) for s in self.shapes.values())
        self.shared = [n for n in model.sites if n not in own]
        places = {n: np.arange(s.start, s.slice.stop).reshape(s.unconstrained_shape) for n, s in model.sites.items()}
        rows = [np.moveaxis(places[n], self.axes[n], 0).reshape(self.size, -1) for n in own]
        self.row_places = np.concatenate(rows, 1)
        self.shared_places = np.concatenate([np.zeros(0, int), *(places[n].ravel() for n in self.shared)])
        self.arrays = [n for n, a in model.observed.items() if np.ndim(a) and len(a) == self.size]
        self.places = [i for i, n in enumerate(model.argument_names) if n in self.arrays]
        self._check()

    # -- traceable by JAX ----------------------------------------------------------------------------

    def terms(self, z: Any, shared: Any, rows: Sequence[Any], arguments: Sequence[Any]) -> tuple[Any, Any]:
        """log p(x_i, z_i | g) of one row and log p(g), each with the Jacobian of its latents' transforms.

        Args:
            z: The row's latents, unconstrained ``[d]``.
            shared: g, unconstrained ``[m]``.
            rows: That row of each of ``arrays``.
            arguments: Of the model; those in ``places`` are not read.
        """
        given = list(arguments)
        for i, row in zip(self.places, rows, strict=True):
            given[i] = row[None]
        e = self.model.evaluate(self._as_sites(z[None], shared), given, False)
        log_dets = {} if e.log_dets is None else e.log_dets
        rest = sum((jnp.sum(log_dets[n]) for n in self.shared if n in log_dets), start=jnp.zeros(()))
        row = jnp.sum(e.log_det) - rest
        for f in e.factors:
            inside = dict(f.plates)
            if self.plate not in inside:
                rest = rest + jnp.sum(f.log_prob)
                continue
            shape, dim = jnp.shape(f.log_prob), inside[self.plate]
            if len(shape) < -dim or shape[dim] != 1:
                long = f"; or {', '.join(self.shared)}, outside of it, is as long as it is" if self.shared else ""
                raise ModelError(
                    f"the plate {self.plate!r} has {self.size} rows however many the data have: factor {f.site!r} has "
                    f"log probabilities {shape} for one row. Take its size from the data: "
                    f"numpyro.plate({self.plate!r}, {self.arrays[0] if self.arrays else 'x'}.shape[0]){long}."
                )
            row = row + jnp.sum(f.log_prob)
        return row, rest

    def _as_sites(self, z: Any, shared: Any) -> dict[str, Any]:
        """Rows ``[b, d]`` and what they share ``[m]`` as unconstrained values of the sites."""
        out, start = self.shared_sites(shared), 0
        for n, shape in self.shapes.items():
            size = math.prod(shape)
            value = z[:, start : start + size].reshape((z.shape[0], *shape))
            out[n] = jnp.moveaxis(value, 0, self.axes[n])
            start += size
        return out

    def shared_sites(self, shared: Any) -> dict[str, Any]:
        """What rows share ``[..., m]`` as unconstrained values by name."""
        out, start = {}, 0
        for n in self.shared:
            site = self.model.sites[n]
            out[n] = shared[..., start : start + site.size].reshape((*shared.shape[:-1], *site.unconstrained_shape))
            start += site.size
        return out

    # -- on the host ---------------------------------------------------------------------------------

    def flat(self, z: np.ndarray, shared: np.ndarray | None = None) -> np.ndarray:
        """All rows ``[..., n, d]`` and what they share ``[..., m]`` as the unconstrained vector ``[..., p]``."""
        out = np.empty((*z.shape[:-2], self.model.dimension))
        out[..., self.row_places] = z
        out[..., self.shared_places] = np.zeros(0) if shared is None else shared
        return out

    def rows_of(self, data: Mapping[str, Any] | None, needed: Sequence[str] | None = None) -> list[np.ndarray]:
        """The arrays that have rows, of other data; None for the model's own.

        Raises:
            DataError: no dictionary, one is missing, has rows of another shape, or another number of them than the
                rest, or is not finite.
        """
        assert self.model.observed is not None
        own = {n: self.model.observed[n] for n in (self.arrays if needed is None else needed)}
        if data is None:
            return list(own.values())
        if not isinstance(data, Mapping):
            raise DataError(f"rows are {type(data).__name__}; needed: a dictionary of {', '.join(own)} to arrays.")
        out: list[np.ndarray] = []
        for n, a in own.items():
            if n not in data:
                raise DataError(f"the rows given have {', '.join(data) or 'nothing'}; needed: {', '.join(own)}.")
            array = np.asarray(data[n])
            if array.shape[1:] != a.shape[1:] or array.ndim != a.ndim or not len(array):
                shape = "".join(f", {v}" for v in a.shape[1:])
                raise DataError(
                    f"rows {n!r} have shape {array.shape}; needed: (rows{shape}), as the model was fitted to."
                )
            if len(array) != len(np.asarray(data[next(iter(own))])):
                raise DataError(f"rows {n!r} are {len(array)}; needed: as many of every array.")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))
                raise DataError(f"rows {n!r} have numbers that are not finite in {len(bad)} row(s), first {bad[0]}.")
            out.append(array)
        return out

    def _check(self) -> None:
        """Compare the sum over a few rows with the model of those rows together."""
        few = min(_COMPARED, self.size)
        arguments = list(self.model.arguments)
        rows = [np.asarray(arguments[i])[:few] for i in self.places]
        rng = np.random.default_rng(0)
        z = rng.uniform(-0.5, 0.5, (few, self.dimension))
        shared = rng.uniform(-0.5, 0.5, len(self.shared_places))

        def both(z: Any, shared: Any, rows: Any, arguments: Any) -> Any:
            each, rest = jax.vmap(lambda u, r: self.terms(u, shared, r, arguments))(z, rows)
            given = list(arguments)
            for i, r in zip(self.places, rows, strict=True):
                given[i] = r
            e = self.model.evaluate(self._as_sites(z, shared), given, False)
            return each.sum() + rest[0], sum(jnp.sum(f.log_prob) for f in e.factors) + jnp.sum(e.log_det)

        try:
            with float64():
                apart, together = map(float, jax.jit(both)(z, shared, rows, arguments))
        except LowerboundError:
            raise
        except (TypeError, ValueError) as e:
            raise IncompatibleError(
                f"{self.model.name!r} cannot be evaluated on {few} of its rows: {str(e).strip().splitlines()[0]} "
                f"Needed: latents outside of the plate {self.plate!r} ({', '.join(self.shared) or 'none'}) whose "
                "shapes do not depend on how many rows there are."
            ) from e
        if not abs(apart - together) <= 1e-6 * (1 + abs(together)):
            raise IncompatibleError(
                f"the rows of {self.model.name!r} are not independent: log p of {few} rows together is {together:.6g}, "
                f"row by row {apart:.6g}. Something depends on other rows, or on how many there are (a mean over rows, "
                "1 / x.shape[0]); or an array that is no rows is as long as the plate by chance."
            )
