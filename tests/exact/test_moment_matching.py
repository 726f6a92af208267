"""The forward KL and the chi bound among Gaussians, where the optimum is known."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints
from scipy.optimize import minimize
from scipy.special import logsumexp

import lowerbound as lb
from lowerbound.algorithms import GradientVI, MomentMatching, Status
from lowerbound.algorithms.endless import covering, endless
from lowerbound.algorithms.heaviest import SHARE, heaviest_share
from lowerbound.algorithms.moment_matching import as_block
from lowerbound.algorithms.tilted import Moments, best, between, restrict, surrogate
from lowerbound.algorithms.weighted_moments import draw, log_mixture, measure, slope_of_mixture
from lowerbound.errors import IncompatibleError, TrustWarning
from lowerbound.fitting import run
from lowerbound.kernel import Kernel
from lowerbound.model import Model
from lowerbound.plan import choose

P = 4
_root = np.tril(0.5 * np.random.default_rng(5).standard_normal((P, P)), -1) + np.diag([0.01, 1.0, 3.0, 50.0])
COVARIANCE = _root @ _root.T
MEAN = np.array([0.3, -2.0, 10.0, 400.0])


def gaussian() -> lb.LogDensity:
    precision = jnp.asarray(np.linalg.inv(COVARIANCE))
    return lb.LogDensity(
        lambda a, b: -0.5 * (jnp.append(a, b) - MEAN) @ precision @ (jnp.append(a, b) - MEAN),
        {"a": lb.Site(constraints.real, (3,)), "b": lb.Site(constraints.real, ())},
    )


def fitted(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        return lb.fit(*arguments, **options)


def cubo(d: np.ndarray, precision: np.ndarray, n: float) -> float:
    """log ∫ p^n q^(1 - n) but for constants, of centred Gaussians with precisions ``precision`` and diag(d)."""
    inner = n * precision - (n - 1) * np.diag(d)
    if np.linalg.eigvalsh(inner)[0] <= 0:
        return 1e6
    return -(n - 1) / 2 * np.log(d).sum() - 0.5 * np.linalg.slogdet(inner)[1]


def cubo_variances(n: float) -> np.ndarray:
    """The variances of the best diagonal q, by a search over them in units of the margins."""
    sd = np.sqrt(np.diagonal(COVARIANCE))
    precision = np.linalg.inv(COVARIANCE / np.outer(sd, sd))
    start = np.full(P, np.log(np.linalg.eigvalsh(precision)[0]))
    found = minimize(lambda t: cubo(np.exp(t), precision, n), start, method="Nelder-Mead", tol=1e-10)
    found = minimize(lambda t: cubo(np.exp(t), precision, n), found.x, method="Nelder-Mead", tol=1e-12)
    return sd**2 * np.exp(-found.x)


def test_the_forward_kl_of_a_mean_field_has_the_margins():
    posterior = fitted(gaussian(), family="diagonal", objective="forward_kl")
    assert posterior.algorithm_name == "moment_matching" and posterior.status.converged
    np.testing.assert_allclose(posterior.q.variance(), np.diagonal(COVARIANCE), rtol=1e-6)
    np.testing.assert_allclose(posterior.q.mean, MEAN, rtol=1e-6)


@pytest.mark.parametrize("order", [1.3, 2.0])
def test_the_chi_bound_of_a_mean_field_has_its_least_value(order):
    posterior = fitted(gaussian(), family="diagonal", objective=lb.objectives.ChiUpperBound(order))
    assert posterior.status.converged
    wanted = cubo_variances(order)
    assert (wanted > 1.005 * np.diagonal(COVARIANCE)).any()  # wider than the margins: another optimum than the KL's
    np.testing.assert_allclose(posterior.q.variance(), wanted, rtol=1e-3)


def test_the_chi_bound_of_a_dense_gaussian_is_exact():
    posterior = fitted(gaussian(), family="dense", objective="chi_upper_bound")
    scale = np.sqrt(np.diagonal(COVARIANCE))
    np.testing.assert_allclose(posterior.q.covariance() / np.outer(scale, scale), COVARIANCE / np.outer(scale, scale),
                               atol=1e-6)  # fmt: skip
    assert posterior.verdict.status.name == "TRUSTED"


def test_a_product_has_the_blocks():
    family = lb.families.Product({"a": lb.families.Dense(), "b": lb.families.Diagonal()})
    q = fitted(gaussian(), family=family, objective="forward_kl").q
    np.testing.assert_allclose(q.blocks[0].covariance(), COVARIANCE[:3, :3], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(q.variance()[3], COVARIANCE[3, 3], rtol=1e-6)


def test_the_surrogate_undoes_the_tilt():
    p, q = Moments(MEAN, COVARIANCE), Moments(MEAN - 0.3, np.diag(3.0 * np.diagonal(COVARIANCE)))
    for power in (1.0, 1.5, 3.0):
        pi = between(p, q, power)
        assert pi is not None
        back = surrogate(pi, q, power)
        np.testing.assert_allclose(back.covariance, COVARIANCE, rtol=1e-6)
        np.testing.assert_allclose(back.mean, MEAN, rtol=1e-6)
        found = best(p, [np.array([0, 2]), np.array([1]), np.array([3])], power)
        there = between(p, found, power)
        assert there is not None
        np.testing.assert_allclose(np.diagonal(there.covariance), np.diagonal(found.covariance), rtol=1e-6)
        np.testing.assert_allclose(there.covariance[0, 2], found.covariance[0, 2], rtol=1e-5)
    assert between(p, Moments(MEAN, 0.1 * COVARIANCE), 2.0) is None  # q so narrow that the bound is infinite


def skewed() -> lb.LogDensity:
    """exp(a) ~ Gamma(3), and b given a normal: E[a] = digamma(3), var a = trigamma(3)."""
    return lb.LogDensity(
        lambda a, b: 3 * a - jnp.exp(a) - 0.5 * (b - a**2) ** 2,
        {"a": lb.Site(constraints.real, ()), "b": lb.Site(constraints.real, ())},
    )


def test_the_moments_of_a_skewed_target():
    from scipy.special import polygamma
    from scipy.stats import loggamma

    law = loggamma(3)
    posterior = fitted(skewed(), objective="forward_kl")
    assert posterior.status.converged, posterior.status
    mean, variance = polygamma(0, 3), polygamma(1, 3)
    # What the rule allows: 0.002 nats, so at most 0.063 sd in a mean and 0.09 in a log variance.
    assert abs(posterior.q.mean[0] - mean) < 0.05 * np.sqrt(variance)
    assert abs(np.log(posterior.q.variance()[0] / variance)) < 0.08
    assert abs(posterior.q.mean[1] - law.moment(2)) < 0.05 * np.sqrt(posterior.q.variance()[1])
    assert abs(np.log(posterior.q.variance()[1] / (1 + law.moment(4) - law.moment(2) ** 2))) < 0.08


def test_weights_that_cannot_be_believed_are_said():
    """A funnel: its neck holds mass that a Gaussian's draws never meet."""
    funnel = lb.LogDensity(
        lambda v, x: -0.5 * (v / 3) ** 2 - 0.5 * (x**2).sum() * jnp.exp(-v) - 4.5 * v,
        {"v": lb.Site(constraints.real, ()), "x": lb.Site(constraints.real, (9,))},
    )
    posterior = fitted(funnel, objective="chi_upper_bound")
    assert posterior.status is Status.INFINITE
    assert not posterior.verdict.converged


