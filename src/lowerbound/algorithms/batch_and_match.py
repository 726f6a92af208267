r"""Batch and match: a Gaussian whose scores match the target's (Cai, Modi, Pillaud-Vivien et al. 2024).

The covariance-weighted Fisher divergence of q = N(mu, S),

    D(q, p) = E_q | S^{1/2} (grad log q - grad log p) |^2,

does not change under affine maps and needs no log density, only scores. A step draws a *batch* z_b of q, with scores
g_b, and *matches*: it minimises the batch's estimate of D plus (2 / lambda) KL(q_t || q), in closed form. With batch
means zb, gb and covariances C, G,

    U = lambda G + lambda / (1 + lambda) gb gb',      V = S + lambda C + lambda / (1 + lambda) (mu - zb)(mu - zb)',
    S+ = 2 V (I + (I + 4 U V)^{1/2})^{-1},            mu+ = (mu + lambda (S+ gb + zb)) / (1 + lambda).

The root of a matrix that is not symmetric is avoided: S+ solves S+ U S+ + S+ = V, so with V = R R' and
R'UR = W diag(w) W',  S+ = R W diag(2 / (1 + sqrt(1 + 4 w))) W' R'. With fewer draws than dimensions U = H H' has few
columns, and S+ = V - V H [I/2 + (H'VH + I/4)^{1/2}]^{-2} H'V needs the root of a small matrix only. All of it is done
in coordinates in which q is standard normal.

*Two phases.* At first lambda = B p / (t + 1) for the batch size B, as its authors have it: long steps, which find a
Gaussian target at once. When D no longer falls (its mean over five steps is within two standard errors of that over the
five before), the noise of a batch is all that moves q, and lambda becomes 1, 1/2, 1/3, ...: near the fixed point that
averages the batches (Robbins & Monro 1951).

*Stopping.* When D is below tolerance^2 (2 KL is less, to second order), or when the averaged q is known to 0.002 nats
for every ten dimensions, by the spread of the steps that were averaged. A step after which D has risen tenfold is taken
back, and lambda made ten times smaller.

Where p is not Gaussian the least D and the least KL(q || p) are different Gaussians.

Cost: B gradients and O(B p^2 + p^3) a step, from the best end of the searches that the default starts from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lowerbound.algorithms.base import Algorithm, Info, Status, check_positive
from lowerbound.algorithms.pattern import allowed
from lowerbound.algorithms.quasi_newton import lower, root
from lowerbound.algorithms.score_regression import DENSE_LIMIT
from lowerbound.algorithms.search import Search
from lowerbound.errors import IncompatibleError
from lowerbound.expectations.noise import matched_normals
from lowerbound.families import Block, Dense, DenseGaussian, Family
from lowerbound.kernel import Kernel

#: Steps whose divergences are compared, and the least that are averaged.
_WINDOW, _LEAST = 5, 10
#: A step that makes the divergence so many times larger is taken back, and how often in a row that may happen.
_WORSE, _RETRIES = 10.0, 12


@dataclass(eq=False)
class _State:
    kernel: Kernel
    rng: np.random.Generator
    search: Search
    q: DenseGaussian | None = None
    last: tuple[DenseGaussian, float] | None = None
    steps: int = 0
    held: float = 1.0
    retries: int = 0
    divergences: list[float] = field(default_factory=list)
    averaged: int = 0
    moves: list[np.ndarray] = field(default_factory=list)
    squares: float = 0.0
    elbo: float = np.nan
    elbo_se: float = np.nan
    status: Status | None = None


@dataclass(frozen=True)
class BatchAndMatch(Algorithm):
    """A dense Gaussian by matching scores on batches.

    Args:
        num_samples: B, draws a step.
        tolerance: Stop at once when the Fisher divergence is below the square of this.
        max_steps: Steps before giving up.
    """

    num_samples: int = 64
    tolerance: float = 0.01
    max_steps: int = 1000
    name = "batch_and_match"

    def __post_init__(self) -> None:
        check_positive("BatchAndMatch", tolerance=self.tolerance, max_steps=self.max_steps)
        n = self.num_samples
        if isinstance(n, bool) or not isinstance(n, int) or n < 2 or n % 2:
            raise IncompatibleError(f"BatchAndMatch(num_samples={n!r}): needed: an even integer, 2 or more.")

    def rule(self) -> str:
        return (
            f"the Fisher divergence is below {self.tolerance:g}^2, or has stopped falling and q, averaged over "
            "batches, is known to 0.002 nats for every ten dimensions"
        )

    def check(self, model: Any, family: Family) -> None:
        if not isinstance(family, Dense):
            raise IncompatibleError(
                f"BatchAndMatch fits dense Gaussians, not {family.name}: use family='dense', or "
                "algorithm='score_regression', which fits diagonal ones and products too."
            )
        if model.dimension > DENSE_LIMIT:
            raise IncompatibleError(
                f"BatchAndMatch needs matrices of {model.dimension} x {model.dimension} numbers for this model; it is "
                f"meant for up to {DENSE_LIMIT} unconstrained dimensions. Use algorithm='sample_average'."
            )

    def init(self, seed: int, kernel: Kernel, family: Family) -> _State:
        rng = np.random.default_rng([seed, 7])
        return _State(kernel, rng, Search(kernel, np.random.default_rng(seed)))

    def step(self, state: _State) -> tuple[_State, Info]:
        if not state.search.done:
            state.search.advance()
            return state, Info("searching for a start", state.search.iteration)
        if state.q is None:
            end = state.search.ends()[0]
            factor = root(end.inverse)
            state.q = DenseGaussian(end.x, np.diag(factor) if factor.ndim == 1 else factor)
        self._match(state, state.q)
        phase = "averaging" if state.averaged else "matching"
        change = float(np.sqrt(state.divergences[-1])) if state.divergences else np.nan
        return state, Info(phase, state.steps, state.elbo, state.elbo_se, change, state.status)

    def output(self, state: _State) -> Block | None:
        return state.q

    # -- pieces ----------------------------------------------------------------------------------

    def _match(self, state: _State, q: DenseGaussian) -> None:
        p = q.dimension
        e = matched_normals(state.rng, self.num_samples, p)
        value, score = state.kernel(q.transform(e))
        g = score @ q.scale_tril
        usable = np.isfinite(value) & np.isfinite(g).all(1)
        divergence = float(((g + e)[usable] ** 2).sum(1).mean()) if usable.sum() > len(e) // 2 else np.inf
        state.steps += 1
        if not self._accept(state, q, divergence):
            return
        e, g, log_w = e[usable], g[usable], value[usable] - q.log_prob(q.transform(e[usable]))
        state.elbo, state.elbo_se = float(log_w.mean()), float(log_w.std() / np.sqrt(len(log_w)))
        state.divergences.append(divergence)
        if divergence < self.tolerance**2:
            state.status = Status.CONVERGED
            return
        if state.averaged or _level(state.divergences):
            state.averaged += 1
            if self._known(state, e, g) <= allowed(p) and state.averaged >= _LEAST:
                state.status = Status.CONVERGED
                return
            rate = state.held / state.averaged
        else:
            rate = state.held * self.num_samples * p / state.steps
        mean, factor = match(e, g, rate)
        state.last = (q, divergence)
        state.q = DenseGaussian(q.location + q.scale_tril @ mean, lower(q.scale_tril @ factor))
        if state.steps >= self.max_steps:
            state.status = Status.MAX_STEPS

    def _accept(self, state: _State, q: DenseGaussian, divergence: float) -> bool:
        """Whether q is no disaster beside what it came from; else go back there."""
        if state.last is None:
            if not np.isfinite(divergence):
                state.status = Status.NOT_FINITE
            return np.isfinite(divergence)
        # Noise doubles an estimate, so only a tenfold rise of more than the dimension counts.
        if divergence <= _WORSE * state.last[1] + q.dimension:
            state.retries, state.held = 0, min(1.0, 2 * state.held)
            return True
        state.q, state.held, state.retries = state.last[0], state.held / 10, state.retries + 1
        if state.retries > _RETRIES:
            state.status = Status.STALLED
        elif state.steps >= self.max_steps:
            state.status = Status.MAX_STEPS
        return False

    def _known(self, state: _State, e: np.ndarray, g: np.ndarray) -> float:
        """The KL, in nats, of the error of the average so far.

        To first order in lambda a step is lambda (gb + zb) in the mean and lambda A in the covariance, where
        A = C + zb zb' - G - gb gb'. At a Gaussian target with covariance I + X, A = 2 X: an error of A is one of half
        its size in the covariance; the steps 1, 1/2, 1/3, ... average them.
        """
        move = g.mean(0) + e.mean(0)
        slope = (e.T @ e - g.T @ g) / len(e)
        flat = np.concatenate([np.sqrt(0.5) * move, 0.25 * slope.ravel()])
        total = flat if not state.moves else state.moves[0] + flat
        state.moves, state.squares = [total], state.squares + float(flat @ flat)
        k = state.averaged
        if k < 2:
            return np.inf
        spread = (state.squares - float(total @ total) / k) / (k - 1)
        return spread / k


def match(e: np.ndarray, g: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """The closed-form step in coordinates in which q is standard normal.

    Args:
        e: Draws ``[b, p]``.
        g: Scores of the target at them ``[b, p]``.
        rate: lambda.

    Returns:
        The new mean ``[p]`` and a root ``[p, p]`` of the new covariance.

    Cost: O(p^3 + b p^2); the root of a matrix of b + 1 rows where b + 1 < p.
    """
    b, p = e.shape
    part = rate / (1 + rate)
    zb, gb = e.mean(0), g.mean(0)
    v = np.eye(p) + rate * (e - zb).T @ (e - zb) / b + part * np.outer(zb, zb)
    h = np.concatenate([np.sqrt(rate / b) * (g - gb), np.sqrt(part) * gb[None]]).T
    if b + 1 < p:
        vh = v @ h
        w, u = np.linalg.eigh(h.T @ vh)
        inner = (u / (0.5 + np.sqrt(np.maximum(w, 0.0) + 0.25)) ** 2) @ u.T
        covariance = v - vh @ inner @ vh.T
        factor = root(0.5 * (covariance + covariance.T))
    else:
        r = np.linalg.cholesky(v)
        rh = r.T @ h
        w, u = np.linalg.eigh(rh @ rh.T)
        factor = r @ (u * np.sqrt(2 / (1 + np.sqrt(1 + 4 * np.maximum(w, 0.0)))))
    return part * (factor @ (factor.T @ gb) + zb), factor


def _level(divergences: list[float]) -> bool:
    """Whether the divergence has stopped falling."""
    if len(divergences) < 2 * _WINDOW:
        return False
    before, after = np.array(divergences[-2 * _WINDOW : -_WINDOW]), np.array(divergences[-_WINDOW:])
    error = np.sqrt((before.var(ddof=1) + after.var(ddof=1)) / _WINDOW)
    return bool(before.mean() - after.mean() < 2 * error)
