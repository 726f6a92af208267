"""What cannot be updated, and why."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import lowerbound as lb
from tests.updating.models import coin, location, regression

Y = np.array([0, 1, 1, 0, 1, 1])


@pytest.fixture(scope="module")
def posterior():
    return lb.fit(coin, {"y": Y})


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ({"x": Y}, {}, "Missing: y"),
        ({"y": Y[:0]}, {}, "is empty"),
        ({"y": np.array([0.0, np.nan])}, {}, "1 NaN"),
        ({"y": Y}, {"forget": 0.0}, "needed: a number above 0"),
        ({"y": Y}, {"forget": True}, "needed: a number above 0"),
        ({"y": Y}, {"local": ["q"]}, "the latents are"),
        ({"y": Y}, {"local": ["p"]}, "changes with the rows of the data and not by a plate"),
        ({"y": Y}, {"seed": -1}, "seed is -1"),
    ],
)
def test_bad_input(posterior, data, options, message):
    with pytest.raises(lb.errors.LowerboundError, match=message):
        posterior.update(data, **options)


def test_other_columns():
    x = np.random.default_rng(0).standard_normal((8, 2))
    before = lb.fit(regression, {"x": x, "y": x.sum(1) + 0.1 * x[:, 0] ** 2}, algorithm="coordinate_ascent")
    with pytest.raises(lb.errors.IncompatibleError, match=r"'w' has shape \(3,\) with the new data and had \(2,\)"):
        before.update({"x": np.ones((4, 3)), "y": np.ones(4)})


@pytest.mark.filterwarnings("ignore::lowerbound.errors.TrustWarning")
def test_a_chain_in_time_has_no_rows():
    def walk(y):
        x = numpyro.sample("x", dist.GaussianRandomWalk(1.0, num_steps=len(y)))
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(x, s).to_event(1), obs=y)

    before = lb.fit(walk, {"y": np.array([0.1, 0.4, 0.2])}, algorithm="score_regression", family="diagonal")
    with pytest.raises(lb.errors.IncompatibleError, match="a chain in time cannot be updated"):
        before.update({"y": np.array([0.3, 0.5, 0.1])})


def test_a_prior_that_is_written_as_a_factor_would_count_twice():
    def penalised(y):
        p = numpyro.sample("p", dist.Beta(1.0, 1.0))
        numpyro.factor("penalty", 3 * jnp.log(p))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Bernoulli(p), obs=y)

    before = lb.fit(penalised, {"y": Y})
    with pytest.raises(lb.errors.IncompatibleError, match="'penalty' does not depend on the data"):
        before.update({"y": Y})


def test_natural_parameters_of_a_q_that_has_none():
    y = np.array([0.2, 1.4, 0.9])
    gaussian = lb.fit(location, {"y": y})
    said = r"algorithm='coordinate_ascent' carries over the natural parameters .* q is of the dense family"
    with pytest.raises(lb.errors.IncompatibleError, match=said):
        gaussian.update({"y": y}, algorithm="coordinate_ascent")


@pytest.mark.filterwarnings("ignore::lowerbound.errors.TrustWarning")
def test_a_log_density_and_a_point_mass():
    density = lb.LogDensity(lambda x, y: -0.5 * ((y - x) ** 2).sum() - x**2, {"x": lb.Site(constraints.real)})
    with pytest.raises(lb.errors.IncompatibleError, match="the prior cannot be told from the likelihood"):
        lb.fit(density, {"y": np.ones(3)}).update({"y": np.ones(3)})
    with pytest.raises(lb.errors.IncompatibleError, match="a point mass has no density"):
        lb.fit(coin, {"y": Y}, family="point_mass").update({"y": Y})


def test_a_model_whose_rows_cannot_be_told():
    def fixed(y):
        assert len(y) <= 4
        with numpyro.plate("rows", 4):
            theta = numpyro.sample("theta", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(theta, 1), obs=y)

    before = lb.fit(fixed, {"y": np.arange(4.0)})
    with pytest.raises(lb.errors.IncompatibleError, match=r"local=\['theta'\], or local=\[\] if none"):
        before.update({"y": np.arange(4.0)})
    after = before.update({"y": np.arange(4.0)}, local=[])
    assert np.allclose(after.mean()["theta"], 2 / 3 * np.arange(4.0), atol=1e-8)


def test_a_posterior_from_a_file_is_updated_with_its_model(posterior, tmp_path):
    once = posterior.update({"y": Y[:4]})
    once.save(tmp_path / "p.lb")
    loaded = lb.load(tmp_path / "p.lb")
    assert loaded.updates == once.updates
    with pytest.raises(lb.errors.IncompatibleError, match=r"update\(new_data, model=model\)"):
        loaded.update({"y": Y})
    twice = loaded.update({"y": Y}, model=coin)
    a, b = 2 + Y.sum() * 2 + Y[:4].sum(), 3 + (1 - Y).sum() * 2 + (1 - Y[:4]).sum()
    assert abs(twice.mean()["p"] - a / (a + b)) < 1e-12
    assert [u.rows for u in twice.updates] == [4, 6]
    assert twice.updates[-1].log_evidence == pytest.approx(once.update({"y": Y}).updates[-1].log_evidence, abs=1e-9)
