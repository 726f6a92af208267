"""How far a posterior can be trusted: the verdict.

The rules, in order:

* NOT_TRUSTED if the fit ended for a reason that leaves no answer (flat, unbounded, interrupted, not
  finite), more than 1% of q's draws have a density that is not finite, or the log density is so large
  that float64 cannot tell 0.001 nats apart.
* TRUSTED if the stopping rule was met, the estimated gap KL(q || p) is below 0.005 nats (beyond its
  error), k-hat < 0.5, and importance weighting moves no mean by more than 0.05 sd and no sd by more
  than 5%: q is the posterior, for every use that a sample of some thousand draws has.
* CORRECTED if the weights of the defensive mixture can bear the correction: k-hat < 0.5 with a fifth of
  the draws effective, or < 0.7 with two fifths (a mixture that has been taught and is still less
  efficient has met a shape it cannot take, and what it misses k-hat cannot see), or weights so even
  that their tail means nothing; at least 1,000 effective draws, before smoothing as after; the log
  evidence known to 0.1 nats; two halves of the draws that agree; and, where there are several modes,
  few that a single search met. The draws returned are importance resamples, not q's.
* CORRECTED too if short Hamiltonian chains started from the weighted draws have mixed (R-hat < 1.02 over
  all chains, at least 1,000 effective draws, fewer than 0.1% divergent, acceptance above 0.5) and no
  other mode is known: the draws are the chains'.
* NOT_TRUSTED otherwise. If the chains came near (R-hat < 1.2) the draws are theirs all the same.

Thresholds: k-hat from Vehtari et al. (2024); 1,000 effective draws are a Monte Carlo error of 0.03 sd;
0.005 nats move a mean by at most 0.1 sd in the worst direction there is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np

from lowerbound.algorithms.base import Mode, Status
from lowerbound.diagnostics.chains import Chains
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.importance import Weighted
from lowerbound.families import Block

GAP = 0.005
#: Nats that float64 must be able to tell apart in the log density.
RESOLUTION = 1e-3
SHIFT = 0.05
USABLE_K = 0.7
GOOD_K = 0.5
LEARNED = 0.4
FLOOR = 0.2
EVIDENCE_SE = 0.1
MISSING = 0.2
EFFECTIVE = 1000


class VerdictStatus(Enum):
    """TRUSTED, CORRECTED (the returned draws are repaired ones) or NOT_TRUSTED."""

    TRUSTED = "trusted"
    CORRECTED = "corrected"
    NOT_TRUSTED = "not trusted"


@dataclass(frozen=True)
class Verdict:
    """What can be said about a posterior.

    Attributes:
        status: TRUSTED, CORRECTED or NOT_TRUSTED.
        sentence: For the person.
        reasons: What it rests on.
        parameters: The coordinates concerned, worst first.
        next_step: What to try.
        converged, rule: Whether the stopping rule was met, and which it is.
        elbo: The evidence lower bound, in nats.
        pareto_k: k-hat of the importance weights.
        kl_gap: Estimated KL(q || p), in nats.
        effective: Effective draws behind the weights.
        not_checked: What this verdict does not cover.
        fatal: Whether the fit ended for a reason that leaves no answer.
    """

    status: VerdictStatus
    sentence: str
    reasons: tuple[str, ...]
    parameters: tuple[str, ...]
    next_step: str
    converged: bool
    rule: str
    elbo: Estimate
    pareto_k: float
    kl_gap: Estimate
    effective: float
    not_checked: tuple[str, ...] = field(default=())

    fatal: bool = False

    @property
    def trusted(self) -> bool:
        """Whether the returned draws may be used: TRUSTED or CORRECTED."""
        return self.status is not VerdictStatus.NOT_TRUSTED

    def __str__(self) -> str:
        lines = [f"{self.status.name}: {self.sentence}"]
        lines += [f"  - {r}" for r in self.reasons]
        if self.next_step:
            lines.append(f"  Next: {self.next_step}")
        return "\n".join(lines)


def judge(
    status: Status,
    rule: str,
    weighted: Weighted,
    modes: list[Mode],
    shift: Shift,
    names: list[str],
    missing: float = 0.0,
) -> Verdict:
    """Apply the rules at the top of this file."""
    w = weighted
    gap = Estimate(w.gap, w.gap_se)
    reasons: list[str] = []
    parameters: tuple[str, ...] = ()
    next_step = ""
    k_text = f"k-hat = {w.pareto_k:.2f}" if np.isfinite(w.pareto_k) else "the importance weights are constant"
    fatal = status in (Status.FLAT, Status.UNBOUNDED, Status.NOT_FINITE, Status.INTERRUPTED)
    means, sds = np.abs(shift.mean), np.abs(shift.log_sd)
    worst = np.argsort(-np.nan_to_num(np.maximum(means, sds), nan=np.inf))
    moved = [names[i] for i in worst if means[i] > SHIFT or sds[i] > SHIFT]
    share = w.effective / len(w.draws)
    usable = w.even or (w.pareto_k < GOOD_K and share > FLOOR) or (w.pareto_k < USABLE_K and share > LEARNED)
    weights_good = (
        usable
        and w.effective >= EFFECTIVE
        and w.log_evidence_se < EVIDENCE_SE
        and w.bad <= 0.01
        and shift.agree
        and missing <= MISSING
    )
    reasons.append(status.sentence + (f" ({rule})" if status is Status.CONVERGED and rule else ""))
    # Draws that carry weight; far in a tail the density may be as large as it likes.
    heavy = np.abs(w.log_density[np.isfinite(w.log_density) & (w.smoothed > w.smoothed.max() - 20)])
    coarse = heavy.size > 0 and np.spacing(heavy.max()) > RESOLUTION
    if fatal or coarse or w.bad > 0.01:
        verdict = VerdictStatus.NOT_TRUSTED
        why_not = status.sentence
        if coarse and not fatal:
            why_not = f"the log density is of size {heavy.max():.1g}, where float64 cannot resolve a posterior"
        elif not fatal:
            why_not = f"the log density is not finite at {w.bad:.0%} of q's draws"
        sentence = f"This posterior is not an answer: {why_not}."
        if status is Status.FLAT:
            parameters = tuple(shift.flat)
            next_step = (
                f"give {', '.join(shift.flat)} a proper prior" if shift.flat else "give every latent a proper prior"
            ) + ": nothing in the model or the data bounds it."
        elif status is Status.INTERRUPTED:
            next_step = "run the fit to its end."
        else:
            next_step = "look for a prior or a transform that overflows there."
    elif (
        status.converged
        and gap.value - 2 * min(gap.se, GAP) < GAP
        and gap.value < 4 * GAP
        and w.pareto_k < GOOD_K
        and w.bad == 0
        and not moved
        and not modes
    ):
        verdict = VerdictStatus.TRUSTED
        sentence = "q matches the posterior; its draws can be used as they are."
    elif weights_good:
        verdict = VerdictStatus.CORRECTED
        parameters = tuple(moved)
        sentence = (
            f"q is {gap.value:.2g} nats from the posterior; the draws returned are importance-corrected "
            f"({w.effective:.0f} effective)."
        )
    else:
        verdict = VerdictStatus.NOT_TRUSTED
        parameters = tuple(moved)
        why = []
        if not usable:
            why.append(f"k-hat is {w.pareto_k:.2f} with {share:.0%} of the draws effective")
        if w.effective < EFFECTIVE:
            why.append(f"only {w.effective:.0f} effective draws of {len(w.draws)}")
        if w.log_evidence_se >= EVIDENCE_SE:
            why.append(f"the log evidence is known to {w.log_evidence_se:.2g} nats only")
        if missing > MISSING:
            why.append(f"{len(modes) + 1} modes were found, many of them once: there are probably more")
        if not shift.agree:
            why.append("two halves of the weighted draws disagree")
        sentence = "q does not match the posterior and could not be corrected: " + ", ".join(why) + "."
        next_step = (
            "Try the other parameterisation of hierarchical scales (numpyro.infer.reparam.LocScaleReparam turns "
            "centred into non-centred), tighten vague priors, or check these parameters with MCMC."
        )
        if missing > MISSING:
            next_step = "Restrict the prior to one mode, or order components that can be exchanged."
    if np.isfinite(w.elbo):
        reasons.append(
            f"ELBO {Estimate(w.elbo, w.elbo_se)}, estimated gap KL(q||p) = {max(gap.value, 0):.3g} ± {gap.se:.2g} nats"
        )
        reasons.append(f"{k_text}, {w.effective:.0f} effective of {len(w.draws)} weighted draws")
    if modes:
        lower = ", ".join(f"{w.elbo - m.elbo:.1f}" for m in modes)
        reasons.append(f"{len(modes)} other mode(s) found, their ELBO lower by {lower} nats")
    if moved:
        reasons.append("weighting moves " + ", ".join(moved[:6]) + (" and others" if len(moved) > 6 else ""))
    return Verdict(
        verdict,
        sentence,
        tuple(reasons),
        parameters,
        next_step,
        status.converged,
        rule,
        Estimate(w.elbo, w.elbo_se),
        w.pareto_k,
        gap,
        w.effective,
        ("modes that no start found", "tails that neither q nor its Student-t reaches"),
        bool(fatal or coarse or w.bad > 0.01),
    )


def judge_chains(verdict: Verdict, chains: Chains, *, crossing: bool = True) -> Verdict:
    """A NOT_TRUSTED verdict after short chains: CORRECTED if they have mixed.

    ``crossing`` is False where other modes are known: chains that agree may then all be in one of them.
    """
    found = (
        f"short Hamiltonian chains: R-hat {chains.r_hat:.3f}, {chains.effective:.0f} effective draws, "
        f"{chains.divergent:.2%} divergent"
    )
    if chains.mixed and crossing:
        return replace(
            verdict,
            status=VerdictStatus.CORRECTED,
            sentence="q does not match the posterior; the draws returned are those of short chains started from it, "
            f"which have mixed ({chains.effective:.0f} effective).",
            reasons=(*verdict.reasons, found),
            next_step="",
            effective=chains.effective,
        )
    sentence = verdict.sentence
    if chains.usable:
        sentence += " The draws returned are those of short chains, which are nearer but have not mixed."
    return replace(verdict, sentence=sentence, reasons=(*verdict.reasons, found))


def judge_point(status: Status, rule: str) -> Verdict:
    """The verdict on a point mass: it has no spread to be trusted."""
    return Verdict(
        VerdictStatus.NOT_TRUSTED,
        "a point mass is the mode of the posterior, not an approximation of it: it has no spread.",
        (status.sentence + (f" ({rule})" if status is Status.CONVERGED else ""),),
        (),
        "leave family out for an approximate posterior.",
        status.converged,
        rule,
        Estimate(-np.inf, 0.0),
        np.inf,
        Estimate(np.inf, 0.0),
        0.0,
    )


@dataclass(frozen=True, eq=False)
class Shift:
    """How far importance weighting moves q's moments, per unconstrained coordinate.

    Attributes:
        mean: In q's standard deviations.
        log_sd: log ratio of the standard deviations.
        agree: Whether two independent halves of the weighted draws give the same moments.
        flat: Sites without a gradient.
    """

    mean: np.ndarray
    log_sd: np.ndarray
    agree: bool
    flat: tuple[str, ...] = ()


def shift_of(weighted: Weighted, q: Block, flat: tuple[str, ...] = ()) -> Shift:
    """Compare the weighted moments with q's, and two halves of the weighted draws with each other.

    q's moments are taken from the same draws, weighted by q(z) / r(z) in place of p(x, z) / r(z): where the
    two weights agree the draws' own error cancels. A half of effective size n knows a mean to about
    1/sqrt(n) sd; halves that differ by more than six times that (and by more than 0.1) saw different
    posteriors.
    """
    x = weighted.draws
    w = np.exp(weighted.smoothed)
    log_v = np.asarray(q.log_prob(x)) - (weighted.log_density - weighted.log_weights)
    v = np.exp(log_v - log_v.max()) if np.isfinite(log_v.max()) else w
    q_mean, q_sd = _moments(x, v / v.sum())
    mean, sd = _moments(x, w)
    if not (np.isfinite(mean).all() and np.isfinite(q_mean).all()):
        return Shift(np.full(q.dimension, np.inf), np.full(q.dimension, np.inf), False, flat)
    halves = []
    for part in weighted.parts():
        u = w[part] / max(w[part].sum(), 1e-300)
        halves.append((*_moments(x[part], u), 1 / max((u**2).sum(), 1e-300)))
    (m1, s1, n1), (m2, s2, n2) = halves
    error = 6 * np.sqrt(1 / n1 + 1 / n2)
    agree = bool(
        np.all(np.abs(m1 - m2) / sd < max(error, 0.1)) and np.all(np.abs(np.log(s1 / s2)) < max(1.5 * error, 0.1))
    )
    return Shift((mean - q_mean) / q_sd, np.log(sd / q_sd), agree, flat)


def _moments(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = w @ x
    # In units of the draws' own spread, so that squares neither vanish nor overflow.
    unit = np.maximum(np.abs(x - mean).max(0), 1e-300)
    return mean, unit * np.sqrt(np.maximum(w @ ((x - mean) / unit) ** 2, 1e-300))
