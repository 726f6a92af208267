r"""Importance weights for q: the gap, k-hat, and corrected draws.

Draws are taken from a *defensive* mixture r and weighted by w = p(x, z) / r(z); their mean estimates
p(x), and  KL(q || p) = log p(x) - ELBO  follows. At first half of r is q, half a Student-t with 4 degrees
of freedom about it: the weights stay bounded wherever the target's tails are no heavier than the t's,
and a posterior with heavier tails than q's cannot hide (Owen & Zhou 2000; the mixture's k-hat
found what that of q's own draws missed on Student and Cauchy targets). Each other mode that the
search met has its Student-t in r too.

Where the weights are too uneven, r learns: a mixture of Student-t components is fitted to the weighted
draws so far (EM), and the next round is drawn from it, with a quarter kept for q and its t. Each round is
weighted by its own r, which does not depend on its draws, so no round is biased by what was learned from
it (weighting old draws by what was fitted to them is: by half a nat in 26 dimensions); rounds
are pooled in proportion to their efficiency (population Monte Carlo; Cappe et al. 2008). This is a
correction of the draws, not a better q.

The evidence uses the one thing known about the components, E_r[q_j / r] = 1, as control variates (Owen &
Zhou 2000): regressing w on q_j / r - 1 leaves no error at all where p(x, z) is a mixture of the
components, so an exact q has a gap of exactly zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from lowerbound.algorithms.base import Mode
from lowerbound.diagnostics.weights.proposals import Component, Fold, about, learn, log_probs
from lowerbound.families import Block, GaussianBlock
from lowerbound.kernel import Kernel
from lowerbound.pareto import effective_size, smooth

#: Draws of a round, from all components together.
ROUND = 2048
#: Dimensions above which no mixture is taught: its components are matrices, and more draws teach them too little.
MANY = 200
#: Effective draws wanted where draws are corrected: a Monte Carlo error of 1/60 sd.
ENOUGH = 3600
#: ... and where a draw is dear: above MANY dimensions.
SOME = 1200
_DEGREES = 4.0
#: Mass that a mode is drawn from with, whatever the weights say.
_LITTLE = 0.02
#: Dimensions up to which a proposal's draws are kept beside the pooled ones.
_KEPT = 1000


@dataclass(frozen=True, eq=False)
class Weighted:
    """Draws with their importance weights.

    Attributes:
        draws: Unconstrained ``[n, p]``.
        log_density: log p(x, z) with the Jacobian ``[n]``.
        log_weights: log p(x, z) - log r(z), unnormalised and unsmoothed ``[n]``.
        smoothed: Pareto-smoothed, normalised ``[n]``.
        pareto_k: Their k-hat.
        log_evidence, log_evidence_se: log of the weights' mean and its standard error.
        elbo, elbo_se: From the draws of q alone.
        bad: Share of draws with a log density that is not finite.
        rounds: How often r was fitted anew.
        fisher: Covariance-weighted Fisher divergence of q, E_q |L'(grad log p - grad log q)|^2 with its own
            covariance LL'; NaN where q is no Gaussian.
        proposal: The r of the most efficient round, and its draws' weights.
    """

    draws: np.ndarray
    log_density: np.ndarray
    log_weights: np.ndarray
    smoothed: np.ndarray
    pareto_k: float
    log_evidence: float
    log_evidence_se: float
    elbo: float
    elbo_se: float
    bad: float
    rounds: int
    fisher: float = np.nan
    proposal: Mixture | None = None

    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Two independent halves of the draws."""
        i = np.arange(len(self.draws))
        return i[::2], i[1::2]

    @property
    def even(self) -> bool:
        """Whether no draw matters: over half of them effective, and none with ten times its share of the weight.

        k-hat describes the tail beyond the largest 3 sqrt(n) weights; where all weights are alike that tail is
        a detail of the mixture, and k-hat arbitrary.
        """
        n = len(self.draws)
        return bool(self.effective > 0.5 * n and self.smoothed.max() < np.log(10 / n))

    @property
    def effective(self) -> float:
        """Effective number of draws: the smaller of before and after smoothing, which can hide one huge weight."""
        return min(effective_size(self.smoothed), effective_size(self.log_weights))

    @property
    def gap(self) -> float:
        """Estimated KL(q || p) in nats."""
        return self.log_evidence - self.elbo

    @property
    def gap_se(self) -> float:
        return float(np.hypot(self.log_evidence_se, self.elbo_se))


