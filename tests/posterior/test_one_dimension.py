"""One latent is a posterior like any other, also where no Gaussian will do."""

from __future__ import annotations

import warnings

import numpyro.distributions as dist

import lowerbound as lb


def test_escalation_in_one_dimension_does_not_ask_for_a_flow():
    # A flow moves one coordinate given another, and there is none. The tails of a Cauchy are beyond all else too.
    cauchy = lb.LogDensity(lambda x: dist.Cauchy(0, 1).log_prob(x), {"x": lb.Site()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.TrustWarning)
        posterior = lb.fit(cauchy)
    assert [t.name for t in posterior.trials] == ["sinh_arcsinh"]
    assert not posterior.verdict.trusted
