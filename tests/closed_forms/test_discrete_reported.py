"""What is reported of discrete latents: p(z | x) by brute force, whatever q's own block says."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import gammaln, logsumexp
from scipy.stats import norm

import lowerbound as lb
from lowerbound.diagnostics.discrete import differ
from lowerbound.labels import Labels
from lowerbound.posterior import storage
from tests.closed_forms.test_choices import change_point

RNG = np.random.default_rng(3)
COUNTS = np.concatenate([RNG.poisson(1, 8), RNG.poisson(4, 8)])


@pytest.fixture(scope="module")
def changed() -> lb.Posterior:
    return lb.fit(change_point, {"y": COUNTS})


def exact_change_point(y):
    """P(tau), and mean and variance of the rate after it given tau: both rates integrate out."""
    sums = np.array([[y[:t].sum(), y[t:].sum()] for t in range(len(y))])
    sizes = np.array([[t, len(y) - t] for t in range(len(y))])
    logs = (gammaln(2 + sums) - (2 + sums) * np.log(1 + sizes)).sum(1)
    p = np.exp(logs - logsumexp(logs))
    return p, (2 + sums[:, 1]) / (1 + sizes[:, 1]), (2 + sums[:, 1]) / (1 + sizes[:, 1]) ** 2


def test_a_change_point_is_reported_as_wide_as_it_is(changed):
    p, mean_after, variance_after = exact_change_point(COUNTS)
    tau = np.arange(len(p))
    mean = p @ tau
    sd = np.sqrt(p @ (tau - mean) ** 2)
    assert changed.verdict.status is lb.VerdictStatus.TRUSTED
    # q's own block is a mean-field one: this is what used to be reported.
    assert np.log(changed.q.discrete["tau"].sd() / sd) < -0.15
    assert abs(np.log(changed.sd()["tau"] / sd)) < 0.1
    assert abs(changed.mean()["tau"] - mean) < 0.1 * sd
    assert 0.5 * np.abs(changed.probabilities("tau") - p).sum() < 0.03
    assert changed.summary().loc["tau", "ess"] == 4096
    assert any("q's own block of tau" in r for r in changed.verdict.reasons)
    # Draws of tau go with those of the rates.
    draws = changed.sample(40_000)
    total = p @ variance_after + p @ (mean_after - p @ mean_after) ** 2
    correlation = p @ ((tau - mean) * mean_after) / (sd * np.sqrt(total))
    assert abs(np.corrcoef(draws["tau"], draws["after"])[0, 1] - correlation) < 0.05 < abs(correlation)
    assert abs(np.log(draws["tau"].std() / sd)) < 0.1


def test_in_a_file_it_is_the_same(changed, tmp_path, monkeypatch):
    changed.save(tmp_path / "p.lb")
    again = lb.load(tmp_path / "p.lb")
    first, second = changed.sample(50, seed=4), again.sample(50, seed=4)
    assert all((first[k] == second[k]).all() for k in first) and again.sites == changed.sites
    np.testing.assert_array_equal(again.probabilities("tau"), changed.probabilities("tau"))
    at = {k: first[k] for k in changed.sites}
    np.testing.assert_allclose(again.log_prob(at), changed.log_prob(at), rtol=1e-12)
    # Where the data are too large for a file, it holds the probabilities, and says what it lacks.
    monkeypatch.setattr(storage, "MAX_DATA", 0)
    changed.save(tmp_path / "small.lb")
    small = lb.load(tmp_path / "small.lb")
    np.testing.assert_array_equal(small.probabilities("tau"), changed.probabilities("tau"))
    assert small.sd()["tau"] == changed.sd()["tau"]
    with pytest.warns(lb.errors.TrustWarning, match="tau: drawn without regard to the other latents"):
        drawn = small.sample(20_000)["tau"]
    assert np.abs(np.bincount(drawn, minlength=16) / 20_000 - changed.probabilities("tau")).max() < 0.02
    with pytest.raises(lb.errors.IncompatibleError, match="does not hold the data that p"):
        small.log_prob(at)


def two_sites(x, y):
    m = numpyro.sample("m", dist.Normal(0.0, 2.0))
    with numpyro.plate("first", len(x)):
        a = numpyro.sample("a", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(m + 2.0 * a, 1.0), obs=x)
    with numpyro.plate("second", len(y)):
        b = numpyro.sample("b", dist.Bernoulli(0.4))
        numpyro.sample("y", dist.Normal(m - 2.0 * b, 1.0), obs=y)


@pytest.mark.parametrize("options", [{}, {"family": "dense"}])
def test_two_discrete_sites_by_brute_force(options):
    x, y = np.array([0.3, 1.0, 2.0]), np.array([-2.3, 0.0])
    m = np.linspace(-8, 8, 4001)
    parts = {
        "a": np.stack([np.log(w) + norm.logpdf(x[:, None], m + 2 * k, 1) for k, w in enumerate((0.7, 0.3))]),
        "b": np.stack([np.log(w) + norm.logpdf(y[:, None], m - 2 * k, 1) for k, w in enumerate((0.6, 0.4))]),
    }
    log_p = norm.logpdf(m, 0, 2) + sum(logsumexp(v, axis=0).sum(0) for v in parts.values())
    density = np.exp(log_p - logsumexp(log_p))
    posterior = lb.fit(two_sites, {"x": x, "y": y}, **options)
    draws = posterior.sample(20_000)
    for name, logs in parts.items():
        given = np.exp(logs[1] - logsumexp(logs, axis=0))
        truth = given @ density
        assert np.abs(posterior.probabilities(name)[:, 1] - truth).max() < 0.02
        assert np.abs(draws[name].mean(0) - truth).max() < 0.02
    # Both go with m, and so with each other: the mean of a_0 b_1 is not that of a_0 times that of b_1.
    both = [np.exp(v[1] - logsumexp(v, axis=0)) for v in parts.values()]
    together = (both[0][0] * both[1][1]) @ density
    assert abs((draws["a"][:, 0] * draws["b"][:, 1]).mean() - together) < 0.015
    log_evidence = logsumexp(log_p) + np.log(m[1] - m[0])
    assert abs(posterior.log_evidence.value - log_evidence) < 5 * posterior.log_evidence.se + 1e-6


def coupled(y):
    m = numpyro.sample("m", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", len(y)):
        a = numpyro.sample("a", dist.Bernoulli(0.3))
        b = numpyro.sample("b", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(m + 2.0 * a - 1.0 * b, 1.0), obs=y)


def test_what_cannot_be_summed_out_is_said_to_be_unchecked():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.TrustWarning)
        posterior = lb.fit(coupled, {"y": np.array([0.3, 1.0, 2.0])})
    assert posterior.verdict.status is lb.VerdictStatus.NOT_TRUSTED
    assert "the discrete latents (a, b) cannot be summed out" in posterior.verdict.sentence
    assert any("discrete latents a, b" in n and "mean field, unchecked" in n for n in posterior.verdict.not_checked)
    np.testing.assert_array_equal(posterior.probabilities("a"), posterior.q.discrete["a"].probabilities)
    assert posterior.sample(5)["b"].shape == (5, 3)
    # Bounds are over the discrete latents too; what needs scores is not to be had.
    found = posterior.bound("elbo", num_draws=4096)
    assert abs(found.value - posterior.elbo.value) < 5 * np.hypot(found.se, posterior.elbo.se)
    with pytest.raises(lb.errors.IncompatibleError, match="kernel_stein is on the unconstrained space"):
        posterior.bound("kernel_stein")


def labels_alone(x, y):
    a = numpyro.sample("a", dist.Categorical(np.array([0.5, 0.3, 0.2])))
    numpyro.sample("x", dist.Normal(2.0 * a, 1.0), obs=x)
    b = numpyro.sample("b", dist.Bernoulli(0.3))
    numpyro.sample("y", dist.Normal(-2.0 * b, 1.0), obs=y)


def test_a_model_of_independent_labels_alone_is_solved():
    x, y = np.array([2.5, 1.0]), np.array([-1.0])
    joint = np.array(
        [
            np.log(w * v) + norm.logpdf(x, 2 * a, 1).sum() + norm.logpdf(y, -2 * b, 1).sum()
            for (a, w), (b, v) in itertools.product(enumerate((0.5, 0.3, 0.2)), enumerate((0.7, 0.3)))
        ]
    ).reshape(3, 2)
    posterior = lb.fit(labels_alone, {"x": x, "y": y})
    assert posterior.verdict.status is lb.VerdictStatus.TRUSTED
    assert posterior.log_evidence.value == pytest.approx(logsumexp(joint), abs=1e-9)
    p = np.exp(joint - logsumexp(joint))
    np.testing.assert_allclose(posterior.probabilities("a"), p.sum(1), rtol=1e-9)
    np.testing.assert_allclose(posterior.probabilities("b"), p.sum(0), rtol=1e-9)


def test_the_verdict_tells_differences_that_matter_and_no_others():
    def labels(p, draws=np.inf):
        return Labels(np.arange(2), np.stack([1 - np.asarray(p), np.asarray(p)], -1), draws)

    assert differ("z", labels([0.5, 0.9]), labels([0.52, 0.91], 4096.0)) == []
    assert differ("z", labels([0.001]), labels([0.003], 4096.0)) == []  # both are sure
    assert differ("z", labels([0.5]), labels([0.56], 16.0)) == []  # no more than noise
    [said] = differ("z", labels([0.5, 0.8]), labels([0.52, 0.7], 4096.0))
    assert "1 of the 2 elements of z" in said and "0.10 in total variation at z[1]" in said
