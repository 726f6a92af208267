"""What is tried where the verdict fails: each step measured, and kept only for its gain.

In order of cost:

1. *Other coordinates.* Sites whose location or scale depends on other latents are made non-centred, and then each
   element is given the centredness that its posterior asks for (:mod:`lowerbound.model.reparameterization`).
2. *Longer chains*, where those that were run had nearly mixed.
3. *A mixture* of one Gaussian for each mode, where several were found: no more is fitted, since each has its Gaussian.
4. *Other families*, where neither weights nor short chains could correct q: sinh-arcsinh marginals on the
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

from lowerbound.algorithms.base import Algorithm, Info, Mode, Status
from lowerbound.algorithms.flow_training import fit_flow
from lowerbound.algorithms.from_gaussian import FromGaussian
from lowerbound.algorithms.quasi_newton import root
from lowerbound.algorithms.shape_ascent import SHAPE_LIMIT, fit_sinh_arcsinh
from lowerbound.diagnostics.assessment import Assessment, Correction, assess
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.verdict import VerdictStatus
from lowerbound.diagnostics.weighing import Weighed, weigh_up, with_images
from lowerbound.diagnostics.weights.importance import MANY
from lowerbound.diagnostics.weights.paired_gain import paired_gain
from lowerbound.families import Block, DenseGaussian, Family, GaussianBlock, MixtureBlock
from lowerbound.kernel import Kernel

#: R-hat up to which chains may only have been too short, and how many times as much they may then cost.
_ALMOST, _PATIENCE = 1.15, 2
#: Of a mode's share at least, effective draws from which shares are learned, and iterations of EM.
_SMALLEST, _FOR_SHARES, _ITERATIONS = 1e-6, 400, 20
#: Arithmetic that training a flow may cost, and iterations that are worth it.
_FLOW_BUDGET, _FEWEST_STEPS = 6e10, 500
#: ... and what the flow's own layers cost for each dimension.
_LAYERS = 2.5e3
#: Dimensions up to which a flow is tried.
FLOW_LIMIT = 1000
#: Standard errors by which a step must win.
_SURE = 3.0
#: Centredness below which an element is as good as non-centred.
_LITTLE = 0.05


class Trial(NamedTuple):
    """One step that was tried.

    Attributes:
        name: ``"non-centred"``, ``"partly centred"``, ``"mixture"``, ``"sinh_arcsinh"``, ``"flow"``.
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
        record: Called with each :class:`~lowerbound.algorithms.Info` of what is tried.
        say: Called with a few words when something begins.
        review: The assessment with its verdict overridden where the density itself is at fault.
    """

    run: Run
    family: Family
    algorithm: Algorithm
    seed: int
    num_draws: int | None
    enabled: bool
    record: Callable[[Info], None]
    say: Callable[[str], None]
    review: Callable[[Attempt, Assessment], Assessment]

    def __post_init__(self) -> None:
        self.trials: list[Trial] = []
        #: Wall seconds that the checks of what was fitted first have taken, without what was tried after them.
        self.checking = 0.0

    def __call__(self, first: Attempt) -> tuple[Attempt, Assessment]:
        """The best attempt, and its assessment."""
        best, others = first, []
        # In many dimensions weights can hardly ever tell; what the chains say comes first there.
        doubted = not best.weighed.verdict.trusted and first.kernel.dimension <= MANY
        if self._may(best) and doubted:
            best, others = self._recentre(best)
        self.say("checking with short chains")
        began = time.perf_counter()
        best, assessment = self._assessed(best)
        self.checking += time.perf_counter() - began
        if self._may(best) and not doubted and not assessment.verdict.trusted:  # the chains saw what weights did not
            plain = best
            best, others = self._recentre(best)
            if best is not plain:
                best, assessment = self._assessed(best)
        for other in others:  # coordinates that gained less may be those in which chains mix
            if assessment.verdict.trusted or first.kernel.late:
                break
            other, found = self._assessed(other)
            if found.verdict.trusted:
                best, assessment = other, found
        almost = assessment.source == "chains" and assessment.verdict.r_hat < _ALMOST
        if self._may(best) and not assessment.verdict.trusted and almost:  # cheaper than any other family
            self.say("running the chains for longer")
            assessment = assess(best.weighed, self.seed, patience=_PATIENCE)
        began = time.perf_counter()
        assessment = self.review(best, assessment)
        self.checking += time.perf_counter() - began
        # (No family gives a parameter an sd that it does not have.)
        own = {n.partition("[")[0] for n in assessment.verdict.without_sd} & {*best.kernel.model.sites}
        hopeless = assessment.verdict.fatal or own
        if self._may(best) and assessment.verdict.status is not VerdictStatus.TRUSTED and not hopeless:
            best, assessment = self._mixed(best, assessment)
        if self._may(best) and not assessment.verdict.trusted and not hopeless:
            plain = best
            best, assessment = self._richer(best, assessment)
            if best is not plain:
                assessment = self.review(best, assessment)
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
        self.say(f"trying {', '.join(names)} non-centred")
        kernel = Kernel(model.moved(dict.fromkeys(names, 0.0)), deadline=first.kernel.deadline)
        free = self._attempt(kernel, tuple(f"{n} (non-centred)" for n in names))
        best = self._better(first, free, "non-centred", reason, began)
        if free is None or not isinstance(free.q, GaussianBlock):
            return best, []
        if (best is free and best.weighed.verdict.trusted) or first.kernel.late:
            return best, []
        # 1 - Var(z~ | rest), from the diagonal of the precision.
        # S^{-1} = L^{-T} L^{-1}, whose diagonal is that of the squared lengths of L^{-1}'s columns.
        centred = replace(free.q, location=np.zeros(free.q.dimension))  # pyright: ignore[reportArgumentType]
        conditional = 1 / np.maximum((centred.whiten(np.eye(free.q.dimension)) ** 2).sum(1), 1.0)
        centredness = {}
        for n in names:
            site = model.sites[n]
            c = np.clip(1 - conditional[site.slice], 0, 1).reshape(site.unconstrained_shape)
            centredness[n] = np.where(c < _LITTLE, 0.0, c)
        if max(float(np.max(c)) for c in centredness.values()) == 0:
            return best, [free] if best is not free else []
        began = time.perf_counter()
        self.say("trying each element as centred as its data ask for")
        some = tuple(f"{n} (centredness {_range(c)})" for n, c in centredness.items())
        partly = self._attempt(kernel.rebind(model.moved(centredness)), some)
        reason = "some elements are known better from their data than from their prior"
        best = self._better(best, partly, "partly centred", reason, began)
        return best, [a for a in (free, partly) if a is not None and a is not best]

    # -- several modes -----------------------------------------------------------------------------

    def _mixed(self, best: Attempt, assessment: Assessment) -> tuple[Attempt, Assessment]:
        """A Gaussian for each mode found, in place of one alone, unless the verdict would be worse for it."""
        weighed, kernel = best.weighed, best.kernel
        apart = [m for m in weighed.modes if m.separate]
        if not apart or not isinstance(best.q, GaussianBlock) or kernel.dimension > MANY or weighed.weighted is None:
            return best, assessment
        began = time.perf_counter()
        self.say("trying a mixture of the modes")
        try:
            q = mix(best.q, apart, weighed)
        except np.linalg.LinAlgError:  # a mode whose covariance has no root in floating point
            return best, assessment
        rule, modes = self.algorithm.rule(), weighed.modes
        new_weighed = weigh_up(kernel, q, best.status, rule, modes, weighed.missing, self.seed, self.num_draws)
        new = Attempt(kernel, "mixture", best.algorithm_name, best.status, new_weighed, best.moved)
        reason = f"{len(apart) + 1} modes were found, and q is about one of them"
        if self._better(best, new, "mixture", reason, began) is best:
            return best, assessment
        new, found = self._assessed(new)
        found = self.review(new, found)
        if not found.verdict.trusted:  # another family about one mode, with the others beside it, may still be
            self.trials[-1] = self.trials[-1]._replace(kept=False)
            return best, assessment
        return new, found

    # -- other families ------------------------------------------------------------------------------

    def _richer(self, best: Attempt, assessment: Assessment) -> tuple[Attempt, Assessment]:
        """Families beyond the Gaussian, the cheaper first, until one can be trusted."""
        gaussian, kernel = best.q, best.kernel
        if not isinstance(gaussian, GaussianBlock):
            return best, assessment
        price = kernel.price + _LAYERS * kernel.dimension
        steps = int(min(4000, _FLOW_BUDGET / (256 * price)))

        def shape(rng: np.random.Generator) -> Block | None:
            return fit_sinh_arcsinh(kernel, gaussian, rng, record=self.record)

        def flow(rng: np.random.Generator) -> Block | None:
            left = np.inf if kernel.deadline is None else max(kernel.deadline - time.monotonic(), 0.1)
            return fit_flow(kernel, gaussian, rng, max_steps=steps, max_seconds=left, record=self.record)

        ladder = []
        if kernel.dimension <= SHAPE_LIMIT:
            ladder.append(("sinh_arcsinh", shape))
        if steps >= _FEWEST_STEPS and 2 <= kernel.dimension <= FLOW_LIMIT:
            ladder.append(("flow", flow))
        for name, fit in ladder:
            if kernel.late:
                break
            began, reason = time.perf_counter(), assessment.verdict.sentence
            self.say(f"trying the family {name}")
            try:
                q = fit(np.random.default_rng([self.seed, 4]))
            except np.linalg.LinAlgError:  # it has run into a degenerate member: not a better q
                q = None
            new = None
            if q is not None:
                modes, rule = best.weighed.modes, FromGaussian().rule()
                weighed = weigh_up(
                    kernel, q, Status.CONVERGED, rule, modes, best.weighed.missing, self.seed, self.num_draws
                )
                new = Attempt(kernel, name, FromGaussian.name, Status.CONVERGED, weighed, best.moved)
            better = self._better(best, new, name, reason, began)
            if better is not best:
                best, assessment = self._assessed(better)
                if assessment.verdict.trusted:
                    break
        return best, assessment

    def _attempt(self, kernel: Kernel, moved: tuple[str, ...]) -> Attempt | None:
        q, status, modes, missing = self.run(kernel)
        if not q.has_density or status in (Status.INTERRUPTED, Status.OUT_OF_TIME):
            return None
        weighed = weigh_up(kernel, q, status, self.algorithm.rule(), modes, missing, self.seed, self.num_draws)
        return Attempt(kernel, self.family.name, self.algorithm.name, status, weighed, moved)

    # -- what all steps share ------------------------------------------------------------------------

    def _assessed(self, attempt: Attempt) -> tuple[Attempt, Assessment]:
        """The attempt, with the modes that are images of its q, and its assessment."""
        weighed = with_images(attempt.weighed, self.seed)
        attempt = attempt if weighed is attempt.weighed else replace(attempt, weighed=weighed)
        return attempt, assess(weighed, self.seed)

    def _better(self, old: Attempt, new: Attempt | None, name: str, reason: str, began: float) -> Attempt:
        """The better of the two, and a note of the trial."""
        gain = Estimate(-np.inf, 0.0)
        if new is not None:
            rng = np.random.default_rng([self.seed, 5])
            gain = paired_gain(old.kernel, old.q, new.q, rng, new_kernel=new.kernel)
        kept = new is not None and bool(gain.value > _SURE * gain.se)
        self.trials.append(Trial(name, reason, gain, kept, time.perf_counter() - began))
        return new if kept and new is not None else old

    def _may(self, attempt: Attempt) -> bool:
        return (
            self.enabled
            and attempt.status not in (Status.INTERRUPTED, Status.OUT_OF_TIME)
            and attempt.q.has_density
            and not attempt.kernel.late
        )

    @staticmethod
    def _corrected(attempt: Attempt, assessment: Assessment) -> Assessment:
        """The assessment with what was done to the coordinates among its corrections."""
        if not attempt.moved:
            return assessment
        said = Correction("reparameterisation", f"fitted in other coordinates: {', '.join(attempt.moved)}")
        return replace(assessment, corrections=(said, *assessment.corrections))


def mix(q: GaussianBlock, modes: list[Mode], weighed: Weighed) -> MixtureBlock:
    """q and the Gaussians of other modes, each with the share of the posterior that is its own.

    Where modes are apart the ELBO is highest at shares in proportion to exp(ELBO_k), the evidence in each mode's reach.
    From there EM on the weighted draws, which is exact for modes that overlap too; with the components as they are, so
    that it has only the shares to learn from them.
    """
    weighted = weighed.weighted
    assert weighted is not None
    components = [DenseGaussian(np.asarray(q.mean), root(np.asarray(q.covariance())))]
    components += [m.gaussian for m in modes]
    elbos = np.array([weighted.elbo, *(m.elbo for m in modes)])
    mixture = MixtureBlock.of(components, np.exp(elbos - elbos.max()) + _SMALLEST)
    if weighted.effective < _FOR_SHARES:
        return mixture
    weight = np.exp(weighted.smoothed)
    for _ in range(_ITERATIONS):
        shares = weight @ mixture.responsibilities(weighted.draws)
        mixture = MixtureBlock(shares / shares.sum(), mixture.locations, mixture.scale_trils)
    return mixture


def _range(c: np.ndarray) -> str:
    low, high = float(np.min(c)), float(np.max(c))
    return f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"
