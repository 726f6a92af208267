r"""Sample-average VI: the ELBO on fixed noise, maximised as the deterministic function that it is.

With the noise e_1..e_M fixed, q's parameters maximise

    mean_m log p(x, T_phi(e_m)) + H(q_phi),

as the smooth deterministic function that it is (Giordano, Ingram & Broderick 2024; Burroni, Domke & Sheldon
2024). No step size, no averaging, and a plain rule for stopping: the next step promises too little. Gradients
and Hessian products come from the scores at the draws (:mod:`~lowerbound.algorithms.fixed_noise`), so the only
compiled program is the kernel, and memory is that of M draws: this is the algorithm for thousands of dimensions.

*Diagonal families* move by trust-region Newton steps (:mod:`~lowerbound.algorithms.newton`): q's Fisher information
is a good preconditioner, so that a step is a few Hessian products. Against L-BFGS, from the same starts, they took
221 calls of the kernel to 345 and 77 to 94 on logistic regressions of 2,000 and 500 columns, and as many (within one)
on 1,000 columns, hierarchies and Gaussians. They ended within the rule of the maximum on all, where L-BFGS, whose
curvature promises too little, stopped at up to ninety times the rule.

*Other families*, and densities with kinks on which Newton's model fails, move by L-BFGS with a backtracking line
search.

Fixed noise can be fitted too well. After convergence the same q is scored on fresh noise; while the
loss is more than the stated share, the noise is made four times larger and the fit goes on from where
it is. (For a dense Gaussian with fewer draws than dimensions that loss is infinite, which is why the
family here is diagonal or low-rank.)

Cost: M gradients and O(Mp) a step of L-BFGS, and for each product and trial of a Newton step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lowerbound.algorithms.base import Algorithm, Info, Status, check_ascent, check_positive
from lowerbound.algorithms.fixed_noise import Evaluation, FixedNoise
from lowerbound.algorithms.newton import ACCEPTED, Path, next_radius, steihaug
from lowerbound.algorithms.quasi_newton import LimitedInverse
from lowerbound.algorithms.search import End, Search, local_elbos
from lowerbound.errors import IncompatibleError
from lowerbound.expectations.noise import matched_normals
from lowerbound.families import (
    Block,
    Dense,
    Diagonal,
    DiagonalGaussian,
    Family,
)
from lowerbound.kernel import Kernel

_MAX_NUMBERS = 2**26
_MAX_DRAWS = 1024


#: First radius of the trust region, in standard deviations of each coordinate.
_RADIUS = 0.3


@dataclass(eq=False)
class _State:
    kernel: Kernel
    rng: np.random.Generator
    family: Family
    search: Search
    function: FixedNoise | None = None
    at: Evaluation | None = None
    newton: bool = False
    path: Path | None = None
    radius: float = np.nan
    curvature: LimitedInverse | None = None
    elbo: float = np.nan
    elbo_se: float = np.nan
    steps: int = 0
    status: Status | None = None


@dataclass(frozen=True)
class SampleAverage(Algorithm):
    """The ELBO of fixed noise, by Newton steps for diagonal families and L-BFGS for others.

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
        check_ascent("SampleAverage", family, model.dimension)
        widest = max((len(i) for f, i in family.members(model.dimension) if isinstance(f, Dense)), default=0)
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
            if state.search.advance():
                self._start(state)
            phase = "searching for a start"
        else:
            phase = "fitting"
            self._improve(state)
        return state, Info(phase, state.steps, state.elbo, state.elbo_se, status=state.status)

    def output(self, state: _State) -> Block | None:
        if state.function is None or state.at is None:
            return None
        base = state.function.base
        return state.function.block(state.at.vector).rescale(base.location, base.scale)

    # -- pieces ----------------------------------------------------------------------------------

    def _start(self, state: _State) -> None:
        """Coordinates shifted and scaled by a diagonal Gaussian, in which the family starts as N(0, I)."""
        p = state.kernel.dimension
        shift, scale = self._diagonal(state, *self._best_start(state))
        width = state.family.build(np.zeros(p), np.ones(p)).noise_dimension
        noise = matched_normals(state.rng, self._draws(self.num_samples, width), width)
        for _ in range(40):
            function = FixedNoise(state.kernel, state.family, DiagonalGaussian(shift, scale), noise)
            found = function.evaluate(function.start)
            if found is not None:
                break
            scale = scale * 0.5
        else:
            state.status = Status.NOT_FINITE
            return
        state.function = function
        state.newton = _all_diagonal(state.family, state.kernel.dimension)
        state.radius = _RADIUS * np.sqrt(p)
        state.curvature = LimitedInverse(len(found.vector))
        self._move(state, found)

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

    def _move(self, state: _State, to: Evaluation) -> None:
        state.at, state.elbo, state.elbo_se, state.path = to, to.elbo, to.elbo_se, None

    def _improve(self, state: _State) -> None:
        if state.status is not None:
            return
        if state.steps >= self.max_steps:
            state.status = Status.MAX_STEPS
            return
        p = state.kernel.dimension
        enough = 0.5 * self.tolerance**2 * max(1.0, p / 100)
        assert state.function is not None and state.at is not None
        if state.newton:
            self._newton_step(state, state.function, state.at, enough)
        else:
            self._quasi_newton_step(state, state.function, state.at, enough)

    def _newton_step(self, state: _State, function: FixedNoise, at: Evaluation, enough: float) -> None:
        if state.path is None:
            state.path = steihaug(
                lambda d: function.products(at, d)[0],
                at.gradient,
                function.metric(at.vector),
                state.radius,
                least=0.1 * enough,
            )
        step = state.path.step(state.radius)
        if step.inside and step.promise < enough:
            self._refresh(state, function, at)
            return
        trial = function.evaluate(at.vector + step.direction)
        ratio = np.nan if trial is None else (trial.elbo - at.elbo) / step.promise
        state.radius = next_radius(state.radius, step, ratio)
        if trial is not None and ratio > ACCEPTED:
            state.steps += 1
            self._move(state, trial)
        elif state.radius < np.sqrt(2 * enough):
            # The region is smaller than the change of q that the rule calls none, and the quadratic model still
            # wrong in it: the density has kinks, which differences of gradients over tiny steps do not see.
            state.newton = False

    def _quasi_newton_step(self, state: _State, function: FixedNoise, at: Evaluation, enough: float) -> None:
        curvature, g = state.curvature, at.gradient
        assert curvature is not None
        direction = curvature.times(g)
        slope = float(g @ direction)
        if not slope > 0:
            curvature.reset()
            direction, slope = g, float(g @ g)
        if 0.5 * slope < enough and curvature.updates >= min(5, len(g)):
            self._refresh(state, function, at)
            return
        state.steps += 1
        # No coordinate moves by more than 3 of its scales at once.
        size = min(1.0, 3.0 / max(np.abs(direction).max(), 1e-300))
        for _ in range(30):
            found = function.evaluate(at.vector + size * direction)
            if found is not None and found.elbo >= at.elbo + 1e-4 * size * slope:
                curvature.update(size * direction, g - found.gradient)
                self._move(state, found)
                return
            size *= 0.3
        if curvature.updates:
            curvature.reset()
        else:
            self._refresh(state, function, at)

    def _refresh(self, state: _State, function: FixedNoise, at: Evaluation) -> None:
        """Score q on fresh noise; if it lost too much, go on with four times as much."""
        m, width = function.noise.shape
        fresh = function.with_noise(matched_normals(state.rng, m, width)).evaluate(at.vector)
        p = state.kernel.dimension
        lost = np.inf if fresh is None else at.elbo - fresh.elbo
        more = self._draws(4 * m, width)
        if lost > self.overfit * p and more > m and m < _MAX_DRAWS:
            larger = function.with_noise(matched_normals(state.rng, min(more, _MAX_DRAWS), width))
            found = larger.evaluate(at.vector)
            if found is not None:
                state.function = larger
                assert state.curvature is not None
                state.curvature.reset()
                self._move(state, found)
                return
        if fresh is not None:
            state.elbo, state.elbo_se = fresh.elbo, fresh.elbo_se
        state.status = Status.CONVERGED if lost <= self.overfit * p else Status.NOISY


def _all_diagonal(family: Family, dimension: int) -> bool:
    return all(isinstance(f, Diagonal) for f, _ in family.members(dimension))
