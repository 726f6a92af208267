r"""Short Hamiltonian chains on the compiled kernel: the check of every fit, and the repair of many.

As many chains as the kernel has places in a batch move together (:mod:`~lowerbound.diagnostics.chains.hamiltonian`)
from draws of q, weighted ones where weights can be had. They start near the posterior, which is what makes short chains
enough. Their metric is q's covariance or the weighted one, estimated again from the chains themselves where they have
the states for it.

Whether they have arrived is judged as for any MCMC (Vehtari et al. 2021): split R-hat over all chains, the
effective number of draws from the autocorrelations, and few divergent trajectories; and the Monte Carlo errors
of every mean and sd, after control variates. They run until that is so, or until it is plain that it will not
be. Where several modes are known some chains start in each, so that chains that agree have crossed between them; where
those are images of one another the chains are led across. And they must have been wherever the importance weights are
(:func:`missed`).

What they say about q is a shift (:class:`~lowerbound.diagnostics.shift.Drift`).

Cost: about 6 kernel calls a transition, 46 to 440 transitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lowerbound.algorithms.base import Mode
from lowerbound.algorithms.quasi_newton import root
from lowerbound.diagnostics.chains.control_variates import Moments, controlled_moments, effective_draws, split, spreads
from lowerbound.diagnostics.chains.hamiltonian import Transported, Walkers
from lowerbound.diagnostics.weights.importance import Weighted
from lowerbound.diagnostics.weights.proposals import Fold, about
from lowerbound.families import Block, DenseGaussian, DiagonalGaussian, GaussianBlock, TransportedBlock
from lowerbound.kernel import Kernel

#: Transitions after which the chains are looked at, the first of them without those of the warm-up.
STAGES = (30, 60, 120, 200)
_WARMUP = 40
#: ... where the metric is not learned from them.
_SHORT = 16
#: Acceptance aimed at and leapfrog steps at most: at first, and once more, finer, where that was not enough.
_PACES = ((0.9, 24), (0.98, 64))
#: What mixed chains have at most: R-hat, Monte Carlo error of any mean or log sd, divergent transitions.
R_HAT = 1.05
ERROR = 0.04
DIVERGENCES = 0.001
#: ... and at least: effective draws of any coordinate, acceptance.
EFFECTIVE = 400
ACCEPTANCE = 0.5
#: Share of the importance weight from which chains have missed a part of the posterior, and states looked at.
MISSED, _STATES = 0.01, 4000
#: R-hat from which more transitions of this kind would not help.
_APART = 1.5
#: Share of divergent transitions from which more of them would not bring the chains below what is allowed.
_HOPELESS = 0.003
#: Transitions without which chains say nothing.
_FEWEST = 16
#: States that stand for draws of the posterior, where an upper bound of the evidence needs some.
_ENDS = 256
#: Numbers that the states may take up: a quarter of a GiB.
_MOST_NUMBERS = 2**25


@dataclass(frozen=True, eq=False)
class Chains:
    """States of the chains, and whether they can be trusted.

    Attributes:
        draws: ``[transitions, chains, p]``, after warm-up.
        log_density: log p(x, z) at them, ``[transitions, chains]``.
        moments: Means and sds with their errors.
        r_hat: Largest split R-hat of any coordinate.
        worst: The coordinate that has it.
        effective: Smallest effective number of draws of any coordinate's mean or spread.
        accepted: Mean acceptance.
        divergent: Share of divergent transitions.
        missed: Share of the importance weight that lies where the chains have never been: see :func:`missed`.
    """

    draws: np.ndarray
    log_density: np.ndarray
    moments: Moments
    r_hat: float
    worst: int
    effective: float
    accepted: float
    divergent: float
    missed: float = 0.0

    @property
    def error(self) -> float:
        """Largest Monte Carlo error of any mean (in sds) or log sd."""
        return float(max(self.moments.mean_se.max(), self.moments.log_sd_se.max()))

    @property
    def agreed(self) -> bool:
        """Whether the chains agree with one another, as far as they have been run."""
        sound = self.divergent < DIVERGENCES and self.accepted > ACCEPTANCE and self.missed < MISSED
        return bool(self.r_hat < R_HAT and sound)

    @property
    def mixed(self) -> bool:
        """Whether the chains agree with one another and have drawn enough."""
        return bool(self.agreed and self.effective >= EFFECTIVE and self.error < ERROR)

    @property
    def usable(self) -> bool:
        """Whether they are nearer to the posterior than q is, mixed or not."""
        near = self.r_hat < 1.2 and self.effective >= 100 and self.divergent < 0.02
        return bool(near and self.missed < MISSED)

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Some states that are far apart ``[n, p]``, and log p(x, z) there."""
        states = self.draws.reshape(-1, self.draws.shape[-1])
        every = max(1, len(states) // _ENDS)
        return states[::every], self.log_density.reshape(-1)[::every]

    def pool(self, most: int = 8000) -> np.ndarray:
        """At most so many states, evenly thinned, with the controlled means and sds, ``[n, p]``.

        The states' own averages differ from those by their Monte Carlo error alone.
        """
        flat = self.draws.reshape(-1, self.draws.shape[-1])
        flat = flat[:: max(1, -(-len(flat) // most))]
        mean, sd = flat.mean(0), flat.std(0)
        with np.errstate(all="ignore"):
            scale = np.where(sd > 0, self.moments.sd / sd, 1.0)
        return self.moments.mean + np.clip(scale, 0.8, 1.25) * (flat - mean)


def missed(chains: Chains, q: Block, weighted: Weighted) -> float:
    """Share of the importance weight on draws whose p / r exceeds that of every state of the chains.

    r is half q and half a Student-t about it. States of the posterior meet large ratios more often than draws of r
    do, so thousands of them leave next to nothing above their largest; unless there is a place, such as a narrow
    peak inside the bulk, that the chains do not enter.
    """
    if not np.isfinite(weighted.log_weights).any():
        return 0.0
    students, shares = about(q, 4.0)

    def surprise(x: np.ndarray, value: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            heavy = [np.log(s) + t.log_prob(x) for t, s in zip(students, shares, strict=True)]
            ratio = value - np.logaddexp(np.asarray(q.log_prob(x)), np.logaddexp.reduce(heavy))
        return np.where(np.isfinite(ratio), ratio, -np.inf)

    states = chains.draws.reshape(-1, chains.draws.shape[-1])
    every = max(1, len(states) // _STATES)
    most = surprise(states[::every], chains.log_density.reshape(-1)[::every]).max()
    weight = np.exp(weighted.log_weights - weighted.log_weights.max())
    # A margin of a tenth of a nat: where q is right all ratios are alike.
    return float(weight[surprise(weighted.draws, weighted.log_density) > most + 0.1].sum() / weight.sum())


def run_chains(
    kernel: Kernel,
    q: Block,
    weighted: Weighted,
    rng: np.random.Generator,
    *,
    modes: Sequence[Mode] = (),
    budget: int = 10**9,
    patience: int = 1,
    fold: Fold | None = None,
) -> Chains | None:
    """Chains from draws of q, or from weighted ones; None where no usable start exists, or none can be afforded.

    Args:
        kernel: The compiled log density.
        q: The fitted approximation.
        weighted: Draws of q and its mixture with weights.
        rng: Random numbers.
        modes: Other modes, over which the starts are spread too: chains that agree then have crossed between them.
        budget: Evaluations of the log density after which no transition is begun.
        patience: How many times as many transitions are made, at most.
        fold: Of modes that are images of one another, between which chains are led.
    """
    count = max(32, kernel.batch)
    spent = kernel.evaluations + budget
    if isinstance(q, TransportedBlock):
        return _transported(kernel, q, weighted, rng, count, spent, patience)
    begin = _begin(q, modes, weighted, count, rng, fold)
    if begin is None:
        return None
    return _paced(Walkers(kernel, rng, *begin, () if fold is None else fold.each), spent, patience, fold)


def _paced(walkers: Walkers, spent: int, patience: int, fold: Fold | None = None) -> Chains | None:
    """Chains at the first pace, and at a finer one where that was not enough."""
    chains: Chains | None = None
    for accept, most_steps in _PACES:
        walkers.pace(accept, most_steps)
        found = _run(walkers, spent, patience, fold)
        if found is None:
            break
        chains = found
        if chains.mixed or chains.r_hat > _APART:
            break
    return chains


def _transported(
    kernel: Kernel,
    q: TransportedBlock,
    weighted: Weighted,
    rng: np.random.Generator,
    count: int,
    spent: int,
    patience: int,
) -> Chains | None:
    """Chains in the noise e of q = T(e), e ~ N(0, I), where the posterior is as near to normal as q is to it.

    The target there has log density log p(T(e)) + log |det T'(e)| (Parno & Marzouk 2018; Hoffman et al. 2019).
    """
    mapped = Transported(kernel, q)
    weight = np.exp(weighted.smoothed)
    if weighted.effective >= 100:
        start = q.whiten(weighted.draws[rng.choice(len(weight), count, p=weight / weight.sum())])
    else:
        start = rng.standard_normal((count, q.noise_dimension))
    if not np.isfinite(start).all():
        return None
    p = q.dimension
    found = _paced(Walkers(mapped, rng, start, DiagonalGaussian(np.zeros(p), np.ones(p))), spent, patience)
    if found is None:
        return None
    steps = len(found.draws)
    states = np.asarray(q.transform(found.draws.reshape(-1, p)))
    value, gradient = kernel(states)
    covariance = np.atleast_2d(np.cov(states.T))
    draws, scores = states.reshape(steps, -1, p), (gradient @ covariance).reshape(steps, -1, p)
    moments = controlled_moments(draws, scores, np.diagonal(covariance).copy())
    r_hat, worst, effective = mixing(draws)
    return replace(
        found,
        draws=draws,
        log_density=value.reshape(steps, -1),
        moments=moments,
        r_hat=r_hat,
        worst=worst,
        effective=min(effective, found.effective),
    )


def _run(walkers: Walkers, spent: int, patience: int, fold: Fold | None) -> Chains | None:
    """Warm up, then go on until mixed or hopeless; None if it cannot be afforded."""
    kernel = walkers.kernel
    count, p = walkers.x.shape
    early: list[np.ndarray] = []
    for i in range(_WARMUP if p <= _DENSE else _SHORT):
        if kernel.evaluations >= spent or kernel.late:
            return None
        early.append(walkers.transition(adapt=True))
        if i == _WARMUP // 2 - 1:
            states = np.concatenate(early[len(early) // 2 :])
            if len(states) > 4 * p:
                centred = states if fold is None else fold.centred(states)
                walkers.metric = DenseGaussian(states.mean(0), root(np.cov(centred.T).reshape(p, -1)))
    walkers.begin()
    most = max(STAGES[0], _MOST_NUMBERS // (count * p))
    kept, scores, values = [], [], []
    chains: Chains | None = None
    stages = (*STAGES, *(STAGES[-1] * i for i in range(2, patience + 1)))
    for stage in stages:
        for _ in range(min(stage, most) - len(kept)):
            if kernel.evaluations >= spent or kernel.late:
                break
            kept.append(walkers.transition(adapt=False))
            scores.append(walkers.metric.natural(walkers.gradient))
            values.append(walkers.value)
        if len(kept) < _FEWEST:
            return None
        draws = np.stack(kept)
        moments = controlled_moments(draws, np.stack(scores), np.asarray(walkers.metric.variance()))
        r_hat, worst, effective = mixing(draws)
        chains = Chains(draws, np.stack(values), moments, r_hat, worst, effective, walkers.accepted, walkers.divergent)
        over = len(kept) >= most or kernel.evaluations >= spent or kernel.late
        if chains.mixed or chains.divergent > _HOPELESS or chains.r_hat > _APART or over:
            break
    return chains


def _begin(
    q: Block, modes: Sequence[Mode], weighted: Weighted, count: int, rng: np.random.Generator, fold: Fold | None
) -> tuple[np.ndarray, GaussianBlock] | None:
    """Starts ``[count, p]``, and the Gaussian whose covariance S is the metric to move in."""
    p = q.dimension
    few = weighted.effective < max(100, 5 * p)
    if few and isinstance(q, GaussianBlock):
        # Too few effective draws for a covariance: q itself, whose draws are at least many.
        return q.sample(rng, count), q
    weight = np.exp(weighted.smoothed)
    usable = np.isfinite(weighted.log_density) & (weight > 0)
    if usable.sum() < 2:
        return None
    weight = np.where(usable, weight, 0.0)
    weight /= weight.sum()
    mean = weight @ weighted.draws
    # Of the spread inside the modes alone, where chains are led from one to the other.
    centred = weighted.draws - mean if fold is None else fold.centred(weighted.draws, weight)
    start = weighted.draws[rng.choice(len(weight), count, p=weight)]
    for i, mode in enumerate(modes[:7]):
        some = slice(i, count, 8)
        start[some] = mode.gaussian.sample(rng, len(start[some]))
    variance = weight @ centred**2
    if not np.isfinite(variance).all() or (variance <= 0).any():
        return None
    if p > _DENSE:
        # In many dimensions q's covariance, estimated from scores, is better than that of some thousand draws.
        return start, q if isinstance(q, GaussianBlock) else DiagonalGaussian(mean, np.sqrt(variance))
    return start, DenseGaussian(mean, root((weight[:, None] * centred).T @ centred))


#: Dimensions up to which the metric is the full covariance of weighted draws.
_DENSE = 150


def mixing(draws: np.ndarray) -> tuple[float, int, float]:
    """Largest split R-hat, its coordinate, and smallest effective number, of ``draws [n, chains, p]``.

    Both for the draws and for their absolute deviations from the median, which see a chain that has the
    right place but the wrong spread.
    """
    centre = np.median(draws, axis=(0, 1))
    worst_r, where, worst_n = 1.0, 0, np.inf
    for values in (draws, np.abs(draws - centre)):
        within, total = spreads(split(values))
        with np.errstate(all="ignore"):
            r = np.nan_to_num(np.sqrt(total / within), nan=np.inf)
        if r.max() > worst_r:
            worst_r, where = float(r.max()), int(r.argmax())
        worst_n = min(worst_n, float(effective_draws(values).min()))
    return worst_r, where, worst_n
