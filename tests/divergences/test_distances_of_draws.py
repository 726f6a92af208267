"""MMD, energy, Wasserstein, Dudley, Stein and classifier distances against closed forms and brute force."""

from __future__ import annotations

import itertools
from math import sqrt

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import wasserstein_distance

from lowerbound import divergences as dv

P, Q = dist.Normal(0.0, 1.0), dist.Normal(1.0, 2.0)


def normals(seed: int, n: int, *, shape: tuple[int, ...] = (), mean: float = 0.0, sd: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, sd, (n, *shape))


def near(found: dv.Estimate, expected: float) -> bool:
    return 0 < found.se < np.inf and abs(float(found) - expected) < 5 * found.se


# -- mmd and energy --------------------------------------------------------------------------------------------

KERNELS = {
    "gaussian": lambda r, dot: np.exp(-(r**2) / 8),
    "laplace": lambda r, dot: np.exp(-r / 2),
    "inverse_multiquadric": lambda r, dot: 1 / np.sqrt(1 + r**2 / 4),
    "polynomial": lambda r, dot: (dot / 4 + 1) ** 3,
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_mmd_is_the_mean_over_pairs(kernel):
    x, y = normals(0, 12, shape=(3,)), normals(1, 15, shape=(3,), mean=1.0)
    k = KERNELS[kernel]

    def mean(a, b, same):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (same and i == j)]
        return np.mean([k(np.linalg.norm(a[i] - b[j]), a[i] @ b[j]) for i, j in pairs])

    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert float(dv.mmd(x, y, kernel=kernel, bandwidth=2.0)) == pytest.approx(expected, rel=1e-10)
    assert float(dv.mmd(y, x, kernel=kernel, bandwidth=2.0)) == pytest.approx(expected, rel=1e-10)
    both = [float(dv.mmd(x, y, kernel=kernel, bandwidth=b)) for b in (0.5, 2.0)]
    assert float(dv.mmd(x, y, kernel=kernel, bandwidth=[0.5, 2.0])) == pytest.approx(np.mean(both), rel=1e-10)


def test_mmd_and_energy_of_gaussians():
    x, y = normals(0, 1500), normals(1, 1800, mean=1.0, sd=2.0)
    for found, exact in [
        (dv.mmd(x, y, bandwidth=1.0), dv.mmd(P, Q, bandwidth=1.0)),
        (dv.mmd(x, y, bandwidth=[0.5, 3.0]), dv.mmd(P, Q, bandwidth=[0.5, 3.0])),
        (dv.energy(x, y), dv.energy(P, Q)),
    ]:
        assert exact.exact and near(found, float(exact))
    # In two dimensions, by the product of one-dimensional kernel means where elements are independent.
    a, b = dist.Normal(jnp.zeros(2), 1.0).to_event(1), dist.Normal(jnp.ones(2), 2.0).to_event(1)
    dense = dist.MultivariateNormal(jnp.ones(2), 4 * jnp.eye(2))
    assert float(dv.mmd(a, b, bandwidth=1.5)) == pytest.approx(float(dv.mmd(a, dense, bandwidth=1.5)), rel=1e-6)
    # Energy is squared, in units of the draws: 2 E|X - Y| of points.
    assert float(dv.energy([0.0] * 10, [3.0] * 10)) == 6.0


def test_permutations_tell_difference_from_chance():
    x, y, z = normals(0, 80), normals(1, 90), normals(2, 90, mean=1.5)
    for measure in (dv.mmd, dv.energy):
        assert measure(x, z, permutations=99).p_value == 0.01
        assert measure(x, y, permutations=99).p_value > 0.01
        assert measure(x, y).p_value is None
    # The labels that were found are one of those counted: recomputed by brute force on eight draws.
    a, b = normals(0, 4), normals(1, 4, mean=0.5)
    from lowerbound.divergences.two_sample import permutation_test, u_statistic

    def kernel(s, t):
        return -np.abs(s - t.T)

    pooled = np.concatenate([a, b])[:, None]
    every = []
    for chosen in itertools.combinations(range(8), 4):
        rest = [i for i in range(8) if i not in chosen]
        every.append(u_statistic(kernel, pooled[list(chosen)], pooled[rest])[0])
    found = u_statistic(kernel, a[:, None], b[:, None])[0]
    exact = np.mean(np.array(every) >= found - 1e-12)
    p = permutation_test(kernel, a[:, None], b[:, None], permutations=2000, seed=0)
    assert abs(p - exact) < 5 * sqrt(exact * (1 - exact) / 2000)


