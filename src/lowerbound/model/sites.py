"""Between the unconstrained vector and named sites, in batches, on a compiled program.

Two programs, each compiled when first needed: *constrain* (draws to sites and deterministics) and
*unconstrain* (sites to the vector and log |det|). They can be exported to bytes, so that a saved
posterior works in a process that does not have the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.compilation import compile_once, lift, of_model
from lowerbound.errors import DataError, FileFormatError, IncompatibleError, unknown_name
from lowerbound.model.base import Model, Site
from lowerbound.model.responsibilities import Responsibilities
from lowerbound.precision import float64

_MAX_BYTES = 2**28


class SiteMap:
    """Named sites of a model, from and to the unconstrained vector."""

    def __init__(
        self, sites: Mapping[str, Site], deterministics: Mapping[str, tuple[int, ...]], model: Model | None = None
    ):
        self.sites = dict(sites)
        self.deterministics = dict(deterministics)
        self._model = model
        #: Sites whose unconstrained coordinates are not those of their support alone.
        self.elsewhere: tuple[str, ...] = () if model is None else tuple(model.elsewhere)
        self._exported: dict[str, bytes] = {}
        self._constrain: Any = None
        self._unconstrain: Any = None
        self._responsibilities: Responsibilities | None = None

    @property
    def model(self) -> Model:
        """The model behind the sites.

        Raises:
            IncompatibleError: they came from a file, which holds the transforms and not the model.
        """
        if self._model is None:
            raise IncompatibleError(
                "this posterior was loaded from a file, which does not hold the model: it can be read, but not asked "
                "for what evaluates the log density again. Fit the model again, and ask that posterior."
            )
        return self._model

    @property
    def dimension(self) -> int:
        return sum(s.size for s in self.sites.values())

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {**{n: s.shape for n, s in self.sites.items()}, **self.deterministics}

    @property
    def batch(self) -> int:
        """Rows a call: 64, fewer where one draw of everything is huge."""
        row = 8 * (self.dimension + sum(math.prod(s) for s in self.shapes.values()))
        return max(1, min(64, _MAX_BYTES // max(row, 1)))

    def constrain(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Sites and deterministics, draws first, at ``x [n, p]``."""
        if self._constrain is None:
            self._constrain = self._compile_constrain()
        out = _in_batches(self._constrain, x, self.batch)
        return {name: out[name] for name in self.shapes}  # in the model's order; JAX sorts dictionaries

    def unconstrain(self, values: Mapping[str, Any], n: int) -> tuple[np.ndarray, np.ndarray]:
        """The vectors ``[n, p]`` and log |det dT/du| ``[n]`` of constrained values, draws first."""
        unknown = [k for k in values if k not in self.shapes]
        if unknown:
            raise unknown_name("site", unknown[0], self.sites)
        if not self.dimension:  # all latents are discrete
            return np.zeros((n, 0)), np.zeros(n)
        if self._unconstrain is None:
            self._unconstrain = self._compile_unconstrain()
        stacked = {}
        for name, s in self.sites.items():
            if name not in values:
                given = ", ".join(map(repr, values)) or "no site"
                raise DataError(
                    f"log_prob was given {given} and not {name!r}; needed: all continuous latents "
                    f"({', '.join(map(repr, self.sites))})."
                )
            try:
                array = np.asarray(values[name], np.float64)
            except (TypeError, ValueError):
                raise DataError(
                    f"site {name!r} is {values[name]!r}; needed: numbers of shape {s.shape}, or draws."
                ) from None
            if np.isnan(array).any():
                raise DataError(f"site {name!r} has {int(np.isnan(array).sum())} NaN; log_prob needs numbers.")
            if array.shape not in ((n, *s.shape), s.shape):
                raise DataError(
                    f"site {name!r} has shape {array.shape}; needed: {(n, *s.shape)} (draws first) or {s.shape}."
                )
            stacked[name] = np.broadcast_to(array, (n, *s.shape))
        out = _in_batches(self._unconstrain, stacked, self.batch)
        return out["x"], out["log_det"]

    @property
    def responsibilities(self) -> Responsibilities | None:
        """p(z | x, latents) of the discrete latents that were summed out; None where there are none, or only a file
        that does not hold what it takes."""
        if self._responsibilities is None and self._model is not None:
            self._responsibilities = Responsibilities.of(self._model)
        return self._responsibilities

    # -- compiled here, or taken from a file -------------------------------------------------------

    def _lifted(self, what: str) -> tuple[Any, Any]:
        assert self._model is not None
        model = self._model
        if what == "constrain":
            shape: Any = jax.ShapeDtypeStruct((self.dimension,), np.float64)
            return lift(lambda x, a: model.constrain(x, a), shape, model.arguments), shape
        shape = {n: jax.ShapeDtypeStruct(s.shape, np.float64) for n, s in self.sites.items()}

        def back(values: Any, arguments: Sequence[Any]) -> dict[str, Any]:
            x, log_det = model.unconstrain(values, arguments)
            return {"x": x, "log_det": log_det}

        return lift(back, shape, model.arguments), shape

    def _compile(self, what: str) -> Any:
        def build() -> tuple[Any, Any]:
            lifted, shape = self._lifted(what)
            rows = jax.tree_util.tree_map(lambda a: jax.ShapeDtypeStruct((self.batch, *a.shape), a.dtype), shape)
            call = jax.vmap(lifted.call, in_axes=(0, None))
            return lifted, compile_once(call, rows, jax.device_put(lifted.arguments), direct=True)[0]

        assert self._model is not None
        with float64():
            (lifted, program), _ = of_model(self._model, ("sites", what, self.batch), build)
            arguments = jax.device_put(lifted.at(self._model.arguments).arguments)
        return lambda rows: program(rows, arguments)

    def _compile_constrain(self) -> Any:
        return self._compile("constrain")

    def _compile_unconstrain(self) -> Any:
        return self._compile("unconstrain")

    def export(self) -> dict[str, bytes]:
        """Both programs as serialised StableHLO, with the data that they need inside."""
        if self._model is None:
            return self._exported
        if not self.dimension:  # all latents are discrete: there is nothing to map
            return {"constrain": b"", "unconstrain": b""}
        out = {}
        with float64():
            for what in ("constrain", "unconstrain"):
                lifted, shape = self._lifted(what)
                rows = jax.tree_util.tree_map(lambda a: jax.ShapeDtypeStruct((self.batch, *a.shape), a.dtype), shape)
                batched = jax.vmap(lifted.call, in_axes=(0, None))
                # Which arguments do the values need? (The rows of the data as a rule are not among them.)
                whole = jax.export.export(jax.jit(batched), platforms=["cpu"])(rows, lifted.arguments)
                first = len(jax.tree_util.tree_leaves(rows))
                needed = {i - first for i in whole.module_kept_var_idx}
                full = [a if i in needed else _Absent(a) for i, a in enumerate(lifted.arguments)]

                def run(rows: Any, batched: Any = batched, full: Any = full) -> Any:
                    return batched(rows, [a.stand_in() if isinstance(a, _Absent) else a for a in full])

                out[what] = bytes(jax.export.export(jax.jit(run), platforms=["cpu"])(rows).serialize())
        return out

    @staticmethod
    def from_exported(
        sites: Mapping[str, Site],
        deterministics: Mapping[str, tuple[int, ...]],
        programs: Mapping[str, bytes],
        elsewhere: Sequence[str] = (),
        responsibilities: Responsibilities | None = None,
    ) -> SiteMap:
        """A map whose programs come from :meth:`export`."""
        out = SiteMap(sites, deterministics)
        out.elsewhere = tuple(elsewhere)
        out._responsibilities = responsibilities
        out._exported = dict(programs)

        def load(what: str) -> Any:
            cell: list[Any] = []

            def call(rows: Any) -> Any:
                # The programs are for the CPU, wherever they are read.
                with jax.default_device(jax.local_devices(backend="cpu")[0]):
                    if not cell:
                        try:
                            program = jax.export.deserialize(bytearray(programs[what]))
                        except Exception as e:  # flatbuffers raises whatever it stumbles over
                            raise FileFormatError(
                                f"the transforms in this file cannot be read by jax {jax.__version__} "
                                f"({type(e).__name__}): they are damaged, or of a version too far from it."
                            ) from e
                        cell.append(compile_once(program.call, rows, direct=True)[0])
                    return cell[0](rows)

            return call

        out._constrain, out._unconstrain = load("constrain"), load("unconstrain")
        return out


class _Absent:
    """An array that a program does not read, by its shape and type alone."""

    def __init__(self, array: np.ndarray):
        self.shape, self.dtype = array.shape, array.dtype

    def stand_in(self) -> Any:
        return jnp.zeros(self.shape, self.dtype)


def _in_batches(program: Any, rows: Any, batch: int) -> dict[str, np.ndarray]:
    n = len(jax.tree_util.tree_leaves(rows)[0])
    out: dict[str, np.ndarray] = {}
    with float64():
        for i in range(0, max(n, 1), batch):

            def cut(a: np.ndarray, i: int = i) -> np.ndarray:
                block = np.asarray(a[i : i + batch], np.float64)
                if len(block) == batch:
                    return block
                pad = block[-1:] if len(block) else np.zeros((1, *a.shape[1:]))
                return np.concatenate([block, np.broadcast_to(pad, (batch - len(block), *a.shape[1:]))])

            got = program(jax.tree_util.tree_map(cut, rows))
            for k, v in got.items():
                v = np.asarray(v)
                if k not in out:
                    out[k] = np.empty((n, *v.shape[1:]), v.dtype)
                out[k][i : i + batch] = v[: max(0, min(batch, n - i))]
    return out
