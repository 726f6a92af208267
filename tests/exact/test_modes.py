"""Posteriors with several modes whose masses are known by symmetry."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import lowerbound as lb
from lowerbound.algorithms.modes import Census
from lowerbound.algorithms.regression import Iterate
from lowerbound.algorithms.search import End


def squares(y):
    v = numpyro.sample("v", dist.Normal(0, 1).expand([len(y)]).to_event(1))
    numpyro.sample("y", dist.Normal(v**2, 0.2).to_event(1), obs=y)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("y", [[1.0, 0.25], [1.0, 0.25, 2.0]])
def test_every_sign_is_found(y, seed):
    """The signs of v are independent and equally likely: all means are zero."""
    posterior = lb.fit(squares, {"y": np.array(y)}, seed=seed)
    assert posterior.verdict.status.name == "CORRECTED"
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
    return Iterate(np.array([x]), np.eye(1), np.zeros((2, 1)), elbo, 0.0, np.zeros((2, 1)))


def end(x: float, converged: bool = True) -> End:
    return End(np.array([x]), 0.0, np.zeros(1), np.eye(1), converged)


def test_the_census_counts():
    census = Census(two_sided, [at(0.0)])  # pyright: ignore
    census.take([end(0.1), end(20.0), end(20.5), end(-20.0), end(50.0, converged=False)], lambda e: at(float(e.x[0])))
    best, others, missing = census.result()
    assert best.mean[0] == 0.0 and [o.mean[0] for o in others] == [20.0, -20.0]
    assert missing == pytest.approx(2 / 4)  # of four searches, those to 0 and to -20 were alone
    assert not census.complete
    census.take([end(0.0), end(-20.1), end(20.2)], lambda e: None)
    assert census.complete
    assert census.result()[2] == 0.0


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
