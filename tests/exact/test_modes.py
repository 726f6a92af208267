"""Posteriors with several modes whose masses are known by symmetry."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import lowerbound as lb
from lowerbound.algorithms import SVGD, MarkovianScoreClimbing, MomentMatching
from lowerbound.algorithms.dense_start import other_modes
from lowerbound.algorithms.modes import Census
from lowerbound.algorithms.pattern import Iterate
from lowerbound.algorithms.search import End, surrounding_points
from lowerbound.families import Dense, DenseGaussian, LowRankGaussian, Particles, Point
from lowerbound.fitting import run
from lowerbound.kernel import Kernel
from lowerbound.model import Model


def squares(y):
    v = numpyro.sample("v", dist.Normal(0, 1).expand([len(y)]).to_event(1))
    numpyro.sample("y", dist.Normal(v**2, 0.2).to_event(1), obs=y)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("y", [[1.0, 0.25], [1.0, 0.25, 2.0]])
def test_every_sign_is_found(y, seed):
    """The signs of v are independent and equally likely: all means are zero."""
    posterior = lb.fit(squares, {"y": np.array(y)}, seed=seed)
    assert posterior.verdict.trusted and len(posterior.verdict.modes) > 1
    sd = posterior.sd()["v"]
    assert np.all(np.abs(posterior.mean()["v"]) < 0.1 * sd)
    # E v^2 of one coordinate by quadrature
    v = np.linspace(-5, 5, 20001)
    for j, obs in enumerate(y):
        density = np.exp(-0.5 * v**2 - 0.5 * ((obs - v**2) / 0.2) ** 2)
        assert sd[j] ** 2 == pytest.approx((density @ v**2) / density.sum(), rel=0.1)


def test_the_absolute_value_has_two():
    def model(y):
        m = numpyro.sample("m", dist.Normal(0, 10))
        numpyro.sample("y", dist.Normal(jnp.abs(m), 1), obs=y)

    posterior = lb.fit(model, {"y": np.array([5.0, 5.2])})
    assert abs(float(posterior.mean()["m"])) < 0.3
    assert float(posterior.sd()["m"]) > 4.5


def two_sided(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A density with modes at multiples of 20."""
    return 5 * np.cos(2 * np.pi * x[:, 0] / 20), np.zeros_like(x)


def at(x: float, elbo: float = 0.0) -> Iterate:
    return Iterate(DenseGaussian(np.array([x]), np.eye(1)), np.zeros((2, 1)), elbo, 0.0, np.zeros((2, 1)))


def end(x: float, converged: bool = True) -> End:
    return End(np.array([x]), 0.0, np.zeros(1), np.eye(1), converged)


def test_the_census_counts():
    census = Census(two_sided, [at(0.0)])  # pyright: ignore
    census.take([end(0.1), end(20.0), end(20.5), end(-20.0), end(50.0, converged=False)], lambda e: at(float(e.x[0])))
    best, others, missing = census.result()
    assert best.q.mean[0] == 0.0 and [o.mean[0] for o in others] == [20.0, -20.0]
    assert missing == pytest.approx(2 / 4)  # of four searches, those to 0 and to -20 were alone
    assert not census.complete
    census.take([end(0.0), end(-20.1), end(20.2)], lambda e: None)
    assert census.complete
    assert census.result()[2] == 0.0


def test_a_search_that_meets_new_modes_to_its_end_is_unfinished():
    census = Census(two_sided, [at(0.0)])  # pyright: ignore
    for k in (1, 2, 3):
        census.take([end(0.0), end(20.0 * k), end(20.0 * k)], lambda e: at(float(e.x[0])))
    assert census.result()[2] >= 0.5
    census.take([end(20.0), end(40.0)], lambda e: None)
    assert census.result()[2] < 0.2


def test_a_better_mode_that_makes_others_vanish_is_news():
    """Beside a mode 20 nats higher the first two no longer matter: fewer modes than before, and one of them new."""
    census = Census(two_sided, [at(0.0)])  # pyright: ignore
    census.take([end(20.0)], lambda e: at(20.0))
    assert census.grown
    census.take([end(-20.0)], lambda e: at(-20.0, elbo=20.0))
    assert census.grown
    about = census.next_about()
    assert about is not None and about.mean[0] == -20.0
    assert census.next_about() is None


def test_modes_far_below_do_not_matter():
    census = Census(two_sided, [at(0.0)])  # pyright: ignore
    census.take([end(20.0)], lambda e: at(20.0, elbo=-13.0))
    assert census.result()[1] == []
    assert census.result()[2] == 0.0


