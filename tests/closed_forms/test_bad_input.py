"""What cannot be: improper optima, labels out of range, matrices that are not positive definite, empty components."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import lowerbound as lb
from lowerbound.errors import DataError, IncompatibleError, ModelError
from tests.closed_forms.models import mixture, small_mixture

Y = np.array([0.3, -1.2, 2.5, 0.7, 1.1])


def closed(model, data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.TrustWarning)
        return lb.fit(model, data, algorithm="coordinate_ascent", num_draws=64, **options)


def test_a_flat_prior_that_the_data_do_not_bound():
    def model(y):
        mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
        numpyro.sample("y", dist.Normal(0.0 * mu, 1 / jnp.sqrt(tau)), obs=y)

    with pytest.raises((ModelError, IncompatibleError), match="mu"):
        closed(model, {"y": Y})


def test_a_flat_prior_that_the_data_do_bound():
    def model(y):
        mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(mu, 1.0).expand([len(y)]).to_event(1), obs=y)

    posterior = closed(model, {"y": Y})
    assert posterior.mean()["mu"] == pytest.approx(Y.mean(), rel=1e-10)
    assert posterior.sd()["mu"] == pytest.approx(1 / np.sqrt(len(Y)), rel=1e-10)


def test_an_index_out_of_range():
    def model(y, group):
        mu = numpyro.sample("mu", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(mu[group], 1.0), obs=y)

    with pytest.raises(DataError, match="an index into an array of 3 elements runs from 0 to 3"):
        closed(model, {"y": Y, "group": np.array([0, 1, 2, 3, 0])})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, 2, 0, 1]), r"1 labels outside of \[0, 1\], the first 2"),
        (np.array([0, 1]), r"has shape \(2,\).*needed: whole numbers of shape \(5,\)"),
        (np.array([0.0, 1.0, 0.0, 1.0, 0.0]), "type float64; needed: whole numbers"),
        (np.full((5, 2), 0.7), "no probabilities"),
    ],
)
def test_starts_that_are_no_labels(labels, message):
    with pytest.raises(DataError, match=message):
        closed(small_mixture, {"y": Y}, init={"z": labels})


def test_a_start_of_the_wrong_shape_for_a_gaussian():
    with pytest.raises(DataError, match=r"init\['mu'\] has shape \(3,\); needed: \(2,\)"):
        closed(small_mixture, {"y": Y}, init={"mu": np.zeros(3)})


def test_a_precision_matrix_that_is_singular():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("y", dist.MultivariateNormal(mu, precision_matrix=jnp.ones((2, 2))), obs=y)

    with pytest.raises((ModelError, ValueError), match=r"precision_matrix|positive definite one"):
        closed(model, {"y": np.zeros((4, 2))})


def test_components_without_data_stay_at_their_priors():
    x = np.random.default_rng(1).normal(0, 0.3, (30, 2))
    posterior = closed(mixture, {"x": x, "k": 4}, init={"z": np.zeros(30, int)})
    weights = posterior.q.discrete["z"].probabilities.sum(0)
    empty = weights < 1e-6
    assert empty.sum() == 3
    # Given no rows, a component's mean and precision have their priors: N(0, 100 I) and W(4, I).
    moments = posterior.q.moments()
    assert np.allclose(moments["mu"][0][empty], 0, atol=1e-6)
    assert np.allclose(moments["mu"][1][empty], 100, rtol=1e-6)
    assert np.allclose(moments["precision"][0][empty], 4 * np.eye(2), atol=1e-5)
    assert np.isfinite(posterior.elbo.value)


def test_counts_that_are_not_whole():
    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        numpyro.sample("y", dist.Poisson(rate).expand([len(y)]).to_event(1), obs=y)

    with pytest.raises(DataError, match="1 of 1 values outside the support"):
        closed(model, {"y": np.array([1.0, 2.5, 3.0])})
