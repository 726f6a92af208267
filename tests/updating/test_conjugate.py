"""Where the model is conjugate an update is Bayes' rule: any order and any batches give the posterior of all data."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import betaln, digamma, gammaln
from scipy.stats import multivariate_normal

import lowerbound as lb
from tests.updating.models import coin, conjugate, grouped, location, mixture

CASES = conjugate()


def rows(data, start, stop):
    return {k: v[start:stop] for k, v in data.items()}


def naturals(posterior):
    pairs = zip(posterior.q.blocks, posterior.q.naturals, strict=True)
    return [np.concatenate([np.ravel(n[k]) for k in b.keys]) for b, n in pairs]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n == "normal_wishart" else []) for n in CASES]
)
def test_updates_in_any_order_equal_one_fit_of_all_data(name):
    model, data = CASES[name]
    whole = lb.fit(model, data, algorithm="coordinate_ascent")
    batches = ((10, 24), (3, 10), (0, 3)) if name == "beta_bernoulli" else ((17, 24), (0, 17))
    posterior = lb.fit(model, rows(data, *batches[0]), algorithm="coordinate_ascent")
    for start, stop in batches[1:]:
        posterior = posterior.update(rows(data, start, stop))
    for a, b in zip(naturals(posterior), naturals(whole), strict=True):
        assert np.allclose(a, b, rtol=1e-10, atol=1e-10 * np.abs(b).max())
    last = posterior.updates[-1]
    assert abs(last.log_evidence.value - whole.elbo.value) < 1e-9 * abs(whole.elbo.value)
    # The ELBO of the batch is its log predictive, with all constants.
    assert last.elbo.se == 0 and abs(last.elbo.value - posterior.log_evidence.value) < 1e-9
    assert [u.rows for u in posterior.updates] == [stop - start for start, stop in batches[1:]]
    assert posterior.verdict.status is lb.VerdictStatus.TRUSTED
    assert any("relative to the posterior before it" in r for r in posterior.verdict.reasons)
    assert any("errors of earlier posteriors" in c for c in posterior.verdict.not_checked)


def variance_unknown(y):
    v = numpyro.sample("v", dist.InverseGamma(3.0, 2.0))
    m = numpyro.sample("m", dist.Normal(1.0, jnp.sqrt(2 * v)))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(m, jnp.sqrt(v)), obs=y)


def test_left_alone_a_mean_and_its_variance_are_updated_exactly_from_one_row_on():
    y = np.random.default_rng(0).normal(2, 1.5, 30)
    n, shape, rate = len(y), 3.0 + 15, 2 + 0.5 * ((y - y.mean()) ** 2).sum() + 0.5 * 30 * (y.mean() - 1) ** 2 / 61
    posterior = lb.fit(variance_unknown, {"y": y[:1]})
    for start, stop in ((12, 30), (1, 12)):
        posterior = posterior.update({"y": y[start:stop]})
    assert posterior.verdict.sentence.startswith("q is the posterior, in closed form")
    mean, sd = posterior.mean(), posterior.sd()
    assert np.isclose(mean["v"], rate / (shape - 1), rtol=1e-10)
    assert np.isclose(sd["v"], rate / (shape - 1) / np.sqrt(shape - 2), rtol=1e-10)
    assert np.isclose(mean["m"], (2 * y.sum() + 1) / (2 * n + 1), rtol=1e-10)
    assert np.isclose(sd["m"], np.sqrt(rate / (shape - 1) / (n + 0.5)), rtol=1e-10)
    evidence = gammaln(shape) - gammaln(3) + 3 * np.log(2) - shape * np.log(rate) - 0.5 * n * np.log(2 * np.pi)
    assert abs(posterior.updates[-1].log_evidence.value - (evidence - 0.5 * np.log(2 * n + 1))) < 1e-9


def test_batches_of_one_size_are_compiled_once(monkeypatch):
    from lowerbound import compilation

    rng, compiled = np.random.default_rng(1), []
    posterior = lb.fit(coin, {"y": rng.integers(0, 2, 20)}).update({"y": rng.integers(0, 2, 20)})
    own = compilation._compiled
    monkeypatch.setattr(compilation, "_compiled", lambda *a: compiled.append(a) or own(*a))
    posterior.update({"y": rng.integers(0, 2, 20)})
    assert not compiled


def test_left_alone_a_normal_mean_is_updated_exactly_too():
    # The default fit is a Gaussian on the unconstrained space, which is the posterior here.
    y = CASES["normal_normal"][1]["y"]
    whole = lb.fit(location, {"y": y})
    posterior = lb.fit(location, {"y": y[:10]}).update({"y": y[10:]})
    assert posterior.updates[0].carried == "the Gaussian q"
    assert abs(posterior.mean()["mu"] - whole.mean()["mu"]) < 1e-10
    assert abs(posterior.sd()["mu"] - whole.sd()["mu"]) < 1e-10
    assert abs(posterior.updates[0].log_evidence.value - whole.log_evidence.value) < 1e-9
    assert abs(posterior.updates[0].lost.value) < 1e-9


def test_the_divergence_between_two_posteriors_is_that_of_their_densities():
    y = CASES["beta_bernoulli"][1]["y"]
    before = lb.fit(coin, {"y": y[:9]})
    (record,) = before.update({"y": y[9:]}).updates
    a, b, c, d = 2 + y.sum(), 3 + (1 - y).sum(), 2 + y[:9].sum(), 3 + (1 - y[:9]).sum()
    kl = betaln(c, d) - betaln(a, b) + (a - c) * digamma(a) + (b - d) * digamma(b) + (c + d - a - b) * digamma(a + b)
    assert abs(record.kl.value - kl) < 1e-10
    assert record.kl.se == 0


def test_forgetting_is_the_power_prior():
    y, f = CASES["beta_bernoulli"][1]["y"], 0.7
    posterior = lb.fit(coin, {"y": y[:15]}).update({"y": y[15:]}, forget=f)
    s = y[:15].sum()
    a, b = 2 + f * s, 3 + f * (15 - s)
    c, d = a + y[15:].sum(), b + (1 - y[15:]).sum()
    assert abs(posterior.mean()["p"] - c / (c + d)) < 1e-12
    assert abs(posterior.elbo.value - (betaln(c, d) - betaln(a, b))) < 1e-10  # of the normalised power prior
    assert posterior.updates[0].forget == f
    # The same with a Gaussian in the prior's place, which has a normaliser in closed form.
    before = lb.fit(location, {"y": y[:15] + 0.0})
    after = before.update({"y": y[15:] + 0.0}, forget=f)
    old = np.array([1 / 4, 1 / 4])  # natural parameters of the prior: precision times mean, and precision
    new = (1 - f) * old + f * (old + np.array([s, 15]) / 0.49) + np.array([y[15:].sum(), 9]) / 0.49
    assert abs(after.mean()["mu"] - new[0] / new[1]) < 1e-9
    assert abs(after.sd()["mu"] - new[1] ** -0.5) < 1e-9
    prior = (1 - f) * old + f * (old + np.array([s, 15]) / 0.49)
    marginal = multivariate_normal(np.full(9, prior[0] / prior[1]), 1 / prior[1] + 0.49 * np.eye(9))
    for number in (after.elbo, after.log_evidence, after.updates[0].log_predictive):
        assert abs(number.value - marginal.logpdf(y[15:])) < 1e-9 and number.se < 1e-9


def test_blocks_apart_are_updated_to_a_fixed_point_of_mean_field_and_no_further():
    def unknown_precision(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
        tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1 / jnp.sqrt(tau)), obs=y)

    def fixed_point(prior, y):
        m0, l0, a0, b0 = prior
        a, b = a0 + len(y) / 2, b0
        for _ in range(500):
            rate = l0 + len(y) * a / b
            m = (l0 * m0 + a / b * y.sum()) / rate
            b = b0 + 0.5 * ((y - m) ** 2).sum() + 0.5 * len(y) / rate
        return m, rate, a, b

    y = np.random.default_rng(2).normal(1.0, 2.0, 60)
    ascent = lb.algorithms.CoordinateAscent(tolerance=1e-15)
    posterior = lb.fit(unknown_precision, {"y": y[:30]}, algorithm=ascent)
    posterior = posterior.update({"y": y[30:]}, algorithm=ascent)
    assert posterior.updates[0].carried == "the natural parameters of q"
    m, rate, a, b = fixed_point(fixed_point((0.0, 0.01, 2.0, 1.0), y[:30]), y[30:])
    got = posterior.q.moments()
    assert np.allclose(got["mu"], [m, 1 / rate], rtol=1e-7) and np.allclose(got["tau"], [a / b, a / b**2], rtol=1e-7)
    # Neither the fixed point of all rows at once nor, though nearer, the posterior.
    whole = fixed_point((0.0, 0.01, 2.0, 1.0), y)
    assert abs(rate / whole[1] - 1) > 1e-4 and abs(b / whole[3] - 1) > 1e-5


def test_forgetting_follows_a_mean_that_moves():
    rng = np.random.default_rng(3)
    batches = [rng.normal(mean, 0.7, 20) for mean in (0.0, 1.0, 2.0, 3.0)]
    follows = remembers = lb.fit(location, {"y": batches[0]})
    for y in batches[1:]:
        follows, remembers = follows.update({"y": y}, forget=0.1), remembers.update({"y": y})
    assert abs(follows.mean()["mu"] - 3.0) < 0.4
    assert remembers.mean()["mu"] < 2.0
    assert follows.sd()["mu"] > remembers.sd()["mu"]


def test_local_latents_of_new_rows_are_new():
    y = CASES["normal_normal"][1]["y"]
    whole = lb.fit(grouped, {"y": y[:10]})
    # Two batches of one size, where no shape says which latents belong to the rows.
    posterior = lb.fit(grouped, {"y": y[:5]}).update({"y": y[5:10]})
    assert posterior.updates[0].local == ("theta",)
    assert abs(posterior.mean()["mu"] - whole.mean()["mu"]) < 1e-9
    assert abs(posterior.sd()["mu"] - whole.sd()["mu"]) < 1e-9
    assert np.allclose(posterior.mean()["theta"], whole.mean()["theta"][5:], atol=1e-9)
    assert abs(posterior.updates[0].log_evidence.value - whole.log_evidence.value) < 1e-8


def test_a_mixture_keeps_its_components_and_labels_new_rows():
    rng = np.random.default_rng(1)
    y = np.where(rng.uniform(size=40) < 0.3, 3.0, -1.0) + 0.5 * rng.standard_normal(40)
    before = lb.fit(mixture, {"y": y[:20]})
    posterior = before.update({"y": y[20:]})
    assert posterior.updates[0].local == ("z",)
    assert np.allclose(posterior.mean()["mu"], before.mean()["mu"], atol=0.5)  # the same order
    labels = posterior.probabilities("z").argmax(1)
    assert np.array_equal(labels == posterior.mean()["mu"].argmax(), y[20:] > 1)
    # The clusters are so far apart that labels are certain: the weights are those of counts.
    high = posterior.mean()["mu"].argmax()
    assert abs(posterior.mean()["weights"][high] - (1 + (y > 1).sum()) / 42) < 1e-3
    n = (y > 1).sum()
    assert abs(posterior.mean()["mu"][high] - y[y > 1].sum() / 0.25 / (n / 0.25 + 1 / 25)) < 1e-3
