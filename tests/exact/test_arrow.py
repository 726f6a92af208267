"""Gaussians with an arrow precision are solved in one step at any size; hierarchies get their exact moments."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import lowerbound as lb
from lowerbound.algorithms import ScoreRegression
from lowerbound.algorithms.arrow_regression import ArrowPattern
from lowerbound.algorithms.score_regression import DENSE_LIMIT
from lowerbound.families import Arrow, ArrowGaussian, ArrowLayout
from lowerbound.kernel import Kernel
from lowerbound.model import Model

LOG_EVIDENCE = -7.5


def arrow_target(layout: ArrowLayout, seed: int) -> tuple[lb.LogDensity, ArrowGaussian]:
    """A normalised Gaussian with this arrow, scales over four decades, times a known evidence."""
    rng = np.random.default_rng(seed)
    g, p = layout.globals, layout.dimension
    local = [
        np.tril(0.5 * rng.standard_normal((n, d, d)), -1) + np.eye(d) * rng.uniform(0.3, 2, (n, d, 1))
        for n, d, _, _ in layout.parts
    ]
    truth = ArrowGaussian(
        rng.standard_normal(p),
        np.tril(rng.standard_normal((g, g)), -1) + np.diag(rng.uniform(0.5, 2, g)),
        rng.standard_normal((p - g, g)),
        np.concatenate([f.ravel() for f in local]),
        layout.order,
        layout.classes,
    ).rescale(rng.standard_normal(p), np.exp(rng.uniform(-5, 5, p)))
    inverse = np.linalg.inv(truth.scale_global)
    inverses = [np.linalg.inv(f) for f in layout.stack(truth.scale_local)]
    constant = LOG_EVIDENCE - float(truth.log_det()) - 0.5 * p * np.log(2 * np.pi)

    def density(x):
        y = (x - truth.location)[layout.order]
        top = inverse @ y[:g]
        y = y[g:] - truth.border @ top
        total = top @ top
        for (n, d, place, _), matrices in zip(layout.parts, inverses, strict=True):
            total += (jnp.einsum("nij,nj->ni", matrices, y[place].reshape(n, d)) ** 2).sum()
        return constant - 0.5 * total

    return lb.LogDensity(density, {"x": lb.Site(shape=(p,))}), truth


def _layout(p_g: int, counts: dict[int, int], seed: int) -> ArrowLayout:
    p = p_g + sum(n * d for d, n in counts.items())
    order = np.random.default_rng(seed).permutation(p)
    return ArrowLayout(order, np.array([[n, d] for d, n in sorted(counts.items())]))


@pytest.mark.parametrize(
    "layout",
    [
        _layout(3, {1: 20, 2: 6, 5: 3}, 1),
        _layout(0, {1: 10, 3: 10}, 2),
        pytest.param(_layout(4, {1: 2000, 3: 332}, 3), marks=pytest.mark.slow),
    ],
    ids=lambda a: f"p={a.dimension}, p_g={a.globals}",
)
def test_one_step_lands_on_an_arrow(layout):
    target, truth = arrow_target(layout, seed=4)
    posterior = lb.fit(target, family="arrow", num_draws=64)
    assert posterior.trace.phase.count("fitting") <= 4
    assert posterior.counts["steps"] <= 3
    q = posterior.q
    assert isinstance(q, ArrowGaussian) and q.layout.globals == layout.globals
    # In coordinates in which the answer is N(0, I), so that no direction is excused by a wide one.
    noise = np.random.default_rng(5).standard_normal((4, layout.dimension))
    assert np.abs(truth.whiten(q.mean[None])).max() < 1e-6
    # F0^{-1} F is a rotation: all lengths stay.
    lengths = (truth.whiten(truth.mean + q.times(noise)) ** 2).sum(1) / (noise**2).sum(1)
    np.testing.assert_allclose(lengths, 1, atol=1e-7)
    np.testing.assert_allclose(q.variance(), truth.variance(), rtol=1e-6)
    assert float(q.entropy()) == pytest.approx(float(truth.entropy()), abs=1e-6)
    assert posterior.elbo.value == pytest.approx(LOG_EVIDENCE, abs=1e-6)


@pytest.mark.parametrize("m", [64, 192])
def test_noise_has_exact_second_moments_where_it_is_regressed_on(m):
    layout = _layout(4, {1: 50, 3: 20}, 6)
    g = layout.globals
    e = ArrowPattern(layout).noise(np.random.default_rng(7), m)
    assert e.shape == (m, layout.dimension)
    np.testing.assert_allclose(e.mean(0), 0, atol=1e-14)
    np.testing.assert_allclose(e[:, :g].T @ e[:, :g] / m, np.eye(g), atol=1e-12)
    np.testing.assert_allclose(e[:, :g].T @ e[:, g:] / m, 0, atol=1e-12)
    for found, (n, d, _, _) in zip(layout.gram(e[:, g:], e[:, g:]), layout.parts, strict=True):
        np.testing.assert_allclose(found / m, np.broadcast_to(np.eye(d), (n, d, d)), atol=1e-12)
    assert np.abs(e[:, g:].T @ e[:, g:] / m - np.eye(layout.dimension - g)).max() > 0.1, "groups are independent"


def hierarchy(y, groups):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfNormal(2))
    s = numpyro.sample("s", dist.HalfNormal(2))
    with numpyro.plate("groups", groups):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        with numpyro.plate("rows", y.shape[0]):
            numpyro.sample("y", dist.Normal(theta, s), obs=y)


def exact_moments(y: np.ndarray, centre: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and sds of mu, log tau, log s and all theta, with theta integrated out and a grid over the rest.

    ybar_j ~ N(mu, tau^2 + s^2/n) and theta_j | rest is normal with a mean linear in ybar_j.
    """
    n, groups = y.shape
    axes = [np.linspace(c - 7 * w, c + 7 * w, 41) for c, w in zip(centre, width, strict=True)]
    mu, log_tau, log_s = (a.ravel() for a in np.meshgrid(*axes, indexing="ij"))
    tau, s, ybar = np.exp(log_tau), np.exp(log_s), y.mean(0)
    v = tau**2 + s**2 / n
    density = -(mu**2) / 50 - tau**2 / 8 - s**2 / 8 + log_tau + log_s
    density += -0.5 * groups * np.log(v) - 0.5 * ((ybar**2).sum() - 2 * mu * ybar.sum() + groups * mu**2) / v
    density += -groups * (n - 1) * log_s - 0.5 * ((y - ybar) ** 2).sum() / s**2
    w = np.exp(density - density.max())
    w /= w.sum()
    precision = n / s**2 + 1 / tau**2
    a, b = mu / tau**2 / precision, n / s**2 / precision
    means = [w @ mu, w @ log_tau, w @ log_s]
    sds = [np.sqrt(w @ x**2 - m**2) for x, m in zip((mu, log_tau, log_s), means, strict=True)]
    theta = w @ a + (w @ b) * ybar
    spread = w @ (1 / precision) + w @ a**2 + 2 * (w @ (a * b)) * ybar + (w @ b**2) * ybar**2 - theta**2
    return np.concatenate([means, theta]), np.concatenate([sds, np.sqrt(spread)])