def test_invariance():
    x, y = normals(0, 60, shape=(2,)), normals(1, 50, shape=(2,), mean=1.0)
    shuffled = np.random.default_rng(0).permutation(x)
    for measure in (dv.mmd, dv.energy, lambda a, b: dv.wasserstein(a, b, method="sliced")):
        first = float(measure(x, y))
        assert float(measure(shuffled, y)) == pytest.approx(first, rel=1e-9)
        assert float(measure(x + 100.0, y + 100.0)) == pytest.approx(first, rel=1e-7)
    assert float(dv.energy(7 * x, 7 * y)) == pytest.approx(7 * float(dv.energy(x, y)), rel=1e-10)
    assert float(dv.mmd(7 * x, 7 * y)) == pytest.approx(float(dv.mmd(x, y)), rel=1e-9)  # the median follows


# -- wasserstein -----------------------------------------------------------------------------------------------


def test_wasserstein_of_distributions():
    assert float(dv.wasserstein(P, dist.Normal(3.0, 5.0))) == pytest.approx(5.0)
    # Quantiles of exponentials are -log(1 - u)/rate.
    a, b = dist.Exponential(1.0), dist.Exponential(0.5)
    assert float(dv.wasserstein(a, b)) == pytest.approx(sqrt(2), rel=1e-9)
    assert float(dv.wasserstein(a, b, order=1)) == pytest.approx(1.0, rel=1e-9)
    found = dv.wasserstein(dist.Uniform(0.0, 1.0), dist.Uniform(1.0, 3.0))
    assert float(found) == pytest.approx(sqrt(1.5**2 + 1 / 12), rel=1e-10) and "quantile" in found.exact
    for order in (1, 2):
        exact = dv.wasserstein(P, Q, order=order)
        sampled = dv.wasserstein(P, Q, order=order, method="exact", num_draws=4000)
        assert exact.exact and near(sampled, float(exact))
    # Bures, by a root that is computed another way: of commuting and of general covariances.
    left, right = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    found = dv.wasserstein(*(dist.MultivariateNormal(jnp.zeros(2), jnp.asarray(c)) for c in (left, right)))
    cross = np.sqrt(np.linalg.eigvals(left @ right)).sum()  # tr (A B)^½
    assert float(found) ** 2 == pytest.approx(np.trace(left + right) - 2 * cross, rel=1e-5)
    # No quantile function in NumPyro: draws, with an error.
    assert 0 < dv.wasserstein(dist.Gamma(2.0, 1.0), dist.Gamma(3.0, 1.0), order=1).se < np.inf


def test_moments_that_do_not_exist():
    normal, cauchy = dist.Normal(0.0, 1.0), dist.Cauchy(0.0, 1.0)
    for p, order, side in [
        (cauchy, 1, "lower and upper"),
        (dist.StudentT(1.5), 2, "lower"),
        (dist.HalfCauchy(1.0), 1, "upper"),
    ]:
        found = dv.wasserstein(p, normal, order=order)
        assert float(found) == np.inf and f"has no limit in the {side}" in found.note and found.exact
    # Of both in one tail: what is left is not known.
    assert dv.wasserstein(cauchy, dist.Cauchy(0.0, 2.0), order=1).se == np.inf
    # A mean, and no variance of the mean.
    found = dv.wasserstein(dist.StudentT(1.5), normal, order=1)
    assert found.se == np.inf and "E|X|^2 of p has no limit" in found.note and np.isfinite(float(found))
    assert dv.energy(cauchy, normal).se == np.inf and dv.energy(dist.StudentT(1.5), normal).se < np.inf
    assert dv.mmd(cauchy, normal, kernel="polynomial").se == np.inf
    assert dv.mmd(cauchy, normal).se < np.inf and dv.mmd(normal, Q, kernel="polynomial").se < np.inf
    # Of draws by their tails: those of a Cauchy, and none of a normal or an exponential.
    rng = np.random.default_rng(0)
    found = dv.wasserstein(rng.standard_cauchy(1000), normals(1, 1000))
    assert found.se == np.inf and "k-hat" in found.note
    assert dv.wasserstein(rng.exponential(size=1000), normals(1, 1000)).se < np.inf


