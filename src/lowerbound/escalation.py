"""What is tried where the verdict fails: each step measured, and kept only for its gain.

In order of cost:

1. *Other coordinates.* Sites whose location or scale depends on other latents are made non-centred, and then each
   element is given the centredness that its posterior asks for (:mod:`lowerbound.model.reparameterization`).
2. *Other families*, where neither weights nor short chains could correct q: sinh-arcsinh marginals on the
   Gaussian, then a normalizing flow in the coordinates that it whitens.

A step is kept if it raises the importance-weighted bound with K = 16 draws by more than three standard errors, on
the same noise for both (the paired differences have a far smaller error than either bound). Whatever is
kept is judged from the start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from lowerbound.algorithms.base import Algorithm, Info, Mode, Status
from lowerbound.diagnostics.assessment import Assessment, Correction, Weighed, assess, weigh_up
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.expectations.noise import matched_normals
from lowerbound.families import Block, Family, GaussianBlock
from lowerbound.kernel import Kernel

#: Draws of one importance-weighted bound, and bounds that are compared.
K, _GROUPS = 16, 256
#: Standard errors by which a step must win.
_SURE = 3.0
#: Centredness below which an element is as good as non-centred.
_LITTLE = 0.05


class Trial(NamedTuple):
    """One step that was tried.

    Attributes:
        name: ``"non-centred"``, ``"partly centred"``, ``"sinh_arcsinh"``, ``"flow"``.
        reason: Why it was tried.
        gain: By how much it raised the importance-weighted bound, in nats.
        kept: Whether it was kept.
        seconds: What it took.
    """

    name: str
    reason: str
    gain: Estimate
    kept: bool
    seconds: float


@dataclass(frozen=True, eq=False)
class Attempt:
    """A fitted q in some coordinates, and what its weights say.

    Attributes:
        kernel: The log density in those coordinates.
        family_name, algorithm_name: What was fitted, and how.
        status: How the fit ended.
        weighed: What the weights say.
        moved: Sites in other coordinates, in words.
    """

    kernel: Kernel
    family_name: str
    algorithm_name: str
    status: Status
    weighed: Weighed
    moved: tuple[str, ...] = ()

    @property
    def q(self) -> Block:
        return self.weighed.q


#: Runs an algorithm to its end: q, status, other modes, share of modes missing.
Run = Callable[[Kernel], tuple[Block, Status, list[Mode], float]]


@dataclass(eq=False)
class Escalation:
    """Tries what may help, in order, until the verdict is good or nothing is left.

    Args:
        run: Runs the fit's own algorithm on a kernel.
        family, algorithm: Of the fit.
        seed, num_draws: Of the fit.
        enabled: Whether anything may be tried.
        record: Called with an :class:`~lowerbound.algorithms.Info` when a step begins.
    """

    run: Run
    family: Family
    algorithm: Algorithm
    seed: int
    num_draws: int | None
    enabled: bool
    record: Callable[[Info], None]

    def __post_init__(self) -> None:
        self.trials: list[Trial] = []

    def __call__(self, first: Attempt) -> tuple[Attempt, Assessment]:
        """The best attempt, and its assessment."""
        best, others = first, []
        if self._may(best) and not best.weighed.verdict.trusted:
            best, others = self._recentre(best)
        self._say("checking with short chains")
        assessment = assess(best.weighed, self.seed)
        for other in others:  # coordinates that gained less may be those in which chains mix
            if assessment.verdict.trusted or first.kernel.late:
                break
            found = assess(other.weighed, self.seed)
            if found.verdict.trusted:
                best, assessment = other, found
        return best, self._corrected(best, assessment)

    # -- other coordinates -------------------------------------------------------------------------

    def _recentre(self, first: Attempt) -> tuple[Attempt, list[Attempt]]:
        """The best of the coordinates tried, and the others that were near."""
        model = first.kernel.model
        names = model.movable()
        if not names or not isinstance(first.q, GaussianBlock):
            return first, []
        began = time.perf_counter()
        reason = (
            f"{first.weighed.verdict.sentence} The scale or location of {', '.join(names)} depends on other latents."
        )
        self._say(f"trying {', '.join(names)} non-centred")
        kernel = Kernel(model.moved(dict.fromkeys(names, 0.0)), deadline=first.kernel.deadline)
        free = self._attempt(kernel, tuple(f"{n} (non-centred)" for n in names))
        best = self._better(first, free, "non-centred", reason, began)
        if free is None or not isinstance(free.q, GaussianBlock):
            return best, []
        if best.weighed.verdict.trusted or first.kernel.late:
            return best, []
        # 1 - Var(z~ | rest), from the diagonal of the precision.
        conditional = 1 / np.maximum(np.diagonal(np.linalg.pinv(free.q.covariance(), hermitian=True)), 1.0)
        centredness = {}
        for n in names:
            site = model.sites[n]
            c = np.clip(1 - conditional[site.slice], 0, 1).reshape(site.unconstrained_shape)
            centredness[n] = np.where(c < _LITTLE, 0.0, c)
        if max(float(np.max(c)) for c in centredness.values()) == 0:
            return best, [free] if best is not free else []
        began = time.perf_counter()
        self._say("trying each element as centred as its data ask for")
        some = tuple(f"{n} (centredness {_range(c)})" for n, c in centredness.items())
        partly = self._attempt(kernel.rebind(model.moved(centredness)), some)
        reason = "some elements are known better from their data than from their prior"
        best = self._better(best, partly, "partly centred", reason, began)
        return best, [a for a in (free, partly, first) if a is not None and a is not best]

    def _attempt(self, kernel: Kernel, moved: tuple[str, ...]) -> Attempt | None:
        q, status, modes, missing = self.run(kernel)
        if q.noise_dimension == 0 or status in (Status.INTERRUPTED, Status.OUT_OF_TIME):
            return None
        weighed = weigh_up(kernel, q, status, self.algorithm.rule(), modes, missing, self.seed, self.num_draws)
        return Attempt(kernel, self.family.name, self.algorithm.name, status, weighed, moved)

    # -- what all steps share ------------------------------------------------------------------------

    def _better(self, old: Attempt, new: Attempt | None, name: str, reason: str, began: float) -> Attempt:
        """The better of the two, and a note of the trial."""
        gain = Estimate(-np.inf, 0.0)
        if new is not None:
            gain = paired_gain(old.kernel, old.q, new.kernel, new.q, np.random.default_rng([self.seed, 5]))
        kept = new is not None and bool(gain.value > _SURE * gain.se)
        self.trials.append(Trial(name, reason, gain, kept, time.perf_counter() - began))
        return new if kept and new is not None else old

    def _may(self, attempt: Attempt) -> bool:
        return (
            self.enabled
            and attempt.status not in (Status.INTERRUPTED, Status.OUT_OF_TIME)
            and attempt.q.noise_dimension > 0
            and not attempt.kernel.late
        )

    def _say(self, phase: str) -> None:
        self.record(Info(phase, 0))

    @staticmethod
    def _corrected(attempt: Attempt, assessment: Assessment) -> Assessment:
        """The assessment with what was done to the coordinates among its corrections."""
        if not attempt.moved:
            return assessment
        said = Correction("reparameterisation", f"fitted in other coordinates: {', '.join(attempt.moved)}")
        return replace(assessment, corrections=(said, *assessment.corrections))


def paired_gain(old_kernel: Kernel, old: Block, new_kernel: Kernel, new: Block, rng: np.random.Generator) -> Estimate:
    """By how much the K-draw importance-weighted bound of ``new`` exceeds that of ``old``, on the same noise.

    log p(x) is one number in all coordinates, so the bounds of two parameterisations can be compared.
    """
    noise = {d: matched_normals(rng, K * _GROUPS, d) for d in sorted({old.noise_dimension, new.noise_dimension})}
    bounds = []
    for kernel, q in ((old_kernel, old), (new_kernel, new)):
        with np.errstate(all="ignore"):
            x = np.asarray(q.transform(noise[q.noise_dimension]))
            log_w = np.where(np.isfinite(value := kernel(x)[0]), value, -np.inf) - np.asarray(q.log_prob(x))
            # Antithetic pairs lie half the rows apart; neighbours are independent.
            bounds.append(logsumexp(log_w.reshape(_GROUPS, K), axis=1) - np.log(K))
    difference = bounds[1] - bounds[0]
    if not np.isfinite(bounds[1]).all():
        return Estimate(-np.inf, 0.0)
    if not np.isfinite(bounds[0]).all():
        return Estimate(np.inf, 0.0)
    return Estimate(float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(_GROUPS)))


def _range(c: np.ndarray) -> str:
    low, high = float(np.min(c)), float(np.max(c))
    return f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"
