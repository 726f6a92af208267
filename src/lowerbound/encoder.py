"""What a fitted network answers: about the rows it was fitted to, and about others.

Where rows share latents g, answers are integrated over draws of q(g): 32 for a row, or one for each set of draws that
an objective takes where those are fewer. Of other rows than those of the fit they are then *predictive*, bounds on
log E_q(g)[p(x | g)], and have no part of log p(g) - log q(g), which belongs to the fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from lowerbound import registry
from lowerbound.algorithms.base import check_positive
from lowerbound.algorithms.row_refinement import Refined, Refiner
from lowerbound.algorithms.row_weights import RowWeights
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.rows.checks import SAMPLED
from lowerbound.diagnostics.rows.evidence import RowEvidence, row_evidence, warn_of_bound, warn_of_rows
from lowerbound.diagnostics.rows.gap import RowGap, row_gap
from lowerbound.errors import DataError, IncompatibleError
from lowerbound.model.base import Model, bijection
from lowerbound.objectives import Objective
from lowerbound.precision import float32, float64

#: Draws of the latents that rows share, over which answers are integrated.
_SHARED_DRAWS = 32


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
        learned: The network's weights, the model's parameters, and those of the shared latents' Gaussian.
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

    def refine(self, data: Mapping[str, Any] | None = None, *, seed: int = 0) -> Encoded:
        """The best diagonal Gaussian of each row by itself, from the network's: what no network could say better.

        Args:
            data: All of the model's arrays with rows; None for those fitted to.
            seed: Of the noise.

        Cost: 3,000 to 30,000 gradients of each row's log density.
        """
        found = self._refined(None if data is None else self._problem.rows.rows_of(data), seed)
        return Encoded(self._named(found.location), self._named(found.scale))

    def gap(
        self, data: Mapping[str, Any] | None = None, *, num_rows: int = 256, num_draws: int = 1000, seed: int = 0
    ) -> RowGap:
        """KL(q || p) of a row in two parts: what the network cannot say, and what a diagonal Gaussian cannot hold.

        Args:
            data: All of the model's arrays with rows; None for those fitted to.
            num_rows: Looked at, drawn at random; all if there are fewer.
            num_draws: Of each row and block, for what the gap is estimated from.
            seed: Of rows and noise.

        Cost: that of :meth:`refine` for so many rows, and twice ``num_draws`` evaluations of each.
        """
        check_positive("gap", num_rows=num_rows, num_draws=num_draws)
        rows = None if data is None else self._problem.rows.rows_of(data)
        n = self._problem.rows.size if rows is None else len(rows[0])
        index = np.sort(np.random.default_rng([seed, 27]).choice(n, min(num_rows, n), replace=False))
        sampled = len(index) < n
        return row_gap(self._problem, self._learned, rows, index, sampled=sampled, seed=seed, num_draws=num_draws)

    def log_evidence(
        self,
        data: Mapping[str, Any] | None = None,
        *,
        refined: bool = False,
        num_draws: int = 1000,
        seed: int = 0,
    ) -> RowEvidence:
        """log (1/K) sum_k w_ik of each row: log p(x_i; theta), from below, in nats, with k-hat of its weights.

        Where rows share latents, log E_q(g)[p(x_i | g; theta)], from below.

        Args:
            data: All of the model's arrays with rows; None for those fitted to.
            refined: Whether by each row's own block, as :meth:`refine` has it, in place of the network's.
            num_draws: K.
            seed: Of the draws.

        Warns:
            TrustWarning: rows whose weights cannot be used, by number with their k-hats: their values are too low.

        Cost: K evaluations of each row's log density, and that of :meth:`refine` where it is asked for.
        """
        times = min(_SHARED_DRAWS, max(2, num_draws // 2 * 2)) if self._problem.shared else 1
        weights = self._weights(data, times, -(-num_draws // times), seed, refined=refined)[0]
        found = row_evidence(weights.reshape(len(weights), -1))
        warn_of_rows(found, refined=refined)
        return found

    def bound(
        self,
        objective: Objective | str,
        data: Mapping[str, Any] | None = None,
        *,
        refined: bool = False,
        num_draws: int = 64,
        seed: int = 0,
    ) -> Estimate:
        """A bound on log p(x; theta), row by row: the sum over rows of E[h(l_i1, ..., l_iK)], with its standard error.

        Args:
            objective: h, and K: an object of :mod:`lowerbound.objectives`, or its short name.
            data: All of the model's arrays with rows; None for those fitted to.
            refined: Whether of each row's own block, as :meth:`refine` has it, in place of the network's.
            num_draws: Of each row; rounded up to two whole sets of K at least.
            seed: Of the draws.

        Raises:
            IncompatibleError: an objective that is no lower bound.

        Warns:
            TrustWarning: other rows than those of the fit with a gap of more than 10 nats and weights without a mean
                (k-hat of 1 or more, of at least 50 draws), by number: there the bound is far too low.
        """
        h: Objective = registry.resolve("objective", objective, registry.OBJECTIVES, Objective)
        if not h.learns:
            raise IncompatibleError(
                f"{h.name} is not taken row by row. Use lb.objectives.ELBO(), ImportanceWeighted() or Renyi()."
            )
        k, q = h.num_samples, self._problem.shared_block(self._learned)
        sets = max(2, -(-num_draws // k))
        times = min(_SHARED_DRAWS, max(4, sets // 2 * 2)) if self._problem.shared else 1
        weights, rest = self._weights(data, times, -(-sets // times) * k, seed, refined=refined)
        if data is not None:
            warn_of_bound(weights.reshape(len(weights), -1), refined=refined)
        with float64():
            grouped = jnp.asarray(weights.reshape(-1, k), jnp.float64)
            values = np.asarray(jax.vmap(h.value)(grouped)).reshape(len(weights), times, -1)
        outside, n = np.zeros_like(rest), len(weights)
        if not self._problem.shared or data is None:
            outside = rest + q.entropy()
        # Errors are those of draws; each row has its own, of what rows share too, in pairs.
        each = values[:, 0]
        if times > 1:
            each = (values.mean(2) + outside / n).reshape(n, 2, -1).mean(1)
        error = np.sqrt((each.var(1, ddof=1) / each.shape[1]).sum())
        return Estimate(float(values.mean((1, 2)).sum() + outside.mean()), float(error))

    def decode(self, latents: Mapping[str, Any] | Any, data: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Means of what the model observes, given latents: E[x | z; theta], by site ``[rows, *shape]``.

        Where rows share latents: E[x | z, g; theta], averaged over draws of q(g).

        Args:
            latents: Constrained values ``[rows, *shape]`` by name; an array alone where a row has one latent.
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
        for n, s in ((n, model.sites[n]) for n in rows.shapes):
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

        times = _SHARED_DRAWS if rows.shared else 1
        q = self._problem.shared_block(self._learned)
        drawn = q.transform(np.random.default_rng(28).standard_normal((times, len(rows.shared_places))))

        def means(values: Any, drawn: Any, arguments: Any) -> dict[str, Any]:
            assert model.distributions is not None
            shared = {n: bijection(model.sites[n].support)(u) for n, u in rows.shared_sites(drawn).items()}
            out = {}
            for f in model.distributions({**values, **shared}, arguments):
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

        def averaged(values: Any, drawn: Any, arguments: Any) -> dict[str, Any]:
            each = jax.vmap(lambda g: means(values, g, arguments))(drawn)
            return {n: v.mean(0) for n, v in each.items()}

        with float64():
            return {n: np.asarray(v) for n, v in jax.jit(averaged)(values, drawn, arguments).items()}

    # -- inside --------------------------------------------------------------------------------------

    def _refined(self, rows: list[np.ndarray] | None, seed: int) -> Refined:
        with float32():
            location, scale = self._problem.blocks(self._learned, self._inputs(rows))
        return Refiner(self._problem, self._learned, seed)(rows, np.arange(len(location)), location, scale)

    def _inputs(self, rows: list[np.ndarray] | None) -> list[np.ndarray] | None:
        return None if rows is None else [rows[i] for i in self._problem.inputs]

    def _weights(
        self, data: Mapping[str, Any] | None, times: int, draws: int, seed: int, *, refined: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log weights ``[rows, times, draws]`` at so many draws of what rows share, and log p(g) ``[rows, times]``.

        The second half of them mirrors the first.
        """
        problem = self._problem
        rows = None if data is None else problem.rows.rows_of(data)
        n = problem.rows.size if rows is None else len(rows[0])
        out, rest = np.empty((n, times, draws)), np.empty((n, times))
        rng = np.random.default_rng([seed, 22])
        size = max(1, SAMPLED // times)
        own = self._refined(rows, seed) if refined else None
        with float32():
            for i in range(0, n, size):
                index = np.repeat(np.arange(i, min(i + size, n)), times)
                noise = problem.noise(rng, len(index), draws)
                drawn = problem.draw_shared(self._learned, rng, len(index) // times, times)
                blocks = None if own is None else (own.location[index], own.scale[index])
                w, outside = problem(self._learned, rows, index, noise, drawn, blocks)
                out[i : i + size] = w.reshape(-1, times, draws)
                rest[i : i + size] = outside.reshape(-1, times)
        return out, rest

    def _named(self, z: np.ndarray) -> dict[str, np.ndarray]:
        out, start = {}, 0
        for n, shape in self._problem.rows.shapes.items():
            size = int(np.prod(shape, dtype=int))
            out[n] = z[:, start : start + size].reshape((len(z), *shape))
            start += size
        return out