def test_plans_do_not_care_for_units():
    pytest.importorskip("ot")
    x, y = normals(0, 60, shape=(2,), mean=0.3), normals(1, 50, shape=(2,))
    for method in ("exact", "entropic"):
        for order in (1, 2):
            at_one = dv.wasserstein(x, y, order=order, method=method)
            for unit in (1e-7, 1e7):
                found = dv.wasserstein(unit * x, unit * y, order=order, method=method)
                assert float(found) == pytest.approx(unit * float(at_one), rel=1e-6)
                assert found.se == pytest.approx(unit * at_one.se, rel=1e-4)


def test_transport_on_the_line():
    x, y = np.arange(5.0) ** 2, np.array([1.0, 7.0, 3.0, 3.5])
    from lowerbound.divergences.transport import on_the_line

    assert on_the_line(x, y, 1).cost == pytest.approx(wasserstein_distance(x, y), rel=1e-12)
    # Every assignment of four to four.
    best = min(np.mean(np.abs(x[:4] - y[list(o)]) ** 2) for o in itertools.permutations(range(4)))
    found = on_the_line(x[:4], y, 2)
    assert found.cost == pytest.approx(best, rel=1e-12)
    # Potentials are feasible, and give the cost back (strong duality).
    φ, ψ = found.of_p, found.of_q
    slack = np.abs(x[:4, None] - y) ** 2 - φ[:, None] - ψ
    assert slack.min() + φ.mean() + ψ.mean() == pytest.approx(best, rel=1e-12)


def test_sliced():
    # Along a direction at angle a, two points at a distance d are d |cos a| apart: W2 is d/√2, W1 2 d/π.
    x, y = np.zeros((20, 2)), np.tile([3.0, 4.0], (20, 1))
    assert near(dv.wasserstein(x, y, method="sliced", projections=500), 5 / sqrt(2))
    assert near(dv.wasserstein(x, y, method="sliced", order=1, projections=500), 10 / np.pi)


def test_plans_by_pot():
    pytest.importorskip("ot")
    x, y = normals(0, 6, shape=(2,)), normals(1, 6, shape=(2,), mean=1.0)
    x, y = np.repeat(x, 2, 0), np.repeat(y, 2, 0)
    for order in (1, 2):
        cost = np.linalg.norm(x[::2, None] - y[::2], axis=-1) ** order
        best = min(np.mean(cost[np.arange(6), list(o)]) for o in itertools.permutations(range(6)))
        assert float(dv.wasserstein(x, y, order=order)) == pytest.approx(best ** (1 / order), rel=1e-9)
    # On a line in the plane it is what sorting finds, potentials and so errors too.
    a, b = normals(2, 300), normals(3, 200, mean=1.0)
    flat, lifted = dv.wasserstein(a, b), dv.wasserstein(np.stack([a, 0 * a], 1), np.stack([b, 0 * b], 1))
    assert float(lifted) == pytest.approx(float(flat), rel=1e-9) and lifted.se == pytest.approx(flat.se, rel=0.05)
    # A translation moves the entropic one as it does the other: S_ε of δ-shifted copies is δ² + S_ε(0) (order 2).
    shifted = dv.wasserstein(lifted_by(a, 0.0), lifted_by(a, 3.0), method="entropic", regularization=0.5)
    assert float(shifted) == pytest.approx(3.0, rel=1e-3)
    close = dv.wasserstein(lifted_by(a, 0.0), lifted_by(b, 0.0), method="entropic", regularization=0.05)
    assert float(close) == pytest.approx(float(flat), rel=0.05)


def lifted_by(a: np.ndarray, height: float) -> np.ndarray:
    return np.stack([a, np.full(len(a), height)], 1)


# -- dudley ----------------------------------------------------------------------------------------------------


