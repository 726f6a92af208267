"""A mixture with a Gaussian for each mode: its laws, and what it makes of posteriors with several modes."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from scipy import stats

import lowerbound as lb
from lowerbound.diagnostics.modes.each_mode import unlike
from lowerbound.diagnostics.weights.importance import weigh
from lowerbound.diagnostics.weights.proposals import about
from lowerbound.families import DenseGaussian, MixtureBlock
from lowerbound.kernel import Kernel
from lowerbound.model.given import as_model
from tests.measure import assert_mean, assert_moments

SHARES = np.array([0.2, 0.5, 0.3])
MEANS = np.array([[0.0, 1.0], [4.0, -2.0], [1.0, 1.5]])
ROOTS = np.array([[[1.0, 0.0], [0.5, 0.7]], [[0.3, 0.0], [0.0, 2.0]], [[0.8, 0.0], [-0.4, 0.5]]])


def block() -> MixtureBlock:
    return MixtureBlock(SHARES, MEANS, ROOTS)


def by_hand(x: np.ndarray) -> np.ndarray:
    parts = [s * stats.multivariate_normal(m, r @ r.T).pdf(x) for s, m, r in zip(SHARES, MEANS, ROOTS, strict=True)]
    return np.log(sum(parts))


def test_the_density():
    x = 3 * np.random.default_rng(0).standard_normal((200, 2))
    np.testing.assert_allclose(block().log_prob(x), by_hand(x), rtol=1e-12)
    np.testing.assert_allclose(block().responsibilities(x).sum(1), 1.0, rtol=1e-12)


def test_draws_come_from_each_component_as_often_as_they_should():
    q = block()
    x = q.sample(np.random.default_rng(1), 40_000)
    assert_moments(x, q.mean, q.covariance(), "draws")
    np.testing.assert_allclose(q.variance(), np.diagonal(q.covariance()), rtol=1e-12)
    assert_mean(q.responsibilities(x)[:, 1], SHARES[1], "share of the second")


def test_the_last_noise_picks_and_the_others_are_the_components():
    q, e = block(), np.array([0.3, -1.2])
    for quantile, k in ((0.1, 0), (0.21, 1), (0.69, 1), (0.71, 2), (1 - 1e-16, 2)):
        x = q.transform(np.array([[*e, stats.norm.ppf(quantile)]]))
        np.testing.assert_allclose(x[0], MEANS[k] + ROOTS[k] @ e)


@pytest.mark.parametrize("distance", [0.0, 1.0, 3.0, 30.0])
def test_the_entropy_in_one_dimension(distance):
    q = MixtureBlock.of(
        [DenseGaussian(np.array([m]), np.array([[1.0]])) for m in (0.0, distance)], np.array([3.0, 1.0])
    )
    x = np.linspace(-12, distance + 12, 200_001)[:, None]
    log_q = q.log_prob(x)
    exact = -np.trapezoid(np.exp(log_q) * log_q, x[:, 0])
    # What is not in closed form is an average of log r_k over 2,048 draws of each component.
    log_r = np.log(np.maximum(q.responsibilities(x), 1e-300))
    density = np.stack([np.exp(c.log_prob(x)) for c in q.components], 1)
    first, second = (np.trapezoid(density * log_r**k, x, axis=0) for k in (1, 2))
    error = q.shares @ np.sqrt(np.maximum(second - first**2, 0) / 2048)
    assert float(q.entropy()) == pytest.approx(exact, abs=5 * error + 1e-8)


def test_rescale_is_the_change_of_variables():
    q, shift, scale = block(), np.array([3.0, -1.0]), np.array([10.0, 0.1])
    x = q.sample(np.random.default_rng(2), 50)
    moved = q.rescale(shift, scale)
    np.testing.assert_allclose(moved.log_prob(shift + scale * x), q.log_prob(x) - np.log(scale).sum(), rtol=1e-9)
    np.testing.assert_allclose(moved.mean, shift + scale * q.mean)


def test_the_students_about_it_have_its_shares():
    students, shares = about(block(), 6.0)
    np.testing.assert_array_equal(shares, SHARES)
    x = MEANS + 0.1
    for student, m, r in zip(students, MEANS, ROOTS, strict=True):
        np.testing.assert_allclose(student.log_prob(x), stats.multivariate_t(m, r @ r.T, df=6).logpdf(x), rtol=1e-10)


def target(scales=(0.6, 1.4), shares=(0.3, 0.7), distance=8.0, p=4):
    """Normalised: log p(x) = 0."""
    m = distance / np.sqrt(p)

    def density(x):
        parts = [
            np.log(w) - 0.5 * jnp.sum((x - c) ** 2) / s**2 - p * np.log(s) - 0.5 * p * np.log(2 * np.pi)
            for w, c, s in zip(shares, (0.0, m), scales, strict=True)
        ]
        return jnp.logaddexp(*parts)

    return lb.LogDensity(density, {"x": lb.Site(shape=(p,))}), m


@pytest.mark.parametrize("seed", range(3))
def test_a_mixture_of_gaussians_is_matched_by_one(seed):
    density, m = target()
    posterior = lb.fit(density, seed=seed)
    assert posterior.verdict.status.name == "TRUSTED" and posterior.family_name == "mixture"
    q = posterior.q
    assert isinstance(q, MixtureBlock)
    order = np.argsort(q.locations[:, 0])
    np.testing.assert_allclose(q.shares[order], [0.3, 0.7], atol=0.03)
    np.testing.assert_allclose(q.locations[order], np.repeat([[0.0], [m]], 4, 1), atol=0.02)
    assert abs(posterior.elbo.value) < 0.005  # log p(x) = 0: the one Gaussian's would be at most log 0.7
    np.testing.assert_allclose(np.sort(posterior.verdict.modes), [0.3, 0.7], atol=0.03)
    [trial] = posterior.trials
    assert trial.name == "mixture" and trial.kept
    # The gain of the K-draw bound over the mode that was fitted first.
    assert min(abs(trial.gain.value + np.log(s)) for s in (0.3, 0.7)) < 5 * trial.gain.se + 0.01
    assert posterior.evidence.upper is None


def test_one_gaussian_where_no_other_family_is_wanted():
    density, _ = target()
    posterior = lb.fit(density, escalate=False)
    assert posterior.verdict.status.name == "CORRECTED" and isinstance(posterior.q, DenseGaussian)
    assert len(posterior.verdict.modes) == 2 and posterior.trials == ()


def test_modes_that_are_no_gaussians_are_corrected():
    """Skewed modes: the mixture is better than one Gaussian, and its draws are weighted."""

    def density(x):
        def gamma(u):  # log of a Gamma(3, 1), in one of its two signs
            return 3 * u - jnp.exp(u)

        return jnp.logaddexp(gamma(x[0]) - 0.5 * x[1] ** 2, gamma(-x[0] - 12) - 0.5 * x[1] ** 2)

    posterior = lb.fit(lb.LogDensity(density, {"x": lb.Site(shape=(2,))}))
    assert posterior.verdict.status.name == "CORRECTED" and posterior.family_name == "mixture"
    law = stats.loggamma(3)
    near, far = law.mean(), -12 - law.mean()
    mean, sd = (near + far) / 2, np.sqrt(law.var() + ((near - far) / 2) ** 2)
    assert abs(posterior.mean()["x"][0] - mean) < 0.1 * sd
    assert posterior.sd()["x"][0] == pytest.approx(sd, rel=0.05)


def test_in_a_file(tmp_path):
    density, _ = target()
    posterior = lb.fit(density)
    posterior.save(tmp_path / "two.lb")
    loaded = lb.load(tmp_path / "two.lb")
    assert isinstance(loaded.q, MixtureBlock) and loaded.family_name == "mixture"
    x = posterior.sample(100, seed=3)["x"]
    np.testing.assert_array_equal(loaded.sample(100, seed=3)["x"], x)
    np.testing.assert_allclose(loaded.q.log_prob(x), posterior.q.log_prob(x), rtol=1e-12)


def test_weights_of_a_wrong_mixture_put_it_right():
    """Equal shares for a target of 0.3 and 0.7: the estimated gap is KL of the shares, and the evidence zero."""
    density, m = target()
    kernel = Kernel(as_model(density))
    parts = [DenseGaussian(np.full(4, c), s * np.eye(4)) for c, s in ((0.0, 0.6), (m, 1.4))]
    w = weigh(kernel, MixtureBlock.of(parts, np.ones(2)), [], np.random.default_rng(0))
    assert abs(w.log_evidence) < 5 * w.log_evidence_se + 1e-6
    gap = -0.5 * np.log(0.3 / 0.5) - 0.5 * np.log(0.7 / 0.5)
    assert w.gap == pytest.approx(gap, abs=5 * w.gap_se)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(w.smoothed).all()


def gaussians(shares, means, sds):
    shares, means, sds = np.asarray(shares), np.asarray(means, float), np.asarray(sds)
    p = means.shape[1]

    def density(x):
        parts = jnp.log(shares) - 0.5 * jnp.sum((x - means) ** 2, 1) / sds**2 - p * jnp.log(sds)
        return logsumexp(parts)

    mean = shares @ means
    return (
        lb.LogDensity(density, {"x": lb.Site(shape=(p,))}),
        mean,
        np.sqrt(shares @ (sds[:, None] ** 2 + (means - mean) ** 2)),
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_a_narrow_mode_beside_the_second(seed):
    """The first mode is 15 sds from it: it is seen from the second alone."""
    density, mean, sd = gaussians([0.3, 0.4, 0.3], [[4, 0, 0, 0], [14, 0, 0, 0], [14, 5, 0, 0]], [1, 1, 0.5])
    posterior = lb.fit(density, seed=seed)
    assert posterior.verdict.trusted and len(posterior.verdict.modes) == 3
    assert np.all(np.abs(posterior.mean()["x"] - mean) < 0.1 * sd)


def test_sixteen_modes_of_a_product():
    means = np.array(list(itertools.product([4.0, -4.0], repeat=4)))
    shares = np.prod(np.where(means > 0, 0.75, 0.25), 1)
    density, mean, sd = gaussians(shares, means, np.ones(16))
    posterior = lb.fit(density)
    assert posterior.verdict.trusted and len(posterior.verdict.modes) >= 15
    assert np.all(np.abs(posterior.mean()["x"] - mean) < 0.1 * sd)


@pytest.mark.parametrize(("scale", "fault"), [(1.0, False), (1.6, True)])
def test_chains_inside_each_mode(scale, fault):
    """The weighted draws of the second mode with its sd too large, or right."""
    density, m = target(scales=(1.0, 1.0), shares=(0.5, 0.5), distance=20.0, p=2)
    kernel = Kernel(as_model(density))
    modes = [DenseGaussian(np.full(2, c), np.eye(2)) for c in (0.0, m)]
    rng = np.random.default_rng(0)
    weighted = weigh(kernel, MixtureBlock.of(modes, np.ones(2)), [], rng)
    centre = np.where((weighted.draws.sum(1) > m)[:, None], m, 0.0)
    spread = np.where(centre > 0, scale, 1.0)
    weighted = replace(weighted, draws=centre + spread * (weighted.draws - centre))
    said = unlike(kernel, modes, weighted, rng, budget=10**6)
    assert bool(said) == fault
    if fault:
        assert "in one of the modes move x[" in said[0]
