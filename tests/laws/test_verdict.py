"""The verdict's rules, each at its threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lowerbound.algorithms.base import Mode, Status
from lowerbound.diagnostics.chains.control_variates import Moments
from lowerbound.diagnostics.chains.short import Chains
from lowerbound.diagnostics.rules.by_chains import judge_chains
from lowerbound.diagnostics.rules.by_weights import judge
from lowerbound.diagnostics.rules.overruling import judge_tails, judge_unchecked
from lowerbound.diagnostics.shift import Drift, Seen, Shift, drift, shift_of
from lowerbound.diagnostics.verdict import VerdictStatus
from lowerbound.diagnostics.weights.importance import Weighted
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
    shift = Shift(np.array([0.0, mean]), np.array([0.0, log_sd]), agree, np.zeros(2), np.ones(2))
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


def seen(log_sd: float, error: float = 0.005) -> Seen:
    """One reported number, s."""
    return Seen(["s"], Drift(np.zeros(1), np.array([log_sd]), np.full(1, error), np.full(1, error)))


@pytest.mark.parametrize(
    ("shift", "error", "expected"),
    [(0.049, 0.005, TRUSTED), (0.051, 0.005, CORRECTED), (0.051, 0.03, TRUSTED), (-0.09, 0.03, CORRECTED)],
)
def test_what_is_reported_counts_beside_the_coordinates(shift, error, expected):
    still = Shift(np.zeros(2), np.zeros(2), True, np.zeros(2), np.ones(2))
    v = judge(Status.CONVERGED, "a rule", weighted(), [], still, ["a", "b"], seen=seen(shift, error))
    assert v.status is expected
    assert v.parameters == (("s",) if expected is CORRECTED else ())
    assert any("as reported" in r for r in v.reasons) == (expected is CORRECTED)


@pytest.mark.parametrize(("shift", "before", "expected"), [
    (0.04, "doubted", TRUSTED),
    (0.06, "doubted", CORRECTED),
    (0.06, "trusted", TRUSTED),
    (0.11, "trusted", CORRECTED),
])  # fmt: skip
def test_chains_are_compared_with_what_is_reported(shift, before, expected):
    first = verdict(**DOUBTED) if before == "doubted" else verdict()
    c, own = chains(), seen(shift)
    still = drift(c, np.zeros(2), np.ones(2))
    v = judge_chains(first, c, still, still, ["a", "b"], seen=(own, own))
    assert v.status is expected
    if before == "trusted" and expected is TRUSTED:
        assert v.reasons[-1] == "the chains move no reported mean or log sd by more than 0.06 (with their errors)"


def test_it_names_the_parameters_that_move():
    v = verdict(mean=0.3)
    assert v.parameters == ("b",)
    assert any("b" in r for r in v.reasons)


def chains(**changes) -> Chains:
    """Chains that have mixed about N(0, 1) in each of two coordinates."""
    error = changes.pop("error", 0.02)
    mean, sd = changes.pop("mean", 0.0), changes.pop("sd", 1.0)
    moments = Moments(np.array([0.0, mean]), np.array([1.0, sd]), np.full(2, error), np.full(2, error), np.ones(2))
    base = Chains(
        draws=np.zeros((100, 64, 2)),
        log_density=np.zeros((100, 64)),
        moments=moments,
        r_hat=1.01,
        worst=1,
        effective=2000.0,
        accepted=0.8,
        divergent=0.0,
    )
    return replace(base, **changes)


def after(before, c: Chains):
    shift = drift(c, np.zeros(2), np.ones(2))
    return judge_chains(before, c, shift, shift, ["a", "b"])


DOUBTED = {"w": weighted(pareto_k=0.9, uneven=1.6)}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"sd": 1.2}, CORRECTED),
        ({"sd": 1.2, "r_hat": 1.051}, NOT_TRUSTED),
        ({"sd": 1.2, "effective": 399.0}, NOT_TRUSTED),
        ({"sd": 1.2, "divergent": 0.002}, NOT_TRUSTED),
        ({"sd": 1.2, "accepted": 0.4}, NOT_TRUSTED),
        ({"sd": 1.2, "error": 0.041}, NOT_TRUSTED),
        ({"sd": 1.2, "missed": 0.009}, CORRECTED),
        ({"sd": 1.2, "missed": 0.01}, NOT_TRUSTED),  # there is weight where the chains have never been
        ({"mean": 0.049}, TRUSTED),  # q was right all along, and the weights could not tell
        ({"mean": 0.051}, CORRECTED),
        ({"sd": 0.95}, CORRECTED),  # log 0.95 = -0.0513
    ],
)
def test_mixed_chains_decide_where_weights_cannot(change, expected):
    before = verdict(**DOUBTED)
    assert before.status is NOT_TRUSTED
    v = after(before, chains(**change))
    assert v.status is expected
    assert any("R-hat" in r for r in v.reasons) and v.r_hat == chains(**change).r_hat
    assert bool(v.next_step) == (expected is NOT_TRUSTED)


def test_a_fit_that_did_not_converge_is_corrected_at_best():
    assert after(verdict(status=Status.MAX_STEPS, **DOUBTED), chains()).status is CORRECTED


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, TRUSTED),
        ({"mean": 0.099}, TRUSTED),  # not more than 0.1
        ({"mean": 0.101}, CORRECTED),
        ({"mean": 0.101, "error": 0.039}, TRUSTED),  # and no more than noise
        ({"mean": 0.19}, CORRECTED),
        ({"sd": 1.3}, CORRECTED),
        ({"mean": 0.19, "r_hat": 1.06}, NOT_TRUSTED),  # something is wrong, and the chains cannot put it right
        ({"r_hat": 1.1, "error": 0.05}, TRUSTED),
        ({"r_hat": 1.21}, NOT_TRUSTED),
    ],
)
def test_chains_check_what_the_weights_trusted(change, expected):
    v = after(verdict(), chains(**change))
    assert v.status is expected
    if expected is NOT_TRUSTED:
        assert v.parameters == ("b",) and v.next_step and "but" in v.sentence
    if expected is CORRECTED:
        assert v.parameters == ("b",)


def test_the_level_is_for_all_parameters_together():
    """Of 500 right coordinates, one in a hundred sets has any beyond; a single test at 1% would have ten of them."""
    rng = np.random.default_rng(0)
    p, se = 500, 0.05
    hits = 0
    for _ in range(200):
        d = Drift(se * rng.standard_normal(p), np.zeros(p), np.full(p, se), np.full(p, se))
        hits += d.beyond(0.0).any()
    assert hits <= 8
    assert Drift(np.full(p, 0.3), np.zeros(p), np.full(p, se), np.full(p, se)).beyond(0.0).all()


@pytest.mark.parametrize(
    ("p", "change", "expected"),
    [
        (200, {}, CORRECTED),
        (201, {}, TRUSTED),  # a thousand effective draws know so many means less well than q does
        (201, {"mean": 0.051}, CORRECTED),
        (201, {"effective": 399.0}, CORRECTED),
    ],
)
def test_in_many_dimensions_q_is_better_than_a_weighted_sample_of_it(p, change, expected):
    before = verdict(w=weighted(elbo=-3.5))
    assert before.status is CORRECTED
    c = chains(**change)
    shift = drift(c, np.zeros(2), np.ones(2))
    v = judge_chains(before, c, shift, shift, [f"x[{i}]" for i in range(p)])
    assert v.status is expected


@pytest.mark.parametrize(
    ("k", "change", "source"),
    [
        (0.6, {}, "chains"),
        (0.4, {}, "weights"),
        (0.6, {"effective": 999.0}, "weights"),
        (0.6, {"r_hat": 1.06}, "weights"),
    ],
)
def test_chains_take_over_from_weights_without_a_variance(k, change, source):
    """Where both agree: the weighted draws' sds may be off by a tenth, with nothing to show it."""
    before = verdict(weighted(pareto_k=k, elbo=-3.1))
    c = chains(**change)
    still = Drift(np.zeros(2), np.zeros(2), np.full(2, 0.02), np.full(2, 0.02))
    off = Drift(np.zeros(2), np.array([0.2, 0.0]), np.full(2, 0.02), np.full(2, 0.02))
    after = judge_chains(before, c, off, still, ["a", "b"])
    assert before.status is CORRECTED and after.status is CORRECTED
    assert after.effective == (c.effective if source == "chains" else before.effective)
    assert ("short chains" in after.sentence) is (source == "chains")


def test_the_weights_of_a_flow_alone_are_not_enough():
    v = judge_unchecked(verdict())
    assert v.status is NOT_TRUSTED and "no chains" in v.sentence and v.next_step


def test_a_parameter_without_an_sd_is_not_trusted():
    v = judge_tails(verdict(), ("b",))
    assert v.status is NOT_TRUSTED and v.parameters == ("b",) and "b" in v.sentence
    assert judge_tails(verdict(), ()) == verdict()


def test_a_deterministic_without_an_sd_leaves_the_status():
    v = judge_tails(verdict(), (), ("e", "f[2]"))
    assert v.status is TRUSTED and v.parameters == () and v.without_sd == ("e", "f[2]")
    assert "e, f[2], computed" in v.reasons[-1] and "the sd of e, f[2]" in v.not_checked[-1]
    assert "quantiles" in v.next_step
    both = judge_tails(verdict(), ("b",), ("e",))
    assert both.status is NOT_TRUSTED and both.parameters == ("b",) and both.without_sd == ("b", "e")


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
