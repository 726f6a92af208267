r"""Moment matching: the forward KL and the chi bound without gradients.

Both are least, among the Gaussians of a family, where q has the moments (its blocks of them) of

    pi ∝ p(z | x)^n q(z)^(1 - n),

n = 1 for KL(p || q), n > 1 for the chi bound of that order. Gradient steps towards that point are noisy and, from a
finite number of draws, biased. Here the moments are measured by adaptive importance sampling, many draws at a time, and
the step is made in closed form.

*A round.* Half of M draws come from a Gaussian G, the last estimate of pi, half from a Student-t about it
(r is their mixture, so the weights w = pi / r stay bounded wherever pi's tails are no heavier than the t's). With
u = w - b g, g = G / r, both scaled to mean 1, e = G's own whitened coordinates, and any number b,

    E_pi f = (b E_G f + E_r[u f]) / (b + E_r[u]),

because E_r[g f] = E_G f, which is known for f = e and f = ee'. b is the regression coefficient of w on g. Where pi is
Gaussian u is zero, and the moments have no error at all; elsewhere only the difference from a Gaussian is sampled.
The weights are Pareto-smoothed where k-hat is above 0.5 (Vehtari et al. 2024).

*A step.* The moments imply a Gaussian p, and the best q for that is found on the host
(:mod:`~lowerbound.algorithms.tilted`): a Newton-like step whose fixed point is exactly the matching of moments. On a
Gaussian target one step arrives.

*For the chi bound* a q that is too narrow, as the ELBO's often is, has no moments of pi to go by. Where the weights
cannot be believed, or a step raises the draws' own bound, q first takes what p's own moments imply, and then goes to
the least bound of the draws at hand. Theirs is finite for every q. If the bound itself is seen to be infinite, by
climbing (:mod:`~lowerbound.algorithms.endless`), q is widened until that is seen no more, and from there on stays among
those q: a step is Fisher's, and then the KL's projection, so that where both together stay, the bound is least among
them. Where no widening helps, as for exponential tails, the fit ends as INFINITE with the q that it had.

*Stopping.* From the spread of u f follows the Monte Carlo error of the moments, as the KL that it costs. While the last
step is within four times that error and the error is above 0.002 nats (per ten dimensions, at least) the draws become
four times as many. The fit has converged when a step is below ``tolerance`` or within its error, and the error is
allowed. It stops unconverged where k-hat of the weights is above 0.7 (a Gaussian cannot show what pi's moments are) and
larger weights than were drawn exist (:mod:`~lowerbound.algorithms.heaviest`), or the largest number of draws does not
bring the error down.

It starts from the dense Gaussian of score regression. Cost: that fit, then M = 1,024 evaluations a round at first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import logsumexp

from lowerbound.algorithms.base import Info, Status, check_positive
from lowerbound.algorithms.dense_start import DenseStart, FromDenseStart
from lowerbound.algorithms.endless import covering, endless
from lowerbound.algorithms.heaviest import SHARE, heaviest_share
from lowerbound.algorithms.pattern import allowed
from lowerbound.algorithms.quasi_newton import root
from lowerbound.algorithms.score_regression import DENSE_LIMIT
from lowerbound.algorithms.tilted import Moments, best, between, restrict, surrogate
from lowerbound.algorithms.weighted_moments import USABLE_K, Drawn, Measured, draw, measure
from lowerbound.errors import IncompatibleError
from lowerbound.expectations.noise import matched_normals
from lowerbound.families import Block, Dense, DenseGaussian, Diagonal, DiagonalGaussian, Family
from lowerbound.families.product import ProductBlock
from lowerbound.kernel import Kernel
from lowerbound.objectives import ForwardKL, Weighted

#: Draws of the first round, and the most numbers in those of one round (half a GiB with their scores).
_FIRST, _NUMBERS = 1024, 2**25
_MOST = 2**17
#: Rounds in a row whose weights cannot be believed before it gives up.
_PATIENCE = 4
#: The first round after which a bound whose weights cannot be believed may be called infinite.
_DOUBTED = 2
#: Steps on the same draws, and the smallest share of one.
_INNER, _SHORTEST = 40, 1e-3
#: How far, in a squared reach and for n = 2, q stays inside of where its bound is infinite. That costs thousandths of a
#: nat, and pi is then at most some seven times as long as p, where p is a Gaussian far out.
_MARGIN = 0.02
#: How often q is widened at once, and by how much of its variance along any line before no q is said to do.
_CUTS, _WIDEST = 12, 1e3
#: Once an endless rise was seen: ends of climbs that are climbed from again, and how many times as far as the outermost
#: draws; beyond a hollow, pi may rise where no draw is.
_ENDS, _DISTANT = 16, 1e3
#: What a covariance is multiplied by where weights are so uneven that they tell nothing.
_WIDER = 2.0


@dataclass(eq=False)
class _State:
    kernel: Kernel
    family: Family
    rng: np.random.Generator
    groups: list[np.ndarray]
    draws: int
    start: DenseStart
    ends: np.ndarray
    reaches: np.ndarray
    q: Moments | None = None
    pi: Moments | None = None
    narrow: Moments | None = None
    rounds: int = 0
    doubtful: int = 0
    change: float = np.nan
    found: Measured | None = field(default=None, repr=False)
    status: Status | None = None


@dataclass(frozen=True)
class MomentMatching(FromDenseStart):
    """The Gaussian with the moments of p^n q^(1 - n), measured by adaptive importance sampling.

    Args:
        objective: ``lb.objectives.ForwardKL()`` or ``ChiUpperBound(order)``. Its ``num_samples``, draws a gradient
            step elsewhere, is here the least number of draws a round.
        tolerance: Stop when a step changes q by sqrt(2 KL) below this, beyond the Monte Carlo error.
        max_steps: Rounds before giving up.

    Raises:
        IncompatibleError: an objective whose optimum is no matching of moments.
    """

    objective: Weighted = field(default_factory=ForwardKL)
    tolerance: float = 0.01
    max_steps: int = 50
    name = "moment_matching"

    def __post_init__(self) -> None:
        if not isinstance(self.objective, Weighted):
            raise IncompatibleError(
                f"MomentMatching(objective={self.objective!r}): needed: lb.objectives.ForwardKL() or ChiUpperBound(), "
                "whose optimum among Gaussians has the moments of a density. Use GradientVI for other objectives."
            )
        check_positive("MomentMatching", tolerance=self.tolerance, max_steps=self.max_steps)

    def rule(self) -> str:
        return (
            f"the measured moments change q by less than sqrt(2 KL) = {self.tolerance:g} or their Monte Carlo error, "
            "which is below 0.002 nats for every ten dimensions"
        )

    def check(self, model: Any, family: Family) -> None:
        wrong = [f.name for f, _ in family.members(model.dimension) if not isinstance(f, (Dense, Diagonal))]
        if wrong:
            raise IncompatibleError(
                f"MomentMatching fits dense and diagonal Gaussians and products of them, not {', '.join(wrong)}. "
                f"Use algorithm=lb.algorithms.GradientVI(objective={self.objective!r}), or family='dense'."
            )
        if model.dimension > DENSE_LIMIT:
            raise IncompatibleError(
                f"MomentMatching measures the {model.dimension} x {model.dimension} moments of this posterior by "
                f"weighted draws; it is meant for up to {DENSE_LIMIT} unconstrained dimensions, and their weights "
                "seldom can be believed above a hundred. Use algorithm='sample_average'."
            )

    def init(self, seed: int, kernel: Kernel, family: Family) -> _State:
        p = kernel.dimension
        groups = groups_of(family, p)
        draws = max(_FIRST, 64 * int(np.ceil(4 * p / 64)), self.objective.num_samples)
        none = np.zeros((0, p))
        rng, start = np.random.default_rng([seed, 6]), DenseStart(seed, kernel)
        return _State(kernel, family, rng, groups, draws, start, none, none)

    def begin(self, state: _State, gaussian: DenseGaussian) -> None:
        p = Moments(np.asarray(gaussian.mean), gaussian.covariance())
        state.q = best(p, state.groups, self.objective.power)
        state.pi = between(p, state.q, self.objective.power) or p

    def move(self, state: _State) -> Info:
        self._round(state)
        assert state.q is not None
        elbo, se = elbo_of(state.kernel, as_block(state.q, state.groups), state.rng)
        detail = f"{state.draws} draws, k-hat {state.found.pareto_k:.2f}" if state.found is not None else ""
        return Info("matching moments", state.rounds, elbo, se, state.change, state.status, detail)

    def answer(self, state: _State) -> Block:
        assert state.q is not None
        return as_block(state.q, state.groups)

    def unmoved(self, state: _State, fitted: Block) -> Block:
        return state.family.build(np.asarray(fitted.mean), fitted.covariance())  # pyright: ignore

    # -- pieces ----------------------------------------------------------------------------------

    def _round(self, state: _State) -> None:
        """Measure the moments of pi at q, and move q to what they imply."""
        assert state.q is not None and state.pi is not None
        state.rounds += 1
        n, groups, before = self.objective.power, state.groups, state.q
        most = min(_MOST, _NUMBERS // (2 * state.kernel.dimension) // 64 * 64)
        drawn = draw(state.kernel, state.pi, state.rng, state.draws)
        found = self._weighed(state, drawn)
        if found.moments is not None:
            state.q, state.pi = self._implied(state, before, found.moments)
        if n > 1 and not (_believed(found) and self._falls(drawn, before, state.q, found, groups)):
            state.q = before
            found = self._descend(state, drawn, found)
        state.found, state.change = found, _distance(before, state.q)
        if found.moments is None:
            state.doubtful += 1
            state.draws = min(4 * state.draws, most)
        else:
            self._judge(state, found, most)
        asked = state.status is not None or (state.doubtful and state.rounds >= _DOUBTED)
        if n > 1 and asked:
            self._widen(state, found, most)
        if state.status is None and state.rounds >= self.max_steps:
            state.status = Status.MAX_STEPS
        elif state.status is None and state.doubtful >= _PATIENCE:
            state.status = Status.UNEVEN

    def _weighed(self, state: _State, drawn: Drawn) -> Measured:
        """The moments of pi at q; even, too, where there is no weight much larger than the draws'."""
        assert state.q is not None
        n, block = self.objective.power, as_block(state.q, state.groups)
        found = measure(drawn, block, n, state.groups)
        if found.moments is not None and not _believed(found):
            share = heaviest_share(state.kernel, drawn, state.q, block, found.outer, power=n)
            found = found._replace(even=share <= SHARE)
        return found

    def _implied(self, state: _State, q: Moments, pi: Moments) -> tuple[Moments, Moments]:
        """The q that measured moments of pi imply, and what pi then is."""
        n, groups = self.objective.power, state.groups
        if len(state.reaches):
            # Minus the bound's slope in the natural parameters is (n - 1) (moments of q - moments of pi) / n. Moments
            # moved along it are a step in Fisher's metric; of length 1 / n, Newton's where p is Gaussian and q dense.
            mean = q.mean + (pi.mean - q.mean) / n
            spread = q.covariance + (restrict(pi.covariance, groups) - q.covariance) / n
            return self._covered(state, Moments(mean, spread)), pi
        p = surrogate(pi, q, n)
        moved = best(p, groups, n)
        return moved, between(p, moved, n) or pi

    def _covered(self, state: _State, q: Moments) -> Moments:
        """q, or the nearest that has all reaches that are known within it."""
        return covering(q, state.reaches, state.groups, margin=self._margin)

    @property
    def _margin(self) -> float:
        return _MARGIN / max(1.0, self.objective.power - 1)

    def _widen(self, state: _State, found: Measured, most: int) -> None:
        """Widen q until its bound is finite as far as climbs tell; INFINITE where no widening does it."""
        assert state.q is not None and state.pi is not None
        q, narrow = state.q, state.narrow or state.q
        white = np.linalg.inv(np.linalg.cholesky(narrow.covariance))
        for _ in range(_CUTS):
            # Asked of a q half the margin nearer to where it is infinite: along what was climbed q is inside by all.
            nearer = Moments(q.mean, q.covariance / (1 + self._margin / 2))
            starts = np.concatenate([found.outer, state.ends[-_ENDS:]])
            if len(state.ends):
                starts = np.concatenate([starts, q.mean + _DISTANT * (found.outer - q.mean)])
            more = endless(state.kernel, state.pi, nearer, starts, power=self.objective.power)
            if not len(more.ends):
                break
            state.ends = np.concatenate([state.ends, more.ends])
            state.reaches = np.concatenate([state.reaches, more.reaches])
            q = q if more.heavier else self._covered(state, q)
            if more.heavier or np.linalg.eigvalsh(white @ q.covariance @ white.T)[-1] > _WIDEST:
                state.q, state.status = narrow, Status.INFINITE
                return
        else:
            state.q, state.status = narrow, Status.INFINITE
            return
        if q is not state.q:
            state.q, state.narrow, state.status, state.doubtful = q, narrow, None, 0
            state.draws = min(4 * state.draws, most)

    def _falls(self, drawn: Drawn, before: Moments, q: Moments, found: Measured, groups: list[np.ndarray]) -> bool:
        """Whether a step is within the error of the moments, or lowers the chi bound of the draws."""
        if _distance(before, q) < max(self.tolerance, 2 * np.sqrt(2 * found.cost)):
            return True
        n = self.objective.power
        at, there = (logsumexp(drawn.log_weights(as_block(m, groups), n)) for m in (before, q))
        return bool(there <= at)

    def _descend(self, state: _State, drawn: Drawn, found: Measured) -> Measured:
        """Go to the least chi bound *of these draws*, from a q where their weights cannot be believed.

        A q that is too narrow, as the ELBO's is, has no chi bound at all where p has more than a Gaussian's tails; no
        moments of pi then say where to go. So p's own moments come first, n = 1, and q is the best for those. From
        there the draws' bound is descended: in natural parameters it is convex, as log sum exp of convex functions,
        and the step towards the moments goes down it, halved as long as it does not.
        """
        n, groups = self.objective.power, state.groups
        assert state.q is not None
        bound = lambda q: float(np.asarray(logsumexp(drawn.log_weights(as_block(q, groups), n))))  # noqa: E731
        own = measure(drawn, as_block(state.q, groups), 1.0, groups)
        starts = [state.q]
        if own.moments is not None:
            wide = best(own.moments, groups, n)
            starts += [self._covered(state, m) for m in (wide, Moments(wide.mean, _WIDER * wide.covariance))]
            # Should nothing be seen of pi: the next draws are wide of p.
            state.pi = Moments(own.moments.mean, _WIDER * own.moments.covariance)
        seen = lambda q: measure(drawn, as_block(q, groups), n, groups, plain=True).moments is not None  # noqa: E731
        q = next((q for q in sorted(starts, key=bound) if seen(q)), starts[0])
        at = bound(q)
        for _ in range(_INNER):
            now = measure(drawn, as_block(q, groups), n, groups, plain=True)
            if now.moments is None:
                break
            moved, state.pi = self._implied(state, q, now.moments)
            share = 1.0
            while not (there := bound(_blend(q, moved, share))) < at and share > _SHORTEST:
                share *= 0.5
            if not there < at:
                break
            last, q, at = q, _blend(q, moved, share), there
            if _distance(last, q) < self.tolerance:
                break
        state.q = q
        found = self._weighed(state, drawn)
        if found.moments is not None:
            state.pi = found.moments
        return found

    def _judge(self, state: _State, found: Measured, most: int) -> None:
        error = np.sqrt(2 * found.cost)
        believed = _believed(found)
        state.doubtful = 0 if believed else state.doubtful + 1
        settled = state.change < max(self.tolerance, 2 * error)
        if found.cost <= allowed(state.kernel.dimension):
            if settled and believed:
                state.status = Status.CONVERGED
            elif not believed:
                state.draws = min(2 * state.draws, most)
        elif state.change < 4 * error:
            if state.draws >= most:
                state.status = Status.UNEVEN
            state.draws = min(4 * state.draws, most)


