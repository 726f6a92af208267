"""The log weights of an amortized q, row by row: log p(x_i, z_ik; theta) - log q_w(z_ik | x_i).

One compiled program for a block of rows and draws serves the held-out bound, the verdict, bounds of other rows and
importance-weighted answers.
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

    def start(self) -> Any:
        """The network's weights, and the model's parameters, as they were given."""
        weights = jax.tree_util.tree_map(_single, self.family.weights)
        return weights, [self.arguments[i] for i in self.rows.model.parameter_places]

    def filled(self, arguments: Sequence[Any], learned: Sequence[Any]) -> list[Any]:
        """The model's arguments with its parameters in their places."""
        out = list(arguments)
        for i, leaf in zip(self.rows.model.parameter_places, learned, strict=True):
            out[i] = leaf
        return out

    def rest(self, row: Sequence[Any], arguments: Sequence[Any]) -> Any:
        """log g(theta): what of the log joint is outside of the plate."""
        return self.rows.terms(jnp.zeros(self.rows.dimension), row, arguments)[1]

    def noise(self, rng: np.random.Generator, rows: int, draws: int) -> np.ndarray:
        """Standard normal ``[rows, draws, d]``."""
        return rng.standard_normal((rows, draws, self.rows.dimension), np.float32)

    def __call__(
        self, parameters: Any, data: Sequence[np.ndarray] | None, index: np.ndarray, noise: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """Log weights ``[rows, draws]`` and log g(theta).

        Args:
            parameters: Weights of the network and parameters of the model.
            data: The arrays with rows; None for those fitted to.
            index: Which rows.
            noise: ``[rows, draws, d]``.
        """
        arrays = self.device_rows if data is None else data
        out, rest = np.empty(noise.shape[:2]), 0.0
        for i in range(0, len(index), _ROWS):
            some = np.resize(index[i : i + _ROWS], _ROWS)
            block = [_single(a)[some] for a in arrays]
            for j in range(0, noise.shape[1], _DRAWS):
                e = noise[i : i + _ROWS, j : j + _DRAWS]
                n, s = e.shape[:2]
                padded = np.zeros((_ROWS, _DRAWS, e.shape[2]), np.float32)
                padded[:n, :s] = e
                value, rest = self._call(parameters, block, padded)
                out[i : i + n, j : j + s] = np.asarray(value)[:n, :s]
        self.evaluations += out.size
        return out, float(rest)

    def _call(self, parameters: Any, rows: Any, noise: np.ndarray) -> Any:
        if self._program is None:

            def weigh(parameters: Any, rows: Any, noise: Any, arguments: Any) -> Any:
                weights, learned = parameters
                given = self.filled(arguments, learned)

                def one(row: Any, e: Any) -> Any:
                    q = self.family.block(weights, [row[i] for i in self.inputs])
                    z = q.transform(e)
                    terms, rest = jax.vmap(lambda u: self.rows.terms(u, row, given))(z)
                    return terms - q.log_prob(z), rest[0]

                value, rest = jax.vmap(one)(rows, noise)
                return value, rest[0]

            self._program, _ = compile_once(weigh, parameters, rows, noise, self.arguments)
        return self._program(parameters, rows, noise, self.arguments)

    def blocks(self, parameters: Any, data: Sequence[np.ndarray] | None) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations ``[rows, d]`` on the unconstrained space; ``data`` has the inputs alone."""
        arrays = [self.device_rows[i] for i in self.inputs] if data is None else [_single(a) for a in data]

        def one(weights: Any, *row: Any) -> Any:
            q = self.family.block(weights, row)
            return q.location, q.scale

        location, scale = jax.jit(jax.vmap(one, (None, *(0 for _ in arrays))))(parameters[0], *arrays)
        return np.asarray(location, np.float64), np.asarray(scale, np.float64)


def _single(a: Any) -> Any:
    """In float32, or int32."""
    array = np.asarray(a)
    if array.dtype.kind == "f":
        return jnp.asarray(array, jnp.float32)
    return jnp.asarray(array, jnp.int32) if array.dtype.kind in "iu" else jnp.asarray(array)
