r"""Score-regression natural-gradient VI: the default for Gaussians up to 1,000 dimensions.

The reverse-KL optimum over Gaussians N(mu, Sigma) satisfies (Opper & Archambeau 2009)

    E_q[grad log p] = 0,        E_q[Hess log p] = -Sigma^{-1},

and the natural-gradient step towards it needs just those two expectations. No Hessian is computed: with
z = mu + L e, Stein's identity gives  -L' E_q[Hess log p] L = -E[e g'],  g = L' grad log p(z),  the slope
of the least-squares regression of the whitened scores g on the noise e. On noise whose first two
moments are exact (:func:`~lowerbound.expectations.noise.matched_normals`) that regression has no error
when the scores are affine, so on a Gaussian target one step lands on the posterior. Otherwise,

    gb = mean(G),  A = -sym(E'G / M) = V w V', w clipped to [1/tau, tau]       (A -> I at the optimum)
    mu <- mu + rho L A^{-1} gb,   L <- L V w^{-rho/2}                   (then made lower triangular)

accepted if the ELBO on the same noise, mean log p(z) + log|L|, does not fall; else rho is cut. rho = 1 is
the full step; where successive steps keep their direction (along the neck of a funnel) it grows up to 8. The
noise is fixed while it runs, so the iteration is deterministic and the rule for stopping is plain: the
next full step would change q by KL < tolerance^2 / 2. What fixed noise costs is measured by the
residual R = G - gb + E A of the regression: the error of gb and A that it implies is a KL of
sum var(R_j)/2M + sum var(E_i R_j)/4M, and while that is too large the noise is made larger, up to
memory's limit, and then q is averaged over several noises (rho = 1/2, 1/3, ...; Robbins & Monro). The
regression's fixed point and the maximum of the ELBO on the same noise differ by about that much, so a
fall of the ELBO within it is no reason to refuse a step; and where the last steps only circle within
it, rho is lowered until they settle.

A factorised family changes one thing: the covariance keeps its blocks of P. The mean step uses all of
A, so that correlated posteriors are no slower to fit.

Cost: M gradients and O(M p^2 + p^3) a step, M = 64 ceil(p / 32) at first. Fails when p is large (memory
p^2; see sample_average), and cannot see more of a non-Gaussian posterior than a Gaussian can hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from lowerbound.algorithms.base import Algorithm, Info, Mode, Status
from lowerbound.algorithms.search import End, Search, local_elbos, root
from lowerbound.errors import IncompatibleError
from lowerbound.expectations.noise import matched_normals
from lowerbound.families import Block, BoundProduct, Dense, DenseGaussian, Diagonal, DiagonalGaussian, Family, ProductBlock
from lowerbound.families.linalg import LOG_2PI
from lowerbound.kernel import Kernel

#: Up to so many dimensions it is the default.
DENSE_LIMIT = 1000
#: Largest factor by which one step may change a variance (in whitened coordinates).
_TAU = 16.0
_MAX_DRAWS = 1024
#: Steps on fresh noise at the end, at most.
_MAX_AVERAGES = 16
#: What fixed noise may cost, in nats for every ten dimensions.
_NOISE_COST = 0.002
#: Regression residual, relative to the scores, below which they count as affine in the noise.
_AFFINE = 1e-6


@dataclass(frozen=True, eq=False)
class _Gaussian:
    """A Gaussian under way, with the scores at its draws."""

    mean: np.ndarray
    factor: np.ndarray
    noise: np.ndarray
    elbo: float
    elbo_se: float
    scores: np.ndarray  # whitened, G = grad log p(z) L


@dataclass(eq=False)
class _State:
    kernel: Kernel
    rng: np.random.Generator
    groups: list[np.ndarray]
    phase: str = "searching for a start"
    search: Search | None = None
    current: _Gaussian | None = None
    rho: float = 1.0
    limit: float = 1.0
    sizes: list[float] = field(default_factory=list)
    elbos: list[float] = field(default_factory=list)
    widening: int = 0
    averages: int = 0
    averaged: int = 0
    direction: np.ndarray = field(default_factory=lambda: np.empty(0))
    best: float = -np.inf
    steps: int = 0
    taken: int = 0
    grown: int = 0
    status: Status | None = None
    ends: list[End] = field(default_factory=list)
    others: list[Mode] = field(default_factory=list)
    agreed: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class ScoreRegression(Algorithm):
    """Natural-gradient VI with the expected Hessian regressed from scores.

    Args:
        tolerance: Stop when the next full step would change q by sqrt(2 KL) below this.
        max_steps: Steps before giving up.
    """

    tolerance: float = 0.01
    max_steps: int = 200
    name = "score_regression"

    def rule(self) -> str:
        return f"the next full step would change q by less than sqrt(2 KL) = {self.tolerance:g}"

    def check(self, model, family: Family) -> None:
        parts = family.families if isinstance(family, BoundProduct) else (family,)
        wrong = [f.name for f in parts if not isinstance(f, (Dense, Diagonal))]
        if wrong:
            raise IncompatibleError(
                f"ScoreRegression fits dense and diagonal Gaussians and products of them, not {', '.join(wrong)}. "
                "For low_rank use algorithm='sample_average', for point_mass 'maximum'; or leave algorithm out."
            )
        if model.dimension > 2 * DENSE_LIMIT:
            raise IncompatibleError(
                f"ScoreRegression needs matrices of {model.dimension} x {model.dimension} numbers for this model; "
                f"it is meant for up to {DENSE_LIMIT} unconstrained dimensions. "
                "Use algorithm='sample_average' with family='low_rank' or 'diagonal', or leave both out."
            )

    def init(self, seed: int, kernel: Kernel, family: Family) -> _State:
        p = kernel.dimension
        if isinstance(family, BoundProduct):
            groups = [
                g
                for f, i in zip(family.families, family.indices, strict=True)
                for g in ([i] if isinstance(f, Dense) else list(i[:, None]))
            ]
        else:
            groups = [np.arange(p)] if isinstance(family, Dense) else list(np.arange(p)[:, None])
        state = _State(kernel, np.random.default_rng(seed), groups)
        # A Gaussian target is recognised at once, whatever its scale.
        noise = self._noise(state, 1)
        first = self._evaluate(state, np.zeros(p), np.eye(p), noise)
        if first is not None and np.isfinite(first.elbo):
            _, slope, residual = _regress(first)
            if _affine(first, residual) and np.linalg.eigvalsh(slope)[0] > 0:
                state.current = first
        state.search = Search(kernel, state.rng)
        return state

    def step(self, state: _State) -> tuple[_State, Info]:
        if state.phase == "searching for a start":
            self._search(state)
        elif state.phase == "fitting":
            self._improve(state)
        elif state.phase == "averaging":
            self._average(state)
        else:
            self._census(state)
        c = state.current
        info = Info(
            state.phase,
            state.steps,
            elbo=c.elbo if c else np.nan,
            elbo_se=c.elbo_se if c else np.nan,
            status=state.status,
        )
        return state, info

    def output(self, state: _State) -> Block | None:
        c = state.current
        if c is None:
            if state.search is None or not len(state.search.x):
                return None
            best = max(state.search.ends(), key=lambda e: e.value)
            return DenseGaussian(best.x, root(self._local(best, state.groups)))
        p = len(c.mean)
        if len(state.groups) == 1:
            return DenseGaussian(c.mean, c.factor)
        if len(state.groups) == p:
            return DiagonalGaussian(c.mean[np.argsort(np.concatenate(state.groups))], np.diagonal(c.factor).copy())
        blocks = tuple(DenseGaussian(c.mean[g], c.factor[np.ix_(g, g)]) for g in state.groups)
        return ProductBlock(blocks, tuple(state.groups))

    def modes(self, state: _State) -> list[Mode]:
        return state.others

    # -- phases ----------------------------------------------------------------------------------

    def _search(self, state: _State) -> None:
        search = state.search
        assert search is not None
        for _ in range(8):
            if search.done:
                break
            search.step()
        if not search.done:
            return
        state.ends = search.ends()
        if state.current is None:
            state.current = self._best_start(state, state.ends)
        state.phase = "fitting"

    def _best_start(self, state: _State, ends: list[End]) -> _Gaussian:
        """The end whose local Gaussian has the highest ELBO, narrowed until the density is finite on it."""
        p = state.kernel.dimension
        # Besides the ends of the searches, two Gaussians about the origin: where the density has no mode a
        # search tells little, and a wide start is better than a narrow one.
        wide = [End(np.zeros(p), -np.inf, np.zeros(p), np.diag(np.full(p, v)), False) for v in (1.0, 0.1)]
        candidates = [replace(e, inverse=self._local(e, state.groups)) for e in ends] + wide
        best = candidates[int(np.argmax(local_elbos(state.kernel, state.rng, candidates)))]
        return self._settle(state, best.x, root(best.inverse))

    @staticmethod
    def _local(end: End, groups: list[np.ndarray]) -> np.ndarray:
        """The covariance that an end stands for, with each group's block of its precision."""
        full = end.inverse if end.inverse.ndim == 2 else np.diag(end.inverse)
        if len(groups) == 1:
            return full
        precision = np.linalg.pinv(full, hermitian=True)
        out = np.zeros_like(full)
        for g in groups:
            out[np.ix_(g, g)] = np.linalg.inv(precision[np.ix_(g, g)])
        return out

    def _settle(self, state: _State, mean: np.ndarray, factor: np.ndarray) -> _Gaussian:
        noise = self._noise(state, 1)
        for shrink in range(40):
            found = self._evaluate(state, mean, factor * 0.5**shrink, noise)
            if found is not None and np.isfinite(found.elbo):
                return found
        # Not finite even in a tiny neighbourhood: keep the point, and let the loop say so.
        state.status = Status.NOT_FINITE
        p = len(mean)
        return _Gaussian(mean, factor * 0.5**40, noise, -np.inf, np.nan, np.zeros((len(noise), p)))

    def _improve(self, state: _State) -> None:
        c = state.current
        assert c is not None
        if state.status is not None:
            return
        state.steps += 1
        gradient, slope, residual = _regress(c)
        affine = _affine(c, residual)
        limit = 1e12 if affine else _TAU
        w, v = np.linalg.eigh(slope)
        w = np.clip(w, 1 / limit, limit)
        size = _step_size(gradient, w, v, slope, state.groups)
        cost = _noise_cost(c, residual)
        self._pace(state, c.factor @ (v @ ((v.T @ gradient) / w)), size, cost)
        settled = min(1.0, state.limit) * size
        if settled < self.tolerance and (not affine or size < 1e-9 or state.taken >= 3):
            if not self._grow(state, cost):
                self._finish(state, cost)
            return
        if state.steps >= self.max_steps:
            state.status = Status.MAX_STEPS
            return
        state.elbos.append(c.elbo)
        if len(state.elbos) > 3 and c.elbo - state.elbos[-4] < cost and self._grow(state, cost):
            return  # what is gained now is less than what this noise costs
        state.best = max(state.best, c.elbo)
        floor = state.best - (min(0.5 * cost, 0.05) if size**2 < 8 * cost else 0.0)
        while True:
            proposal = self._propose(state, c, gradient, slope, w, v, limit, affine)
            if proposal is not None and proposal.elbo >= floor - 1e-10 * abs(c.elbo):
                state.current = proposal
                state.taken += 1
                state.rho = min(state.limit, 2 * state.rho)
                self._watch_flat(state, w)
                return
            state.rho *= 0.4
            if state.rho < 1e-6:
                # No step of any size helps on this noise: within the noise's own error that is convergence.
                if size < 10 * self.tolerance or size**2 < 8 * cost:
                    if not self._grow(state, cost):
                        self._finish(state, cost)
                else:
                    state.status = Status.STALLED
                return

    def _propose(self, state, c, gradient, slope, w, v, limit, affine) -> _Gaussian | None:
        rho = state.rho
        move = rho * (v @ ((v.T @ gradient) / w))
        norm, cap = np.linalg.norm(move), 3 * np.sqrt(len(move))
        if norm > cap and not affine:
            move *= cap / norm
        mean = c.mean + c.factor @ move
        if len(state.groups) == 1:
            factor = _lower(c.factor @ (v * w ** (-rho / 2)))
        elif len(state.groups) == len(mean):
            factor = np.diag(np.diagonal(c.factor) * np.clip(np.diagonal(slope), 1 / limit, limit) ** (-rho / 2))
        else:
            factor = np.zeros_like(c.factor)
            for g in state.groups:
                wg, vg = np.linalg.eigh(slope[np.ix_(g, g)])
                factor[np.ix_(g, g)] = _lower(c.factor[np.ix_(g, g)] @ (vg * np.clip(wg, 1 / limit, limit) ** (-rho / 2)))
        return self._evaluate(state, mean, factor, c.noise)

    def _pace(self, state: _State, direction: np.ndarray, size: float, cost: float) -> None:
        """Let rho grow while steps keep their direction; lower it once they circle within the noise's error."""
        w = np.linalg.solve(state.current.factor, np.stack([direction, state.direction], 1)) if state.direction.size else None
        along = 0.0 if w is None else w[:, 0] @ w[:, 1] / max(np.linalg.norm(w[:, 0]) * np.linalg.norm(w[:, 1]), 1e-300)
        state.direction = direction
        state.sizes.append(size)
        if along > 0.8 and size > 0.8 * (state.sizes[-2] if len(state.sizes) > 1 else size):
            state.limit = min(8.0, 1.5 * state.limit)
        elif state.limit > 1:
            state.limit = 1.0
        elif len(state.sizes) >= 5 and size**2 < 8 * cost and size > 0.7 * state.sizes[-5]:
            state.limit *= 0.5
            state.sizes.clear()
        state.rho = min(state.rho, state.limit)

    def _grow(self, state: _State, cost: float) -> bool:
        """More noise, if what the fixed noise costs is too much. True if it was done."""
        c = state.current
        assert c is not None
        m, p = c.noise.shape
        allowed = _NOISE_COST * max(1.0, p / 10)
        if cost <= allowed or 2 * m > max(_MAX_DRAWS, 4 * p) or state.grown >= 3:
            return False
        state.grown += 1
        factor = 4 if cost > 2 * allowed and 4 * m <= _MAX_DRAWS else 2
        bigger = self._evaluate(state, c.mean, c.factor, matched_normals(state.rng, factor * m, p))
        if bigger is None or not np.isfinite(bigger.elbo):
            return False
        state.current = bigger
        state.limit = state.rho = 1.0
        state.best = -np.inf
        state.sizes.clear()
        state.elbos.clear()
        return True

    def _watch_flat(self, state: _State, w: np.ndarray) -> None:
        """A direction that widens at the limit step after step has no end."""
        state.widening = state.widening + 1 if w[0] <= 1.01 / _TAU else 0
        if state.widening >= 25:
            state.status = Status.FLAT

    def _finish(self, state: _State, cost: float) -> None:
        """Converged on this noise; average over more of it if it cost too much, then look at other modes."""
        allowed = _NOISE_COST * max(1.0, state.kernel.dimension / 10)
        state.averages = 0 if cost <= allowed else int(min(_MAX_AVERAGES, np.ceil(cost / allowed)))
        state.phase = "averaging" if state.averages else "looking for other modes"

    def _average(self, state: _State) -> None:
        """One step on fresh noise, of rho = 1 / (k + 1): after k of them q is the average over k + 1 noises."""
        c = state.current
        assert c is not None
        state.averaged += 1
        fresh = self._evaluate(state, c.mean, c.factor, matched_normals(state.rng, *c.noise.shape))
        if fresh is not None:
            state.current = fresh
            if state.averaged <= state.averages:
                gradient, slope, _ = _regress(fresh)
                w, v = np.linalg.eigh(slope)
                w = np.clip(w, 1 / _TAU, _TAU)
                state.rho = 1 / (state.averaged + 1)
                state.current = self._propose(state, fresh, gradient, slope, w, v, _TAU, False) or fresh
        if state.averaged > state.averages:
            state.phase = "looking for other modes"

    def _census(self, state: _State) -> None:
        """Fit each distinct, plausible other end for a few steps; keep those that stay distinct."""
        c = state.current
        assert c is not None
        apart = [e for e in state.ends if e.converged and not _same(c.mean, c.factor, e.x)]
        converged = sum(e.converged for e in state.ends)
        state.agreed = (converged - len(apart), len(state.ends))
        others: list[_Gaussian] = []
        best = c.elbo
        for e in apart:
            if len(others) >= 4 or any(_same(o.mean, o.factor, e.x) for o in others):
                continue
            factor = root(self._local(e, state.groups))
            if e.value + np.log(np.abs(np.diagonal(factor))).sum() < best - 30 - c.noise.shape[1]:
                continue
            trial = replace_state(state, self._settle(state, e.x, factor))
            for _ in range(25):
                self._improve(trial)
                if trial.phase != "fitting" or trial.status is not None:
                    break
            t = trial.current
            assert t is not None
            arrived = trial.phase != "fitting"
            same = any(_same(o.mean, o.factor, t.mean) for o in [c, *others])
            if arrived and np.isfinite(t.elbo) and not same:
                others.append(t)
        everything = sorted([c, *others], key=lambda g: -g.elbo)
        state.current = everything[0]
        state.others = [
            Mode(g.mean, g.factor @ g.factor.T, g.elbo)
            for g in everything[1:]
            if g.elbo > everything[0].elbo - 12
        ]
        state.status = Status.CONVERGED

    # -- pieces ----------------------------------------------------------------------------------

    def _noise(self, state: _State, times: int) -> np.ndarray:
        p = state.kernel.dimension
        return matched_normals(state.rng, times * 64 * int(np.ceil(2 * p / 64)), p)

    def _evaluate(self, state: _State, mean, factor, noise) -> _Gaussian | None:
        with np.errstate(all="ignore"):
            z = mean + noise @ factor.T
            if not np.isfinite(z).all():
                return None
            value, score = state.kernel(z)
            whitened = score @ factor
            log_det = np.log(np.abs(np.diagonal(factor))).sum()
            if not (np.isfinite(value).all() and np.isfinite(whitened).all() and np.isfinite(log_det)):
                return None
            entropy = log_det + 0.5 * len(mean) * (1 + LOG_2PI)
            # log p - log q per draw, whose spread is the error of the mean
            weight = value + 0.5 * (noise**2).sum(1)
            se = weight.std() / np.sqrt(len(value))
            return _Gaussian(mean, factor, noise, value.mean() + entropy, se, whitened)


