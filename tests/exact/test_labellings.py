"""The evidence of a mixture counts every labelling: by enumeration of all assignments."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import gammaln, logsumexp
from scipy.stats import multivariate_normal

import lowerbound as lb
from lowerbound.diagnostics.modes.exchangeable import axes_of, exchangeable
from lowerbound.diagnostics.modes.labellings import OTHER, Share, log_permanent
from lowerbound.kernel import Kernel

APART = np.array([-4.0, -3.5, -4.4, 4.0, 4.2, 3.1])
OVERLAPPING = np.array([-1.0, -0.5, 0.3, 0.8, 1.5, 2.0])
THREE = np.array([-6.0, -6.5, 0.1, 0.3, 6.0, 5.8])


def mixture(y, concentration):
    k = len(concentration)
    w = numpyro.sample("w", dist.Dirichlet(concentration))
    with numpyro.plate("components", k):
        mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def exact(y, concentration):
    """log p(y): given z the weights integrate to gamma functions, and the means to a Gaussian."""
    c, logs = np.asarray(concentration), []
    for z in itertools.product(range(len(c)), repeat=len(y)):
        counts = np.bincount(z, minlength=len(c))
        prior = gammaln(c.sum()) - gammaln(c.sum() + len(y)) + (gammaln(c + counts) - gammaln(c)).sum()
        same = np.equal.outer(z, z).astype(float)
        logs.append(prior + multivariate_normal(np.zeros(len(y)), 9 * same + np.eye(len(y))).logpdf(y))
    return logsumexp(logs)


CASES = {
    "apart": (APART, [1.0, 1.0], {}, 2),
    "overlapping": (OVERLAPPING, [1.0, 1.0], {}, 2),
    "of all labellings": (OVERLAPPING, [1.0, 1.0], {"family": "dense"}, 2),
    "three": (THREE, [1.0, 1.0, 1.0], {}, 6),
    "two of three": (OVERLAPPING, [1.0, 1.0, 3.0], {"family": "dense"}, 2),
    "none": (APART, [1.0, 2.0], {}, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_evidence_by_enumeration(case):
    y, concentration, options, labellings = CASES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.TrustWarning)
        posterior = lb.fit(mixture, {"y": y, "concentration": np.array(concentration)}, **options)
    truth, found, evidence = exact(y, concentration), posterior.log_evidence, posterior.evidence
    if case != "none":  # (where labels mean something, another labelling is a mode that no start may find)
        assert abs(found.value - truth) < 5 * found.se + 1e-6 and found.se < 0.06
        assert evidence.lower.value - 5 * evidence.lower.se < truth
        assert evidence.upper is None or evidence.upper.value + 5 * evidence.upper.se > truth
    said = [r for r in posterior.verdict.reasons if "labellings" in r]
    assert len(said) == (labellings > 1)
    if said:
        assert f"the {labellings} labellings of z's values" in said[0]
    assert (OTHER in posterior.verdict.not_checked) == (labellings != math.factorial(len(concentration)))
    if case == "apart":  # and the gap is that of a labelling, as the ELBO is
        assert posterior.verdict.status is lb.VerdictStatus.TRUSTED and "are of one" in said[0]
        assert found.value - posterior.elbo.value == pytest.approx(np.log(2), abs=0.005)
        assert abs(posterior.verdict.kl_gap.value) < 0.005


def test_where_labellings_overlap_what_is_reported_is_of_one():
    # Two clusters for three components: which of them a cluster has, or shares, is told by no gap.
    y, concentration = np.array([-6.0, -5.5, -6.5, 6.0, 7.0, 6.2]), [1.0, 1.0, 1.0]
    posterior = lb.fit(mixture, {"y": y, "concentration": np.array(concentration)})
    assert posterior.verdict.status is lb.VerdictStatus.CORRECTED, posterior.verdict
    assert any("what is reported is of q's" in r for r in posterior.verdict.reasons)
    found = posterior.log_evidence
    assert abs(found.value - exact(y, concentration)) < 5 * found.se
    # What is the same under every labelling is that of the posterior: sums over components, by enumeration.
    draws = posterior.sample(4000)["mu"]
    logs, first, second = [], [], []
    for z in itertools.product(range(3), repeat=len(y)):
        counts = np.bincount(z, minlength=3)
        v = 1 / (1 / 9 + counts)
        m = v * np.bincount(z, y, 3)
        same = np.equal.outer(z, z).astype(float)
        logs.append(
            gammaln(1.0 + counts).sum() + multivariate_normal(np.zeros(len(y)), 9 * same + np.eye(len(y))).logpdf(y)
        )
        first.append(m.sum())
        second.append((m**2 + v).sum())
    p = np.exp(np.array(logs) - logsumexp(logs))
    for values, truth in ((draws.sum(1), p @ first), ((draws**2).sum(1), p @ second)):
        assert abs(values.mean() - truth) < 5 * values.std() / np.sqrt(min(posterior.effective, 4000))
    # ... and of q's labelling: a component has one place, where those of the posterior have three.
    assert posterior.sd()["mu"].min() < 0.5 * np.sqrt(p @ second / 3)


def of(y, concentration):
    """A fit, its log density, and the components that may be exchanged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.TrustWarning)
        posterior = lb.fit(mixture, {"y": y, "concentration": np.array(concentration)})
    kernel, sites = Kernel(posterior._sites.model), posterior._sites
    return posterior, sites, exchangeable(kernel, sites, posterior.q, np.random.default_rng(0))