def weigh(
    kernel: Kernel,
    q: Block,
    modes: list[Mode],
    rng: np.random.Generator,
    *,
    rounds: int = 6,
    size: int = ROUND,
    fold: Fold | None = None,
) -> Weighted:
    """Draw from q and about it, weigh, and learn better proposals while the weights are uneven.

    Args:
        kernel: The compiled log density.
        q: The fitted approximation.
        modes: Other local solutions.
        rng: Random numbers.
        rounds: At most so many rounds of draws.
        size: Draws a round.
        fold: Of modes that are images of q's own: what is learned is learned of all of them.
    """
    p = q.dimension
    students, shares = about(q, _DEGREES)
    defence = [Component(q, None), *students]

    def split(own: float, heavy: float) -> list[int]:
        """Draws of q, and of the Student-t's about it."""
        return [int(own), *np.maximum(16, shares * heavy).astype(int)]

    beside = [Component(m.gaussian, _DEGREES) for m in modes]
    if fold is not None and modes:
        beside += fold.images(defence)[len(defence) :]
    each = [size // 4 if fold is None else size // 8] * len(beside)
    fresh, counts = defence + beside, split(size // 2, size // 2) + each
    done: list[_Round] = []
    result: Weighted | None = None
    fisher = np.nan
    for r in range(rounds):
        x = np.concatenate([c.draw(rng, n) for c, n in zip(fresh, counts, strict=True)])
        with np.errstate(all="ignore"):
            value, gradient = kernel(x)
        if r == 0 and isinstance(q, GaussianBlock):
            fisher = fisher_divergence(q, x[: counts[0]], gradient[: counts[0]])
        done.append(_Round.weigh(x, value, fresh, np.array(counts)))
        result = _pool(done, fisher)
        if kernel.late or not _worth_more(result, done[0], p):
            break
        if done[0].efficiency > 0.6 or r + 1 == rounds or p > MANY:
            counts = split(0.8 * size, 0.2 * size) + each
            continue  # q is good as it is: only more draws are needed
        folded, which = (result.draws, None) if fold is None else fold(result.draws)
        learned = learn(folded, result.smoothed, rng)
        if learned is None:  # too few effective draws for a covariance: more of the same
            fresh, counts = defence + beside, split(0.8 * size, 0.2 * size) + each
        else:
            mixture, parts = learned
            if fold is not None and which is not None:
                mass = np.bincount(which, np.exp(result.smoothed), len(fold.moves)) + _LITTLE
                mixture, parts = fold.images(mixture), np.outer(mass / mass.sum(), parts).ravel()
            fresh = defence + mixture
            counts = split(size // 10, size // 6) + [int(n) for n in np.maximum(16, parts * 0.75 * size)]
    assert result is not None
    return result


def fisher_divergence(q: GaussianBlock, x: np.ndarray, gradient: np.ndarray) -> float:
    """E_q |L'(g - grad log q)|^2 over draws ``x [n, p]`` of q with scores ``g [n, p]`` of the target.

    With S = LL' and grad log q(x) = -S^{-1}(x - m) it is g'Sg + 2 g'(x - m) + |L^{-1}(x - m)|^2: zero where q is the
    posterior, and p where q has the scores of nothing.
    """
    with np.errstate(all="ignore"):
        terms = (gradient * q.natural(gradient)).sum(1) + 2 * (gradient * (x - q.mean)).sum(1)
        terms = terms + (q.whiten(x) ** 2).sum(1)
    finite = np.isfinite(terms)
    return float(terms[finite].mean()) if finite.any() else np.inf


@dataclass(frozen=True, eq=False)
class Mixture:
    """A proposal r and what its draws weigh.

    Attributes:
        components, shares: Of r.
        log_weights: log p(x, z) - log r(z) of its own draws ``[n]``.
        draws: They ``[n, p]``; None in many dimensions.
    """

    components: list[Component]
    shares: np.ndarray
    log_weights: np.ndarray
    draws: np.ndarray | None = None

    def densities(self, x: np.ndarray) -> np.ndarray:
        """log densities of the components at ``x [n, p]``: ``[components, n]``."""
        return log_probs(self.components, x)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(logsumexp(self.densities(x) + np.log(self.shares)[:, None], axis=0))


def regressed(log_w: np.ndarray, densities: np.ndarray, shares: np.ndarray) -> tuple[float, float]:
    """log E_r[w] and its standard error, with E_r[q_j / r] = 1 as control variates.

    Args:
        log_w: Of draws of r ``[n]``.
        densities: log q_j of its components at them ``[components, n]``.
        shares: Of the components.
    """
    log_r = logsumexp(densities + np.log(shares)[:, None], axis=0)
    scale = logsumexp(log_w) - np.log(len(log_w))
    w = np.exp(log_w - scale)
    with np.errstate(invalid="ignore"):
        control = np.column_stack([np.ones(len(w)), np.exp(densities - log_r).T - 1])
    # (A draw at which some density is infinite, at the end of a support, tells nothing of the others.)
    control[~np.isfinite(control).all(1), 1:] = 0.0
    beta = np.linalg.lstsq(control, w, rcond=1e-10)[0]
    mean, error = beta[0], np.std(w - control @ beta) / np.sqrt(len(w))
    if not mean > 0.2:  # a handful of weights rule: the regression means nothing
        mean, error = 1.0, w.std() / np.sqrt(len(w))
    return float(scale + np.log(mean)), float(error / mean)


@dataclass(frozen=True, eq=False)
class _Round:
    """Draws from one mixture r, weighted by it."""

    x: np.ndarray
    value: np.ndarray
    log_w: np.ndarray
    own: np.ndarray  # log p - log q at the draws of q itself
    log_evidence: float
    log_evidence_se: float
    efficiency: float
    proposal: Mixture

    @staticmethod
    def weigh(x: np.ndarray, value: np.ndarray, components: list[Component], counts: np.ndarray) -> _Round:
        value = np.where(np.isfinite(value), value, -np.inf)
        densities = log_probs(components, x)
        log_r = np.asarray(logsumexp(densities + np.log(counts / counts.sum())[:, None], axis=0))
        # No weight where a density of r is infinite, as at the end of a support that a draw has been rounded to.
        log_w = np.where(np.isfinite(log_r), value - log_r, -np.inf)
        own = value[: counts[0]] - densities[0, : counts[0]]
        proposal = Mixture(components, counts / counts.sum(), log_w, x if x.shape[1] <= _KEPT else None)
        if not np.isfinite(log_w).any():
            return _Round(x, value, log_w, own, -np.inf, np.inf, 0.0, proposal)
        smoothed, _ = smooth(log_w)
        evidence, se = regressed(log_w, densities, counts / counts.sum())
        return _Round(x, value, log_w, own, evidence, se, effective_size(smoothed) / len(x), proposal)


def _pool(rounds: list[_Round], fisher: float) -> Weighted:
    """All rounds together, each in proportion to its efficiency."""
    share = np.array([r.efficiency for r in rounds]) + 1e-12
    share = share / share.max()
    log_w = np.concatenate([r.log_w + np.log(s) for r, s in zip(rounds, share, strict=True)])
    smoothed, k = smooth(log_w)
    # Evidence: weighted by efficiency too, not by estimated variance, which is small where weights were missed.
    mass = share * [len(r.x) for r in rounds]
    mass = mass / mass.sum()
    z = np.array([r.log_evidence for r in rounds])
    top = z.max()
    parts = mass * np.exp(z - top)
    log_evidence = float(top + np.log(parts.sum()))
    se = float(np.sqrt(((parts / parts.sum()) ** 2 * np.array([r.log_evidence_se for r in rounds]) ** 2).sum()))
    own = np.concatenate([r.own for r in rounds])
    bad = float(np.mean(~np.isfinite(own)))
    elbo, elbo_se = -np.inf, np.inf
    if bad < 1:
        finite = own[np.isfinite(own)]
        elbo, elbo_se = float(finite.mean()), float(finite.std() / np.sqrt(len(finite)))
    x = np.concatenate([r.x for r in rounds])
    value = np.concatenate([r.value for r in rounds])
    best = max(rounds, key=lambda r: r.efficiency).proposal
    return Weighted(x, value, log_w, smoothed, k, log_evidence, se, elbo, elbo_se, bad, len(rounds) - 1, fisher, best)


def _worth_more(w: Weighted, first: _Round, p: int) -> bool:
    own = first.own[np.isfinite(first.own)]
    # To second order KL(q || p) is half the variance of log w under q.
    exact = len(own) > 0 and 0.5 * own.var() < 1e-3 and abs(w.gap) < 1e-3 + 3 * w.gap_se and w.bad == 0
    if exact:
        return False
    if p > MANY:  # r is not taught there, so only more of the same can help; where that is too much chains are cheaper
        return w.effective < SOME and 4 * first.efficiency * len(first.x) > SOME
    return w.effective < ENOUGH or w.pareto_k > 0.7
