"""Verdicts where nothing is left to weigh: a point mass, a q that is the posterior, one that was not compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lowerbound.algorithms.base import Status
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus


def judge_itself(status: Status, rule: str) -> Verdict:
    """TRUSTED: q is the posterior, by construction."""
    return Verdict(
        VerdictStatus.TRUSTED,
        "q is the posterior: every latent is discrete, and independent of the others given the data.",
        (status.sentence + (f" ({rule})" if status is Status.CONVERGED and rule else ""),),
        (),
        "",
        status.converged,
        rule,
        Estimate(np.nan, 0.0),
        -np.inf,
        Estimate(0.0, 0.0),
        np.inf,
    )


def judge_exact(verdict: Verdict, draws: int, apart: float) -> Verdict:
    """TRUSTED: q is the posterior, by the form of the model and at every draw.

    Args:
        verdict: By the weights.
        draws: That were weighed.
        apart: Largest difference of log p(x, z) - log q(z) between two of them, in nats.
    """
    said = (
        "every factor is linear in the statistics of one block of q, and at "
        f"{draws:,} draws log p(x, z) - log q(z) is the same to {apart:.1g} nats"
    )
    return replace(
        verdict,
        status=VerdictStatus.TRUSTED,
        sentence="q is the posterior, in closed form; its draws can be used as they are.",
        reasons=(verdict.reasons[0], said, *verdict.reasons[1:]),
        parameters=(),
        next_step="",
        not_checked=(),
    )


def judge_unweighed(status: Status, rule: str, why: str) -> Verdict:
    """NOT_TRUSTED: the ELBO is exact, but how far below the evidence it is has not been asked."""
    return Verdict(
        VerdictStatus.NOT_TRUSTED,
        f"q {'maximises the exact ELBO' if status.converged else 'is where the fit stopped'}, and was not compared "
        f"with the posterior: {why}.",
        (status.sentence + (f" ({rule})" if status is Status.CONVERGED and rule else ""),),
        (),
        "Means and predictions of a product of independent blocks are usually good, its sds too small where latents "
        "are correlated: check them on a part of the data that is small enough to be checked.",
        status.converged,
        rule,
        Estimate(np.nan, 0.0),
        np.inf,
        Estimate(np.nan, np.nan),
        0.0,
        ("the posterior itself: q's draws were not weighed",),
    )


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