def test_whether_a_bound_is_infinite_is_seen_from_draws():
    """N(0, 1) in the first coordinate, b ~ N(0.3 a^2, 1) or tails of t: infinite for every q; not so N(sin a, 1)."""
    kernel = {
        name: Kernel(Model.from_log_density(lb.LogDensity(f, {"z": lb.Site(constraints.real, (2,))}), {}))
        for name, f in {
            "ridge": lambda z: -0.5 * z[0] ** 2 - 0.5 * (z[1] - 0.3 * z[0] ** 2) ** 2,
            "heavy": lambda z: -3.5 * jnp.log1p((z**2).sum() / 5),
            "wave": lambda z: -0.5 * z[0] ** 2 - 0.5 * (z[1] - jnp.sin(z[0])) ** 2,
        }.items()
    }
    unit, q = Moments(np.zeros(2), np.eye(2)), Moments(np.zeros(2), np.diag([1.2, 1.8]))
    out = np.array([[4.5, 9.0], [-5.0, 10.0], [0.0, 6.0]])
    for name in ("ridge", "heavy"):
        found = endless(kernel[name], unit, q, out, power=2.0)
        assert len(found.ends) and found.heavier, name
    assert not len(endless(kernel["wave"], unit, q, out, power=2.0).ends)
    found = endless(kernel["wave"], unit, Moments(np.zeros(2), 0.45 * np.eye(2)), out, power=2.0)  # q too narrow
    assert len(found.ends) and not found.heavier
    # Far out on its line p is N(0, 1) in both, so that v'Dv = (n - 1) u'Du / (n u'u) = 1 / (2 * 0.45).
    np.testing.assert_allclose((found.reaches**2).sum(1) / 0.45, 1 / 0.9, rtol=0.01)


