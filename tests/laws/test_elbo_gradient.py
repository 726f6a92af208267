"""The hand-written gradient of the ELBO on fixed noise is the automatic one, on a density that is not Gaussian."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lowerbound.precision import float64
from tests.registry import FAMILIES, POINTS, SHAPED, Subject

DRAWS = 7


def log_density(x):
    """Quartic tails, coupled neighbours, no symmetry: every derivative is different everywhere."""
    d = x.shape[-1]
    weights = jnp.arange(1.0, d + 1)
    coupling = jnp.sum(jnp.sin(x[1:] * x[:-1])) if d > 1 else 0.0
    return -jnp.sum(0.05 * weights * x**4 + 0.3 * x**2 - 0.7 * weights * x) + coupling + jnp.tanh(x.sum())


@pytest.mark.parametrize("subject", FAMILIES + SHAPED, ids=repr)
def test_elbo_gradient_is_the_derivative_of_the_sample_average(subject: Subject):
    q, family = subject.block, subject.family
    noise = np.random.default_rng(1).standard_normal((DRAWS, q.noise_dimension))
    parameters = family.parameters(q)
    with float64():

        def sample_average(phi):
            block = family.from_parameters(phi)
            return jax.vmap(log_density)(block.transform(noise)).mean() + block.entropy()

        phi = {k: jnp.asarray(v) for k, v in parameters.items()}
        automatic = jax.jit(jax.grad(sample_average))(phi)
        scores = np.asarray(jax.jit(jax.vmap(jax.grad(log_density)))(q.transform(noise)))
    by_hand = family.elbo_gradient(family.from_parameters(parameters), noise, scores)
    assert by_hand.keys() == automatic.keys() == parameters.keys()
    for k in automatic:
        assert np.shape(by_hand[k]) == np.shape(parameters[k])
        scale = np.abs(np.asarray(automatic[k])).max(initial=1e-300)
        np.testing.assert_allclose(by_hand[k], np.asarray(automatic[k]), rtol=1e-9, atol=1e-11 * scale, err_msg=k)
        if np.size(parameters[k]) and not (subject.name == "dense of one" and k == "lower"):
            assert scale > 1e-3, f"{k}: the gradient is zero, so this comparison says nothing"


@pytest.mark.parametrize("subject", FAMILIES, ids=repr)
def test_elbo_gradient_is_zero_where_q_is_the_target(subject: Subject):
    # E_q over noise with exact first and second moments: the gradient of -KL(q || q) vanishes to rounding.
    q, family = subject.block, subject.family
    width = q.noise_dimension
    noise = np.sqrt(width) * np.concatenate([np.eye(width), -np.eye(width)])
    x = q.transform(noise)
    scores = -np.linalg.solve(q.covariance(), (x - q.mean).T).T
    gradient = family.elbo_gradient(q, noise, scores)
    for k, v in gradient.items():
        np.testing.assert_allclose(v, 0.0, atol=1e-8 * max(1.0, np.abs(scores).max()), err_msg=k)


@pytest.mark.parametrize("subject", POINTS, ids=repr)
def test_for_a_point_it_is_the_score(subject: Subject):
    scores = np.tile([[1.0, -2.0, 3.0]], (2, 1))
    gradient = subject.family.elbo_gradient(subject.block, np.zeros((2, 0)), scores)
    assert {k: v.tolist() for k, v in gradient.items()} == {"location": [1.0, -2.0, 3.0]}
