r"""What can be said about particles, which have no density.

Importance weights and chains judge the Gaussian with the particles' mean and covariance, and make the draws that are
returned; KL(q || p) of the particles themselves is infinite. Of the particles these are measured:

* The Stein identity E_p[(x - m) grad log p'] = -I. At particles with covariance S about a Gaussian of precision P
  the estimate is -S P: its symmetric part, whitened, has as eigenvalues the particles' variance over the posterior's,
  direction by direction. Below a half somewhere the particles have *collapsed* there.
* The kernel Stein discrepancy, over what as many independent draws of the posterior have on average. (Particles of SVGD
  are less random than that, so below 1 says little; well above says that they are not from p.)
* How many particles there are: with no more than dimensions, their covariance is singular whatever they do.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lowerbound.algorithms.stein import median_bandwidth
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus
from lowerbound.families import ParticleBlock
from lowerbound.kernel import Kernel
from lowerbound.objectives.pairs import stein_v_statistic

#: Variance along a direction, over what the scores say, below which the particles have collapsed.
COLLAPSED = 0.5
#: Kernel Stein discrepancy, squared, over that of independent draws, above which they are not the posterior's.
APART = 2.0
_UNSEEN = (
    "the particles have no density: weights and chains are about the Gaussian with their mean and covariance, and the "
    "particles' own shape beyond it was not checked"
)


def spread(q: ParticleBlock, scores: np.ndarray) -> np.ndarray:
    """The particles' variance over the posterior's, along the directions of its eigenvalues, ascending ``[d]``.

    Args:
        q: n particles in d dimensions.
        scores: grad log p at them ``[n, d]``.
    """
    root = q.gaussian.scale_tril
    e = q.gaussian.whiten(q.points)
    g = scores @ root
    slope = -(e.T @ (g - g.mean(0))) / len(e)
    return np.linalg.eigvalsh(0.5 * (slope + slope.T))


def examine(kernel: Kernel, q: ParticleBlock) -> tuple[str, ...]:
    """Sentences about the particles: collapse, discrepancy, number. One call of the kernel for each 64 of them."""
    n, d = q.points.shape
    _, scores = kernel(q.points)
    if not np.isfinite(scores).all():
        return (f"the score is not finite at {(~np.isfinite(scores).all(1)).sum()} of {n} particles",)
    out = []
    if n <= d:
        out.append(f"{n} particles in {d} dimensions lie in a plane: too few for a covariance; take at least {4 * d}")
    else:
        least = float(spread(q, scores)[0])
        said = f"along the worst direction the particles' variance is about {max(least, 0.0):.2f} of the posterior's"
        out.append(said + ": they have collapsed" if least < COLLAPSED else said)
    root = q.gaussian.scale_tril
    white = q.gaussian.whiten(q.points)
    squared, independent = stein_v_statistic(white, scores @ root, median_bandwidth(white))
    ratio = squared / independent
    said = f"kernel Stein discrepancy, squared: {ratio:.2g} times that of {n} independent draws"
    out.append(said + ", which the posterior's particles do not have" if ratio > APART else said)
    nearest = _nearest(white)
    if (twins := int((nearest < 1e-3).sum())) > 1:
        out.append(f"{twins} particles lie on others: they count as fewer")
    return tuple(out)


def judge_particles(verdict: Verdict, found: tuple[str, ...], effective: float) -> Verdict:
    """The verdict on the Gaussian with their moments, as one on the particles: never TRUSTED.

    Args:
        verdict: Of the Gaussian.
        found: What :func:`examine` says.
        effective: Effective number of the weighted draws, which are returned where the verdict was TRUSTED.
    """
    # What the rules say of q is said of that Gaussian.
    head, rest = verdict.sentence[:5], verdict.sentence[5:]
    verdict = replace(
        verdict,
        sentence=f"the Gaussian with the particles' moments is {rest}" if head == "q is " else verdict.sentence,
        reasons=(*verdict.reasons, *found),
        not_checked=(*verdict.not_checked, _UNSEEN),
        elbo=Estimate(-np.inf, 0.0),
    )
    if verdict.status is not VerdictStatus.TRUSTED:
        return verdict
    return replace(
        verdict,
        status=VerdictStatus.CORRECTED,
        sentence="draws are importance-weighted ones about the particles, which have no density to be trusted.",
        effective=effective,
    )


def _nearest(x: np.ndarray) -> np.ndarray:
    """Distance of each point to the nearest other one."""
    from scipy.spatial import KDTree

    return np.asarray(KDTree(x).query(x, k=2)[0])[:, 1]
