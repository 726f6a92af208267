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
from lowerbound.decomposition.quadrature import peak
from lowerbound.decomposition.result import Decomposition
from lowerbound.decomposition.target import Target
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.weights.importance import Weighted, weigh
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
    mode, covariance = peak(target, middle)
    fitted = DenseGaussian(mode, root(0.5 * (covariance + covariance.T)))
    about_q = Mode(middle, spread + 1e-12 * np.eye(len(mode)), 0.0)
    first, second = (weigh(target.kernel, fitted, [about_q], r) for r in rng[:2])
    elbo, kl = _mean(target, rng[2], num_draws, gain=True), _mean(target, rng[3], num_draws, gain=False)
    reasons = [_doubt(w, n) for w, n in ((first, "log p(x)"), (second, "KL(q ‖ p(z | x))"))]
    if not np.isfinite(elbo.value) or not np.isfinite(kl.value):
        elbo, kl = Estimate(-np.inf, 0.0), Estimate(np.inf, 0.0)
        reasons.append(
            "draws of q have p(x, z) = 0, or a log density that is not a number, so that KL(q ‖ p(z | x)) is infinite"
        )
    else:
        kl = Estimate(kl.value + second.log_evidence, float(np.hypot(kl.se, second.log_evidence_se)))
    return Decomposition(
        Estimate(first.log_evidence, first.log_evidence_se),
        elbo,
        kl,
        "sampling",
        (
            f"importance weights, {len(first.draws):,} draws, k-hat {first.pareto_k:.2f}",
            f"{num_draws:,} draws of q",
            f"{num_draws:,} other draws of q; p(z | x) normalised by {len(second.draws):,} draws of its own",
        ),
        tuple(r for r in reasons if r),
    )


def _mean(target: Target, rng: np.random.Generator, n: int, *, gain: bool) -> Estimate:
    t = target.terms(target.q.sample(rng, n))
    x = t.gain if gain else t.loss
    if not np.isfinite(x).all():
        return Estimate(-np.inf if gain else np.inf, 0.0)
    return Estimate(float(x.mean()), float(x.std(ddof=1) / np.sqrt(n)))


def _doubt(w: Weighted, name: str) -> str:
    if (w.pareto_k > _K_HAT and not w.even) or w.effective < _EFFECTIVE:
        return (
            f"the normaliser of {name} rests on weights with k-hat {w.pareto_k:.2f} and {w.effective:.0f} effective "
            "draws: its error may be larger than is said"
        )
    return ""
