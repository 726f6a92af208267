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
from lowerbound.model.sites import SiteMap
from lowerbound.precision import float64
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
    return Model.from_log_density(
        lb.LogDensity(lambda latents: -0.5 * sum((v**2).sum() for v in latents.values()), sites)
    )


@st.composite
def every_support(draw: st.DrawFn) -> dict[str, tuple[int, ...]]:
    """One site of each support, in any order, each with a shape of its own: one program tests them all."""
    return {name: draw(shapes(name), name) for name in draw(st.permutations(sorted(SUPPORTS)))}


@quick(2)
@given(every_support(), st.integers(0, 2**32 - 1), st.integers(1, 70))
def test_constrain_and_unconstrain_are_inverse(sites, seed, rows):
    model = _model({name: lb.Site(SUPPORTS[name][0], shape) for name, shape in sites.items()})
    names = SiteMap(model.sites, model.deterministics, model)
    x = np.random.default_rng(seed).uniform(-2, 2, (rows, model.dimension))
    values = names.constrain(x)
    assert list(values) == list(sites)
    with float64():
        inside = jax.jit(lambda v: {name: SUPPORTS[name][0](a).all() for name, a in v.items()})(values)
    for name, shape in sites.items():
        assert values[name].shape == (rows, *shape) and values[name].dtype == np.float64
        assert inside[name], f"{name} left its support"
    back, log_det = names.unconstrain(values, rows)
    for name, s in model.sites.items():
        np.testing.assert_allclose(back[:, s.slice], x[:, s.slice], rtol=0, atol=1e-6, err_msg=name)
    assert log_det.shape == (rows,) and np.isfinite(log_det).all()
    one = {name: v[0] for name, v in values.items()}
    np.testing.assert_allclose(names.unconstrain(one, 1)[0][0], back[0], rtol=0, atol=1e-12)


def test_log_det_is_that_of_the_jacobian():
    # Only where a site has as many coordinates as numbers is there a square Jacobian to compare with.
    rng, models = np.random.default_rng(7), {}
    for name, (support, _, full) in SUPPORTS.items():
        if full:
            shape = (2, *(3,) * support.event_dim)
            models[name] = (_model({"z": lb.Site(support, shape)}), shape, rng.uniform(-1.5, 1.5, math.prod(shape)))

    def numbers(points):
        out = {}
        for name, (model, shape, _) in models.items():
            x, transform = points[name], biject_to(SUPPORTS[name][0])
            slope = jax.jacfwd(lambda u, t=transform, s=shape: jnp.ravel(t(u.reshape(s))))(x)
            difference = model.log_density(x, []) - model.log_density(x, [], jacobian=False)
            out[name] = jnp.linalg.slogdet(slope)[1], difference
        return out

    with float64():
        got = jax.jit(numbers)({name: x for name, (_, _, x) in models.items()})
    assert len(got) > 15
    for name, (expected, found) in got.items():
        assert float(found) == pytest.approx(float(expected), abs=1e-9), name
        assert float(expected) != 0 or name in ("real", "real_vector", "real_matrix")


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
