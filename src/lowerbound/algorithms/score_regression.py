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

from dataclasses import dataclass, field

import numpy as np

from lowerbound.algorithms.arrow_regression import ArrowPattern
from lowerbound.algorithms.base import Algorithm, Info, Mode, Status, check_positive
from lowerbound.algorithms.modes import Census
from lowerbound.algorithms.pattern import AFFINE, Iterate, Pattern
from lowerbound.algorithms.regression import Blocks
from lowerbound.algorithms.search import End, Search, local_elbos
from lowerbound.algorithms.structure import MOST_GLOBALS, find_layout
from lowerbound.algorithms.walk import Ground, Walk
from lowerbound.errors import IncompatibleError
from lowerbound.families import Arrow, Block, Dense, Diagonal, Family
from lowerbound.kernel import Kernel

#: Up to so many dimensions it is the default.
DENSE_LIMIT = 1000
#: Steps of each of several starts before one is chosen.
_TRIAL_STEPS = 6


@dataclass(eq=False)
class _State:
    ground: Ground
    search: Search
    phase: str = "searching for a start"
    walk: Walk | None = None
    others: list[Mode] = field(default_factory=list)
    missing: float = 0.0
    census: Census | None = None
    status: Status | None = None


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
    finds_modes = True

    def __post_init__(self) -> None:
        check_positive("ScoreRegression", tolerance=self.tolerance, max_steps=self.max_steps)

    def rule(self) -> str:
        return f"the next full step would change q by less than sqrt(2 KL) = {self.tolerance:g}"

    def check(self, model, family: Family) -> None:
        if isinstance(family, Arrow):
            return
        wrong = [f.name for f, _ in family.members(model.dimension) if not isinstance(f, (Dense, Diagonal))]
        if wrong:
            raise IncompatibleError(
                f"ScoreRegression fits dense, diagonal and arrow Gaussians and products of the first two, not "
                f"{', '.join(wrong)}. For low_rank use algorithm='sample_average', for point_mass "
                "'maximum'; or leave algorithm out."
            )
        if model.dimension > 2 * DENSE_LIMIT:
            raise IncompatibleError(
                f"ScoreRegression needs matrices of {model.dimension} x {model.dimension} numbers for this model; "
                f"it is meant for up to {DENSE_LIMIT} unconstrained dimensions. "
                "Use algorithm='sample_average' with family='low_rank' or 'diagonal', or leave both out."
            )

    def init(self, seed: int, kernel: Kernel, family: Family) -> _State:
        p = kernel.dimension
        pattern = _pattern(kernel, family)
        rng = np.random.default_rng(seed)
        # A Gaussian target is recognised at once, whatever its scale.
        first = None
        if pattern.first_draws <= 2 * kernel.batch or _affine(kernel, rng):
            standard = pattern.gaussian(np.zeros(p), np.ones(p))
            first = pattern.evaluate(kernel, standard, pattern.noise(rng, pattern.first_draws))
        state = _State(Ground(kernel, rng, pattern, self.tolerance, self.max_steps), Search(kernel, rng))
        if first is not None:
            found = pattern.regress(first)
            if found.affine and found.lowest > 0:
                state.walk = Walk(state.ground, first)
        return state

    def step(self, state: _State) -> tuple[_State, Info]:
        if state.phase == "searching for a start":
            self._search(state)
        elif state.phase == "looking for other modes":
            self._census(state)
        else:
            assert state.walk is not None
            state.walk.step()
            state.status = state.walk.status
            state.phase = "averaging" if state.walk.averages else "fitting"
            if state.walk.arrived:
                state.phase = "looking for other modes"
        walk = state.walk
        if walk is None:
            return state, Info(state.phase, state.search.iteration)
        return state, Info(
            state.phase, walk.taken + walk.averaged, walk.current.elbo, walk.current.elbo_se, status=state.status
        )

    def output(self, state: _State) -> Block | None:
        if state.walk is None:
            if not len(state.search.x):
                return None
            best = state.search.ends()[0]
            return state.ground.pattern.gaussian(best.x, state.ground.pattern.localise(best).inverse)
        return state.ground.pattern.output(state.walk.current.q)

    def modes(self, state: _State) -> list[Mode]:
        return state.others

    def missing_modes(self, state: _State) -> float:
        return state.missing

    # -- where to start --------------------------------------------------------------------------

    def _search(self, state: _State) -> None:
        if state.search.advance():
            if state.walk is None:
                state.walk = self._best_start(state)
            state.phase = "fitting"

    def _best_start(self, state: _State) -> Walk:
        """The end whose local Gaussian has the highest ELBO, at once or after some steps."""
        p, pattern = state.ground.kernel.dimension, state.ground.pattern
        # Besides the ends of the searches, two Gaussians about the origin: where the density has no mode a
        # search tells little, and a wide start is better than a narrow one.
        wide = [End(np.zeros(p), -np.inf, np.zeros(p), np.full(p, v), False) for v in (1.0, 0.1)]
        ends = [pattern.localise(e) for e in state.search.ends()] + wide
        order = np.argsort(-local_elbos(state.ground.kernel, state.ground.rng, ends), kind="stable")
        contenders = [ends[order[0]]]
        if pattern.hierarchical:
            # A centred hierarchy's density is highest where its scale has collapsed, and so is the ELBO of a narrow
            # Gaussian; a walk from there takes no end. One from afar is soon past it.
            contenders += [e for e in wide if e is not contenders[0]]
        walks = [Walk.settle(state.ground, pattern.gaussian(e.x, e.inverse)) for e in contenders]
        for walk in walks if len(walks) > 1 else ():
            while walk.steps < _TRIAL_STEPS and not walk.arrived and walk.status is None and not walk.averages:
                walk.step()
        best = max(walks, key=lambda w: w.current.elbo)
        return best if best.status is not Status.MAX_STEPS else Walk(state.ground, best.current)

    # -- other modes -------------------------------------------------------------------------------

    def _census(self, state: _State) -> None:
        """Count the modes in which searches ended; search around each, and where there are several once more."""
        walk = state.walk
        assert walk is not None
        if state.census is None:
            state.census = Census(state.ground.kernel, [walk.current])
        state.census.take(state.search.ends(), lambda end: self._explore(state, walk.current, end))
        about = state.census.next_about()
        if about is not None or not state.census.complete:
            known = [m.q for m in state.census.found]
            state.search = Search(state.ground.kernel, state.ground.rng, about=about, known=known)
            while not state.search.done:
                state.search.step()
            return
        walk.current, state.others, state.missing = state.census.result()
        state.status = Status.CONVERGED

    def _explore(self, state: _State, known: Iterate, end: End) -> Iterate | None:
        """Walk from another end, if it is plausible beside the known mode.

        A walk that has not arrived in its few steps counts as far as it got: a mode that is hard to fit is a
        mode all the same.
        """
        q = state.ground.pattern.gaussian(end.x, state.ground.pattern.localise(end).inverse)
        if end.value + q.log_det() < known.elbo - 30 - state.ground.kernel.dimension:
            return None
        walk = Walk.settle(state.ground, q)
        for _ in range(25):
            walk.step()
            if walk.arrived or walk.averages or walk.status is not None:
                break
        return walk.current if np.isfinite(walk.current.elbo) else None


def _affine(kernel: Kernel, rng: np.random.Generator) -> bool:
    """Whether the score half-way between two points is the mean of theirs, as far as one batch of such pairs shows."""
    pairs = rng.standard_normal((2, max(1, kernel.batch // 3), kernel.dimension))
    _, score = kernel(np.concatenate([*pairs, pairs.mean(0)]))
    if not np.isfinite(score).all():
        return False
    a, b, between = np.split(score, 3)
    return bool(np.linalg.norm(0.5 * (a + b) - between) <= AFFINE * np.linalg.norm(a - b))


def _pattern(kernel: Kernel, family: Family) -> Pattern:
    if isinstance(family, Arrow):
        layout = family.layout or find_layout(kernel)
        if layout is None:
            raise IncompatibleError(
                f"the posterior of {kernel.model.name!r} has no arrow: no set of at most {MOST_GLOBALS} coordinates "
                f"splits the others of its {kernel.dimension} into small independent groups. Use family='diagonal' or "
                "'low_rank', or leave family out."
            )
        return ArrowPattern(layout)
    members = family.members(kernel.dimension)
    return Blocks([np.sort(g) for f, i in members for g in ([i] if isinstance(f, Dense) else list(i[:, None]))])
