"""The verdict's rules, each at its threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lowerbound.algorithms.base import Mode, Status
from lowerbound.diagnostics.chains import Chains
from lowerbound.diagnostics.importance import Weighted
from lowerbound.diagnostics.verdict import Shift, VerdictStatus, judge, judge_chains, shift_of
from lowerbound.families import DenseGaussian

N = 4000
TRUSTED, CORRECTED, NOT_TRUSTED = VerdictStatus.TRUSTED, VerdictStatus.CORRECTED, VerdictStatus.NOT_TRUSTED


def weighted(**changes) -> Weighted:
    """Even weights on two-dimensional draws, a gap of zero known to 1e-4."""
    rng = np.random.default_rng(0)
    uneven = changes.pop("uneven", 0.5)
    raw = uneven * rng.standard_normal(N)
    base = Weighted(
        draws=rng.standard_normal((N, 2)),
        log_density=np.zeros(N),
        log_weights=raw,
        smoothed=raw - np.log(np.exp(raw).sum()),
        pareto_k=0.2,
        log_evidence=-3.0,
        log_evidence_se=1e-4,
        elbo=-3.0,
        elbo_se=1e-4,
        bad=0.0,
        rounds=0,
    )
    return replace(base, **changes)


def verdict(w: Weighted | None = None, status=Status.CONVERGED, modes=(), mean=0.0, log_sd=0.0, agree=True):
    shift = Shift(np.array([0.0, mean]), np.array([0.0, log_sd]), agree)
    return judge(status, "a rule", w or weighted(), list(modes), shift, ["a", "b"])


def test_an_exact_q_is_trusted():
    v = verdict()
    assert v.status is TRUSTED and v.trusted and v.converged and v.parameters == ()


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (dict(w=weighted(elbo=-3.004)), TRUSTED),
        (dict(w=weighted(elbo=-3.006)), CORRECTED),
        (dict(w=weighted(elbo=-3.1, elbo_se=0.2)), CORRECTED),  # a large error is no excuse for a large gap
        (dict(w=weighted(pareto_k=0.49)), TRUSTED),
        (dict(w=weighted(pareto_k=0.51)), CORRECTED),
        (dict(w=weighted(pareto_k=0.71, uneven=1.0)), NOT_TRUSTED),
        (dict(w=weighted(pareto_k=0.69, uneven=1.2)), NOT_TRUSTED),  # efficiency exp(-1.44) = 0.24
        (dict(w=weighted(pareto_k=0.49, uneven=1.1, elbo=-3.5)), CORRECTED),
        (dict(w=weighted(uneven=1.6, elbo=-3.5)), NOT_TRUSTED),  # fewer than 1,000 effective draws
        (dict(mean=0.049), TRUSTED),
        (dict(mean=0.051), CORRECTED),
        (dict(log_sd=-0.051), CORRECTED),
        (dict(mean=0.2, agree=False), NOT_TRUSTED),
        (dict(status=Status.MAX_STEPS), CORRECTED),
        (dict(status=Status.STALLED), CORRECTED),
        (dict(status=Status.FLAT), NOT_TRUSTED),
        (dict(status=Status.INTERRUPTED), NOT_TRUSTED),
        (dict(status=Status.NOT_FINITE), NOT_TRUSTED),
        (dict(w=weighted(bad=0.005)), CORRECTED),
        (dict(w=weighted(bad=0.02)), NOT_TRUSTED),
        (dict(modes=[Mode(np.zeros(2), np.eye(2), -5.0)]), CORRECTED),
    ],
)
def test_rules(case, expected):
    v = verdict(**case)
    assert v.status is expected
    assert v.sentence and v.reasons
    assert bool(v.next_step) == (expected is NOT_TRUSTED)


def test_it_names_the_parameters_that_move():
    v = verdict(mean=0.3)
    assert v.parameters == ("b",)
    assert any("b" in r for r in v.reasons)


def chains(**changes) -> Chains:
    base = Chains(np.zeros((100, 64, 2)), r_hat=1.01, effective=2000.0, accepted=0.8, divergent=0.0)
    return replace(base, **changes)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, CORRECTED),
        ({"r_hat": 1.021}, NOT_TRUSTED),
        ({"effective": 999.0}, NOT_TRUSTED),
        ({"divergent": 0.002}, NOT_TRUSTED),
        ({"accepted": 0.4}, NOT_TRUSTED),
    ],
)
def test_chains_overrule_only_when_mixed(change, expected):
    before = verdict(w=weighted(pareto_k=0.9, uneven=1.6))
    assert before.status is NOT_TRUSTED
    after = judge_chains(before, chains(**change))
    assert after.status is expected
    assert "R-hat" in after.reasons[-1]


def test_shift_is_that_of_the_weights():
    """q = N(0, I) against N((0.3, 0), diag(1, 4)), with exact weights: the shifts are 0.3 sd and log 2."""
    rng = np.random.default_rng(3)
    q = DenseGaussian(np.zeros(2), np.eye(2))
    target = DenseGaussian(np.array([0.3, 0.0]), np.diag([1.0, 2.0]))
    proposal = DenseGaussian(np.zeros(2), 2.5 * np.eye(2))
    x = proposal.sample(rng, 200_000)
    log_p, log_r = target.log_prob(x), proposal.log_prob(x)
    w = weighted(draws=x, log_density=log_p, log_weights=log_p - log_r, smoothed=log_p - log_r)
    w = replace(w, smoothed=w.smoothed - np.log(np.exp(w.smoothed).sum()))
    shift = shift_of(w, q)
    np.testing.assert_allclose(shift.mean, [0.3, 0.0], atol=0.03)
    np.testing.assert_allclose(shift.log_sd, [0.0, np.log(2)], atol=0.03)
    assert shift.agree


def test_the_shift_of_an_exact_q_has_no_noise():
    rng = np.random.default_rng(4)
    q = DenseGaussian(np.array([1.0, -2.0]), np.array([[2.0, 0.0], [1.0, 0.5]]))
    wide = DenseGaussian(q.mean, 2 * q.scale_tril)
    x = wide.sample(rng, 500)
    log_p = q.log_prob(x) + 7.0
    lw = log_p - wide.log_prob(x)
    w = weighted(draws=x, log_density=log_p, log_weights=lw, smoothed=lw - np.log(np.exp(lw).sum()))
    shift = shift_of(w, q)
    np.testing.assert_allclose(shift.mean, 0.0, atol=1e-12)
    np.testing.assert_allclose(shift.log_sd, 0.0, atol=1e-12)
