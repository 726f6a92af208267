"""Data simulated from a NumPyro model: from the right distribution, in the right argument, or a reason why not."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints

from lowerbound import examples
from lowerbound.errors import ModelError
from lowerbound.simulation import Simulator

Y = np.array([0.3, -1.2, 2.5])


def normal(y):
    x = numpyro.sample("x", dist.Normal(1, 2))
    numpyro.sample("y", dist.Normal(x, 0.5), obs=y)


def many(model, data, n=2000, seed=0):
    simulate, rng = Simulator(model, data), np.random.default_rng(seed)
    drawn = [simulate(rng) for _ in range(n)]
    return {k: np.stack([d[0][k] for d in drawn]) for k in drawn[0][0]}, [d[1] for d in drawn]


def test_the_joint_distribution():
    latents, data = many(normal, {"y": Y})
    x, y = latents["x"], np.stack([d["y"] for d in data])
    n = len(x)
    assert abs(x.mean() - 1) < 5 * 2 / np.sqrt(n)
    assert abs(x.std() - 2) < 5 * 2 / np.sqrt(2 * n)
    noise = (y - x[:, None]) / 0.5  # three rows, independent given x
    assert abs(noise.mean()) < 5 / np.sqrt(3 * n)
    np.testing.assert_allclose(np.corrcoef(np.c_[noise, x].T), np.eye(4), atol=5 / np.sqrt(n))


def test_the_same_generator_gives_the_same_bits():
    simulate = Simulator(normal, {"y": Y})
    a, b, c = (simulate(np.random.default_rng(s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(a[1]["y"], b[1]["y"])
    assert a[0]["x"] == b[0]["x"] != c[0]["x"]


@pytest.mark.parametrize("name", examples.names())
def test_every_bundled_example(name):
    example = examples.load(name)
    simulate = Simulator(example.model, example.data)
    assert len(simulate.replaced) == 1
    _, data = simulate(np.random.default_rng(0))
    for k, v in example.data.items():
        assert data[k].shape == v.shape and data[k].dtype == v.dtype
        assert np.array_equal(data[k], v) == (k not in simulate.replaced.values())


@pytest.mark.parametrize("y", [10.0, np.float64(3.0), np.float32(3.0), np.array(3.0), 3, jnp.array(2.0)])
def test_one_number(y):
    _, data = Simulator(normal, {"y": y})(np.random.default_rng(0))
    assert np.shape(data["y"]) == () and data["y"].dtype == np.float64


def test_numbers_that_are_equal_are_told_apart():
    def model(n, k):
        p = numpyro.sample("p", dist.Beta(1, 1))
        with numpyro.plate("n", n):
            numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("k", dist.Binomial(n, p), obs=k)

    simulate = Simulator(model, {"n": 3, "k": 3})
    assert simulate.replaced == {"k": "k"}
    assert simulate(np.random.default_rng(0))[1]["n"] == 3


@pytest.mark.parametrize("y", [np.array([True, False]), np.array([1.0, 0.0]), np.array([1, 0])])
def test_kinds_are_kept(y):
    def model(y):
        p = numpyro.sample("p", dist.Beta(1, 1))
        numpyro.sample("y", dist.Bernoulli(p), obs=y)

    _, data = Simulator(model, {"y": y})(np.random.default_rng(0))
    assert data["y"].dtype.kind == y.dtype.kind and set(data["y"].tolist()) <= {0, 1}


def test_nested_data_and_numpy_functions_of_covariates():
    def model(d, t):
        gap = np.diff(t).mean()
        x = numpyro.sample("x", dist.Normal(0, 1))
        with numpyro.plate("n", d["size"]):
            numpyro.sample("y", dist.Normal(x * d["inner"]["x"], gap), obs=d["y"])

    data = {"d": {"y": Y, "inner": {"x": [1.0, 2.0, 3.0]}, "size": 3}, "t": np.arange(4.0)}
    made = Simulator(model, data)(np.random.default_rng(0))[1]
    assert made["d"]["size"] == 3 and made["d"]["y"].shape == (3,)
    np.testing.assert_array_equal(made["d"]["inner"]["x"], [1, 2, 3])


def test_an_observation_under_another():
    def model(w, y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        w = numpyro.sample("w", dist.Normal(100 + x, 1), obs=w)
        numpyro.sample("y", dist.Normal(w, 0.01), obs=y)

    _, data = Simulator(model, {"w": Y, "y": Y})(np.random.default_rng(0))
    np.testing.assert_allclose(data["y"], data["w"], atol=0.1)
    assert data["w"].min() > 50


def test_a_plate_runs_over_all_its_rows():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("row", 3, subsample_size=1):
            z = numpyro.sample("z", dist.Normal(mu, 1))
        numpyro.sample("y", dist.Normal(z, 1), obs=y)

    latents, data = Simulator(model, {"y": Y})(np.random.default_rng(0))
    assert latents["z"].shape == data["y"].shape == (3,)


def test_missing_rows_and_masks():
    mask = np.array([True, False, True])

    def partly(y, mask):
        x = numpyro.sample("x", dist.Normal(0, 1))
        with numpyro.plate("n", 3):
            numpyro.sample("y", dist.Normal(x, 0.5), obs=y, obs_mask=mask)

    latents, data = Simulator(partly, {"y": Y, "mask": mask})(np.random.default_rng(0))
    assert set(latents) == {"x", "y_unobserved"} and data["y"].shape == (3,)

    def masked(y, mask):
        x = numpyro.sample("x", dist.Normal(0, 1))
        with numpyro.plate("n", 3), handlers.mask(mask=mask):
            numpyro.sample("y", dist.Normal(x, 0.5), obs=y)

    assert Simulator(masked, {"y": Y, "mask": mask}).replaced == {"y": "y"}


def test_latents_of_a_scan():
    def model(y):
        def step(level, _):
            level = numpyro.sample("level", dist.Normal(level, 0.1))
            return level, level

        _, levels = scan(step, 50.0, None, length=3)
        numpyro.sample("y", dist.Normal(levels, 0.01), obs=y)

    latents, data = Simulator(model, {"y": Y})(np.random.default_rng(0))
    np.testing.assert_allclose(latents["level"], 50, atol=2)
    np.testing.assert_allclose(data["y"], latents["level"], atol=0.1)


# -- refused -----------------------------------------------------------------------------------------------


def prior(x="x"):
    return numpyro.sample(x, dist.Normal(0, 1))


def factor(y):
    numpyro.factor("f", -jnp.sum((y - prior()) ** 2))


def transform(y):
    numpyro.sample("y", dist.Normal(prior(), 1), obs=jnp.exp(y))


def autoregression(y):
    numpyro.sample("y", dist.Normal(prior() * y[:-1], 1), obs=y[1:])


def stepwise(y):
    def step(level, row):
        level = numpyro.sample("level", dist.Normal(level, 1))
        numpyro.sample("y", dist.Normal(level, 1), obs=row)
        return level, None

    scan(step, 0.0, y)


def constant(y):
    numpyro.sample("y", dist.Normal(prior(), 1), obs=y)
    numpyro.sample("zero", dist.Normal(prior("z"), 1), obs=0.0)


def prior_at_the_data(y):
    x = numpyro.sample("x", dist.Normal(y.mean(), 1))
    numpyro.sample("y", dist.Normal(x, 1), obs=y)


def prior_at_a_value_of_the_data(y):
    x = numpyro.sample("x", dist.Normal(float(np.mean(y)), 1))
    numpyro.sample("y", dist.Normal(x, 1), obs=y)


def mask_of_the_data(y):
    x = prior()
    with handlers.mask(mask=y > 0):
        numpyro.sample("y", dist.Normal(x, 1), obs=y)


def scaled(y):
    x = prior()
    with handlers.scale(scale=2.0):
        numpyro.sample("y", dist.Normal(x, 1), obs=y)


def improper(y):
    x = numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(x, 1), obs=y)


def masked_latent(y):
    with handlers.mask(mask=False):
        x = prior()
    numpyro.sample("y", dist.Normal(x, 1), obs=y)


def twice(y):
    numpyro.sample("y", dist.Normal(prior(), 1), obs=y)
    numpyro.sample("again", dist.Normal(prior("z"), 1), obs=y)


def shared(y):
    with numpyro.plate("n", 4):
        z = prior("z")
    numpyro.sample("y", dist.Normal(z[:, None], 1), obs=y)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (factor, "numpyro.factor 'f'"),
        (transform, "site 'y' observes is not an argument of the model as it was given"),
        (autoregression, "site 'y' observes is not an argument"),
        (stepwise, r"the model computes with 'y' besides observing it \(or observes it in a scan\)"),
        (constant, "site 'zero' observes is not an argument"),
        (prior_at_the_data, "the model computes with 'y' besides observing it"),
        (prior_at_a_value_of_the_data, "the model computes with 'y' besides observing it"),
        (mask_of_the_data, "the model computes with 'y' besides observing it"),
        (scaled, "observed site 'y' has a scaled log probability"),
        (improper, "latent site 'x' has an improper prior"),
        (masked_latent, "latent site 'x' is masked"),
        (twice, "'y' is observed by two sites"),
        (shared, r"observed site 'y' has shape \(3,\), and a draw from its distribution has \(4, 1\)"),
        (lambda: prior(), "the model observes nothing"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_refused(model, words):
    with pytest.raises(ModelError, match=words) as e:
        Simulator(model, {"y": Y} if model.__code__.co_argcount else {})
    assert "simulate=" in str(e.value) or "proper prior" in str(e.value)
