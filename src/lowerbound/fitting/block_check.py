"""The verdict on a product of exponential families.

What is checked is the same as for any q: its continuous part is weighed against the log density, with discrete latents
summed out (:mod:`lowerbound.algorithms.marginal`), and short chains are started from it. Where a model is too large for
that, or its discrete latents cannot be summed out, the verdict says so.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from lowerbound.algorithms.base import Algorithm, Status
from lowerbound.diagnostics.assessment import Assessment, assess, assess_exact, unchecked
from lowerbound.diagnostics.density.review import review
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.rules.thresholds import NEXT
from lowerbound.diagnostics.weighing import weigh_up, with_images
from lowerbound.families import FactoredBlock
from lowerbound.fitting.options import Options
from lowerbound.kernel import Kernel
from lowerbound.model.base import Model

#: Unconstrained dimensions, and discrete values in all, up to which q is checked against the log density.
_DIMENSIONS, _VALUES = 1000, 2_000_000
#: Dimensions, and draws, where q is the posterior by the form of the model, which they need only bear out.
_EXACT, _DRAWS = 20_000, 128
#: What to try where the verdict has no better advice: there is no escalation from a closed form.
_NEXT = "Leave algorithm out: other coordinates and families are then tried. Or check the parameters named with MCMC."
_NEXT_DISCRETE = (
    "Take fewer components, tighten vague priors on the parameters named, begin elsewhere (another seed, or init=), or "
    "pass family='dense': discrete latents are then summed out, and q holds correlations."
)
#: Somebody is waiting: nothing more is begun.
CUT_SHORT = (Status.INTERRUPTED, Status.OUT_OF_TIME)


def small(model: Model) -> bool:
    """Whether a model has continuous latents, and few enough latents for q to be checked against the log density."""
    values = sum(math.prod(d.shape) * len(d.values) for d in model.discrete.values())
    return 0 < model.dimension <= _DIMENSIONS and values <= _VALUES


def comparable(model: Model, *, exact: bool) -> bool:
    """Whether q is compared with the log density."""
    return small(model) or (exact and not model.discrete and 0 < model.dimension <= _EXACT)


def checked(
    kernel: Kernel | None,
    q: FactoredBlock,
    status: Status,
    algorithm: Algorithm,
    options: Options,
    *,
    exact: bool = False,
) -> Assessment | None:
    """q weighed against the log density, and chains started from it; None without one, or if the fit was cut short.

    Args:
        kernel: The log density.
        q, status, algorithm, options: Of the fit.
        exact: Whether the optimum is the posterior itself by the form of the model: where all draws of q then weigh
            the same, chains have nothing to add.
    """
    if kernel is None or status in CUT_SHORT:
        return None
    with np.errstate(all="ignore"):
        draws = options.num_draws or (None if small(kernel.model) else _DRAWS)
        weighed = weigh_up(kernel, q, status, algorithm.rule(), [], 0.0, options.seed, draws)
        if exact and (found := assess_exact(weighed, options.seed)) is not None:
            return found
        if not small(kernel.model):
            return None
        weighed = with_images(weighed, options.seed)
        # The fit is no measure of what the chains may cost: it has not evaluated the density once.
        return review(kernel, q, status, assess(weighed, options.seed), algorithm=algorithm.name, seed=options.seed)


def not_checked(model: Model, q: FactoredBlock, status: Status, algorithm: Algorithm, why: str = "") -> Assessment:
    """That q was not checked, and the reason."""
    if not why and status in CUT_SHORT:
        why = "somebody is waiting for the answer"
    elif not why and not model.dimension:
        why = "every latent is discrete, and chains need a gradient"
    elif not why:
        beside = " and the discrete latents" if model.discrete else ""
        why = f"{model.dimension:,} dimensions{beside} are too many to weigh draws of q"
    return unchecked(q, status, algorithm.rule(), why)


def coupled(model: Model) -> str:
    """Why q is not compared with the posterior, where discrete latents depend on each other given the rest."""
    return f"the discrete latents ({', '.join(model.discrete)}) cannot be summed out"


def completed(assessment: Assessment, model: Model, elbo: Estimate | None) -> Assessment:
    """With q's own ELBO, where it is known better than from weighing, and what is to be said of discrete latents."""
    verdict = assessment.verdict
    if elbo is not None:
        verdict = dataclasses.replace(verdict, elbo=elbo)
    if verdict.next_step == NEXT:
        verdict = dataclasses.replace(verdict, next_step=_NEXT_DISCRETE if model.discrete else _NEXT)
    if model.discrete:
        summed = (f"{r} (discrete latents summed out)" if r.startswith("ELBO ") else r for r in verdict.reasons)
        verdict = dataclasses.replace(verdict, reasons=tuple(summed))
    return dataclasses.replace(assessment, verdict=verdict)
