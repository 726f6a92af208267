r"""p(z | x, latents) of discrete latents that have been summed out, at draws of the others.

    p(z_n = k | x)  =  E[ p(z_n = k | x, theta) ],      theta ~ p(theta | x),

so that what is reported of z is as right as the draws of theta are, which is what the verdict has checked; q's own
block for z is a mean-field one, and is checked by nothing. Given theta the elements of z are independent (else they
are not summed out), so a draw of each from its own p(z_n | x, theta) is a draw of all of them jointly with theta.

One program, compiled once, gives the probabilities at a batch of draws; it can be exported to bytes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from lowerbound.compilation import compile_once, lift
from lowerbound.errors import FileFormatError, IncompatibleError, TrustWarning
from lowerbound.labels import Labels
from lowerbound.model.base import Model
from lowerbound.precision import float64

#: Probabilities in one call of the program, at most (32 MiB).
_AT_ONCE = 2**22
#: Probabilities over all draws of an average, about: seconds of arithmetic.
_IN_ALL = 2**25
#: Draws of an average, at least and at most.
_FEWEST, _MOST = 16, 4096
#: Draws a call.
_BATCH = 64


class Responsibilities:
    """p(z = k | x, latents) by site, in batches.

    Args:
        values: What an element of each discrete latent can be ``[k]``.
        shapes: Of each discrete latent.
        program: From unconstrained draws ``[batch, p]`` to probabilities ``[batch, *shape, k]`` by name.
        export: The program as serialised StableHLO with the model's data inside; None where those are more bytes than
            it is given.
    """

    def __init__(
        self,
        values: Mapping[str, np.ndarray],
        shapes: Mapping[str, tuple[int, ...]],
        program: Callable[[np.ndarray], Mapping[str, Any]],
        export: Callable[[int], bytes | None],
    ):
        self.values, self.shapes, self._program, self.export = dict(values), dict(shapes), program, export

    @staticmethod
    def of(model: Model) -> Responsibilities | None:
        """Of a model whose discrete latents have been summed out, compiled when first used; None for any other."""
        if model.responsibilities is None:
            return None
        values = {n: np.asarray(d.values) for n, d in model.summed.items()}
        cell: list[Any] = []

        def program(rows: np.ndarray) -> Mapping[str, Any]:
            if not cell:
                lifted = _lifted(model)
                some = jax.ShapeDtypeStruct(rows.shape, rows.dtype)
                arguments = jax.device_put(lifted.arguments)
                compiled, _ = compile_once(jax.vmap(lifted.call, in_axes=(0, None)), some, arguments)
                cell.extend((compiled, arguments))
            return cell[0](rows, cell[1])

        shapes = {n: tuple(d.shape) for n, d in model.summed.items()}
        own = Responsibilities(values, shapes, program, lambda most: _exported(model, own.batch, most))
        return own

    @property
    def numbers(self) -> int:
        """Probabilities at one draw."""
        return sum(math.prod(s) * len(self.values[n]) for n, s in self.shapes.items())

    @property
    def batch(self) -> int:
        """Draws a call."""
        return max(1, min(_BATCH, _AT_ONCE // max(self.numbers, 1)))

    @property
    def draws(self) -> int:
        """Draws that an average is taken over: 4,096, fewer where there are many rows.

        The standard error of a probability p is then at most sqrt(p (1 - p) / draws), and that of a mean at most
        sd / sqrt(draws): the variance of E[z | theta] is no more than that of z.
        """
        return max(_FEWEST, min(_MOST, _IN_ALL // max(self.numbers, 1) // _BATCH * _BATCH))

    def average(self, x: np.ndarray) -> dict[str, Labels]:
        """p(z = k | x): the mean over draws ``x [n, p]``, or at the one point that all mass is at.

        Draws at which it is not finite are left out.
        """
        total = {n: np.zeros((*s, len(self.values[n]))) for n, s in self.shapes.items()}
        kept = 0
        for _, found in self._at(x):
            finite = np.all([np.isfinite(a).reshape(len(a), -1).all(1) for a in found.values()], axis=0)
            kept += int(finite.sum())
            for n, a in found.items():
                total[n] += a[finite].sum(0)
        with np.errstate(invalid="ignore"):
            return {n: Labels(self.values[n], a / kept, kept if len(x) > 1 else np.inf) for n, a in total.items()}

    def each(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """p(z = k | x, latents) at every one of few draws ``x [n, p]``: ``[n, *shape, k]`` by name."""
        parts = [found for _, found in self._at(x)]
        return {n: np.concatenate([p[n] for p in parts]) for n in self.shapes}

    def draw(self, rng: np.random.Generator, x: np.ndarray) -> dict[str, np.ndarray]:
        """One draw of z for each row of ``x [n, p]``, given that row: ``[n, *shape]`` by name."""
        out = {
            n: np.empty((len(x), *s), v.dtype)
            for (n, s), v in zip(self.shapes.items(), self.values.values(), strict=True)
        }
        for rows, found in self._at(x):
            for n, a in found.items():
                out[n][rows] = _chosen(rng, a, self.values[n])
        return out

    def log_prob(self, x: np.ndarray, labels: Mapping[str, np.ndarray]) -> np.ndarray:
        """log p(z | x, latents) at rows of ``x [n, p]`` and of ``labels [n, *shape]``, summed over latents: ``[n]``."""
        out = np.zeros(len(x))
        for rows, found in self._at(x):
            for n, z in labels.items():
                out[rows] += Labels(self.values[n], found[n]).log_prob(z[rows])
        return out

    def _at(self, x: np.ndarray) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        """Probabilities at draws ``x [n, p]``, a batch at a time."""
        size = self.batch
        for i in range(0, len(x), size):
            rows = np.asarray(x[i : i + size], np.float64)
            n = len(rows)
            if n < size:  # the program is for whole batches
                rows = np.concatenate([rows, np.broadcast_to(rows[-1:], (size - n, rows.shape[1]))])
            with float64():
                found = self._program(rows)
            yield slice(i, i + n), {k: np.asarray(a)[:n] for k, a in found.items()}

    # -- in a file --------------------------------------------------------------------------------------

    @staticmethod
    def from_exported(
        values: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], program: bytes
    ) -> Responsibilities:
        """From what ``export`` gave."""
        cell: list[Any] = []

        def call(rows: np.ndarray) -> Mapping[str, Any]:
            with jax.default_device(jax.local_devices(backend="cpu")[0]):
                if not cell:
                    try:
                        loaded = jax.export.deserialize(bytearray(program))
                    except Exception as e:  # flatbuffers raises whatever it stumbles over
                        raise FileFormatError(
                            "the probabilities of discrete latents in this file cannot be read by jax "
                            f"{jax.__version__} ({type(e).__name__}): they are damaged, or too far from its version."
                        ) from e
                    cell.append(compile_once(loaded.call, rows)[0])
                return cell[0](rows)

        return Responsibilities(values, shapes, call, lambda most: program)


class Averages(Responsibilities):
    """What a file holds where the model's data are too large for it: p(z = k | x), and not how z goes with the others.

    Args:
        labels: The averages.
    """

    def __init__(self, labels: Mapping[str, Labels]):
        self.labels = dict(labels)
        shapes = {n: a.probabilities.shape[:-1] for n, a in labels.items()}
        super().__init__({n: a.values for n, a in labels.items()}, shapes, self._refuse, lambda most: None)

    def draw(self, rng: np.random.Generator, x: np.ndarray) -> dict[str, np.ndarray]:
        """Draws of each element by itself, with a warning."""
        warnings.warn(
            f"{', '.join(self.shapes)}: drawn without regard to the other latents, since the file does not hold the "
            "data that p(z | x, latents) takes. Each element's own distribution is right; draw jointly from the "
            "posterior that was saved.",
            TrustWarning,
            stacklevel=3,
        )
        names = [(n, a.probabilities) for n, a in self.labels.items()]
        return {n: _chosen(rng, np.broadcast_to(a, (len(x), *a.shape)), self.values[n]) for n, a in names}

    def _refuse(self, rows: np.ndarray) -> Mapping[str, Any]:
        raise IncompatibleError(
            f"the file does not hold the data that p({', '.join(self.shapes)} | x, latents) takes. Leave the discrete "
            "latents out, or ask the posterior that was saved."
        )


def _chosen(rng: np.random.Generator, p: np.ndarray, values: np.ndarray) -> np.ndarray:
    """One of ``values [k]`` for each row of ``p [..., k]``."""
    cumulative = p.cumsum(-1)
    # Times the last, which rounding leaves a little off one.
    u = rng.uniform(size=(*p.shape[:-1], 1)) * cumulative[..., -1:]
    return values[np.minimum((cumulative <= u).sum(-1), p.shape[-1] - 1)]


def _exported(model: Model, batch: int, most: int) -> bytes | None:
    with float64():
        lifted = _lifted(model)
        if sum(a.nbytes for a in lifted.arguments) > most:
            return None
        rows = jax.ShapeDtypeStruct((batch, model.dimension), np.float64)

        def run(u: Any) -> Any:
            return jax.vmap(lifted.call, in_axes=(0, None))(u, lifted.arguments)

        return bytes(jax.export.export(jax.jit(run), platforms=["cpu"])(rows).serialize())


def _lifted(model: Model) -> Any:
    """From one unconstrained vector to the probabilities; the data are its arguments."""
    held = model.responsibilities
    assert held is not None
    point = jax.ShapeDtypeStruct((model.dimension,), np.float64)
    return lift(lambda u, a: held(model.constrain(u, a), a), point, model.arguments)
