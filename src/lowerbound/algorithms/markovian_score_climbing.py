r"""Markovian score climbing: the forward KL without the bias of self-normalised weights (Naesseth et al. 2020).

The gradient of KL(p || q) is an expectation under the posterior. From S weighted draws of q it is biased, for any S.
Here a Markov chain whose stationary distribution *is* the posterior supplies the draws: *conditional importance
sampling*. Given the chain's state z,

    z_1 = z,  z_2 .. z_S ~ r,      w_i = p(x, z_i) / r(z_i),      the next state is z_i with probability w_i / sum w,

leaves p(z | x) invariant for every S >= 2, and so does the weighted set: sum_i w_i f(z_i) / sum w has the posterior's
expectation of f. For an exponential family the climb along the score is an average of its sufficient statistics with
steps 1/k (Robbins & Monro 1951); for a Gaussian, of z and zz' within its blocks.

*Stages.* r is half the dense Gaussian with the moments of the last stage, half a Student-t about it, and is not changed
within a stage, so that what is averaged there is one chain. Stages are 8, 16, 32, ... batches of 64 steps long; each
begins where the last ended, and its averages begin anew, as the first ones are from where r was poor. As r does not
depend on the state, all draws of a batch are evaluated together.

*Stopping.* The batches' means give the Monte Carlo error of the moments as the KL that it costs; it has converged at
the end of a stage in which that is below 0.002 nats (for every ten dimensions, at least). If k-hat of the stage's
weights is above 0.7 the chain stays for long where weights are huge, and the fit ends as UNEVEN.

It starts from the dense Gaussian of score regression. Cost: that fit, then 64 (S - 1) evaluations a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lowerbound.algorithms.base import Info, Status, check_positive
from lowerbound.algorithms.dense_start import DenseStart, FromDenseStart
from lowerbound.algorithms.moment_matching import as_block, elbo_of, groups_of
from lowerbound.algorithms.pattern import allowed
from lowerbound.algorithms.score_regression import DENSE_LIMIT
from lowerbound.algorithms.tilted import Moments, best
from lowerbound.algorithms.weighted_moments import USABLE_K, log_mixture, student_about
from lowerbound.errors import IncompatibleError
from lowerbound.families import Block, Dense, DenseGaussian, Diagonal, Family
from lowerbound.kernel import Kernel
from lowerbound.pareto import effective_size, smooth

#: Steps of the chain in a batch, and batches of the first stage.
_STEPS, _FIRST = 64, 8


@dataclass(eq=False)
class _State:
    kernel: Kernel
    family: Family
    rng: np.random.Generator
    groups: list[np.ndarray]
    start: DenseStart
    about: Moments | None = None
    z: np.ndarray = field(default_factory=lambda: np.empty(0))
    value: float = -np.inf
    length: int = _FIRST
    taken: int = 0
    first: list[np.ndarray] = field(default_factory=list)
    second: list[np.ndarray] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)
    kept: int = 0
    elbo: float = np.nan
    elbo_se: float = np.nan
    status: Status | None = None


@dataclass(frozen=True)
class MarkovianScoreClimbing(FromDenseStart):
    """The forward KL among Gaussians by conditional importance sampling.

    Args:
        num_samples: S, points weighed a step, the chain's own among them.
        max_steps: Batches of 64 steps before giving up.
    """

    num_samples: int = 16
    max_steps: int = 2000
    name = "markovian_score_climbing"

    def __post_init__(self) -> None:
        check_positive("MarkovianScoreClimbing", max_steps=self.max_steps)
        n = self.num_samples
        if isinstance(n, bool) or not isinstance(n, int) or n < 2:
            raise IncompatibleError(f"MarkovianScoreClimbing(num_samples={n!r}): needed: an integer of at least 2.")

    def rule(self) -> str:
        return "a stage's averages are known to 0.002 nats for every ten dimensions, by the spread of its batches"

    def check(self, model: Any, family: Family) -> None:
        wrong = [f.name for f, _ in family.members(model.dimension) if not isinstance(f, (Dense, Diagonal))]
        if wrong:
            raise IncompatibleError(
                f"MarkovianScoreClimbing fits dense and diagonal Gaussians and products of them, not "
                f"{', '.join(wrong)}. Use objective='forward_kl' and leave algorithm out, or family='dense'."
            )
        if model.dimension > DENSE_LIMIT:
            raise IncompatibleError(
                f"MarkovianScoreClimbing averages the {model.dimension} x {model.dimension} moments of this posterior; "
                f"it is meant for up to {DENSE_LIMIT} unconstrained dimensions. Use algorithm='sample_average'."
            )

    def init(self, seed: int, kernel: Kernel, family: Family) -> _State:
        start = DenseStart(seed, kernel)
        return _State(kernel, family, np.random.default_rng([seed, 9]), groups_of(family, kernel.dimension), start)

    def begin(self, state: _State, gaussian: DenseGaussian) -> None:
        state.about = Moments(np.asarray(gaussian.mean), gaussian.covariance())
        state.z = np.zeros(state.kernel.dimension)  # in whitened coordinates: the mean
        state.value = float(state.kernel(state.about.mean[None])[0][0])

    def move(self, state: _State) -> Info:
        assert state.about is not None
        self._batch(state, state.about)
        if state.status is None and len(state.first) >= state.length:
            self._end_stage(state, state.about)
        if state.status is None and state.taken >= self.max_steps:
            state.status = Status.MAX_STEPS
        if state.status is not None or not state.first:
            state.elbo, state.elbo_se = elbo_of(state.kernel, self.answer(state), state.rng)
        moved = f"the chain moved in {1 - state.kept / (_STEPS * state.taken):.0%} of its steps"
        return Info("climbing", state.taken, state.elbo, state.elbo_se, status=state.status, detail=moved)

    def answer(self, state: _State) -> Block:
        assert state.about is not None
        now = _averages(state) if len(state.first) >= _FIRST else state.about
        return as_block(best(now, state.groups, 1.0), state.groups)

    def unmoved(self, state: _State, fitted: Block) -> Block:
        return state.family.build(np.asarray(fitted.mean), fitted.covariance())  # pyright: ignore

    # -- pieces ----------------------------------------------------------------------------------

    def _batch(self, state: _State, about: Moments) -> None:
        """Steps of the chain from proposals that are drawn and evaluated together."""
        p, rng = state.kernel.dimension, state.rng
        factor = np.linalg.cholesky(about.covariance)
        count = _STEPS * (self.num_samples - 1)
        fresh = rng.standard_normal((count, p))
        heavy = rng.uniform(size=count) < 0.5
        fresh[heavy] = student_about(rng, fresh[heavy])
        value, _ = state.kernel(about.mean + fresh @ factor.T)
        log_w = np.where(np.isfinite(value), value - log_mixture(fresh), -np.inf)
        state.weights.append(log_w)
        e = fresh.reshape(_STEPS, -1, p)
        log_w = log_w.reshape(_STEPS, -1)
        own = state.value - float(log_mixture(state.z[None])[0])
        choice = rng.uniform(size=_STEPS)
        mean, second = np.zeros(p), np.zeros((p, p))
        for t in range(_STEPS):
            logs = np.append(log_w[t], own)
            w = np.exp(logs - logs.max())
            w /= w.sum()
            points = np.concatenate([e[t], state.z[None]])
            mean += w @ points / _STEPS
            second += (w[:, None] * points).T @ points / _STEPS
            i = min(int(np.searchsorted(np.cumsum(w), choice[t])), len(w) - 1)
            state.kept += i == len(w) - 1
            state.z, own = points[i], logs[i]
        state.value = own + float(log_mixture(state.z[None])[0])
        state.first.append(mean)
        state.second.append(second)
        state.taken += 1

    def _end_stage(self, state: _State, about: Moments) -> None:
        """Judge the stage's averages; move r there, and begin a longer one."""
        smoothed, k = smooth(np.concatenate(state.weights))
        even = effective_size(smoothed) > 0.5 * len(smoothed)
        now = _averages(state)
        cost = self._cost(state, now, about)
        if cost <= allowed(state.kernel.dimension):
            state.status = Status.CONVERGED if k <= USABLE_K or even else Status.UNEVEN
            return
        factor, root = np.linalg.cholesky(about.covariance), np.linalg.cholesky(now.covariance)
        state.z = np.linalg.solve(root, about.mean + factor @ state.z - now.mean)
        # The density of the whitened state changes by no constant: values are those of the unwhitened log density.
        state.about, state.first, state.second, state.weights = now, [], [], []
        state.length *= 2

    def _cost(self, state: _State, now: Moments, about: Moments) -> float:
        """The KL, in nats, of the averages' error, from the spread of the batches' means."""
        factor = np.linalg.cholesky(about.covariance)
        centre = np.linalg.solve(factor, now.mean - about.mean)
        n, out = len(state.first), 0.0
        # Second moments about the stage's own mean.
        means = np.stack(state.first)
        seconds = np.stack(state.second) - means[:, :, None] * centre - centre[:, None] * means[:, None, :]
        for g in state.groups:
            root = np.linalg.cholesky(now.covariance[np.ix_(g, g)])
            white = np.linalg.solve(root, factor[g])
            out += 0.5 * (means @ white.T).var(0, ddof=1).sum() / n
            out += 0.25 * (white @ seconds @ white.T).var(0, ddof=1).sum() / n
        return float(out)


def _averages(state: _State) -> Moments:
    """The stage's moments so far."""
    assert state.about is not None
    factor = np.linalg.cholesky(state.about.covariance)
    mean = np.mean(state.first, axis=0)
    covariance = np.mean(state.second, axis=0) - np.outer(mean, mean)
    w, v = np.linalg.eigh(0.5 * (covariance + covariance.T))
    covariance = (v * np.maximum(w, 1e-3 * w.max())) @ v.T
    return Moments(state.about.mean + factor @ mean, factor @ covariance @ factor.T)
