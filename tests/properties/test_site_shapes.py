"""Sites of any support and shape: constrain and unconstrain are inverse, and stay within the support."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpyro.distributions import biject_to, constraints

import lowerbound as lb
from lowerbound.model import Model
from lowerbound.precision import float64
from lowerbound.sites import SiteMap
from tests.properties.quick import quick

#: Support, the smallest length of its event, and whether it has as many coordinates as numbers.
SUPPORTS = {
    "real": (constraints.real, 0, True),
    "positive": (constraints.positive, 0, True),
    "nonnegative": (constraints.nonnegative, 0, True),
    "softplus_positive": (constraints.softplus_positive, 0, True),
    "unit_interval": (constraints.unit_interval, 0, True),
    "interval": (constraints.interval(-2.0, 5.0), 0, True),
    "open_interval": (constraints.open_interval(1.0, 3.0), 0, True),
    "greater_than": (constraints.greater_than(3.0), 0, True),
    "greater_than_eq": (constraints.greater_than_eq(-1.0), 0, True),
    "less_than": (constraints.less_than(-1.0), 0, True),
    "less_than_eq": (constraints.less_than_eq(2.0), 0, True),
    "circular": (constraints.circular, 0, True),
    "real_vector": (constraints.real_vector, 1, True),
    "positive vector": (constraints.independent(constraints.positive, 1), 1, True),
    "simplex": (constraints.simplex, 2, False),
    "ordered_vector": (constraints.ordered_vector, 1, True),
    "positive_ordered_vector": (constraints.positive_ordered_vector, 1, True),
    "l1_ball": (constraints.l1_ball, 1, True),
    "zero_sum": (constraints.zero_sum(1), 2, False),
    "real_matrix": (constraints.real_matrix, 1, True),
    "corr_cholesky": (constraints.corr_cholesky, 2, False),
    "corr_matrix": (constraints.corr_matrix, 2, False),
    "lower_cholesky": (constraints.lower_cholesky, 1, False),
    "softplus_lower_cholesky": (constraints.softplus_lower_cholesky, 1, False),
    "scaled_unit_lower_cholesky": (constraints.scaled_unit_lower_cholesky, 1, False),
    "positive_definite": (constraints.positive_definite, 1, False),
    "positive_semidefinite": (constraints.positive_semidefinite, 1, False),
}
_SQUARE = {n for n, (s, _, full) in SUPPORTS.items() if s.event_dim == 2 and not full}


@st.composite
def shapes(draw: st.DrawFn, name: str) -> tuple[int, ...]:
    """Plates to the left (none, one or two), then the event."""
    support, least, _ = SUPPORTS[name]
    plates = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    if support.event_dim == 0:
        return plates
    length = draw(st.integers(least, 4))
    if support.event_dim == 1:
        return (*plates, length)
    return (*plates, length, length if name in _SQUARE else draw(st.integers(1, 3)))


def _model(sites: dict[str, lb.Site]) -> Model:
    return Model.from_log_density(lb.LogDensity(lambda z: -0.5 * sum((v**2).sum() for v in z.values()), sites))


def _round_trip(sites: dict[str, tuple[str, tuple[int, ...]]], seed: int, rows: int) -> None:
    model = _model({k: lb.Site(SUPPORTS[name][0], shape) for k, (name, shape) in sites.items()})
    names = SiteMap(model.sites, model.deterministics, model)
    assert model.dimension == len(model.coordinate_names()) == len(set(model.coordinate_names()))
    x = np.random.default_rng(seed).uniform(-2, 2, (rows, model.dimension))
    values = names.constrain(x)
    assert list(values) == list(sites)
    with float64():
        for k, (name, shape) in sites.items():
            assert values[k].shape == (rows, *shape) and values[k].dtype == np.float64
            assert np.asarray(SUPPORTS[name][0](jnp.asarray(values[k]))).all(), f"{k}: {name} left its support"
    back, log_det = names.unconstrain(values, rows)
    np.testing.assert_allclose(back, x, rtol=0, atol=1e-6)
    assert log_det.shape == (rows,) and np.isfinite(log_det).all()


@pytest.mark.parametrize("name", SUPPORTS)
def test_round_trip(name):
    @quick(3)
    @given(shapes(name), st.integers(0, 2**32 - 1), st.integers(1, 70))
    def check(shape, seed, rows):
        _round_trip({"z": (name, shape)}, seed, rows)

    check()


@quick(8)
@given(st.data(), st.integers(0, 2**32 - 1))
def test_several_sites_keep_their_places(data, seed):
    chosen = data.draw(st.lists(st.sampled_from(sorted(SUPPORTS)), min_size=2, max_size=4), "supports")
    _round_trip({f"s{i}": (n, data.draw(shapes(n), n)) for i, n in enumerate(chosen)}, seed, 3)


@pytest.mark.parametrize("name", [n for n, (_, _, full) in SUPPORTS.items() if full])
def test_log_det_is_that_of_the_jacobian(name):
    # Only where a site has as many coordinates as numbers is there a square Jacobian to compare with.
    support, _, _ = SUPPORTS[name]
    shape = (2, *(3,) * support.event_dim)
    model = _model({"z": lb.Site(support, shape)})
    x = np.random.default_rng(7).uniform(-1.5, 1.5, model.dimension)
    assert model.dimension == math.prod(shape)
    with float64():

        def numbers(x):
            slope = jax.jacfwd(lambda u: jnp.ravel(biject_to(support)(u.reshape(shape))))(x)
            return jnp.linalg.slogdet(slope)[1], model.log_density(x, []), model.log_density(x, [], jacobian=False)

        expected, with_jacobian, without = map(float, jax.jit(numbers)(x))
    assert with_jacobian - without == pytest.approx(expected, abs=1e-9)
    assert expected != 0 or name in ("real", "real_vector", "real_matrix")


@quick(25)
@given(st.data())
def test_coordinates_and_sites_name_each_other(data):
    names = data.draw(st.lists(st.sampled_from(sorted(SUPPORTS)), min_size=1, max_size=4))
    sites = {f"s{i}": lb.Site(SUPPORTS[n][0], data.draw(shapes(n))) for i, n in enumerate(names)}
    model = _model(sites)
    labels = model.coordinate_names()
    for j, label in enumerate(labels):
        assert model.sites_of(np.array([j])) == [label.split("[")[0]]
    starts = [s.start for s in model.sites.values()]
    assert starts == sorted(starts) and starts[0] == 0
    assert sum(s.size for s in model.sites.values()) == model.dimension == len(labels)
