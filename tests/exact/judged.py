"""What a posterior with a known answer must get right, whatever its verdict.

TRUSTED: q itself is used, so its moments may be off by what the verdict allows: a gap of 0.005 nats moves
a mean by at most 0.1 sd (Pinsker-like bound for Gaussians, sqrt(2 KL)). CORRECTED: the moments are
importance-weighted ones, and only Monte Carlo error is allowed: 5 standard errors, each sd / sqrt(effective
draws). The bound is below the evidence, and its estimate within 5 standard errors, in every case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import lowerbound as lb
from lowerbound.diagnostics import VerdictStatus

#: sqrt(2 KL) at the largest gap for TRUSTED.
BIAS = 0.1


def assert_evidence(posterior: lb.Posterior, log_evidence: float) -> None:
    """ELBO <= log p(x), and the estimate of log p(x) is right; neither is vacuous."""
    elbo, estimate = posterior.elbo, posterior.log_evidence
    assert elbo.value <= log_evidence + 5 * elbo.se + 1e-8
    assert elbo.value > log_evidence - 1.0, "the bound is far off: this q is of no use"
    assert abs(estimate.value - log_evidence) <= 5 * estimate.se + 1e-8, f"{estimate} against {log_evidence}"
    assert estimate.se < 0.05, "the standard error is so large that the comparison says nothing"
    gap = log_evidence - elbo.value
    stated = posterior.verdict.kl_gap
    assert abs(stated.value - gap) <= 5 * stated.se + 1e-8


def assert_moments(posterior: lb.Posterior, mean: Mapping[str, Any], sd: Mapping[str, Any]) -> None:
    """Posterior means and sds by site, within what the verdict promises."""
    assert posterior.verdict.status is not VerdictStatus.NOT_TRUSTED, str(posterior.verdict)
    corrected = posterior.verdict.status is VerdictStatus.CORRECTED
    effective = posterior.verdict.effective if corrected else 8192
    error = 5 / np.sqrt(effective)
    allowed = error if corrected else BIAS + error
    got_mean, got_sd = posterior.mean(), posterior.sd()
    for k in mean:
        shift = np.abs(got_mean[k] - np.asarray(mean[k])) / np.asarray(sd[k])
        assert np.max(shift) < allowed, f"mean of {k}: off by {np.max(shift):.3f} sd, {allowed:.3f} allowed"
        # An sd has a relative error of 1/sqrt(2 n), and up to twice that with heavier tails than a Gaussian's.
        ratio = np.abs(np.log(got_sd[k] / np.asarray(sd[k])))
        assert np.max(ratio) < allowed, f"sd of {k}: off by a factor of {np.exp(np.max(ratio)):.3f}"
