"""The log weights of an amortized q, row by row: log p(x_i, z_ik | g; theta) - log q(z_ik | x_i).

One compiled program for a block of rows and draws serves the held-out bound, the verdict, bounds of other rows and
importance-weighted answers; q(z | x_i) is the network's block or any other. What rows share, g, is given for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.compilation import compile_once
from lowerbound.errors import IncompatibleError
from lowerbound.families.amortized import Amortized
from lowerbound.families.diagonal import DiagonalGaussian
from lowerbound.families.linalg import standard_normal_log_prob
from lowerbound.families.product import ProductBlock
from lowerbound.model.by_row import RowModel
from lowerbound.objectives.prior import row_prior

#: Rows and draws of one call.
_ROWS, _DRAWS = 256, 16


class RowWeights:
    """A model by rows and the network that answers each.

    Args:
        rows: The model.
        family: The network.
        prior_apart: Whether the objective takes the Gaussian prior of a row apart.

    Raises:
        DataError, IncompatibleError: a network that does not fit the rows; no such prior.

    Attributes:
        inputs: Which of the rows' arrays the network reads.
        shared: How many numbers the latents have that rows share; 0 where they share none.
        device_rows, arguments: The data in float32.
        prior: That of a row, if it was asked for.
        evaluations: Rows times draws so far.
    """

    def __init__(self, rows: RowModel, family: Amortized, *, prior_apart: bool = False):
        self.rows, self.family = rows, family
        model = rows.model
        assert model.observed is not None
        family.check(
            {n: tuple(model.observed[n].shape[1:]) for n in rows.arrays},
            rows.dimension,
            rows.shapes,
        )
        self.shared = len(rows.shared_places)
        self.inputs = [rows.arrays.index(n) for n in family.input_names]
        self.device_rows = [_single(model.arguments[i]) for i in rows.places]
        # The whole data are not carried twice: rows come apart from the rest.
        self.arguments = [
            jnp.zeros((), jnp.float32) if i in rows.places else _single(a) for i, a in enumerate(model.arguments)
        ]
        self.prior = row_prior(rows) if prior_apart else None
        if prior_apart and self.prior is None:
            raise IncompatibleError(
                "elbo_prior needs a latent with a Normal prior whose location and scale are numbers, the same in every "
                f"row; {model.name!r} has none. Use lb.objectives.ELBO(form='joint') or form='entropy'."
            )
        self.evaluations = 0
        self._program: Any = None
        self._encoder: Any = None

    def start(self) -> Any:
        """The network's weights and the model's parameters as they were given; the shared latents' Gaussian."""
        weights = jax.tree_util.tree_map(_single, self.family.weights)
        shared = jax.tree_util.tree_map(_single, self.family.shared_start(self.shared))
        return weights, [self.arguments[i] for i in self.rows.model.parameter_places], shared

    def shared_block(self, parameters: Any) -> Any:
        """The Gaussian of what rows share, on the host."""
        return self.family.shared_block({k: np.asarray(v, np.float64) for k, v in parameters[2].items()})

    def single(self, data: Sequence[Any]) -> list[Any]:
        """Arrays in the precision of the programs, float32."""
        return [_single(a) for a in data]

    def filled(self, arguments: Sequence[Any], learned: Sequence[Any]) -> list[Any]:
        """The model's arguments with its parameters in their places."""
        out = list(arguments)
        for i, leaf in zip(self.rows.model.parameter_places, learned, strict=True):
            out[i] = leaf
        return out

    def rest(self, row: Sequence[Any], shared: Any, arguments: Sequence[Any]) -> Any:
        """log p(g; theta): what of the log joint is outside of the plate."""
        return self.rows.terms(jnp.zeros(self.rows.dimension), shared, row, arguments)[1]

    def noise(self, rng: np.random.Generator, rows: int, draws: int) -> np.ndarray:
        """Standard normal ``[rows, draws, d]``."""
        return rng.standard_normal((rows, draws, self.rows.dimension), np.float32)

    def draw_shared(self, parameters: Any, rng: np.random.Generator, rows: int, times: int = 1) -> np.ndarray:
        """Draws of what rows share, so many for each ``[rows * times, m]``; their second half mirrors the first.

        What is linear in g cancels in a row's mean, so that errors are those of pairs.
        """
        noise = rng.standard_normal((rows, max(times // 2, 1), self.shared))
        both = np.concatenate([noise, -noise], 1)[:, :times]
        return self.shared_block(parameters).transform(both.reshape(rows * times, self.shared))

    def __call__(
        self,
        parameters: Any,
        data: Sequence[np.ndarray] | None,
        index: np.ndarray,
        noise: np.ndarray,
        shared: np.ndarray | None = None,
        blocks: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log weights ``[rows, draws]`` and log p(g; theta) ``[rows]``.

        Args:
            parameters: Weights of the network, parameters of the model, and those of the shared latents' Gaussian.
            data: The arrays with rows; None for those fitted to.
            index: Which rows; one may come several times.
            noise: ``[rows, draws, d]``.
            shared: g for each row ``[rows, m]``; None for its mean under q.
            blocks: Locations and scales for each row ``[rows, d]``; None for the network's.
        """
        arrays = self.device_rows if data is None else self.single(data)
        if shared is None:
            shared = np.broadcast_to(self.shared_block(parameters).mean, (len(index), self.shared))
        if blocks is None:
            each, back = np.unique(index, return_inverse=True)
            found = self.blocks(parameters, [arrays[i][each] for i in self.inputs])
            blocks = found[0][back], found[1][back]
        out, rest = np.empty(noise.shape[:2]), np.empty(len(index))
        for i in range(0, len(index), _ROWS):
            part = slice(i, i + _ROWS)
            some = _padded(index[part], _ROWS)
            n = len(index[part])
            rows = [a[some] for a in arrays]
            given = [_padded(np.asarray(a[part], np.float32), _ROWS) for a in (*blocks, shared)]
            for j in range(0, noise.shape[1], _DRAWS):
                e = noise[part, j : j + _DRAWS]
                s = e.shape[1]
                whole = np.zeros((_ROWS, _DRAWS, e.shape[2]), np.float32)
                whole[:n, :s] = e
                value, outside = self._call(parameters[1], rows, given, whole)
                out[part, j : j + s] = np.asarray(value)[:n, :s]
                rest[part] = np.asarray(outside)[:n]
        self.evaluations += out.size
        return out, rest

    def _call(self, learned: Any, rows: Any, given: Any, noise: np.ndarray) -> Any:
        if self._program is None:

            def weigh(learned: Any, rows: Any, given: Any, noise: Any, arguments: Any) -> Any:
                filled = self.filled(arguments, learned)

                def one(row: Any, block: Any, e: Any) -> Any:
                    location, scale, g = block
                    terms, rest = jax.vmap(lambda u: self.rows.terms(u, g, row, filled))(location + scale * e)
                    # log q(m + s e) = log N(e; 0, I) - sum log s.
                    return terms - standard_normal_log_prob(e) + jnp.log(scale).sum(), rest[0]

                return jax.vmap(one)(rows, given, noise)

            self._program, _ = compile_once(weigh, learned, rows, given, noise, self.arguments)
        return self._program(learned, rows, given, noise, self.arguments)

    def blocks(self, parameters: Any, data: Sequence[Any] | None) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations ``[rows, d]`` on the unconstrained space; ``data`` has the inputs alone."""
        arrays = [self.device_rows[i] for i in self.inputs] if data is None else self.single(data)
        n = len(arrays[0])
        out = np.empty((2, n, self.rows.dimension))
        for i in range(0, n, _ROWS):
            some = _padded(np.arange(i, min(i + _ROWS, n)), _ROWS)
            rows = [a[some] for a in arrays]
            if self._encoder is None:

                def encode(weights: Any, rows: Any) -> Any:
                    return jax.vmap(lambda *row: _pair(self.family.block(weights, row)))(*rows)

                self._encoder, _ = compile_once(encode, parameters[0], rows)
            found = self._encoder(parameters[0], rows)
            out[:, i : i + _ROWS] = np.asarray(found)[:, : min(_ROWS, n - i)]
        return out[0], out[1]

    def whole(self, parameters: Any, location: np.ndarray, scale: np.ndarray) -> Any:
        """q of the model's unconstrained vector, from all rows' blocks ``[n, d]`` and the shared latents' Gaussian."""
        if not self.shared:
            return DiagonalGaussian(self.rows.flat(location), self.rows.flat(scale))
        places = self.rows.row_places.ravel()
        parts = DiagonalGaussian(location.ravel(), scale.ravel()), self.shared_block(parameters)
        return ProductBlock(parts, (places, self.rows.shared_places))


def _pair(block: Any) -> tuple[Any, Any]:
    return block.location, block.scale


def _padded(a: np.ndarray, n: int) -> np.ndarray:
    """The first n of ``a [m, ...]``, repeated from its beginning where there are fewer."""
    return a[np.arange(n) % len(a)]


def _single(a: Any) -> Any:
    """In float32, or int32."""
    if isinstance(a, jax.Array):
        return a.astype(jnp.float32) if a.dtype == jnp.float64 else a
    array = np.asarray(a)
    if array.dtype.kind == "f":
        return jnp.asarray(array, jnp.float32)
    return jnp.asarray(array, jnp.int32) if array.dtype.kind in "iu" else jnp.asarray(array)