def replace_state(state: _State, start: _Gaussian) -> _State:
    """A state of its own for another mode, sharing kernel and random numbers."""
    return replace(state, current=start, phase="fitting", rho=1.0, limit=1.0, sizes=[], elbos=[], widening=0, averages=0, averaged=0, direction=np.empty(0), best=-np.inf, steps=0, taken=0, grown=0, status=None)


def _regress(c: _Gaussian) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean whitened score, slope A = -sym(E'G/M) and residual G - gb + E A."""
    gradient = c.scores.mean(0)
    slope = -(c.noise.T @ c.scores) / len(c.noise)
    slope = 0.5 * (slope + slope.T)
    return gradient, slope, c.scores - gradient + c.noise @ slope


def _noise_cost(c: _Gaussian, residual: np.ndarray) -> float:
    """KL, in nats, between the optimum on this noise and the optimum."""
    m, r2 = len(c.noise), residual**2
    return float(0.5 * r2.sum() / m**2 + 0.25 * ((c.noise**2).T @ r2).sum() / m**2)


def _affine(c: _Gaussian, residual: np.ndarray) -> bool:
    return bool(np.linalg.norm(residual) <= _AFFINE * np.linalg.norm(c.scores - c.scores.mean(0)))


def _step_size(gradient, w, v, slope, groups) -> float:
    """sqrt(2 KL) between q and where a full step would take it."""
    move = (v.T @ gradient) / w
    if len(groups) == 1:
        spread = np.log(w)
    else:
        spread = np.concatenate([np.log(np.clip(np.linalg.eigvalsh(slope[np.ix_(g, g)]), 1e-6, None)) for g in groups])
    return float(np.sqrt((move**2).sum() + 0.5 * (spread**2).sum()))


def _lower(matrix: np.ndarray) -> np.ndarray:
    """The lower triangular L with L L' = matrix matrix', by QR, without squaring the condition number."""
    r = np.linalg.qr(matrix.T, mode="r").T
    return r * np.where(np.diagonal(r) < 0, -1.0, 1.0)


def _same(mean: np.ndarray, factor: np.ndarray, x: np.ndarray) -> bool:
    """Whether x lies within the bulk of N(mean, factor factor')."""
    d = np.linalg.solve(factor, x - mean)
    return bool((d**2).sum() < 9 + 3 * len(d))
