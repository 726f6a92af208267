"""A fit of an amortized q, and what it answers afterwards: rows it was fitted to, and others."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy.special import logsumexp

from lowerbound import registry
from lowerbound.algorithms.amortized_vi import AmortizedVI
from lowerbound.algorithms.base import Algorithm, Info, Status
from lowerbound.algorithms.row_weights import RowWeights
from lowerbound.diagnostics.assessment import Assessment, Correction
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.evidence import Evidence
from lowerbound.diagnostics.rows import DRAWS, SAMPLED, check_rows, judge_rows
from lowerbound.diagnostics.verdict import VerdictStatus, about_parameters
from lowerbound.errors import DataError, IncompatibleError, NotFiniteError
from lowerbound.families import DiagonalGaussian
from lowerbound.families.amortized import Amortized
from lowerbound.model.base import Model
from lowerbound.model.by_row import RowModel
from lowerbound.objectives import Objective
from lowerbound.precision import float32, float64

#: Weighted draws of each row that a posterior keeps, as far as all of them are no more than so many numbers.
_KEPT, _NUMBERS = 200, 2**24
#: Draws that those are chosen from.
_CHOICE = 256


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
        count = len(next(iter(latents.values()), ()))
        for n, s in model.sites.items():
            shape = tuple(v for i, v in enumerate(s.shape) if i != rows.axes[n])
            came = np.shape(latents[n]) if n in latents else None
            if came != (count, *shape) or not count:
                raise DataError(f"decode needs {n!r} with shape (rows, {', '.join(map(str, shape))}); got {came}.")
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
                    out[f.site] = jnp.broadcast_to(f.distribution.mean, shape)
            return out

        try:
            with float64():
                return {n: np.asarray(v) for n, v in jax.jit(means)(values, arguments).items()}
        except NotImplementedError as e:
            raise IncompatibleError("the distribution of an observed site has no mean that NumPyro knows.") from e

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


class AmortizedFit(NamedTuple):
    """What :func:`fit_amortized` found; ``parameters`` and ``encoder`` are those of a posterior."""

    model: Model
    q: DiagonalGaussian
    status: Status
    assessment: Assessment
    encoder: Encoder
    parameters: dict[str, Any]
    seconds: dict[str, float]
    evaluations: int


def amortized_algorithm(algorithm: Any, objective: Any) -> AmortizedVI:
    """The algorithm for an amortized q, as it was asked for or not.

    Raises:
        IncompatibleError: another algorithm.
    """
    if algorithm is None:
        if objective is None:
            return AmortizedVI()
        return AmortizedVI(objective=registry.resolve("objective", objective, registry.OBJECTIVES, Objective))
    if objective is None:
        algorithm = registry.resolve("algorithm", algorithm, registry.ALGORITHMS, Algorithm)
        if isinstance(algorithm, AmortizedVI):
            return algorithm
    named = getattr(algorithm, "name", algorithm)
    asked = f"algorithm={named!r}" if objective is None else f"objective={objective!r} beside an algorithm"
    raise IncompatibleError(
        f"family='amortized' with {asked}: a network that gives each row its block is trained by amortized_vi. Leave "
        "algorithm out, or write algorithm=lb.algorithms.AmortizedVI(objective=..., batch_size=...)."
    )


def fit_amortized(
    model: Model,
    family: Amortized,
    algorithm: AmortizedVI,
    *,
    seed: int,
    record: Callable[[Info], None],
    say: Callable[[str], None],
    late: Callable[[], bool],
) -> AmortizedFit:
    """Train the network and the model's parameters, and judge what comes out, row by row.

    Args:
        model: Bound to its data.
        family, algorithm: The network, and how it is trained.
        seed: Of order, noise and checks.
        record: Called with each epoch's :class:`~lowerbound.algorithms.Info`.
        say: Called with a few words when something begins.
        late: Whether the time is up.

    Raises:
        IncompatibleError, DataError: a network, rows or options that do not go together, before anything is trained.
        NotFiniteError: no epoch ended with a finite bound.
    """
    rows = RowModel(model, family.site)
    began = time.perf_counter()
    with float32():
        problem = RowWeights(rows, family, prior_apart=algorithm.objective.needs_prior)
        algorithm.check_rows(rows.size)
        state: Any = algorithm.init(seed, problem, None)
        state, info = algorithm.step(state)
        record(info)
        compiled = time.perf_counter()
        status = Status.CONVERGED
        try:
            while True:
                state, info = algorithm.step(state)
                record(info)
                if info.status is not None:
                    status = info.status
                    break
                if late():
                    status = Status.OUT_OF_TIME
                    break
        except KeyboardInterrupt:
            if algorithm.output(state) is None:
                raise
            status = Status.INTERRUPTED
        learned = algorithm.output(state)
        if learned is None:
            raise NotFiniteError(
                f"the bound of {model.name!r} was not finite after the first epoch. Check the data's units "
                "(standardise them), the network's outputs (a log scale of hundreds overflows), and the step size."
            )
        fitted = time.perf_counter()
        say("weighing draws of some rows")
        location, scale = problem.blocks(learned, None)
    encoder = Encoder(problem, learned)
    q = DiagonalGaussian(rows.flat(location), rows.flat(scale))
    assessment = _assess(encoder, rows, status, algorithm.rule(), location, scale, seed)
    parameters = model.with_parameters(learned[1]).parameter_values()
    verdict = about_parameters(assessment.verdict, ["of the network", *parameters])
    assessment = dataclasses.replace(assessment, verdict=verdict)
    seconds = {"compile": compiled - began, "fit": fitted - compiled, "check": time.perf_counter() - fitted}
    return AmortizedFit(encoder.model, q, status, assessment, encoder, parameters, seconds, problem.evaluations)


def _assess(
    encoder: Encoder, rows: RowModel, status: Status, rule: str, location: np.ndarray, scale: np.ndarray, seed: int
) -> Assessment:
    """The verdict from a sample of rows; and for CORRECTED, draws of all rows resampled by their weights."""
    problem, n, d = encoder._problem, rows.size, rows.dimension
    rng = np.random.default_rng([seed, 23])
    looked = np.sort(rng.choice(n, min(SAMPLED, n), replace=False))
    with float32():
        weights, rest = problem(encoder._learned, None, looked, problem.noise(rng, len(looked), DRAWS))
    checks = check_rows(weights, sampled=len(looked) < n)
    verdict = judge_rows(status, rule, checks, n)
    verdict = dataclasses.replace(verdict, elbo=Estimate(verdict.elbo.value + rest, verdict.elbo.se))
    evidence = Estimate(n * checks.log_evidence.value + rest, n * checks.log_evidence.se)
    none = "no draw of the posterior of every row is known"
    bounds = Evidence(evidence, None, DRAWS, none)
    k = float(np.max(checks.pareto_k))
    source, draws, effective, corrections = "q", np.zeros((1, n * d)), 1.0, ()
    if verdict.status is VerdictStatus.CORRECTED and n * d * _KEPT <= _NUMBERS:
        pool = np.empty((_KEPT, n, d))
        sizes = np.empty(n)
        for i in range(0, n, SAMPLED):
            index = np.arange(i, min(i + SAMPLED, n))
            noise = problem.noise(rng, len(index), _CHOICE)
            with float32():
                w = problem(encoder._learned, None, index, noise)[0]
            w = np.exp(w - logsumexp(w, 1, keepdims=True))
            sizes[index] = 1 / (w**2).sum(1)
            # Systematic resampling, each row by itself and shuffled, so that rows stay independent.
            points = (np.arange(_KEPT) + rng.random((len(index), 1))) / _KEPT
            for r, row in enumerate(index):
                chosen = np.minimum(np.searchsorted(np.cumsum(w[r]), points[r]), _CHOICE - 1)
                pool[:, row] = location[row] + scale[row] * noise[r, rng.permutation(chosen)]
        draws, source, effective = rows.flat(pool), "importance", float(np.median(sizes))
        said = f"draws of each row resampled by their weights: {effective:.0f} of {_CHOICE} effective in the median row"
        corrections = (Correction("importance", said),)
    elif verdict.status is VerdictStatus.CORRECTED:
        verdict = dataclasses.replace(
            verdict,
            status=VerdictStatus.NOT_TRUSTED,
            next_step="a larger network, or fewer rows: these are too many to keep weighted draws of all.",
        )
    weights_of = np.full(len(draws), 1 / len(draws))
    return Assessment(verdict, source, draws, weights_of, np.empty(0), evidence, bounds, k, effective, corrections)