@pytest.mark.slow
def test_a_hierarchy_of_four_hundred_groups_by_default():
    rng = np.random.default_rng(8)
    groups = 400
    y = 2 + rng.standard_normal(groups) + rng.standard_normal((20, groups))
    posterior = lb.fit(hierarchy, {"y": y, "groups": groups}, num_draws=512)
    assert posterior.family_name == "arrow"
    q, model = posterior.q, Model.from_numpyro(hierarchy, {"y": y, "groups": groups})
    i = np.concatenate(
        [np.arange(model.sites[n].start, model.sites[n].slice.stop) for n in ("mu", "tau", "s", "theta")]
    )
    mean, sd = np.asarray(q.mean)[i], np.sqrt(np.asarray(q.variance()))[i]
    centre, width = mean[:3], sd[:3]
    for _ in range(2):
        exact_mean, exact_sd = exact_moments(y, centre, width)
        centre, width = exact_mean[:3], exact_sd[:3]
    assert np.abs((mean - exact_mean) / exact_sd).max() < 0.05
    assert np.abs(np.log(sd / exact_sd)).max() < 0.05


def test_the_answer_is_that_of_a_dense_gaussian():
    # The same optimum, when the posterior has the arrow: here with a likelihood that is not normal.
    rng = np.random.default_rng(9)
    y = rng.binomial(12, 1 / (1 + np.exp(-(0.5 + rng.standard_normal(40)))))

    def counts(y):
        mu, tau = numpyro.sample("mu", dist.Normal(0, 2)), numpyro.sample("tau", dist.HalfNormal(1))
        with numpyro.plate("groups", 40):
            z = numpyro.sample("z", dist.Normal(0, 1))
            numpyro.sample("y", dist.Binomial(12, logits=mu + tau * z), obs=y)

    model = Model.from_numpyro(counts, {"y": y})
    kernel, found = Kernel(model), {}
    for family in (lb.families.Dense(), Arrow()):
        algorithm = ScoreRegression()
        state = algorithm.init(0, kernel, family)
        info = None
        while info is None or not info.done:
            state, info = algorithm.step(state)
        assert info.status is lb.Status.CONVERGED
        found[family.name] = algorithm.output(state)
    dense, arrow = found["dense"], found["arrow"]
    sd = np.sqrt(dense.variance())
    assert arrow.layout.globals == 2 and model.dimension < DENSE_LIMIT
    assert np.abs((arrow.mean - dense.mean) / sd).max() < 0.05
    assert np.abs(np.log(arrow.variance() / dense.variance())).max() < 0.1