def test_classes_of_components_and_their_shares():
    posterior, sites, found = of(THREE, [1.0, 1.0, 3.0])
    [group] = found
    assert group.latents == ("z",) and set(group.axes) == {("w", 0), ("mu", 0)} and group.classes == ((0, 1),)
    assert group.labellings == 2
    rng = np.random.default_rng(1)
    share = Share(group, sites, [posterior.q], rng, list(group.axes))
    x = posterior.q.sample(rng, 200) + rng.normal(size=(200, posterior.q.dimension))
    # Shares of a point in all its labellings add to one.
    values = {n: v for n, v in sites.constrain(x).items() if n in sites.sites}
    swapped = {n: v[:, [1, 0, 2]] for n, v in values.items()}
    low, high = share.log_prob(x)
    other, _ = share.log_prob(sites.unconstrain(swapped, 200)[0])
    np.testing.assert_allclose(np.exp(low) + np.exp(other), 1.0, rtol=1e-9)
    np.testing.assert_array_equal(low, high)
    # A labelling is given with its share: what is nearer to q's is kept.
    moved = share.relabelled(x, rng)
    assert moved is not None
    kept = np.isclose(moved, x).all(1)
    assert abs(kept.mean() - np.exp(low).mean()) < 5 * np.sqrt(0.25 / 200)
    assert kept[low > -1e-6].all() and not kept[low < -20].any()


def test_axes_that_may_be_permuted():
    def model(y):
        numpyro.sample("simplex", dist.Dirichlet(np.ones(3)))
        numpyro.sample("vector", dist.MultivariateNormal(np.zeros(3), np.eye(3)))
        numpyro.sample("matrix", dist.Wishart(4.0, rate_matrix=np.eye(3)))
        with numpyro.plate("three", 3):
            numpyro.sample("rows", dist.Dirichlet(np.ones(3)))
            x = numpyro.sample("other", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)

    found = axes_of(lb.Model.from_numpyro(model, {"y": 1.0}), 3)
    assert found == [("simplex", 0), ("vector", 0), ("rows", 0), ("rows", 1), ("other", 0)]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_permanent_is_the_sum_over_permutations(k):
    a = 5 * np.random.default_rng(k).normal(size=(7, k, k))
    orders = np.array(list(itertools.permutations(range(k))))
    brute = logsumexp([a[:, np.arange(k), o].sum(1) for o in orders], axis=0)
    np.testing.assert_allclose(log_permanent(a), brute, rtol=1e-12)
    assert len(orders) == math.factorial(k)
