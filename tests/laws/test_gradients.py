"""Gradient estimators: which goes with which objective, no bias, and no variance where that is promised.

For a Gaussian target N(m, S) and a Gaussian q the ELBO is known, and so is its gradient: JAX differentiates
the closed form, and the estimators' mean over many draws is compared with it.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lowerbound import gradients, objectives
from lowerbound.algorithms import GradientVI
from lowerbound.errors import IncompatibleError
from lowerbound.precision import float64
from tests.measure import assert_mean
from tests.registry import FAMILIES, GRADIENTS, OBJECTIVES, Subject

REPEATS = 3000
estimators = pytest.mark.parametrize("gradient", GRADIENTS, ids=lambda g: g.name)
# A product adds nothing here but compile time: its blocks' parameters are these.
subjects = pytest.mark.parametrize(
    "subject", [s for s in FAMILIES if s.name in ("dense", "diagonal", "low rank")], ids=repr
)


def _target(d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(d)
    root = np.tril(0.5 * rng.standard_normal((d, d)), -1) + np.diag(rng.uniform(1.0, 2.0, d))
    return rng.standard_normal(d), np.linalg.inv(root @ root.T)


def _log_joint(mean: Any, precision: Any):
    # Not normalised: the constant 1.7 is the log evidence, up to the Gaussian's own.
    return lambda z: 1.7 - 0.5 * jnp.einsum("si,ij,sj->s", z - mean, precision, z - mean)


def _closed_form(family: Any, mean: Any, precision: Any):
    def elbo(phi):
        q = family.from_parameters(phi)
        distance = (q.mean - mean) @ precision @ (q.mean - mean) + jnp.trace(precision @ q.covariance())
        return 1.7 - 0.5 * distance + q.entropy()

    return elbo


def _estimates(gradient: Any, subject: Subject, mean: Any, precision: Any, parameters: Any, num_samples: int) -> tuple:
    log_joint, family = _log_joint(mean, precision), subject.family
    objective = objectives.ELBO(num_samples)

    def one(noise):
        def surrogate(phi):
            return gradient.surrogate(objective, log_joint, family.from_parameters, phi, noise)

        (_, value), slope = jax.value_and_grad(surrogate, has_aux=True)(parameters)
        return value, slope

    noise = np.random.default_rng(3).standard_normal((REPEATS, num_samples, subject.block.noise_dimension))
    return jax.tree_util.tree_map(np.asarray, jax.jit(jax.vmap(one))(jnp.asarray(noise)))


@estimators
@subjects
def test_unbiased(gradient, subject: Subject):
    with float64():
        mean, precision = _target(subject.block.dimension)
        parameters = {k: jnp.asarray(v) for k, v in subject.family.parameters(subject.block).items()}
        elbo = _closed_form(subject.family, mean, precision)
        truth, slope = jax.jit(jax.value_and_grad(elbo))(parameters)
        value, estimate = _estimates(gradient, subject, mean, precision, parameters, max(2, gradient.min_samples))
        assert_mean(value, truth, "objective")
        for k in slope:
            assert_mean(estimate[k], np.asarray(slope[k]), f"gradient of {k}")


@pytest.mark.parametrize("subject", [s for s in FAMILIES if s.name in ("dense", "diagonal")], ids=repr)
def test_sticking_the_landing_has_no_variance_at_the_target(subject: Subject):
    q = subject.block
    with float64():
        parameters = {k: jnp.asarray(v) for k, v in subject.family.parameters(q).items()}
        mean, precision = q.mean, np.linalg.inv(q.covariance())
        _, landed = _estimates(gradients.StickingTheLanding(), subject, mean, precision, parameters, 2)
        _, noisy = _estimates(gradients.Reparameterized(), subject, mean, precision, parameters, 2)
        value, score = _estimates(gradients.ScoreFunction(), subject, mean, precision, parameters, 2)
    assert max(np.abs(v).max() for v in landed.values()) < 1e-9
    # The others are not at rest there, so this is a property of the estimator and not of the point; the
    # score function's is, since f is constant at q = p and its baseline takes it away.
    assert max(v.std(0).max(initial=0.0) for v in noisy.values()) > 0.1
    assert max(np.abs(v).max() for v in score.values()) < 1e-9
    assert value.std() < 1e-10


@estimators
@pytest.mark.parametrize("make", OBJECTIVES, ids=lambda m: m.__name__)
def test_every_pair_is_allowed_or_refused_as_the_table_says(gradient, make):
    objective = make(8)
    if gradient.name in gradients.COMPATIBLE[objective.name]:
        assert GradientVI(objective=objective, gradient=gradient).gradient is gradient
    else:
        with pytest.raises(IncompatibleError, match=f"{gradient.name} gradient of {objective.name} is biased"):
            GradientVI(objective=objective, gradient=gradient)


def test_the_table_names_every_objective_and_only_known_gradients():
    known = {g.name for g in GRADIENTS}
    assert set(gradients.COMPATIBLE) == {make(2).name for make in OBJECTIVES}
    assert set(itertools.chain(*gradients.COMPATIBLE.values())) <= known
    assert gradients.COMPATIBLE["elbo"] == ("reparameterized", "sticking_the_landing", "score_function")


def test_a_pair_that_the_table_lacks_is_refused():
    class Other(objectives.Objective):
        name, num_samples = "renyi", 8

        def value(self, log_joint, log_q):
            return 0.0

    with pytest.raises(IncompatibleError, match="reparameterized gradient of renyi is biased"):
        GradientVI(objective=Other())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gradient": gradients.ScoreFunction(), "objective": objectives.ELBO(1)}, "at least 2 draws"),
        ({"gradient": gradients.Reparameterized}, "gradient is .*needed"),
        ({"gradient": "reparameterized"}, "gradient is 'reparameterized'"),
        ({"objective": objectives.ELBO}, "objective is .*needed"),
        ({"optimizer": 0.01}, "optimizer is 0.01; needed: an optax"),
    ],
)
def test_wrong_parts_are_refused_when_constructed(arguments, message):
    with pytest.raises(IncompatibleError, match=message):
        GradientVI(**arguments)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "8"])
def test_elbo_refuses_a_wrong_number_of_draws(wrong):
    with pytest.raises(IncompatibleError, match="positive integer"):
        objectives.ELBO(wrong)


def test_elbo_keeps_its_sign_and_constants():
    value = objectives.ELBO(3).value(np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.5, 2.0]))
    assert float(value) == pytest.approx(1.0)