def elbo_of(kernel: Kernel, q: Block, rng: np.random.Generator) -> tuple[float, float]:
    """The ELBO of q with its standard error, on 256 draws of its own (twice the dimensions, if that is more)."""
    x = q.transform(matched_normals(rng, max(256, 2 * q.dimension), q.dimension))
    value = kernel(x)[0] - q.log_prob(x)
    if not np.isfinite(value).all():
        return np.nan, np.nan
    return float(value.mean()), float(value.std() / np.sqrt(len(value)))


def groups_of(family: Family, p: int) -> list[np.ndarray]:
    """Coordinates of each block of the covariance, for dense and diagonal families and products of them."""
    members = family.members(p)
    return [np.sort(g) for f, i in members for g in ([i] if isinstance(f, Dense) else list(i[:, None]))]


def as_block(q: Moments, groups: list[np.ndarray]) -> Block:
    """The Gaussian with these moments, its covariance restricted to blocks."""
    if len(groups) == 1:
        return DenseGaussian(q.mean, root(q.covariance))
    if len(groups) == len(q.mean):
        return DiagonalGaussian(q.mean, np.sqrt(np.diagonal(q.covariance)))
    return ProductBlock(
        tuple(DenseGaussian(q.mean[g], root(q.covariance[np.ix_(g, g)])) for g in groups), tuple(groups)
    )


def _believed(found: Measured) -> bool:
    return found.moments is not None and (found.pareto_k <= USABLE_K or found.even)


def _blend(a: Moments, b: Moments, share: float) -> Moments:
    """On the way from a to b, in natural parameters."""
    if share == 1.0:
        return b
    left, right = (1 - share) * np.linalg.inv(a.covariance), share * np.linalg.inv(b.covariance)
    covariance = np.linalg.inv(left + right)
    return Moments(covariance @ (left @ a.mean + right @ b.mean), 0.5 * (covariance + covariance.T))


def _distance(a: Moments, b: Moments) -> float:
    """sqrt(2 KL(a || b)) of Gaussians."""
    white = np.linalg.inv(np.linalg.cholesky(b.covariance))
    ratio = white @ a.covariance @ white.T
    w = np.linalg.eigvalsh(0.5 * (ratio + ratio.T))
    twice = ((white @ (a.mean - b.mean)) ** 2).sum() + (w - 1 - np.log(np.maximum(w, 1e-300))).sum()
    return float(np.sqrt(max(twice, 0.0)))
