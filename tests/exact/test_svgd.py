"""Particles: Stein's formulas against automatic differentiation, the known collapse, and what is said about it."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints

import lowerbound as lb
from lowerbound.algorithms import SVGD
from lowerbound.algorithms.stein import median_bandwidth, velocity
from lowerbound.diagnostics.particles import spread
from lowerbound.errors import IncompatibleError, TrustWarning
from lowerbound.families import ParticleBlock, Particles
from lowerbound.objectives.pairs import stein_v_statistic
from lowerbound.precision import float64
from tests.exact.test_moment_matching import COVARIANCE, MEAN, gaussian


def fitted(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        return lb.fit(*arguments, **options)


def _kernel(name: str, h: float):
    def k(x, y):
        square = ((x - y) ** 2).sum()
        if name == "imq":
            return (1 + square / h**2) ** -0.5
        return jnp.exp(-0.5 * square / h**2) + (1 + x @ y if name == "rbf_linear" else 0.0)

    return k


@pytest.mark.parametrize("name", ["rbf", "imq", "rbf_linear"])
def test_stein_formulas_are_the_derivatives(name):
    rng = np.random.default_rng(0)
    x, s, h = rng.standard_normal((5, 3)), rng.standard_normal((5, 3)), 0.8
    with float64():
        k = _kernel(name, h)
        gram = np.array([[k(a, b) for b in x] for a in x])
        first = np.array([[jax.grad(k)(a, b) for b in x] for a in x])  # by the first argument
        mixed = [[jax.jacfwd(jax.grad(k), 1)(a, b) for b in x] for a in x]
        traces = np.array([[np.trace(m) for m in row] for row in mixed])
    drawn, apart = velocity(x, s, name, h)
    np.testing.assert_allclose(drawn, np.einsum("ji,jd->id", gram, s) / 5, rtol=1e-9)
    np.testing.assert_allclose(apart, first.mean(0), rtol=1e-9, atol=1e-12)
    if name != "imq":
        return
    # grad_y k(x_i, x_j) is grad_x k(x_j, x_i): the kernels are symmetric.
    u = gram * (s @ s.T) + np.einsum("id,jid->ij", s, first) + np.einsum("jd,ijd->ij", s, first) + traces
    squared, independent = stein_v_statistic(x, s, h)
    np.testing.assert_allclose([squared, independent], [u.mean(), np.diagonal(u).mean() / 5], rtol=1e-9)


def test_the_discrepancy_tells_draws_of_the_target_from_others():
    rng = np.random.default_rng(1)
    ratios = []
    for scale in (1.0, 2.0):
        pairs = [stein_v_statistic(x, -x / scale**2, median_bandwidth(x)) for x in rng.standard_normal((20, 100, 2))]
        ratios.append(np.mean([a / b for a, b in pairs]))
    assert 0.8 < ratios[0] < 1.3 and ratios[1] > 1.8, ratios


def test_a_gaussian_has_its_moments_and_an_rbf_alone_collapses():
    posterior = fitted(gaussian(), family="particles")
    assert posterior.algorithm_name == "svgd" and posterior.status.converged
    variance = np.diagonal(COVARIANCE)
    np.testing.assert_allclose(posterior.q.variance() / variance, 1, atol=0.03)
    np.testing.assert_allclose((posterior.q.mean - MEAN) / np.sqrt(variance), 0, atol=0.02)
    # Never TRUSTED: the draws that are returned are weighted ones.
    assert posterior.verdict.status.name == "CORRECTED" and posterior.source == "importance"
    assert posterior.elbo.value == -np.inf
    assert any("no density" in s for s in posterior.verdict.not_checked)
    narrow = fitted(gaussian(), family="particles", algorithm=SVGD(kernel="rbf"))
    found = narrow.q.variance() / variance
    assert (found < 0.92).all()
    [said] = [r for r in narrow.verdict.reasons if "worst direction" in r]
    shown = float(said.partition("about ")[2].split()[0])
    assert abs(shown - found.min()) < 0.08, (said, found)
    sd = np.concatenate([np.ravel(v) for v in narrow.sd().values()])
    np.testing.assert_allclose(sd / np.sqrt(variance), 1, atol=0.05)  # what is returned is corrected


def test_too_few_particles_are_said():
    posterior = fitted(gaussian(), family=Particles(3), max_steps=50)
    assert any("3 particles in 4 dimensions" in r for r in posterior.verdict.reasons)
    assert posterior.verdict.status.name != "TRUSTED"


def test_the_spread_is_the_ratio_of_variances():
    x = np.random.default_rng(2).standard_normal((400, 2)) @ np.array([[1.0, 0.3], [0.0, 0.5]])
    block = ParticleBlock(x)
    precision = np.array([[2.0, 0.4], [0.4, 1.0]])
    wanted = np.sort(np.linalg.eigvals(block.covariance() @ precision).real)
    np.testing.assert_allclose(spread(block, -(x - 1.0) @ precision), wanted, rtol=1e-6)


@pytest.mark.parametrize("annealing", ["hyperbolic", "cyclical"])
def test_annealed_particles_reach_a_second_mode(annealing):
    target = lb.LogDensity(
        lambda z: jnp.logaddexp(-0.5 * ((z + 3.0) / 0.7) ** 2, -0.5 * ((z - 3.0) / 0.7) ** 2),
        {"z": lb.Site(constraints.real, ())},
    )
    right = []
    for chosen in (None, annealing):
        algorithm = SVGD(kernel="rbf", annealing=chosen, max_steps=1500)
        q = fitted(target, family=Particles(60), algorithm=algorithm, num_draws=128).q
        right.append(float((q.points > 0).mean()))
    assert right[0] in (0.0, 1.0)  # as it starts, about one
    assert 0.2 < right[1] < 0.8, right


def test_draws_are_particles_and_files_hold_them(tmp_path):
    posterior = fitted(gaussian(), family=Particles(8), max_steps=20)
    block = posterior.q
    draws = block.sample(np.random.default_rng(0), 4000)
    counts = [(draws == point).all(1).sum() for point in block.points]
    assert sum(counts) == 4000 and min(counts) > 400
    posterior.save(tmp_path / "p.lb")
    assert np.array_equal(lb.load(tmp_path / "p.lb").q.points, block.points)
    with pytest.raises(IncompatibleError, match="particles have no log q"):
        posterior.bound("elbo")


def test_what_it_is_given_is_checked():
    with pytest.raises(IncompatibleError, match="needed: one of 'rbf', 'imq'"):
        SVGD(kernel="gauss")
    with pytest.raises(IncompatibleError, match="SVGD moves particles, not dense"):
        lb.fit(gaussian(), family="dense", algorithm="svgd")
    with pytest.raises(IncompatibleError, match=r"Particles\(num_particles=1\)"):
        Particles(1)
    with pytest.raises(IncompatibleError, match="svgd"):
        lb.fit(gaussian(), family="particles", algorithm="gradient_vi")
    assert median_bandwidth(np.array([[0.0], [2.0]])) == pytest.approx(2 / np.sqrt(2 * np.log(3)))
