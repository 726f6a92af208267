"""Minibatches of models with two plates: over all batches the mean is the whole, or the plate is refused."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from lowerbound.algorithms import CoordinateAscent, MemoizedVI
from lowerbound.algorithms.minibatch import Batched
from lowerbound.algorithms.stochastic_vi import BatchProgram, completed
from lowerbound.closed_form import factored_of
from lowerbound.errors import IncompatibleError
from lowerbound.model.given import as_model
from lowerbound.precision import float64

Y = np.random.default_rng(0).standard_normal((4, 4))
USER, ITEM, RATING = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 0, 1, 1, 2, 3]), np.arange(6.0)


def crossed(y):
    """Effects of users and of items, and a latent of each pair."""
    m, n = y.shape
    mu = numpyro.sample("mu", dist.Normal(0, 3))
    users, items = numpyro.plate("users", n, dim=-1), numpyro.plate("items", m, dim=-2)
    with users:
        a = numpyro.sample("a", dist.Normal(0, 1))
    with items:
        b = numpyro.sample("b", dist.Normal(mu, 1))
    with users, items:
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("y", dist.Normal(a + b + 1.5 * z, 0.7), obs=y)


def factorisation(y):
    """Loadings and factors, the data in an event and in no plate."""
    m, n = y.shape
    with numpyro.plate("users", n):
        u = numpyro.sample("u", dist.Normal(0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("items", m):
        v = numpyro.sample("v", dist.Normal(0, 1.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(v @ u.T, 1.0).to_event(2), obs=y)


def renamed(y):
    """The same plate under two names: that of the latents, and that of the data."""
    m, n = y.shape
    with numpyro.plate("users", n):
        u = numpyro.sample("u", dist.Normal(0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("items", m):
        v = numpyro.sample("v", dist.Normal(0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("columns", n, dim=-1), numpyro.plate("rows", m, dim=-2):
        numpyro.sample("y", dist.Normal(v @ u.T, 1.0), obs=y)


def nested(y):
    """Rows in groups, each with a latent."""
    m, n = y.shape
    tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
    with numpyro.plate("groups", n, dim=-1):
        a = numpyro.sample("a", dist.Normal(0, 1 / jnp.sqrt(tau)))
        with numpyro.plate("within", m, dim=-2):
            e = numpyro.sample("e", dist.Normal(a, 1.0))
            numpyro.sample("y", dist.Normal(e, 1.0), obs=y)


def ratings(i, j, y):
    """Each row looks its user and its item up."""
    with numpyro.plate("users", 3):
        u = numpyro.sample("u", dist.Normal(0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("items", 4):
        v = numpyro.sample("v", dist.Normal(0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal((u[i] * v[j]).sum(-1), 1.0), obs=y)


ROWS = {"i": USER, "j": ITEM, "y": RATING}
CASES = [
    (crossed, {"y": Y}, "users"),
    pytest.param(crossed, {"y": Y}, "items", marks=pytest.mark.slow),
    (factorisation, {"y": Y}, "users"),
    (renamed, {"y": Y}, "users"),
    (nested, {"y": Y}, "groups"),
    pytest.param(nested, {"y": Y}, "within", marks=pytest.mark.slow),
    pytest.param(ratings, ROWS, "rows", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("model", "data", "plate"), CASES)
def test_the_mean_over_all_batches_is_the_whole(model, data, plate):
    """The ELBO and the natural gradient, the local blocks at their optima: unbiased, by enumeration."""
    f = factored_of(as_model(model, data), joined=False)
    program = BatchProgram(f, plate, 2)
    b = program.batched
    rng = np.random.default_rng(1)
    with float64():
        begin = [dict(block.start(rng, 0.5)) for block in f.blocks]
    shared = [
        [np.asarray(begin[i][k], float) for k in keys] for i, keys in zip(b.shared, program.shared_keys, strict=True)
    ]
    elbos, best = [], []
    for rows in itertools.combinations(range(b.rows), 2):
        found, _, energy, rest = program(shared, program.local_start(np.random.default_rng(2)), np.array(rows))
        elbos.append(b.rows / 2 * energy + rest)
        best.append(found)
    full, elbo = completed(f, program, shared, np.random.default_rng(3))
    with float64():
        whole = [{k: jnp.asarray(v) for k, v in n.items()} for n in full]
        exact, moments = float(f.elbo(whole)), f.moments(whole)
        optima = [f.optimum(i, moments) for i in b.shared]
    assert abs(elbo - exact) < 1e-9 and abs(np.mean(elbos) - exact) < 1e-7
    for j, keys in enumerate(program.shared_keys):
        for m, k in enumerate(keys):
            mean = np.mean([np.asarray(own[j][m]) for own in best], axis=0)
            np.testing.assert_allclose(mean, np.asarray(optima[j][k]), atol=1e-7)


@pytest.mark.parametrize("plate", ["users", "items"])
def test_latents_that_other_rows_look_up_are_not_left_out(plate):
    f = factored_of(as_model(ratings, ROWS))
    with pytest.raises(IncompatibleError, match=f"of several rows of the plate '{plate}', by looking them up"):
        Batched(f, plate, 2)


def test_latents_that_all_depend_on_each_other_are_not_left_out():
    def model(y):
        with numpyro.plate("rows", len(y)):
            x = numpyro.sample("x", dist.Normal(0, 1.0))
        numpyro.sample("y", dist.Normal(jnp.cumsum(x), 1.0).to_event(1), obs=y)

    with pytest.raises(IncompatibleError, match="x of several rows of the plate 'rows'"):
        Batched(factored_of(as_model(model, {"y": RATING})), "rows", 2)


def test_memoized_batches_of_a_square_come_to_the_optimum_of_coordinate_ascent():
    """Rows and columns are as many: which axis is the plate's is known from the model, not from sizes."""
    labels = (np.random.default_rng(3).random(Y.shape) > 0.5).astype(int)
    f = factored_of(as_model(crossed, {"y": Y}), joined=False)
    elbos = []
    for algorithm in (
        MemoizedVI(batch_size=2, plate="users", joined=False, init_values={"z": labels}, tolerance=1e-12),
        CoordinateAscent(joined=False, init_values={"z": labels}, tolerance=1e-12),
    ):
        state, found = algorithm.init(0, f, None), []
        while True:
            state, info = algorithm.step(state)
            found.append(info.elbo)
            if info.status is not None:
                break
        assert (np.diff(found) > -1e-9).all()
        elbos.append(found[-1])
    assert abs(elbos[0] - elbos[1]) < 1e-6
