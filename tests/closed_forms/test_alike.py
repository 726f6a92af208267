"""Precisions that do not differ along a plate: found where they are, and factorised once to the same numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from lowerbound.algorithms.factored import Factored
from lowerbound.algorithms.sweeps import Sweeper
from lowerbound.closed_form import factored_of
from lowerbound.model.given import as_model
from lowerbound.precision import float64

RNG = np.random.default_rng(0)
Y = RNG.normal(size=(4, 6))


def _factors(noise):
    with numpyro.plate("m", 4):
        c = numpyro.sample("c", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("n", 6):
        x = numpyro.sample("x", dist.Normal(0, 1).expand([2]).to_event(1))
    return dist.Normal(c @ x.T, noise)


def one_precision(y):
    tau = numpyro.sample("tau", dist.Gamma(1.0, 1.0))
    numpyro.sample("y", _factors(1 / jnp.sqrt(tau)).to_event(2), obs=y)


def precision_of_a_column(y):
    with numpyro.plate("columns", 6):
        tau = numpyro.sample("tau", dist.Gamma(1.0, 1.0))
    numpyro.sample("y", _factors(1 / jnp.sqrt(tau)).to_event(2), obs=y)


def left_out(y):
    seen = jnp.asarray(np.arange(24).reshape(4, 6) != 5)
    numpyro.sample("y", _factors(0.5).mask(seen).to_event(2), obs=y)


def groups_of_unequal_sizes(y):
    with numpyro.plate("groups", 2):
        x = numpyro.sample("x", dist.Normal(0, 1).expand([1]).to_event(1))
    numpyro.sample("y", dist.Normal(x[np.array([0, 0, 1, 0]), 0], 1.0).to_event(1), obs=y[:, 0])


def two_plates(y):
    scale = np.linspace(0.5, 2.0, 4)[:, None]
    with numpyro.plate("rows", 4, dim=-2), numpyro.plate("columns", 6, dim=-1):
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(x, scale), obs=y)


CASES = {
    one_precision: {"c": (True,), "x": (True,)},
    precision_of_a_column: {"c": (True,), "x": (False,)},
    left_out: {"c": (False,), "x": (False,)},
    groups_of_unequal_sizes: {"x": (False,)},
    two_plates: {"x": (False, True)},
}


@pytest.mark.parametrize("model", CASES, ids=lambda m: m.__name__)
def test_alike_is_where_the_coefficients_of_second_moments_are_equal(model):
    """At random moments."""
    plain = factored_of(as_model(model, {"y": Y}))
    with float64():
        moments = {k: RNG.uniform(0.5, 2, np.shape(v)) for b in plain.blocks for k, v in b.start(RNG, 1.0).items()}
        keys = list(moments)

        @jax.jit
        def optima(values):
            whole = dict(zip(keys, values, strict=True))
            return [[plain.optimum(i, whole)[k] for k in b.keys] for i, b in enumerate(plain.blocks)]

        naturals = optima(list(moments.values()))
    for b, n in zip(plain.with_alike().blocks, naturals, strict=True):
        if b.latents[0] not in CASES[model]:
            continue
        second = np.asarray(n[1])
        for axis, alike in enumerate(CASES[model][b.latents[0]]):
            assert b.alike[axis] == alike == np.allclose(second, second.take([0], axis), rtol=1e-12)


def test_a_sweep_is_the_same_as_row_by_row(monkeypatch):
    plain = factored_of(as_model(one_precision, {"y": Y}))
    shared = Sweeper(plain)
    monkeypatch.setattr(Factored, "with_alike", lambda self: self)
    apart = Sweeper(plain)
    assert any(getattr(b, "alike", ())[:1] == (True,) for b in shared.factored.blocks)
    assert apart.factored is plain
    ends = []
    for sweeper in (shared, apart):
        rng = np.random.default_rng(1)
        x = [[np.asarray(n[k], float) for k in b.keys] for b in plain.blocks for n in [b.start(rng, 1.0)]]
        for _ in range(5):
            x, _, elbo, proper = sweeper(x)
        assert proper.all()
        ends.append((elbo, x))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-12)
    for one, other in zip(ends[0][1], ends[1][1], strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
