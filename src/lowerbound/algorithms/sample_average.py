r"""Sample-average VI: the ELBO on fixed noise, maximised as the deterministic function that it is.

With the noise e_1..e_M fixed, q's parameters maximise

    mean_m log p(x, T_phi(e_m)) + H(q_phi),

by L-BFGS with a backtracking line search (Giordano, Ingram & Broderick 2024; Burroni, Domke & Sheldon
2024). No step size, no averaging, and a plain rule for stopping: the next step promises too little. The
gradient comes from the scores at the draws (``Family.elbo_gradient``), so the only compiled program is
the kernel, and memory is that of M draws: this is the algorithm for thousands of dimensions.

Fixed noise can be fitted too well. After convergence the same q is scored on fresh noise; while the
loss is more than the stated share, the noise is made four times larger and the fit goes on from where
it is. (For a dense Gaussian with fewer draws than dimensions that loss is infinite, which is why the
family here is diagonal or low-rank.)

Cost: M gradients and O(Mp) a step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lowerbound.algorithms.base import Algorithm, Info, Status, check_positive
from lowerbound.algorithms.quasi_newton import LimitedInverse
from lowerbound.algorithms.search import End, Search, local_elbos
from lowerbound.errors import IncompatibleError
from lowerbound.expectations.noise import matched_normals
from lowerbound.families import Block, BoundProduct, Dense, Family, Flow, PointMass, SinhArcsinh
from lowerbound.families.arrow import check_layout
from lowerbound.kernel import Kernel

_MAX_NUMBERS = 2**26
_MAX_DRAWS = 1024


@dataclass(eq=False)
class _State:
    kernel: Kernel
    rng: np.random.Generator
    family: Family
    search: Search
    shift: np.ndarray = field(default_factory=lambda: np.empty(0))
    scale: np.ndarray = field(default_factory=lambda: np.empty(0))
    layout: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    vector: np.ndarray = field(default_factory=lambda: np.empty(0))
    noise: np.ndarray = field(default_factory=lambda: np.empty(0))
    gradient: np.ndarray = field(default_factory=lambda: np.empty(0))
    curvature: LimitedInverse | None = None
    elbo: float = np.nan
    elbo_se: float = np.nan
    steps: int = 0
    status: Status | None = None


@dataclass(frozen=True)
class SampleAverage(Algorithm):
    """L-BFGS on the ELBO of fixed noise.

    Args:
        num_samples: Draws at first, M.
        tolerance: Stop when the next step would change q by sqrt(2 KL) below this, for each 100 dimensions.
        max_steps: Steps before giving up.
        overfit: Largest loss of ELBO from the fixed to fresh noise, in nats for each dimension.
    """

    num_samples: int = 64
    tolerance: float = 0.01
    max_steps: int = 1000
    overfit: float = 0.003
    name = "sample_average"

    def __post_init__(self) -> None:
        check_positive(
            "SampleAverage",
            num_samples=self.num_samples,
            tolerance=self.tolerance,
            max_steps=self.max_steps,
            overfit=self.overfit,
        )

    def rule(self) -> str:
        return (
            f"the next step promises less than {self.tolerance:g}^2 / 2 nats (for each 100 dimensions), which is "
            f"sqrt(2 KL) = {self.tolerance:g}, and fresh noise costs less than {self.overfit:g} nats a dimension"
        )

    def check(self, model, family: Family) -> None:
        check_layout(family)
        parts = family.families if isinstance(family, BoundProduct) else (family,)
        if any(isinstance(f, PointMass) for f in parts):
            raise IncompatibleError("SampleAverage fits distributions, not point masses: use algorithm='maximum'.")
        if isinstance(family, (Flow, SinhArcsinh)):
            raise IncompatibleError(
                f"SampleAverage has no start for {family.name}, which is fitted from a Gaussian: use "
                "algorithm='from_gaussian', or leave algorithm out."
            )
        widest = (
            max(
                (len(i) for f, i in zip(family.families, family.indices, strict=True) if isinstance(f, Dense)),
                default=0,
            )
            if isinstance(family, BoundProduct)
            else model.dimension * isinstance(family, Dense)
        )
        if 2 * widest > _MAX_DRAWS:
            raise IncompatibleError(
                f"SampleAverage on a dense Gaussian needs more draws than dimensions ({widest}); use "
                "algorithm='score_regression', or family='low_rank'."
            )

    def init(self, seed: int, kernel: Kernel, family: Family) -> _State:
        rng = np.random.default_rng(seed)
        return _State(kernel, rng, family, Search(kernel, rng))

    def step(self, state: _State) -> tuple[_State, Info]:
        if not state.search.done:
            for _ in range(8):
                if not state.search.done:
                    state.search.step()
            if state.search.done:
                self._start(state)
            phase = "searching for a start"
        else:
            phase = "fitting"
            self._improve(state)
        return state, Info(phase, state.steps, state.elbo, state.elbo_se, status=state.status)

    def output(self, state: _State) -> Block | None:
        if state.vector.size == 0:
            return None
        return self._block(state, state.vector).rescale(state.shift, state.scale)  # pyright: ignore

    # -- pieces ----------------------------------------------------------------------------------

    def _start(self, state: _State) -> None:
        """Coordinates shifted and scaled by a diagonal Gaussian, in which the family starts as N(0, I)."""
        p = state.kernel.dimension
        state.shift, state.scale = self._diagonal(state, *self._best_start(state))
        first = state.family.build(np.zeros(p), np.ones(p))
        parameters = state.family.parameters(first)
        state.layout = [(k, np.shape(v)) for k, v in parameters.items()]
        m = self._draws(self.num_samples, first.noise_dimension)
        state.noise = matched_normals(state.rng, m, first.noise_dimension)
        vector = np.concatenate([np.ravel(v) for v in parameters.values()])
        for _ in range(40):
            found = self._evaluate(state, vector, state.noise)
            if found is not None:
                break
            state.scale = state.scale * 0.5
        else:
            state.status = Status.NOT_FINITE
            return
        state.vector = vector
        state.elbo, state.elbo_se, state.gradient = found
        state.curvature = LimitedInverse(len(vector))

    def _best_start(self, state: _State) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviations of the most promising Gaussian met by the searches.

        Not the highest density: in thousands of dimensions a centred hierarchy's density is highest where
        its scale has collapsed, and a search that got there has found nothing.
        """
        p = state.kernel.dimension
        wide = [End(np.zeros(p), -np.inf, np.zeros(p), np.full(p, v), False) for v in (1.0, 0.1)]
        ends = state.search.ends() + state.search.paths() + wide
        best = ends[int(np.argmax(local_elbos(state.kernel, state.rng, ends)))]
        variance = best.inverse if best.inverse.ndim == 1 else np.diagonal(best.inverse)
        return best.x, np.sqrt(np.clip(variance, 1e-24, 1e24))

    def _diagonal(self, state: _State, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Natural-gradient steps for a diagonal Gaussian, while they help: they put the scales right.

        As in :mod:`~lowerbound.algorithms.score_regression`, coordinate by coordinate: exact where the
        posterior is independent, and soon refused where it is strongly correlated.
        """
        p = len(mean)
        noise = matched_normals(state.rng, self._draws(self.num_samples, p), p)

        def score(mean: np.ndarray, scale: np.ndarray) -> tuple[float, np.ndarray]:
            with np.errstate(all="ignore"):
                value, gradient = state.kernel(mean + scale * noise)
                elbo = value.mean() + np.log(scale).sum()
            ok = np.isfinite(elbo) and np.isfinite(gradient).all()
            return (float(elbo) if ok else -np.inf), gradient * scale

        elbo, whitened = score(mean, scale)
        rho = 1.0
        for _ in range(40):
            if not np.isfinite(elbo):
                scale = scale * 0.5
                elbo, whitened = score(mean, scale)
                continue
            slope = np.clip(-(noise * whitened).mean(0), 1 / 16, 16)
            move = np.clip(whitened.mean(0) / slope, -3, 3)
            new_mean, new_scale = mean + rho * scale * move, scale * slope ** (-rho / 2)
            new_elbo, new_whitened = score(new_mean, new_scale)
            if new_elbo > elbo:
                gain, elbo, mean, scale, whitened = new_elbo - elbo, new_elbo, new_mean, new_scale, new_whitened
                rho = min(1.0, 2 * rho)
                if gain < 1e-3 * p:
                    break
            else:
                rho *= 0.4
                if rho < 0.05:
                    break
        return mean, scale

    def _draws(self, wanted: int, width: int) -> int:
        return max(8, min(wanted, _MAX_NUMBERS // max(width, 1)) // 2 * 2)

    def _block(self, state: _State, vector: np.ndarray) -> Any:
        parameters, at = {}, 0
        for k, shape in state.layout:
            size = int(np.prod(shape))
            parameters[k] = vector[at : at + size].reshape(shape)
            at += size
        return state.family.from_parameters(parameters)

    def _evaluate(self, state: _State, vector: np.ndarray, noise: np.ndarray):
        """ELBO, its standard error and gradient in the scaled coordinates; None if not finite."""
        with np.errstate(all="ignore"):
            block = self._block(state, vector)
            if not np.isfinite(np.asarray(block.variance())).all():
                return None
            y = np.asarray(block.transform(noise))
            x = state.shift + state.scale * y
            if not np.isfinite(x).all():
                return None
            value, score = state.kernel(x)
            score = score * state.scale
            if not (np.isfinite(value).all() and np.isfinite(score).all()):
                return None
            try:
                log_q = np.asarray(block.log_prob(y))
            except np.linalg.LinAlgError:  # a factor so long that I + W'W is no longer definite
                return None
            log_scale = np.log(state.scale).sum()
            elbo = value.mean() + float(block.entropy()) + log_scale
            se = float((value - log_q).std() / np.sqrt(len(value)))
            parts = state.family.elbo_gradient(block, noise, score)
            gradient = np.concatenate([np.ravel(parts[k]) for k, _ in state.layout])
        return (float(elbo), se, gradient) if np.isfinite(elbo) and np.isfinite(gradient).all() else None

    def _improve(self, state: _State) -> None:
        if state.status is not None:
            return
        if state.steps >= self.max_steps:
            state.status = Status.MAX_STEPS
            return
        curvature = state.curvature
        assert curvature is not None
        g = state.gradient
        direction = curvature.times(g)
        slope = float(g @ direction)
        if not slope > 0:
            curvature.reset()
            direction, slope = g, float(g @ g)
        p = state.kernel.dimension
        enough = 0.5 * self.tolerance**2 * max(1.0, p / 100)
        if 0.5 * slope < enough and curvature.updates >= min(5, len(g)):
            self._refresh(state)
            return
        state.steps += 1
        # No coordinate moves by more than 3 of its scales at once.
        size = min(1.0, 3.0 / max(np.abs(direction).max(), 1e-300))
        for _ in range(30):
            trial = state.vector + size * direction
            found = self._evaluate(state, trial, state.noise)
            if found is not None and found[0] >= state.elbo + 1e-4 * size * slope:
                curvature.update(size * direction, g - found[2])
                state.vector = trial
                state.elbo, state.elbo_se, state.gradient = found
                return
            size *= 0.3
        if curvature.updates:
            curvature.reset()
        else:
            self._refresh(state)

    def _refresh(self, state: _State) -> None:
        """Score q on fresh noise; if it lost too much, go on with four times as much."""
        m, width = state.noise.shape
        fresh = self._evaluate(state, state.vector, matched_normals(state.rng, m, width))
        p = state.kernel.dimension
        lost = np.inf if fresh is None else state.elbo - fresh[0]
        more = self._draws(4 * m, width)
        if lost > self.overfit * p and more > m and m < _MAX_DRAWS:
            noise = matched_normals(state.rng, min(more, _MAX_DRAWS), width)
            found = self._evaluate(state, state.vector, noise)
            if found is not None:
                state.noise = noise
                state.elbo, state.elbo_se, state.gradient = found
                assert state.curvature is not None
                state.curvature.reset()
                return
        if fresh is not None:
            state.elbo, state.elbo_se = fresh[0], fresh[1]
        state.status = Status.CONVERGED if lost <= self.overfit * p else Status.NOISY
