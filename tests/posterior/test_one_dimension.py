"""One latent is a posterior like any other, also where no Gaussian will do."""

from __future__ import annotations

import warnings

import lowerbound as lb


def test_escalation_in_one_dimension_does_not_ask_for_a_flow():
    # A flow moves one coordinate given another, and there is none. A spike with tails exp(-|x|^0.3), which have every
    # moment, is beyond all else too.
    spike = lb.LogDensity(lambda x: -((1e-6 + x**2) ** 0.15), {"x": lb.Site()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.TrustWarning)
        posterior = lb.fit(spike)
    assert [t.name for t in posterior.trials] == ["sinh_arcsinh"]
    assert not posterior.verdict.trusted
