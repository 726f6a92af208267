"""Standard errors and p-values are what they say: coverage over 1,000 repeats. Slow."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from lowerbound import divergences as dv

pytestmark = pytest.mark.slow

REPEATS = 1000
P, Q = dist.Normal(0.0, 1.0), dist.Normal(0.7, 1.3)
DENSE = (
    dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3)),
    dist.MultivariateNormal(0.5 * jnp.ones(3), 1.5 * jnp.eye(3)),
)


def coverage(estimate: Callable[[int], dv.Estimate], truth: float | None) -> float:
    """Of 95% intervals; about the mean of the estimates where the truth has a bias that the error does not claim."""
    found = np.array([(e.value, e.se) for e in map(estimate, range(REPEATS))])
    center = found[:, 0].mean() if truth is None else truth
    return float((np.abs(found[:, 0] - center) <= 1.96 * found[:, 1]).mean())


def draws(seed: int, *, n: int = 400, m: int = 500, shape: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0.0, 1.0, (n, *shape)), rng.normal(0.7, 1.3, (m, *shape))


F_DIVERGENCES = {
    "kl": dv.kl,
    "jeffreys": dv.jeffreys,
    "jensen_shannon": dv.jensen_shannon,
    "total_variation": dv.total_variation,
    "hellinger": dv.hellinger,
    "chi2": dv.chi2,
    "alpha": lambda p, q, **how: dv.alpha(p, q, order=0.3, **how),
    "renyi": lambda p, q, **how: dv.renyi(p, q, order=0.7, **how),
    "f_divergence": lambda p, q, **how: dv.f_divergence(p, q, f=lambda u: np.abs(u - 1) / 2, **how),
}


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_f_divergences(name):
    measure = F_DIVERGENCES[name]
    truth = float(measure(P, Q))

    def one(i: int) -> dv.Estimate:
        return measure(P, Q, method="monte_carlo", num_draws=2000, seed=i)

    # Of unbounded terms the tail is counted at k-hat and one of its errors more: with 1,000 of them that shows.
    assert 0.93 < coverage(one, truth) < (0.985 if name == "jeffreys" else 0.97)


@pytest.mark.parametrize("k", [0.2, 0.3, 0.4, 0.5])
def test_where_terms_have_next_to_no_variance(k):
    # Terms of chi2 of N(0, 1 + k) and N(0, 1) have the tail shape k.
    p, q = dist.Normal(0.0, np.sqrt(1 + k)), dist.Normal(0.0, 1.0)
    truth = 1 / np.sqrt((1 + k) * (1 - k)) - 1
    found = [dv.chi2(p, q, method="monte_carlo", seed=i) for i in range(300)]
    finite = [e for e in found if np.isfinite(e.se)]
    covered = [abs(e.value - truth) <= 1.96 * e.se for e in finite]
    # At 1/2 a fifth are left, of which a binomial error of two is allowed for.
    assert np.mean(covered) >= 0.93 - (2 * np.sqrt(0.05 * 0.95 / len(finite)) if k == 0.5 else 0)
    assert len(finite) > 0.9 * len(found) if k < 0.25 else len(finite) < 0.97 * len(found)


def test_in_three_dimensions():
    truth = float(dv.kl(*DENSE))
    assert 0.93 < coverage(lambda i: dv.kl(*DENSE, method="monte_carlo", num_draws=2000, seed=i), truth) < 0.97


BETWEEN_DRAWS = {
    "mmd": (lambda i: dv.mmd(*draws(i), bandwidth=1.0), lambda: float(dv.mmd(P, Q, bandwidth=1.0))),
    "energy": (lambda i: dv.energy(*draws(i)), lambda: float(dv.energy(P, Q))),
    "wasserstein 1": (lambda i: dv.wasserstein(*draws(i), order=1), lambda: float(dv.wasserstein(P, Q, order=1))),
    "wasserstein 2": (lambda i: dv.wasserstein(*draws(i)), lambda: float(dv.wasserstein(P, Q))),
    "laplace": (lambda i: dv.mmd(*draws(i), kernel="laplace", bandwidth=1.0), lambda: None),
    "sliced": (
        lambda i: dv.wasserstein(*draws(i, n=150, m=150, shape=(2,)), method="sliced", projections=32, seed=i),
        lambda: None,
    ),
    "plan": (lambda i: dv.wasserstein(*draws(i, n=150, m=150, shape=(2,))), lambda: None),
    "entropic": (
        lambda i: dv.wasserstein(*draws(i, n=150, m=150, shape=(2,)), method="entropic", regularization=1.0),
        lambda: None,
    ),
    "dudley": (lambda i: dv.dudley(*draws(i, n=60, m=60)), lambda: None),
    "stein": (lambda i: dv.stein(P, draws(i)[1], bandwidth=1.0), lambda: None),
    "classifier": (lambda i: dv.classifier(*draws(i, n=200, m=200), folds=2, seed=i), lambda: None),
}


@pytest.mark.parametrize("name", BETWEEN_DRAWS)
def test_between_draws(name):
    if needed := {"classifier": "sklearn", "plan": "ot", "entropic": "ot"}.get(name):
        pytest.importorskip(needed)
    estimate, truth = BETWEEN_DRAWS[name]
    assert 0.93 < coverage(estimate, truth()) < 0.97


TESTS = {
    "mmd": lambda i: dv.mmd(draws(i, n=30)[0], draws(i + 9999, n=40)[0], permutations=99, seed=i),
    "energy": lambda i: dv.energy(draws(i, n=30)[0], draws(i + 9999, n=40)[0], permutations=99, seed=i),
    "stein": lambda i: dv.stein(P, draws(i, n=100)[0], bandwidth=1.0, bootstraps=99, seed=i),
}


@pytest.mark.parametrize("name", TESTS)
def test_p_values_where_there_is_no_difference(name):
    p = np.array([TESTS[name](i).p_value for i in range(REPEATS)])
    # P(p <= a) is a: binomial, within five standard errors.
    for level in (0.05, 0.2, 0.5):
        assert abs((p <= level + 1e-9).mean() - level) < 5 * np.sqrt(level * (1 - level) / REPEATS)