def test_a_mode_within_reach_is_another_if_the_density_dips_on_the_way():
    def wells(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.logaddexp(-0.5 * (x[:, 0] - 1.6) ** 2 / 0.1, -0.5 * (x[:, 0] + 1.6) ** 2 / 0.1), np.zeros_like(x)

    census = Census(wells, [at(-1.6)])  # pyright: ignore
    assert census.found[0].holds(np.array([1.6]))  # 3.2 sds away
    census.take([end(1.6), end(-1.5)], lambda e: at(float(e.x[0])))
    assert len(census.found) == 2 and census.hits == [1, 1]


def kernel_of(density, p: int = 2) -> Kernel:
    return Kernel(Model.from_log_density(lb.LogDensity(density, {"x": lb.Site(shape=(p,))})))


def gaussian_at(x, sd=1.0) -> Iterate:
    p = len(x)
    return Iterate(DenseGaussian(np.array(x), sd * np.eye(p)), np.zeros((2, p)), 0.0, 0.0, np.zeros((2, p)))


def end_at(x) -> End:
    return End(np.array(x), 0.0, np.zeros(len(x)), np.eye(len(x)), True)


def test_two_peaks_are_separate():
    def wells(x):
        return jnp.logaddexp(-0.5 * jnp.sum((x - 4) ** 2), -0.5 * jnp.sum((x + 4) ** 2))

    census = Census(kernel_of(wells), [gaussian_at([4.1, 3.9])])
    census.take([end_at([-4.0, -4.0])], lambda e: gaussian_at(e.x))
    assert [m.separate for m in census.result()[1]] == [True]


def test_several_gaussians_on_one_banana_are_about_one_peak():
    """The ridge b = a^2 / 2 bends, so Gaussians settle on both of its arms; uphill from either is the same peak."""

    def banana(x):
        return -0.5 * (x[0] / 4) ** 2 - 0.5 * ((x[1] - 0.5 * x[0] ** 2) / 0.1) ** 2

    census = Census(kernel_of(banana), [gaussian_at([3.0, 4.5], 0.1)])
    census.take([end_at([-3.0, 4.5])], lambda e: gaussian_at(e.x, 0.1))
    assert len(census.found) == 2  # a straight line between them crosses a valley
    _, others, missing = census.result()
    assert [m.separate for m in others] == [False]
    assert missing == 0.0  # one peak, met twice


def test_a_banana_is_one_mode_to_the_verdict():
    def model(y):
        a = numpyro.sample("a", dist.Normal(0, 1))
        b = numpyro.sample("b", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(b + a**2, 0.1), obs=y)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.TrustWarning)
        posterior = lb.fit(model, {"y": -1.0})
    assert posterior.verdict.modes == (1.0,)


@pytest.mark.parametrize("seed", range(3))
def test_a_narrow_mode_is_found_in_two_dimensions(seed):
    """Half of the mass in a peak a fifth as wide, five sds away: its share is known."""
    s = 0.2

    def density(x):
        wide = -0.5 * jnp.sum(x**2)
        narrow = -0.5 * jnp.sum((x - jnp.array([5.0, 0.0])) ** 2) / s**2 - 2 * np.log(s)
        return jnp.logaddexp(wide, narrow)

    posterior = lb.fit(lb.LogDensity(density, {"x": lb.Site(shape=(2,))}), seed=seed)
    assert posterior.verdict.trusted and len(posterior.verdict.modes) == 2
    np.testing.assert_allclose(posterior.verdict.modes, 0.5, atol=0.05)
    np.testing.assert_allclose(posterior.mean()["x"], [2.5, 0.0], atol=0.25)
    assert posterior.evidence.upper is None
    assert abs(posterior.log_evidence.value - np.log(4 * np.pi)) < 5 * posterior.log_evidence.se + 1e-6


def test_points_around_a_gaussian():
    """Opposite pairs at 5 to 40 sds in its own metric; then points that it explains badly, about a narrow peak."""

    def density(x):
        wide = -0.5 * jnp.sum((x / jnp.array([1.0, 100.0])) ** 2)
        return jnp.logaddexp(wide, 8.0 - 0.5 * jnp.sum(((x - jnp.array([5.0, 0.0])) / jnp.array([0.3, 30.0])) ** 2))

    q = DenseGaussian(np.zeros(2), np.diag([1.0, 100.0]))
    x, value, gradient = surrounding_points(kernel_of(density), np.random.default_rng(0), q)
    assert len(x) == len(value) == len(gradient) == 16
    np.testing.assert_allclose(x[:4], -x[4:8])
    # Their directions are random normals: the mean square of the distance is p times the square of the radius.
    distance = np.sqrt((q.whiten(x[:4]) ** 2).sum(1))
    assert (np.diff(np.log(distance)) > -2).all() and distance.max() > 10
    assert (np.abs(q.whiten(x[8:])[:, 0] - 5.0) < 1.5).sum() >= 6
    assert np.isfinite(value).all() and np.isfinite(gradient).all()