def test_dudley():
    for apart in (0.1, 1.0, 50.0):
        found = dv.dudley([0.0] * 10, [apart] * 10)
        assert float(found) == pytest.approx(2 * apart / (2 + apart), rel=1e-9)
    # Masses on 0 and 1, one apart: 2/3 of what is moved.
    found = dv.dudley(dist.BernoulliProbs(0.2), dist.BernoulliProbs(0.5))
    assert float(found) == pytest.approx(0.2, rel=1e-6) and found.exact
    # In the plane, all pairs are constraints; on a line in it, neighbours suffice.
    x, y = normals(0, 25), normals(1, 25, mean=2.0)
    turned = [np.stack([0.6 * z, 0.8 * z], 1) for z in (x, y)]
    assert float(dv.dudley(*turned)) == pytest.approx(float(dv.dudley(x, y)), rel=1e-7)
    assert float(dv.dudley(x, y)) <= min(2.0, wasserstein_distance(x, y))
    assert float(dv.dudley(x, x)) == pytest.approx(0.0, abs=1e-9)


# -- stein -----------------------------------------------------------------------------------------------------


def test_stein():
    normal = dist.Normal(0.0, 1.0)
    # E u(Y, Y') for Y ~ N(1/2, 1), by Gauss-Hermite quadrature, of u with its derivatives taken by JAX.
    import jax

    from lowerbound.precision import float64

    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()

    def k(x, y):
        return (1 + (x - y) ** 2) ** -0.5

    def u(x, y):
        across = jax.grad(jax.grad(k, 0), 1)(x, y)
        return x * y * k(x, y) - x * jax.grad(k, 1)(x, y) - y * jax.grad(k, 0)(x, y) + across

    with float64():
        at = jnp.asarray(nodes + 0.5)
        table = np.asarray(jax.vmap(lambda x: jax.vmap(lambda y: u(x, y))(at))(at))
    expected = float(weights @ table @ weights)
    off, on = normals(0, 1500, mean=0.5), normals(1, 1500)
    found = dv.stein(normal, off, bandwidth=1.0)
    assert near(found, expected) and near(dv.stein(normal, on, bandwidth=1.0), 0.0)
    assert dv.stein(normal, off[:300], bootstraps=99).p_value == 0.01
    assert dv.stein(normal, on[:300], bootstraps=99).p_value > 0.01
    # The V-statistic adds the diagonal: u(x, x) = x² + 1/h².
    n = len(off)
    v = dv.stein(normal, off, bandwidth=1.0, statistic="v")
    assert float(v) == pytest.approx(((n - 1) * float(found) + np.mean(off**2) + 1) / n, rel=1e-9)
    # A log density without its constant, of vectors, is the distribution.
    pairs = normals(2, 200, shape=(2,), mean=0.3)
    given = dv.stein(lambda z: -0.5 * (z**2).sum() + 7.0, pairs)
    assert float(given) == pytest.approx(float(dv.stein(dist.Normal(jnp.zeros(2), 1.0).to_event(1), pairs)), rel=1e-6)


# -- classifier ------------------------------------------------------------------------------------------------


def test_classifier():
    pytest.importorskip("sklearn")
    from sklearn.neighbors import KNeighborsClassifier

    # Means 2 apart: the best error of each side is Φ(-1), and 2 (1 - 2 ε) is twice total variation.
    x, y = normals(0, 1500), normals(1, 1500, mean=2.0)
    exact = 2 * float(dv.total_variation(dist.Normal(0.0, 1.0), dist.Normal(2.0, 1.0)))
    assert near(dv.classifier(x, y), exact)
    assert float(dv.classifier(x, y, model=KNeighborsClassifier(25))) < exact + 5 * dv.classifier(x, y).se
    assert float(dv.classifier(x, y + 100)) == 2.0
    assert near(dv.classifier(x[:400], normals(5, 400)), 0.0)
    # One mean and two spreads: no half line tells them apart, an interval (two half lines that differ) does.
    wide = normals(2, 1500, sd=4.0)
    total = 2 * float(dv.total_variation(dist.Normal(0.0, 1.0), dist.Normal(0.0, 4.0)))
    pairs = dv.classifier(x, wide, symmetric_difference=True)
    assert float(pairs) > 0.5 * total > float(dv.classifier(x, wide)) and float(pairs) < total + 5 * pairs.se
