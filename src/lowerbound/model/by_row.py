r"""A model row by row: log p(x, z) as a sum over the rows of one plate.

    log p(x, z; theta) = log g(theta) + sum_i log p(x_i, z_i; theta)

where every latent is inside the plate, so that no row knows of another but through the parameters theta. A row's term
is the model itself, run on data of that one row; vectorised over rows it costs what the whole does. Then b of n rows,
drawn anew each step and counted n / b times, estimate the whole without bias, and a bound of several draws can be
taken row by row: sum_i log mean_k w_ik, which is far tighter than the log of a mean of products of n weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.errors import DataError, IncompatibleError, ModelError
from lowerbound.model.base import Model
from lowerbound.precision import float64

#: Rows on which the sum over rows is compared with the whole.
_COMPARED = 3


class RowModel:
    """The rows of a model's plate.

    Args:
        model: Bound to its data; every latent continuous, and in one plate.
        site: A latent whose plate it is; None for the first one's.

    Attributes:
        plate, size: Its name, and how many rows it has.
        shapes: Unconstrained shapes of a row's latents, by name.
        dimension: d, their numbers together.
        arrays: Names of the data's arrays that have rows, the plate's size long.

    Raises:
        IncompatibleError: latents that are discrete, or outside of the plate; rows that are not independent.
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
        first = model.sites[site or next(iter(model.sites))]
        if not first.plates:
            raise IncompatibleError(
                f"latent {first.name!r} is in no plate, so that no row has one of its own. Put it, and what is "
                "observed with it, inside `with numpyro.plate('rows', x.shape[0]):`."
            )
        self.plate = max(first.plates, key=lambda p: model.plate_sizes[p])
        self.size = model.plate_sizes[self.plate]
        outside = [n for n, s in model.sites.items() if self.plate not in s.plates]
        if outside:
            raise IncompatibleError(
                f"{', '.join(outside)} is outside of the plate {self.plate!r}: all rows share it, and a network of one "
                "row cannot give it. Learn it (numpyro.param in place of numpyro.sample), or use family='diagonal'."
            )
        local = [p.name for p in model.parameters.values() if self.plate in p.local]
        if local:
            raise IncompatibleError(
                f"parameter {local[0]!r} has a value for each row of {self.plate!r}; needed: shared."
            )
        self.axes = {n: model.plate_axes[n][self.plate] for n in model.sites}
        self.shapes = {
            n: tuple(v for i, v in enumerate(s.unconstrained_shape) if i != self.axes[n])
            for n, s in model.sites.items()
        }
        self.dimension = sum(math.prod(s) for s in self.shapes.values())
        self.arrays = [n for n, a in model.observed.items() if np.ndim(a) and len(a) == self.size]
        self.places = [i for i, n in enumerate(model.argument_names) if n in self.arrays]
        self._check()

    # -- traceable by JAX ----------------------------------------------------------------------------

    def terms(self, z: Any, rows: Sequence[Any], arguments: Sequence[Any]) -> tuple[Any, Any]:
        """log p(x_i, z_i) of one row, with the Jacobian of its transforms, and log g.

        Args:
            z: The row's latents, unconstrained ``[d]``.
            rows: That row of each of ``arrays``.
            arguments: Of the model; those in ``places`` are not read.
        """
        given = list(arguments)
        for i, row in zip(self.places, rows, strict=True):
            given[i] = row[None]
        e = self.model.evaluate(self._as_sites(z[None]), given, False)
        row, rest = jnp.zeros(()) + jnp.sum(e.log_det), jnp.zeros(())
        for f in e.factors:
            inside = dict(f.plates)
            if self.plate not in inside:
                rest = rest + jnp.sum(f.log_prob)
                continue
            shape, dim = jnp.shape(f.log_prob), inside[self.plate]
            if len(shape) < -dim or shape[dim] != 1:
                raise ModelError(
                    f"the plate {self.plate!r} has {self.size} rows however many the data have: factor {f.site!r} has "
                    f"log probabilities {shape} for one row. Take its size from the data: "
                    f"numpyro.plate({self.plate!r}, {self.arrays[0] if self.arrays else 'x'}.shape[0])."
                )
            row = row + jnp.sum(f.log_prob)
        return row, rest

    def _as_sites(self, z: Any) -> dict[str, Any]:
        """Rows ``[b, d]`` as unconstrained values of the sites."""
        out, start = {}, 0
        for n, shape in self.shapes.items():
            size = math.prod(shape)
            value = z[:, start : start + size].reshape((z.shape[0], *shape))
            out[n] = jnp.moveaxis(value, 0, self.axes[n])
            start += size
        return out

    # -- on the host ---------------------------------------------------------------------------------

    def flat(self, z: np.ndarray) -> np.ndarray:
        """All rows ``[..., n, d]`` as the model's unconstrained vector ``[..., p]``."""
        parts, start, lead = [], 0, z.ndim - 2
        for n, shape in self.shapes.items():
            size = math.prod(shape)
            value = z[..., start : start + size].reshape((*z.shape[:-1], *shape))
            parts.append(np.moveaxis(value, lead, lead + self.axes[n]).reshape((*z.shape[:lead], -1)))
            start += size
        return np.concatenate(parts, -1)

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
        z = np.random.default_rng(0).uniform(-0.5, 0.5, (few, self.dimension))

        def both(z: Any, rows: Any, arguments: Any) -> Any:
            each, rest = jax.vmap(lambda u, r: self.terms(u, r, arguments))(z, rows)
            given = list(arguments)
            for i, r in zip(self.places, rows, strict=True):
                given[i] = r
            e = self.model.evaluate(self._as_sites(z), given, False)
            return each.sum() + rest[0], sum(jnp.sum(f.log_prob) for f in e.factors) + jnp.sum(e.log_det)

        with float64():
            apart, together = map(float, jax.jit(both)(z, rows, arguments))
        if not abs(apart - together) <= 1e-6 * (1 + abs(together)):
            raise IncompatibleError(
                f"the rows of {self.model.name!r} are not independent: log p of {few} rows together is {together:.6g}, "
                f"row by row {apart:.6g}. Something depends on other rows, or on how many there are (a mean over rows, "
                "1 / x.shape[0]); or an array that is no rows is as long as the plate by chance."
            )
