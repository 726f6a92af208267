"""What a fitted network answers: about the rows it was fitted to, and about others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy.special import logsumexp

from lowerbound import registry
from lowerbound.algorithms.row_weights import RowWeights
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.rows import SAMPLED
from lowerbound.errors import DataError, IncompatibleError
from lowerbound.model.base import Model
from lowerbound.objectives import Objective
from lowerbound.precision import float32, float64


class Encoded(NamedTuple):
    """What q says of some rows.

    Attributes:
        mean, sd: Of each latent by name ``[rows, *shape]``, on the unconstrained space.
    """

    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]


class Encoder:
    """A fitted network and model: ``posterior.encoder``.

    Args:
        problem: The model by rows, and the network's shape.
        learned: The network's weights, and the model's parameters.
    """

    def __init__(self, problem: RowWeights, learned: Any):
        self._problem, self._learned = problem, learned

    @property
    def network(self) -> Any:
        """The network with its fitted weights."""
        return self._problem.family.with_weights(self._learned[0])

    @property
    def model(self) -> Model:
        """The model, its parameters held where they were learned."""
        return self._problem.rows.model.with_parameters(self._learned[1]).held()

    def encode(self, data: Mapping[str, Any] | None = None) -> Encoded:
        """q of rows, from the arrays that the network reads; None for those fitted to.

        Raises:
            DataError: a missing array, or rows of another shape.
        """
        names = self._problem.family.input_names
        rows = None if data is None else self._problem.rows.rows_of(data, names)
        with float32():
            found = self._problem.blocks(self._learned, rows)
        return Encoded(*map(self._named, found))

    def log_evidence(
        self, data: Mapping[str, Any] | None = None, *, num_draws: int = 1000, seed: int = 0
    ) -> np.ndarray:
        """log (1/K) sum_k w_ik of each row ``[rows]``: log p(x_i; theta), from below, in nats.

        Args:
            data: All of the model's arrays with rows; None for those fitted to.
            num_draws: K.
            seed: Of the draws.
        """
        return logsumexp(self._weights(data, num_draws, seed)[0], 1) - np.log(num_draws)

    def bound(
        self, objective: Objective | str, data: Mapping[str, Any] | None = None, *, num_draws: int = 64, seed: int = 0
    ) -> Estimate:
        """A bound on log p(x; theta), row by row: the sum over rows of E[h(l_i1, ..., l_iK)], with its standard error.

        Args:
            objective: h, and K: an object of :mod:`lowerbound.objectives`, or its short name.
            data: All of the model's arrays with rows; None for those fitted to.
            num_draws: Of each row; rounded up to two whole sets of K at least.
            seed: Of the draws.

        Raises:
            IncompatibleError: an objective that is no lower bound.
        """
        h: Objective = registry.resolve("objective", objective, registry.OBJECTIVES, Objective)
        if not h.learns:
            raise IncompatibleError(
                f"{h.name} is not taken row by row. Use lb.objectives.ELBO(), ImportanceWeighted() or Renyi()."
            )
        sets = max(2, -(-num_draws // h.num_samples))
        weights, rest = self._weights(data, sets * h.num_samples, seed)
        with float64():
            grouped = jnp.asarray(weights.reshape(-1, h.num_samples), jnp.float64)
            values = np.asarray(jax.vmap(h.value)(grouped)).reshape(len(weights), sets)
        error = float(np.sqrt((values.var(1, ddof=1) / sets).sum()))
        return Estimate(float(values.mean(1).sum()) + rest, error)

    def decode(self, latents: Mapping[str, Any] | Any, data: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Means of what the model observes, given latents: E[x | z; theta], by site ``[rows, *shape]``.

        Args:
            latents: Constrained values ``[rows, *shape]`` by name; an array alone where there is one latent.
            data: Rows of what else the model depends on; None where it depends on nothing.

        Raises:
            DataError: a latent that is missing or has another shape, or data of other rows.
            IncompatibleError: an observed site whose distribution has no mean.
        """
        rows, model = self._problem.rows, self.model
        if not isinstance(latents, Mapping):
            latents = {next(iter(rows.shapes)): latents}
        values: dict[str, Any] = {}
        first = np.shape(next(iter(latents.values()), ()))
        count = first[0] if first else 0
        for n, s in model.sites.items():
            shape = tuple(v for i, v in enumerate(s.shape) if i != rows.axes[n])
            came = np.shape(latents[n]) if n in latents else None
            if came != (count, *shape) or not count:
                raise DataError(f"decode needs {n!r} with shape (rows{''.join(f', {v}' for v in shape)}); got {came}.")
            values[n] = np.moveaxis(np.asarray(latents[n], float), 0, rows.axes[n])
        own = rows.rows_of(data)
        if data is None:
            own = [np.resize(a, (count, *a.shape[1:])) for a in own]
        if len(own[0]) != count:
            raise DataError(f"decode was given {count} rows of latents and {len(own[0])} of data; needed: as many.")
        arguments = list(model.arguments)
        for i, a in zip(rows.places, own, strict=True):
            arguments[i] = a

        def means(values: Any, arguments: Any) -> dict[str, Any]:
            assert model.distributions is not None
            out = {}
            for f in model.distributions(values, arguments):
                if f.observed and not isinstance(f.distribution, dist.Unit):  # numpyro.factor
                    shape = f.distribution.batch_shape + f.distribution.event_shape
                    try:
                        mean = f.distribution.mean
                    except NotImplementedError as e:  # what NumPyro's distributions without one raise
                        raise IncompatibleError(
                            f"observed {f.site!r} is {type(f.distribution).__name__}, which has no mean that NumPyro "
                            "knows. Take the latents, and the model's own function of them."
                        ) from e
                    out[f.site] = jnp.broadcast_to(mean, shape)
            return out

        with float64():
            return {n: np.asarray(v) for n, v in jax.jit(means)(values, arguments).items()}

    # -- inside --------------------------------------------------------------------------------------

    def _weights(self, data: Mapping[str, Any] | None, draws: int, seed: int) -> tuple[np.ndarray, float]:
        problem = self._problem
        rows = None if data is None else problem.rows.rows_of(data)
        n = problem.rows.size if rows is None else len(rows[0])
        out, rest = np.empty((n, draws)), 0.0
        rng = np.random.default_rng([seed, 22])
        with float32():
            for i in range(0, n, SAMPLED):
                index = np.arange(i, min(i + SAMPLED, n))
                noise = problem.noise(rng, len(index), draws)
                out[index], rest = problem(self._learned, rows, index, noise)
        return out, rest

    def _named(self, z: np.ndarray) -> dict[str, np.ndarray]:
        out, start = {}, 0
        for n, shape in self._problem.rows.shapes.items():
            size = int(np.prod(shape, dtype=int))
            out[n] = z[:, start : start + size].reshape((len(z), *shape))
            start += size
        return out
