r"""Training a flow from a fitted Gaussian: path gradients, Adam, a rate that falls when the gain does.

The weights phi of f maximise E[log p(x(e)) - log q(x(e))], x = m + L (f(e_S), e_rest), by the path ("sticking the
landing") gradient: phi moves the draws, and q's own phi is held still,

    d/dphi f_phi(e)' (L' score_p(x) - score_q(f(e))),

which has no variance at all where q = p (Roeder, Wu & Duvenaud 2017). score_p comes from the kernel on the
host and enters the flow's program as an argument, so one program of the flow, compiled once for each dimension,
serves all models: it takes the scores at this iteration's draws, moves the weights, and gives the next iteration's
draws. A draw that is not finite counts for nothing; a draw's slope is clipped at a length that only a start far
from p reaches.

Adam at a constant rate; after every 250 iterations q is scored on 2,048 fixed held-out draws. When the paired gain
since the last time is below two standard errors of it, or below 0.01 nats, the rate falls to a fiftieth over 250
more iterations (a half cosine), and the fit has converged: a horizon need not be guessed. The weights with the
highest held-out ELBO are the answer; where it falls far below that, they are put back and the rate cut.

Cost: 256 gradients of the model and 1 to 3 ms of the flow an iteration; 2 seconds of compilation the first time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.algorithms.base import Info, Status
from lowerbound.compilation import compile_once
from lowerbound.expectations.noise import matched_normals, stratified_normals
from lowerbound.families import Flow, FlowBlock
from lowerbound.families.coupling import BATCH, Couplings, program
from lowerbound.families.linalg import standard_normal_log_prob
from lowerbound.kernel import Kernel
from lowerbound.precision import float64

#: Dimensions up to which the flow moves all coordinates; above, this many of them.
FLOW_LIMIT, WORST = 200, 32
#: Iterations between held-out scores, and of one report.
WINDOW, _REPORT = 250, 50
_HELD_OUT = 2048
#: Adam's rate. 0.002 took twice the iterations on four posteriors; 0.01 was no better than 0.005.
_RATE, _LAST = 5e-3, 0.02
_WARM_UP = 20
#: Longest slope of one draw, in units of sqrt(k).
_CLIP = 10.0
_MIN_GAIN = 0.01
_ROLLBACKS = 3


@lru_cache(maxsize=32)
def training_program(couplings: Couplings) -> tuple[Any, Any]:
    """One iteration, compiled, and Adam's state at the start.

    (weights, adam, noise, scores, rate, next noise) -> (weights, adam, draws, log |det f'| at them).
    """
    import optax  # takes a tenth of a second, which a fit without a flow need not wait for

    adam = optax.scale_by_adam()

    def iterate(weights, state, noise, scores, rate, following):
        draws, pull = jax.vjp(lambda w: couplings.forward(w, noise)[0], weights)
        own = jax.grad(lambda u: couplings.log_q(weights, u).sum())(draws)
        slope = jnp.where(jnp.isfinite(scores).all(1, keepdims=True), scores - own, 0.0)
        length = jnp.sqrt((slope**2).sum(1, keepdims=True))
        slope = slope * jnp.minimum(1.0, _CLIP * couplings.dimension**0.5 / jnp.maximum(length, 1e-300))
        gradient = pull(slope / BATCH)[0]
        direction, moved = adam.update(gradient, state)
        new = jax.tree_util.tree_map(lambda w, d: w + rate * d, weights, direction)
        fine = jnp.stack([jnp.isfinite(w).all() for w in new]).all()
        new, moved = jax.tree_util.tree_map(lambda a, b: jnp.where(fine, a, b), (new, moved), (weights, state))
        return new, moved, *couplings.forward(new, following)

    with float64():
        weights = tuple(jax.ShapeDtypeStruct(s, np.float64) for s in couplings.shapes())
        state = jax.eval_shape(adam.init, weights)
        draws = jax.ShapeDtypeStruct((BATCH, couplings.dimension), np.float64)
        rate = jax.ShapeDtypeStruct((), np.float64)
        run, _ = compile_once(iterate, weights, state, draws, draws, rate, draws)
    return run, jax.tree_util.tree_map(lambda a: np.zeros(a.shape, a.dtype), state)


class _Score(NamedTuple):
    """log p - log q at the held-out draws ``[n]``, some not finite; their mean and its standard error."""

    values: np.ndarray
    elbo: float
    se: float


@dataclass(eq=False)
class FlowTraining:
    """One training. ``step`` until ``status``; ``block`` is the best q so far.

    Args:
        kernel: The compiled log density.
        start: A flow block, whose weights are moved; see :meth:`lowerbound.families.Flow.start`.
        rng: Random numbers.
        max_steps: Iterations before giving up.
        max_seconds: Seconds by the clock, compilation included, after which the best so far is the answer.
    """

    kernel: Kernel
    start: FlowBlock
    rng: np.random.Generator
    max_steps: int = 4000
    max_seconds: float = np.inf
    status: Status | None = None
    steps: int = 0
    rate: float = _RATE
    falling: int = 0
    rollbacks: int = 0
    scores: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._end = time.perf_counter() + self.max_seconds
        self._begun = time.perf_counter()
        self.couplings = self.start.couplings
        self._run, self._fresh = training_program(self.couplings)
        self._weights: Any = self.start.weights
        self._adam: Any = self._fresh
        k, d = self.couplings.dimension, self.kernel.dimension
        order = np.asarray(self.start.order)
        self._back = np.argsort(order)
        self._root = np.asarray(self.start.scale_tril)
        self._order, self._k = order, k
        self._log_det = float(np.log(np.abs(np.diagonal(self._root))).sum())
        self._held_out = stratified_normals(self.rng, _HELD_OUT, d)
        self.first = self.best = self._last = self._score(self._weights)
        self._best_weights = self._weights
        if not np.isfinite(self.first.elbo):
            self.status = Status.NOT_FINITE
            return
        self._noise = self._draw()
        u, log_det = self.couplings.transform(self._weights, self._noise[:, :k])
        self._at: tuple[Any, Any] = (u, log_det)

    @property
    def block(self) -> FlowBlock:
        s = self.start
        return FlowBlock(s.location, s.scale_tril, s.order, *(np.asarray(w) for w in self._best_weights))

    def step(self) -> Info:
        """Fifty iterations, and where a window ends its score."""
        if self.status is not None:
            return self._info(self.best.elbo, self.best.se)
        values = [self._iterate() for _ in range(min(_REPORT, self.max_steps - self.steps))]
        late = time.perf_counter() > self._end
        if self.steps % WINDOW == 0 or self.steps >= self.max_steps or late or self.falling == WINDOW:
            self._judge(late)
            return self._info(self.best.elbo, self.best.se)
        found = np.concatenate(values)
        found = found[np.isfinite(found)]
        if not len(found):
            return self._info(np.nan, np.nan)
        return self._info(float(found.mean()), float(found.std() / np.sqrt(len(found))))

    def _info(self, elbo: float, se: float) -> Info:
        return Info("fitting a flow", self.steps, elbo, se, status=self.status)

    # -- one iteration ---------------------------------------------------------------------------

    def _draw(self) -> np.ndarray:
        return stratified_normals(self.rng, BATCH, self.kernel.dimension)

    def _density(self, u: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log p at x = m + L (u, e_rest), and its gradient with respect to u."""
        v = np.concatenate([u, noise[:, self._k :]], axis=1)
        with np.errstate(all="ignore"):
            value, score = self.kernel(self.start.location + (v @ self._root.T)[:, self._back])
            return value, score[:, self._order] @ self._root[:, : self._k]

    def _log_q(self, noise: np.ndarray, log_det: np.ndarray) -> np.ndarray:
        return standard_normal_log_prob(noise) - log_det - self._log_det

    def _iterate(self) -> np.ndarray:
        """Returns log p - log q at the draws."""
        rate = self.rate * min(1.0, (self.steps + 1) / _WARM_UP)
        if self.falling:
            rate *= _LAST + (1 - _LAST) * 0.5 * (1 + np.cos(np.pi * min(1.0, self.falling / WINDOW)))
            self.falling += 1
        u, log_det = np.asarray(self._at[0]), np.asarray(self._at[1])
        value, slope = self._density(u, self._noise)
        slope[~np.isfinite(value)] = np.nan
        following = self._draw()
        k = self._k
        with float64():
            self._weights, self._adam, *self._at = self._run(  # pyright: ignore[reportAttributeAccessIssue]
                self._weights, self._adam, self._noise[:, :k], slope, np.float64(rate), following[:, :k]
            )
        ratio = value - self._log_q(self._noise, log_det)
        self._noise = following
        self.steps += 1
        return ratio

    # -- is it better? ---------------------------------------------------------------------------

    def _score(self, weights: Any) -> _Score:
        u, log_det = self.couplings.transform(weights, self._held_out[:, : self._k])
        value, _ = self._density(u, self._held_out)
        ratio = value - self._log_q(self._held_out, log_det)
        finite = np.isfinite(ratio)
        if finite.mean() < 0.9:
            return _Score(ratio, -np.inf, np.inf)
        return _Score(ratio, float(ratio[finite].mean()), float(ratio[finite].std() / np.sqrt(finite.sum())))

    def _judge(self, late: bool) -> None:
        now = self._score(self._weights)
        if _gain(self.best, now)[0] > 0:
            self.best, self._best_weights = now, self._weights
        gain, se = _gain(self._last, now)
        below, below_se = _gain(self.best, now)
        self.scores.append(now.elbo)
        if late or self.steps >= self.max_steps:
            self.status = Status.MAX_STEPS
        elif below < -max(0.1, 2 * below_se):
            self._roll_back()
        elif self.falling:
            self.status = Status.CONVERGED
        else:
            self._last = now
            # The last eighth of a budget is for the fall of the rate.
            budget = self.max_steps - self.steps <= WINDOW
            spent = time.perf_counter() - self._begun
            budget = budget or spent + 1.1 * spent * WINDOW / self.steps > self.max_seconds
            if gain < max(2 * se, _MIN_GAIN) or budget:
                self.falling = 1

    def _roll_back(self) -> None:
        self.rollbacks += 1
        if self.rollbacks > _ROLLBACKS:
            self.status = Status.STALLED
            return
        self._weights, self._last, self._adam = self._best_weights, self.best, self._fresh
        self.rate *= 0.3
        self._noise = self._draw()
        self._at = self.couplings.transform(self._weights, self._noise[:, : self._k])


def _gain(old: _Score, new: _Score) -> tuple[float, float]:
    """Paired difference of two scores and its standard error; minus infinity if more draws are lost."""
    a, b = np.isfinite(old.values), np.isfinite(new.values)
    if not np.isfinite(new.elbo) or b.sum() < a.sum() - 0.01 * len(a):
        return -np.inf, 0.0
    both = a & b
    difference = new.values[both] - old.values[both]
    return float(difference.mean()), float(difference.std() / np.sqrt(len(difference)))


def worst_coordinates(kernel: Kernel, gaussian: Any, rng: np.random.Generator, count: int = WORST) -> np.ndarray:
    """The coordinates whose scores are least linear under a Gaussian q, worst first.

    Where the posterior is Gaussian its scores are affine in the noise. What the regression of score_j on the noise
    leaves, times coordinate j's standard deviation, has no unit; coordinates are ranked by its variance.
    """
    d = kernel.dimension
    noise = matched_normals(rng, min(8192, max(512, 4 * d)), d)
    root = np.linalg.cholesky(np.asarray(gaussian.covariance()))
    with np.errstate(all="ignore"):
        value, score = kernel(np.asarray(gaussian.mean) + noise @ root.T)
    fine = np.isfinite(value) & np.isfinite(score).all(1)
    design = np.column_stack([np.ones(fine.sum()), noise[fine]])
    residual = score[fine] - design @ np.linalg.lstsq(design, score[fine], rcond=None)[0]
    return np.argsort(-residual.std(0) * np.sqrt((root**2).sum(1)), kind="stable")[:count]


def start_flow(kernel: Kernel, gaussian: Any, rng: np.random.Generator, family: Flow) -> FlowBlock:
    """The Gaussian as a flow block; above 200 dimensions with the worst coordinates first."""
    if family.coordinates is None and kernel.dimension > FLOW_LIMIT:
        worst = tuple(int(i) for i in worst_coordinates(kernel, gaussian, rng))
        family = Flow(worst, layers=family.layers, width=family.width)
    return family.start(gaussian, rng)


def fit_flow(
    kernel: Kernel,
    gaussian: Any,
    rng: np.random.Generator,
    *,
    coordinates: Any = None,
    max_seconds: float = np.inf,
    max_steps: int = 4000,
    record: Callable[[Info], object] | None = None,
) -> FlowBlock | None:
    """A flow trained from a fitted Gaussian; None where it gained nothing.

    Args:
        kernel: The compiled log density.
        gaussian: A fitted Gaussian: anything with ``mean`` and ``covariance()``.
        rng: Random numbers.
        coordinates: Those that the flow moves; None for all up to 200 dimensions, and above for the 32 whose scores
            are least linear.
        max_seconds: Seconds by the clock, compilation of the flow included. (The answer then depends on the
            machine's speed.)
        max_steps: Iterations.
        record: Called with the Info of every fifty iterations.

    Returns:
        The best q on held-out draws, or None if its ELBO is not above the Gaussian's by two standard errors.
    """
    training = FlowTraining(
        kernel, start_flow(kernel, gaussian, rng, Flow(coordinates)), rng, max_steps=max_steps, max_seconds=max_seconds
    )
    while training.status is None:
        info = training.step()
        if record is not None:
            record(info)
    gain, se = _gain(training.first, training.best)
    return training.block if gain > 2 * se else None


def prepare_flow(dimension: int) -> None:
    """Compile the programs for flows of a dimension ahead of their use, for example in a thread."""
    couplings = Flow().couplings(dimension)
    training_program(couplings)
    for method in ("forward", "inverse"):
        program(couplings, method)
