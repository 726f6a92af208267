r"""Stein variational gradient descent (Liu & Wang 2016): particles that move together.

    x_i <- x_i + rate * phi(x_i),     phi(x) = 1/n sum_j [k(x_j, x) grad log p(x_j) + grad_{x_j} k(x_j, x)],

the direction, in the kernel's space, in which KL(q || p) falls fastest. It is deterministic, and at rest where the two
parts of phi cancel. With an RBF alone the particles' variance is too small by more as the dimension grows: 100
particles on Gaussians have three quarters of it in 10 dimensions, two thirds in 20 (with the usual, narrower h a half
and a fifth). The default kernel has the affine functions beside it, and then mean and covariance of a Gaussian are
matched (:mod:`~lowerbound.algorithms.stein`).

*Coordinates and start*: the best dense Gaussian by score regression gives both. Particles are its draws, and move where
it is standard normal, so that one bandwidth and one rate suit all of them.

*Step*: Adam or AdaGrad, from a rate of 0.1, halved when 50 iterations bring no new least residual.

*Annealing* (D'Angelo & Fortuin 2021): the first part of phi is multiplied by gamma(t) below 1 for the first 400
iterations, tanh((1.3 t / T)^5) or ((t mod T/4) / (T/4))^5, so that the particles spread before they settle.

*Stopping*: the residual |phi| / (|drawn| + |apart|), root mean squares over particles, is below ``tolerance``.

Cost: that of the Gaussian; then n gradients and O(n^2 p) an iteration.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lowerbound.algorithms.base import Info, Status, check_positive
from lowerbound.algorithms.dense_start import DenseStart, FromDenseStart
from lowerbound.algorithms.score_regression import DENSE_LIMIT
from lowerbound.algorithms.stein import KERNELS, median_bandwidth, velocity
from lowerbound.errors import IncompatibleError
from lowerbound.expectations.noise import matched_normals
from lowerbound.families import Block, DenseGaussian, Family, ParticleBlock, Particles
from lowerbound.kernel import Kernel

_RATE, _PATIENCE = 0.1, 50
#: The bandwidth, in those of the median heuristic. (Of 1, 1.4, 2, 3 and 4.5 times it, 1.4 left 100 particles nearest in
#: energy distance to a log-gamma, a Student-t, a bent Gaussian, two modes and a funnel, in 2 to 5 dimensions.)
_WIDER = 2**0.5
_ANNEALED, _CYCLES, _POWER = 400, 4, 5
#: Iterations of one reported step.
_TOGETHER = 10


@dataclass(eq=False)
class _State:
    kernel: Kernel
    rng: np.random.Generator
    count: int
    start: DenseStart
    x: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    first: np.ndarray = field(default_factory=lambda: np.empty(0))
    second: np.ndarray = field(default_factory=lambda: np.empty(0))
    iterations: int = 0
    rate: float = _RATE
    least: float = np.inf
    since: int = 0
    status: Status | None = None


@dataclass(frozen=True)
class SVGD(FromDenseStart):
    """Stein variational gradient descent.

    Args:
        kernel: ``"rbf_linear"``, ``"rbf"`` or ``"imq"``.
        bandwidth: h, in the start's standard deviations; None for h^2 = median r^2 / log(n + 1) over the n particles'
            distances r, anew at every iteration.
        optimizer: ``"adam"`` or ``"adagrad"``.
        annealing: None, ``"hyperbolic"`` or ``"cyclical"``.
        tolerance: Stop when the residual is below this.
        max_steps: Iterations before giving up.

    Raises:
        IncompatibleError: a name that is none of these.
    """

    kernel: str = "rbf_linear"
    bandwidth: float | None = None
    optimizer: str = "adam"
    annealing: str | None = None
    tolerance: float = 0.005
    max_steps: int = 5000
    name = "svgd"

    def __post_init__(self) -> None:
        check_positive("SVGD", tolerance=self.tolerance, max_steps=self.max_steps)
        if self.bandwidth is not None:
            check_positive("SVGD", bandwidth=self.bandwidth)
        for option, given, known in (
            ("kernel", self.kernel, KERNELS),
            ("optimizer", self.optimizer, ("adam", "adagrad")),
            ("annealing", self.annealing, (None, "hyperbolic", "cyclical")),
        ):
            if given not in known:
                raise IncompatibleError(f"SVGD({option}={given!r}): needed: one of {', '.join(map(repr, known))}.")

    def rule(self) -> str:
        return f"what draws the particles and what keeps them apart cancel to {self.tolerance:g} of their size"

    def check(self, model: Any, family: Family) -> None:
        if not isinstance(family, Particles):
            raise IncompatibleError(
                f"SVGD moves particles, not {family.name}: use family='particles', or leave algorithm out."
            )
        if model.dimension > DENSE_LIMIT:
            raise IncompatibleError(
                f"SVGD starts from a dense Gaussian, for up to {DENSE_LIMIT} unconstrained dimensions; this model has "
                f"{model.dimension}. Use family='diagonal' or 'low_rank'."
            )

    def init(self, seed: int, kernel: Kernel, family: Family) -> _State:
        assert isinstance(family, Particles)
        return _State(kernel, np.random.default_rng([seed, 8]), family.num_particles, DenseStart(seed, kernel))

    def begin(self, state: _State, gaussian: DenseGaussian) -> None:
        n, p = state.count, gaussian.dimension
        state.x = matched_normals(state.rng, n + n % 2, p)[:n]
        state.first, state.second = np.zeros((n, p)), np.zeros((n, p))

    def move(self, state: _State) -> Info:
        assert state.start.gaussian is not None
        for _ in range(_TOGETHER):
            if state.status is None:
                self._move(state, state.start.gaussian)
        return Info("moving particles", state.iterations, change=state.least, status=state.status)

    def answer(self, state: _State) -> Block:
        assert state.start.gaussian is not None
        return ParticleBlock(state.start.gaussian.transform(state.x))

    def unmoved(self, state: _State, fitted: Block) -> Block:
        noise = matched_normals(np.random.default_rng(0), state.count + state.count % 2, fitted.noise_dimension)
        return ParticleBlock(np.asarray(fitted.transform(noise[: state.count])))

    # -- pieces ----------------------------------------------------------------------------------

    def _move(self, state: _State, gaussian: DenseGaussian) -> None:
        _, gradient = state.kernel(gaussian.transform(state.x))
        scores = gradient @ gaussian.scale_tril
        bad = ~np.isfinite(scores).all(1)
        if bad.mean() > 0.5:
            state.status = Status.NOT_FINITE
            return
        if bad.any():  # those go half of the way back
            state.x[bad] *= 0.5
            return self._count(state)
        h = _WIDER * median_bandwidth(state.x) if self.bandwidth is None else self.bandwidth
        drawn, apart = velocity(state.x, scores, self.kernel, h)
        gamma = self._gamma(state.iterations)
        phi = gamma * drawn + apart
        if gamma == 1.0:
            size = np.sqrt((drawn**2).mean()) + np.sqrt((apart**2).mean())
            residual = float(np.sqrt((phi**2).mean()) / max(size, 1e-300))
            if residual < self.tolerance:
                state.least, state.status = residual, Status.CONVERGED
                return
            state.since = 0 if residual < state.least else state.since + 1
            state.least = min(state.least, residual)
            if state.since >= _PATIENCE:
                state.rate, state.since = state.rate / 2, 0
        state.x = state.x + state.rate * self._scaled(state, phi)
        self._count(state)

    def _count(self, state: _State) -> None:
        state.iterations += 1
        if state.iterations >= self.max_steps:
            state.status = Status.MAX_STEPS

    def _scaled(self, state: _State, phi: np.ndarray) -> np.ndarray:
        """phi over the root of its own mean square, particle by particle."""
        if self.optimizer == "adagrad":
            state.second = state.second + phi**2
            return phi / (np.sqrt(state.second) + 1e-12)
        t = state.iterations + 1
        state.first = 0.9 * state.first + 0.1 * phi
        state.second = 0.99 * state.second + 0.01 * phi**2
        return state.first / (1 - 0.9**t) / (np.sqrt(state.second / (1 - 0.99**t)) + 1e-12)

    def _gamma(self, t: int) -> float:
        if self.annealing is None or t >= _ANNEALED:
            return 1.0
        if self.annealing == "hyperbolic":
            return float(np.tanh((1.3 * t / _ANNEALED) ** _POWER))
        length = _ANNEALED // _CYCLES
        return float(((t % length) / length) ** _POWER)
