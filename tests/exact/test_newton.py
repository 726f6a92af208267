"""Steihaug's conjugate gradients against the quadratic problems that they solve, and what moves with them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import lowerbound as lb
from lowerbound.algorithms import SampleAverage, Status
from lowerbound.algorithms.newton import Step, next_radius, steihaug
from lowerbound.families import Diagonal
from lowerbound.kernel import Kernel
from lowerbound.model.given import as_model

P = 12


def _problem(seed: int, lowest: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A Hessian with eigenvalues from -20 to -lowest, a gradient, a metric."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((P, P)))[0]
    hessian = -(basis * np.linspace(lowest, 20, P)) @ basis.T
    return hessian, rng.standard_normal(P), rng.uniform(0.5, 2, P)


def _gain(hessian: np.ndarray, g: np.ndarray, d: np.ndarray) -> float:
    return float(g @ d + 0.5 * d @ hessian @ d)


def test_the_whole_step_is_newtons():
    hessian, g, metric = _problem(0)
    path = steihaug(lambda d: hessian @ d, g, metric, 1e3, least=0.0, share=1e-14)
    step = path.step(1e3)
    assert step.inside and path.products <= P + 1
    np.testing.assert_allclose(step.direction, -np.linalg.solve(hessian, g), rtol=1e-6)
    assert step.promise == pytest.approx(-0.5 * g @ np.linalg.solve(hessian, g), rel=1e-9)


@pytest.mark.parametrize("lowest", [0.5, -3.0])
@pytest.mark.parametrize("radius", [0.01, 0.1, 0.3, 1.0])
def test_the_edge(radius, lowest):
    hessian, g, metric = _problem(1, lowest)
    step = steihaug(lambda d: hessian @ d, g, metric, radius, least=0.0).step(radius)
    assert step.promise == pytest.approx(_gain(hessian, g, step.direction), rel=1e-9)
    assert step.length == pytest.approx(np.sqrt((step.direction**2 * metric).sum()))
    assert step.length <= radius * (1 + 1e-9)
    # At least what the preconditioned gradient gives (the Cauchy point), within a factor of the best there is.
    cauchy = g / metric
    lengths = np.linspace(0, radius, 200)[:, None] * cauchy / np.sqrt((cauchy**2 * metric).sum())
    assert step.promise >= max(_gain(hessian, g, d) for d in lengths) * (1 - 1e-6)
    if lowest < 0:
        assert not step.inside and step.length == pytest.approx(radius)


@pytest.mark.parametrize("lowest", [0.5, -3.0])
def test_a_smaller_radius_cuts_the_same_path(lowest):
    hessian, g, metric = _problem(2, lowest)
    path = steihaug(lambda d: hessian @ d, g, metric, 2.0, least=0.0)
    for radius in (2.0, 1.0, 0.4, 0.1, 1e-3):
        again = steihaug(lambda d: hessian @ d, g, metric, radius, least=0.0).step(radius)
        cut = path.step(radius)
        np.testing.assert_allclose(cut.direction, again.direction, rtol=1e-8, atol=1e-12)
        assert cut.promise == pytest.approx(again.promise, rel=1e-8)
        assert cut.inside == again.inside


def test_no_gradient_no_step():
    hessian, g, metric = _problem(0)
    step = steihaug(lambda d: hessian @ d, 0 * g, metric, 1.0, least=0.0).step(1.0)
    assert step.inside and step.promise == 0.0 and not step.direction.any()


def test_the_radius_follows_the_ratio():
    edge, inside = Step(np.ones(1), 1.0, 2.0, False), Step(np.ones(1), 1.0, 1.0, True)
    assert next_radius(2.0, edge, 0.9) == 6.0
    assert next_radius(2.0, edge, 0.5) == next_radius(2.0, inside, 0.9) == 2.0
    assert next_radius(2.0, inside, 0.1) == next_radius(2.0, inside, np.nan) == next_radius(2.0, inside, -3.0) == 0.25


# -- the fits that it moves ------------------------------------------------------------------------------


def _fit(target: lb.LogDensity, **options):
    kernel = Kernel(as_model(target))
    algorithm = SampleAverage(**options)
    state = algorithm.init(0, kernel, Diagonal())
    while state.status is None:
        state, _ = algorithm.step(state)
    return algorithm, state


def _logistic(p: int) -> lb.LogDensity:
    rng = np.random.default_rng(p)
    x = rng.standard_normal((4 * p, p)) + rng.standard_normal((4 * p, 1))
    y = rng.uniform(size=4 * p) < 1 / (1 + np.exp(-x @ rng.standard_normal(p) / np.sqrt(p)))

    def density(beta):
        eta = jnp.asarray(x) @ beta
        return (jnp.asarray(y) * eta - jnp.logaddexp(0.0, eta)).sum() - 0.5 * (beta**2).sum()

    return lb.LogDensity(density, {"beta": lb.Site(shape=(p,))})


def test_it_ends_where_the_rule_says():
    algorithm, state = _fit(_logistic(60))
    assert state.status is Status.CONVERGED and state.newton
    assert state.function is not None and state.at is not None
    # Far more of the same: what the rule left over is no more than a few times what it allows.
    at = state.at
    for _ in range(5):
        metric = state.function.metric(at.vector)
        path = steihaug(lambda d, at=at: state.function.products(at, d)[0], at.gradient, metric, 1.0, least=1e-12)
        further = state.function.evaluate(at.vector + path.step(1.0).direction)
        if further is None or further.elbo <= at.elbo:
            break
        at = further
    allowed = 0.5 * algorithm.tolerance**2
    assert 0 <= at.elbo - state.at.elbo < 3 * allowed


def test_kinks_are_left_to_the_other_method():
    # E|x| = s sqrt(2 / pi), so that log s - E|x| / b is greatest at s = b sqrt(pi / 2). No draw's Hessian knows it.
    b = np.array([0.1, 1.0, 5.0, 30.0])
    target = lb.LogDensity(lambda x: -(jnp.abs(x - 2.0 * b) / b).sum(), {"x": lb.Site(shape=(4,))})
    _, state = _fit(target, num_samples=512, tolerance=0.003)
    assert state.status is Status.CONVERGED
    q = SampleAverage().output(state)
    assert q is not None
    np.testing.assert_allclose(np.sqrt(np.asarray(q.variance())), b * np.sqrt(np.pi / 2), rtol=0.01)
    assert (np.abs(np.asarray(q.mean) - 2 * b) < 0.02 * b).all()
