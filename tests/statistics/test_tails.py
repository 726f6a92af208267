"""Which parameters have an sd: those of distributions whose second moment is known to exist, or not to."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import stats

import lowerbound as lb
from lowerbound.diagnostics.weights.tails import columns_without_sd, without_sd, without_variance
from lowerbound.kernel import Kernel
from lowerbound.model import Model
from lowerbound.model.sites import SiteMap

SEEDS = range(10)


def flagged(support, draws: np.ndarray) -> bool:
    model = Model.from_log_density(lb.LogDensity(lambda x: -(x**2), {"x": lb.Site(support)}))
    return without_sd(SiteMap(model.sites, {}, model), draws[:, None]) == ("x",)


@pytest.mark.parametrize(
    ("law", "heavy"),
    [
        (stats.cauchy(), True),
        (stats.cauchy(40, 1e-3), True),
        (stats.t(1.2), True),
        (stats.t(5), False),
        (stats.norm(), False),
        (stats.laplace(), False),
        (stats.uniform(), False),
    ],
    ids=["cauchy", "cauchy elsewhere", "t 1.2", "t 5", "normal", "laplace", "uniform"],
)
def test_on_the_line(law, heavy):
    found = [flagged(constraints.real, law.rvs(4000, random_state=s)) for s in SEEDS]
    assert all(found) if heavy else not any(found), found


@pytest.mark.parametrize(
    ("law", "heavy"),
    [
        (stats.halfcauchy(), True),
        (stats.invgamma(1.0), True),
        (stats.lognorm(0.5), False),
        (stats.halfnorm(), False),
        (stats.gamma(0.3), False),
        (stats.invgamma(8.0), False),
    ],
    ids=["half-Cauchy", "inverse gamma 1", "log-normal", "half-normal", "gamma", "inverse gamma 8"],
)
def test_positive_in_the_units_of_the_person(law, heavy):
    """Draws are of log x."""
    found = [flagged(constraints.positive, np.log(law.rvs(4000, random_state=s))) for s in SEEDS]
    assert all(found) if heavy else not any(found), found


def test_bounded_sites_have_every_moment():
    """A logit with Cauchy tails is a number between 0 and 1 all the same."""
    assert not flagged(constraints.unit_interval, stats.cauchy().rvs(4000, random_state=0))


def test_too_few_draws_say_nothing():
    assert not flagged(constraints.real, stats.cauchy().rvs(100, random_state=0))


def test_in_other_coordinates():
    """z~ is normal, z = s z~ is not: with s half-Cauchy it has no mean, let alone an sd."""

    def model():
        s = numpyro.sample("s", dist.HalfCauchy(1.0))
        numpyro.sample("z", dist.Normal(0, s).expand([2]).to_event(1))
        numpyro.sample("bounded", dist.Beta(1.0, s))

    moved = Model.from_numpyro(model).moved({"z": 0.0})
    rng = np.random.default_rng(0)
    s = np.abs(rng.standard_cauchy(4000))
    draws = np.column_stack([np.log(s), rng.standard_normal((4000, 2)), rng.standard_cauchy(4000)])
    found = without_sd(SiteMap(moved.sites, moved.deterministics, moved), draws)
    assert found == ("s", "z[0]", "z[1]")


def student(degrees: float, support=constraints.real):
    """Of x, or of x with a density that falls as x^-(degrees + 1) from a positive number on."""
    if support is constraints.real:
        return lambda x: -0.5 * (degrees + 1) * jnp.log1p(x**2 / degrees)
    return lambda x: -(degrees + 1) * jnp.log(x) - 1 / x


@pytest.mark.parametrize("support", [constraints.real, constraints.positive])
@pytest.mark.parametrize(("degrees", "heavy"), [(1.0, True), (1.9, True), (2.2, False), (5.0, False)])
def test_the_fall_of_the_density(degrees, heavy, support):
    """The variance of a t with nu degrees, and of an inverse gamma of shape nu, exists where nu > 2."""
    model = Model.from_log_density(lb.LogDensity(student(degrees, support), {"x": lb.Site(support)}))
    rng = np.random.default_rng(0)
    found = without_variance(Kernel(model), 0.3 * rng.standard_normal((400, 1)), rng)
    assert found == (("x",) if heavy else ())


def test_a_normal_and_bounded_parameters_fall_fast_enough():
    def density(x, share):
        return -0.5 * x**2 + 0 * share

    sites = {"x": lb.Site(), "share": lb.Site(constraints.unit_interval)}
    kernel = Kernel(Model.from_log_density(lb.LogDensity(density, sites)))
    rng = np.random.default_rng(0)
    assert without_variance(kernel, rng.standard_normal((400, 2)), rng) == ()


def test_the_verdict_says_so():
    """The bulk of a Cauchy is matched, but no sample can tell its sd."""
    with pytest.warns(lb.errors.TrustWarning):
        posterior = lb.fit(lb.LogDensity(lambda x: -jnp.log1p(x**2), {"x": lb.Site()}))
    verdict = posterior.verdict
    assert verdict.without_sd == ("x",) and not verdict.trusted
    assert "sd may not exist" in str(verdict)


def test_numbers_computed_from_the_latents():
    """Each column of what is reported, with and without a variance."""
    laws = {
        "normal": stats.norm(5, 0.1),
        "cauchy": stats.cauchy(),
        "half": stats.lognorm(0.5),
        "far": stats.lognorm(2.5),
        "still": stats.uniform(3.0, 0.0),
        "t 5": stats.t(5),
        "ratio": stats.t(1.0, 1e3, 1e-2),
    }
    for seed in range(5):
        values = np.column_stack([law.rvs(4000, random_state=seed) for law in laws.values()])
        assert columns_without_sd(list(laws), values) == ("cauchy", "far", "ratio")
        assert columns_without_sd(list(laws), values[:100]) == ()


def test_a_deterministic_is_named_and_its_sd_is_not_reported():
    """u is exact. exp(2.5 u) has an sd that 8,192 draws miss by a fifth, 1 / u has none; the verdict on u stays."""

    def model(y):
        u = numpyro.sample("u", dist.Normal(0, jnp.sqrt(2.0)))
        numpyro.deterministic("e", jnp.exp(2.5 * u))
        numpyro.deterministic("v", jnp.stack([jnp.exp(0.3 * u), 1 / u]))
        numpyro.sample("y", dist.Normal(u, jnp.sqrt(2.0)), obs=y)

    posterior = lb.fit(model, {"y": 0.0})
    verdict, sd, table = posterior.verdict, posterior.sd(), posterior.summary()
    assert verdict.status.name == "TRUSTED"
    assert verdict.without_sd == ("e", "v[1]") and verdict.parameters == ()
    assert "e, v[1], computed from the latents" in str(verdict) and "the sd of e, v[1]" in verdict.not_checked[-1]
    assert np.isnan(sd["e"]) and np.isnan(sd["v"]).tolist() == [False, True]
    assert table[["sd", "mcse_mean", "mcse_sd"]].isna().all(axis=1).to_dict() == {
        "u": False,
        "e": True,
        "v[0]": False,
        "v[1]": True,
    }
    exact = np.exp(0.09 / 2) * np.sqrt(np.expm1(0.09))
    assert abs(sd["v"][0] - exact) < 3 * table.loc["v[0]", "mcse_sd"] < 0.1 * exact


def test_an_sd_that_is_known_in_closed_form_is_reported():
    """A log-normal of scale sqrt 2: no 4,000 draws can tell its sd, and q, which is the posterior, has it."""

    def model(y):
        s = numpyro.sample("s", dist.LogNormal(0, 2.0))
        numpyro.sample("y", dist.Normal(jnp.log(s), 2.0), obs=y)

    posterior = lb.fit(model, {"y": 0.0}, algorithm="coordinate_ascent")
    assert posterior.verdict.status.name == "TRUSTED" and posterior.verdict.without_sd == ()
    np.testing.assert_allclose(posterior.sd()["s"], np.exp(1.0) * np.sqrt(np.expm1(2.0)), rtol=1e-9)
    assert posterior.summary().loc["s", "mcse_sd"] == 0