def test_a_q_is_widened_to_its_reaches_and_no_more():
    rng = np.random.default_rng(0)
    q, v = Moments(MEAN, COVARIANCE), 3 * np.sqrt(np.diagonal(COVARIANCE)) * rng.standard_normal((3, P))
    length = lambda q, v: np.einsum("ki,ij,kj->k", v, np.linalg.inv(q.covariance), v)  # noqa: E731
    assert (length(q, v) > 1).all()
    whole, single = [np.arange(P)], [np.array([i]) for i in range(P)]
    wide = covering(q, v[:1], whole, margin=0.02)
    np.testing.assert_allclose(length(wide, v[:1]), 0.98, rtol=1e-9)
    # The projection: D falls along v v' alone in the inverse, S along nothing else.
    grown = (wide.covariance - COVARIANCE) / np.outer(v[0], v[0])
    np.testing.assert_allclose(grown, grown[0, 0], rtol=1e-6)
    for groups in (whole, single, [np.array([0, 2]), np.array([1, 3])]):
        start = Moments(MEAN, restrict(COVARIANCE, groups))
        wide = covering(start, v, groups, margin=0.02)
        assert length(wide, v).max() == pytest.approx(0.98, rel=1e-6) or (length(start, v) < 0.98).all()
        np.testing.assert_array_equal(wide.covariance, restrict(wide.covariance, groups))
        assert np.array_equal(covering(wide, v, groups, margin=0.0199).covariance, wide.covariance)


def normal_by_logistic() -> lb.LogDensity:
    """A unit normal with correlation 0.8 by a logistic cdf of the first: p^2 / q has an end if 2P - D is positive."""
    return lb.LogDensity(
        lambda z: -0.5 * (z[0] ** 2 + (z[1] - 0.8 * z[0]) ** 2 / 0.36) - jnp.logaddexp(0.0, -6 * z[0]),
        {"z": lb.Site(constraints.real, (2,))},
    )


def test_a_q_without_a_bound_is_widened_until_it_has_one():
    """The least bound is at the edge of where it is finite, and the draws' own beyond it."""
    kernel = Kernel(Model.from_log_density(normal_by_logistic(), {}))
    q, status, _, _ = run(MomentMatching(lb.objectives.ChiUpperBound()), kernel, lb.families.Diagonal())
    assert status is Status.CONVERGED
    precision = np.linalg.inv(np.array([[1.0, 0.8], [0.8, 1.0]]))
    left = lambda d: float(np.linalg.eigvalsh(2 * precision - np.diag(d))[0])  # noqa: E731
    assert 0 < left(1 / q.variance()) < 0.1

    line = np.arange(-30, 30.07, 0.15)
    a, b = np.meshgrid(line, line, indexing="ij")
    log_p = -0.5 * (a**2 + (b - 0.8 * a) ** 2 / 0.36) - np.logaddexp(0.0, -6 * a)
    log_p -= logsumexp(log_p)

    def bound(mean: np.ndarray, variance: np.ndarray) -> float:
        if left(1 / variance) <= 0:
            return 1e6
        log_q = -0.5 * ((a - mean[0]) ** 2 / variance[0] + (b - mean[1]) ** 2 / variance[1] + np.log(variance).sum())
        return 0.5 * float(logsumexp(2 * log_p - log_q))

    best_of = minimize(lambda t: bound(t[:2], np.exp(t[2:])), np.array([0.75, 0.6, 0.1, 0.1]), method="Nelder-Mead")
    assert bound(q.mean, q.variance()) < best_of.fun + 0.015


