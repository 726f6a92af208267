"""Amortized Gaussians: a network that maps a row of the data to that row's block of q.

    q(z_1, ..., z_n) = prod_i N(z_i; m_w(x_i), diag s_w(x_i)^2)

One set of weights w stands for all rows, so that n blocks cost as much to keep as one, a new row is answered without
a fit, and rows can be taken a few at a time. What is lost beside a block of its own for each row is the *amortization
gap*: what the network cannot say. Latents g that all rows share have one Gaussian beside the rows', q(g) prod_i q(z_i),
dense or diagonal on the unconstrained space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.errors import DataError, IncompatibleError
from lowerbound.families.base import Family
from lowerbound.families.dense import Dense
from lowerbound.families.diagonal import Diagonal, DiagonalGaussian

#: Shared latents up to which their Gaussian is dense if nothing is asked for.
_DENSE = 100
#: Standard deviation, unconstrained, at which it starts.
_START = 0.1
_SHARED = {"dense": Dense(), "diagonal": Diagonal()}


@dataclass(frozen=True, eq=False)
class Amortized:
    """Diagonal Gaussians whose mean and log standard deviation a network gives, row by row.

    Args:
        network: An equinox module, or any tree of arrays that can be called. It takes one row of each of ``inputs``
            and returns the location and log scale ``[d]`` of that row's latents on the unconstrained space, as two
            arrays or as one ``[2 d]``, the locations first. With several latents in a row: in the model's order.
        inputs: Names of the data's arrays that it reads.
        site: A latent whose plate has the rows; None for the largest plate that a latent is in. The network is for all
            latents in that plate.
        shared: The Gaussian of the latents outside of the plate: ``"dense"``, ``"diagonal"`` or such an object; None
            for dense up to 100 numbers. Without such latents it is not read.

    Cost: one evaluation of the network for each row.

    Example:
        >>> import equinox as eqx, jax
        >>> network = eqx.nn.MLP(64, 2 * 8, 128, 1, key=jax.random.key(0))
        >>> Amortized(network, inputs="x", site="z").name
        'amortized'

    Source: Kingma & Welling (2014); Rezende, Mohamed & Wierstra (2014); the gap, Cremer, Li & Duvenaud (2018).
    """

    network: Any
    inputs: str | tuple[str, ...] = "x"
    site: str | None = None
    shared: str | Family | None = None
    name = "amortized"

    def __post_init__(self) -> None:
        if not callable(self.network):
            raise IncompatibleError(
                f"Amortized(network={type(self.network).__name__}): needed: something that can be called with a row, "
                "such as equinox.nn.MLP(features, 2 * latents, 128, 1, key=key)."
            )
        if not jax.tree_util.tree_leaves(self.weights):
            raise IncompatibleError(
                f"Amortized(network={type(self.network).__name__}): it has no floating-point arrays to train. Needed: "
                "an equinox module; a plain function hides its weights from the optimiser."
            )

        asked = _SHARED.get(self.shared) if isinstance(self.shared, str) else self.shared
        if self.shared is not None and not isinstance(asked, (Dense, Diagonal)):
            raise IncompatibleError(
                f"Amortized(shared={self.shared!r}): needed: 'dense' or 'diagonal', the Gaussian of what rows share."
            )

    @property
    def input_names(self) -> tuple[str, ...]:
        return (self.inputs,) if isinstance(self.inputs, str) else tuple(self.inputs)

    @property
    def weights(self) -> Any:
        """The parameters of q: the network's floating-point arrays, with None in place of all else."""
        return eqx.filter(self.network, eqx.is_inexact_array)

    def with_weights(self, weights: Any) -> Any:
        """The network with these weights."""
        return eqx.combine(weights, eqx.filter(self.network, eqx.is_inexact_array, inverse=True))

    def block(self, weights: Any, rows: Any) -> DiagonalGaussian:
        """The block of one row, from that row of each input; traceable by JAX."""
        out = self.with_weights(weights)(*rows)
        location, log_scale = out if isinstance(out, (tuple, list)) else jnp.split(out, 2)
        return DiagonalGaussian(location.reshape(-1), jnp.exp(log_scale.reshape(-1)))

    def shared_start(self, dimension: int) -> dict[str, Any]:
        """Parameters of the shared latents' Gaussian where a fit starts; none for none."""
        if not dimension:
            return {}
        start = np.zeros(dimension), np.full(dimension, _START**2)
        family = self._shared_family(dimension)
        return family.parameters(family.build(*start))

    def shared_block(self, parameters: dict[str, Any]) -> Any:
        """That Gaussian; traceable by JAX. Without shared latents one of no dimensions."""
        if not parameters:
            return DiagonalGaussian(np.zeros(0), np.ones(0))
        return self._shared_family(len(parameters["location"])).from_parameters(parameters)

    def _shared_family(self, dimension: int) -> Family:
        if self.shared is None:
            return Dense() if dimension <= _DENSE else Diagonal()
        return _SHARED[self.shared] if isinstance(self.shared, str) else self.shared

    def check(self, inputs: dict[str, tuple[int, ...]], dimension: int, sites: dict[str, tuple[int, ...]]) -> None:
        """Raise unless the network maps a row to a block of that dimension. Nothing is computed.

        Args:
            inputs: Shapes of a row of each array.
            dimension: d, of a row's latents.
            sites: Their unconstrained shapes in a row, by name, for the message.

        Raises:
            DataError: an input that the data do not have, or that has no rows.
            IncompatibleError: the network cannot read a row, or returns other shapes.
        """
        unknown = [n for n in self.input_names if n not in inputs]
        if unknown:
            raise DataError(
                f"Amortized(inputs={self.inputs!r}): the data have no array {unknown[0]!r} with a row for each latent; "
                f"those with rows: {', '.join(inputs) or 'none'}."
            )
        rows = [jax.ShapeDtypeStruct(inputs[n], jnp.float32) for n in self.input_names]
        given = ", ".join(f"{n} {inputs[n]}" for n in self.input_names)
        needed = (
            f"needed: the location and log scale of {', '.join(f'{n} {s}' for n, s in sites.items())}, so two arrays "
            f"({dimension},) or one ({2 * dimension},)"
        )
        try:
            out = eqx.filter_eval_shape(lambda network, *r: network(*r), self.network, *rows)
        except Exception as e:
            raise IncompatibleError(
                f"the network raised {type(e).__name__} on one row ({given}): {str(e).strip().splitlines()[0]} It is "
                f"given one row, without the axis of rows; {needed}."
            ) from e
        leaves = list(out) if isinstance(out, (tuple, list)) else [out]
        shapes = [tuple(getattr(v, "shape", ())) for v in leaves]
        sizes = [int(jnp.prod(jnp.asarray(s))) if s else 1 for s in shapes]
        if sizes not in ([dimension, dimension], [2 * dimension]) or (len(sizes) == 1 and len(shapes[0]) != 1):
            raise IncompatibleError(
                f"the network returned {' and '.join(map(str, shapes))} for one row ({given}); {needed}."
            )
