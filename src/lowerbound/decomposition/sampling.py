r"""Any number of dimensions: three estimates from three sets of draws, each with its standard error.

    log p(x)   importance weights of a defensive mixture that learns (:mod:`lowerbound.diagnostics.weights.importance`)
    ELBO(q)    the mean over draws of q
    KL         the mean of log q - log p(x, z) over other draws of q, with p(z | x) normalised by importance weights
               of their own

Independent, so that log p(x) - ELBO - KL over the root of the summed squares of their errors is a z-score. It is a
check of the estimates and not of the identity, which holds: a size beyond 5 says that weights with a heavy tail, or a
mode that one of the two mixtures has not met, make an error larger than it knows.
"""

from __future__ import annotations

import numpy as np

from lowerbound.algorithms.base import Mode
from lowerbound.algorithms.quasi_newton import root
from lowerbound.decomposition.approximation import place_of
from lowerbound.decomposition.peaks import peak
from lowerbound.decomposition.result import Decomposition
from lowerbound.decomposition.target import Target
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.weights.importance import Weighted, weigh
from lowerbound.divergences.heavy import variance
from lowerbound.families import DenseGaussian

#: k-hat from which means of weights cannot be believed (Vehtari et al. 2024).
_K_HAT = 0.7
#: Fewest effective draws of whose weights a standard error is believed.
_EFFECTIVE = 100


def by_sampling(target: Target, *, num_draws: int, seed: int) -> Decomposition:
    """The three numbers, with standard errors.

    Args:
        target: The model and q.
        num_draws: Draws of q for each of the last two.
        seed: The same seed gives the same bits.

    Cost: 2 ``num_draws`` evaluations, and up to 2 x 6 rounds of 2,048 for the weights.
    """
    rng = [np.random.default_rng([seed, 0xDEC, i]) for i in range(4)]
    middle, spread = place_of(target.q.points(target.q.sample(np.random.default_rng([seed, 1]), 1024)).u)
    mode, covariance, _ = peak(target, middle)
    fitted = DenseGaussian(mode, root(0.5 * (covariance + covariance.T)))
    about_q = Mode(middle, spread + 1e-12 * np.eye(len(mode)), 0.0)
    first, second = (weigh(target.kernel, fitted, [about_q], r) for r in rng[:2])
    (elbo, heavy), (kl, heavy_too) = (_mean(target, r, num_draws, gain=g) for r, g in ((rng[2], True), (rng[3], False)))
    reasons = [_doubt(w, n) for w, n in ((first, "log p(x)"), (second, "KL(q ‖ p(z | x))"))]
    if not np.isfinite(elbo.value) or not np.isfinite(kl.value):
        elbo, kl = Estimate(-np.inf, 0.0), Estimate(np.inf, 0.0)
        reasons.append(
            heavy
            or heavy_too
            or "draws of q have p(x, z) = 0, or a log density that is no number, so that KL(q ‖ p(z | x)) is infinite"
        )
    else:
        kl = Estimate(kl.value + second.log_evidence, float(np.hypot(kl.se, second.log_evidence_se)))
        reasons.append(heavy or heavy_too)
    return Decomposition(
        Estimate(first.log_evidence, first.log_evidence_se),
        elbo,
        kl,
        "sampling",
        (
            f"importance weights, {len(first.draws):,} draws, k-hat {first.pareto_k:.2f}",
            f"{num_draws:,} draws of q{_unknown(elbo)}",
            f"{num_draws:,} other draws of q; p(z | x) normalised by {len(second.draws):,} draws of its own"
            + _unknown(kl),
        ),
        tuple(r for r in reasons if r),
    )


def _mean(target: Target, rng: np.random.Generator, n: int, *, gain: bool) -> tuple[Estimate, str]:
    """The mean over draws of q, and what its tail says against it."""
    t = target.terms(target.q.sample(rng, n))
    x, none = (-t.gain, -np.inf) if gain else (t.loss, np.inf)
    if not np.isfinite(x).all():
        return Estimate(none, 0.0), ""
    spread, found = variance(x, np.maximum(x - np.median(x), 0.0))
    value = -float(x.mean()) if gain else float(x.mean())
    if spread < np.inf or found is None:
        return Estimate(value, float(np.sqrt(spread / n))), ""
    k = f"log q - log p(x, z) over draws of q has the tail shape k-hat {found.k:.2f} ± {found.error:.2f}"
    if found.k - 2 * found.error > 1:
        return Estimate(none, 0.0), f"{k}, and so no mean: KL(q ‖ p(z | x)) is infinite. Take a q with lighter tails"
    if found.k + found.error > 1:
        return Estimate(value, np.inf), f"{k}, and may have no mean: KL(q ‖ p(z | x)) may be infinite"
    return Estimate(value, np.inf), f"{k}, and may have no variance: the errors of the ELBO and of the KL are not known"


def _unknown(e: Estimate) -> str:
    return ", of unknown error" if e.se == np.inf else ""


def _doubt(w: Weighted, name: str) -> str:
    if (w.pareto_k > _K_HAT and not w.even) or w.effective < _EFFECTIVE:
        return (
            f"the normaliser of {name} rests on weights with k-hat {w.pareto_k:.2f} and {w.effective:.0f} effective "
            "draws: its error may be larger than is said"
        )
    return ""