def test_the_heaviest_weight_is_found_and_believed_where_it_is_small():
    """The bends of b ~ N(sin 1.5 a, 1/2) at a diagonal q have weights of up to 31 times the mean (by a grid)."""
    kernel = {
        name: Kernel(Model.from_log_density(lb.LogDensity(f, {"z": lb.Site(constraints.real, (2,))}), {}))
        for name, f in {
            "wave": lambda z: -0.5 * z[0] ** 2 - 2 * (z[1] - jnp.sin(1.5 * z[0])) ** 2,
            "neck": lambda z: -0.5 * z[0] ** 2 - 0.5 * z[1] ** 2 * jnp.exp(-3 * z[0]) - 1.5 * z[0],
        }.items()
    }
    e = np.random.default_rng(1).standard_normal((5, 3)) * 3
    for i in range(3):
        h = np.eye(3)[i] * 1e-5
        np.testing.assert_allclose(
            slope_of_mixture(e)[:, i], (log_mixture(e + h) - log_mixture(e - h)) / 2e-5, atol=1e-6
        )
    q, groups = Moments(np.zeros(2), np.diag([1.00828, 0.95567]) ** 2), [np.array([0]), np.array([1])]
    pi = Moments(np.zeros(2), q.covariance + 0.681 * 0.9636 * np.array([[0.0, 1.0], [1.0, 0.0]]))
    drawn = draw(kernel["wave"], pi, np.random.default_rng(0), 2**14)
    found = measure(drawn, as_block(q, groups), 2.0, groups)
    assert not found.even
    share = heaviest_share(kernel["wave"], drawn, q, as_block(q, groups), found.outer, power=2.0)
    assert share * 2**14 == pytest.approx(30.7, rel=0.05) and share < SHARE
    # A funnel's neck, by its own measure: no weight is the largest.
    unit = Moments(np.zeros(2), np.diag([1.0, 2.0]))
    drawn = draw(kernel["neck"], unit, np.random.default_rng(0), 2**12)
    found = measure(drawn, as_block(unit, groups), 1.0, groups)
    assert heaviest_share(kernel["neck"], drawn, unit, as_block(unit, groups), found.outer, power=1.0) > SHARE


def test_the_chi_bound_of_a_bent_target_from_a_q_that_has_none():
    """b ~ N(sin 1.5 a, 1/2): the ELBO's q is too narrow, its chi bound infinite. The optimum is by quadrature."""
    wave = lb.LogDensity(
        lambda z: -0.5 * z[0] ** 2 - 2 * (z[1] - jnp.sin(1.5 * z[0])) ** 2, {"z": lb.Site(constraints.real, (2,))}
    )
    line = np.arange(-12, 12.04, 0.08)
    a, b = np.meshgrid(line, line, indexing="ij")
    log_p = -0.5 * a**2 - 2 * (b - np.sin(1.5 * a)) ** 2 - np.log(np.pi)

    def bound(covariance: np.ndarray) -> float:
        p = np.linalg.inv(covariance)
        log_q = -0.5 * (
            p[0, 0] * a**2 + 2 * p[0, 1] * a * b + p[1, 1] * b**2 + np.log(np.linalg.det(2 * np.pi * covariance))
        )
        return 0.5 * float(logsumexp(2 * log_p - log_q)) + np.log(0.08)

    def root(t: np.ndarray) -> np.ndarray:
        factor = np.array([[np.exp(t[0]), 0.0], [t[1], np.exp(t[2])]])
        return factor @ factor.T

    least = minimize(lambda t: bound(root(t)), np.array([0.1, 0.3, 0.0]), method="Nelder-Mead").fun
    assert 0.2 < least < 0.4  # no Gaussian is near
    kernel = Kernel(Model.from_log_density(wave, {}))
    q, status, _, _ = run(MomentMatching(lb.objectives.ChiUpperBound()), kernel, lb.families.Dense())
    assert status is Status.CONVERGED
    assert bound(q.covariance()) < least + 0.01 and np.abs(q.mean).max() < 0.05


def test_what_it_is_chosen_for():
    model = Model.from_log_density(gaussian(), {})
    for family in (None, "dense", "diagonal"):
        assert isinstance(choose(model, family, objective="forward_kl")[1], MomentMatching)
    assert isinstance(choose(model, "low_rank", objective="forward_kl")[1], GradientVI)
    assert isinstance(choose(model, None, objective="renyi")[1], GradientVI)
    with pytest.raises(IncompatibleError, match=r"MomentMatching\(objective=ELBO.*ForwardKL"):
        MomentMatching(lb.objectives.ELBO())