def test_starts_without_a_density_come_nearer_or_are_left_out():
    """Finite within 3 of the middle alone: the pairs at 5 to 40 sds are halved until they are inside."""
    q = DenseGaussian(np.zeros(2), np.eye(2))
    kernel = kernel_of(lambda x: -0.5 * jnp.sum(x**2) + 0 * jnp.log(9 - jnp.sum(x**2)))
    x, value, _ = surrounding_points(kernel, np.random.default_rng(1), q)
    assert len(x) >= 8 and ((x**2).sum(1) < 9).all() and np.isfinite(value).all()


def pair(p: int, distance: float, narrow: float):
    """Equal masses: N(0, I) and N(m, narrow^2 I) with |m| = distance, in all coordinates alike."""
    m = distance / np.sqrt(p)

    def density(x):
        return jnp.logaddexp(-0.5 * jnp.sum(x**2), -0.5 * jnp.sum((x - m) ** 2) / narrow**2 - p * np.log(narrow))

    return density, m


@pytest.mark.parametrize(("p", "distance", "narrow"), [(3, 4.0, 0.15), (5, 6.0, 0.4), (10, 6.0, 0.45)])
def test_a_narrow_mode_that_few_starts_lead_to(p, distance, narrow):
    """Seen from a small ball alone: in ten dimensions one point of tens of thousands."""
    density, m = pair(p, distance, narrow)
    posterior = lb.fit(lb.LogDensity(density, {"x": lb.Site(shape=(p,))}))
    assert posterior.verdict.trusted and len(posterior.verdict.modes) == 2
    np.testing.assert_allclose(posterior.verdict.modes, 0.5, atol=0.05)
    sd = np.sqrt((1 + narrow**2) / 2 + m**2 / 4)
    assert np.all(np.abs(posterior.mean()["x"] - m / 2) < 0.1 * sd)
    np.testing.assert_allclose(posterior.sd()["x"], sd, rtol=0.07)


def test_points_uphill_of_something_else_come_first():
    """Where the density rises outwards, that is on the near side of the other peak."""
    density, m = pair(4, 5.0, 0.5)
    q = DenseGaussian(np.zeros(4), np.eye(4))
    x, _, gradient = surrounding_points(kernel_of(density, 4), np.random.default_rng(2), q)
    x, gradient = x[-8:], gradient[-8:]
    assert ((x * gradient).sum(1) > 1).all()
    assert (np.linalg.norm(x - m, axis=1) < 5.0).all()


def test_the_peak_of_a_mode_is_its_own():
    """Next to the wide one's peak a step along the bare gradient may have any length, also that to the narrow one."""
    density, m = pair(10, 10.0, 0.45)
    census = Census(kernel_of(density, 10), [gaussian_at(np.full(10, m), 0.45)])
    census.take([end_at(np.full(10, -1e-6))], lambda e: gaussian_at(e.x))
    assert [o.separate for o in census.result()[1]] == [True]


@pytest.mark.parametrize("other", [True, False])
def test_another_algorithms_q_beside_a_second_mode(other):
    """What a dense fit finds beyond q's own mode, with its place; nothing if there is nothing, or q is a point."""

    def density(x):
        here = -0.5 * jnp.sum(x**2)
        return jnp.logaddexp(here, -0.5 * jnp.sum((x - 7) ** 2) / 0.25) if other else here

    kernel = kernel_of(density, 3)
    q = LowRankGaussian(np.full(3, 0.1), np.full(3, 0.9), np.full((3, 1), 0.1))
    modes, _ = other_modes(kernel, q, 0)
    assert [m.separate for m in modes] == [True] * other
    if other:
        np.testing.assert_allclose(modes[0].mean, 7.0, atol=0.01)
        np.testing.assert_allclose(modes[0].covariance, 0.25 * np.eye(3), atol=0.02)
    assert other_modes(kernel, Point(np.zeros(3)), 0) == ([], 0.0)
    if other:  # those that begin with the dense fit have taken its census, and none is taken after them
        for algorithm, family in (
            (MomentMatching(max_steps=1), Dense()),
            (MarkovianScoreClimbing(max_steps=1), Dense()),
            (SVGD(max_steps=1), Particles(8)),
        ):
            assert algorithm.finds_modes
            ended = run(algorithm, kernel, family)
            (mode,) = algorithm.modes(ended.state)
            np.testing.assert_allclose(mode.mean, modes[0].mean, atol=0.01)
