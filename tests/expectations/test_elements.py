"""Functions of single elements of a dense Gaussian block, and products of functions of different elements."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import lowerbound as lb
from lowerbound.algorithms import ConjugateComputationVI, CoordinateAscent
from lowerbound.closed_form import factored_of
from lowerbound.errors import IncompatibleError
from lowerbound.expectations.functions import IDENTITY
from lowerbound.expectations.quadrature import _expected
from lowerbound.model.given import as_model
from lowerbound.precision import float64
from tests.expectations.programs import Programs

X = np.random.default_rng(0).standard_normal((12, 3))
ONES = np.ones(12)

BY_NAME = {
    "the scale of another row": lambda o: dist.Normal(
        X @ o["w"] + o["v"], jnp.sqrt(1 + o["w"][np.arange(12) % 3] ** 2)
    ),
    "a horseshoe": lambda o: dist.Normal(X @ (o["w"] * o["lam"] * o["tau"]), 1.0),
    "a horseshoe in logits": lambda o: dist.Bernoulli(logits=0.3 * X @ (o["w"] * o["lam"] * o["tau"])),
}
FACTORS = {
    "fixed places": lambda o: o["lam"][0] * jnp.sqrt(o["lam"][1]) / o["lam"][2],
    "all pairs": lambda o: jnp.sum(jnp.outer(o["lam"], jnp.sqrt(o["lam"])) * np.arange(9.0).reshape(3, 3)),
    "all triples": lambda o: jnp.sum(jnp.einsum("i,j,k->ijk", *(3 * [o["lam"]])) * np.arange(27.0).reshape(3, 3, 3)),
    "looked up": lambda o: jnp.sum(o["lam"][np.array([0, 1, 2, 2])] * jnp.log(o["lam"])[np.array([1, 1, 0, 2])]),
    "that cancel": lambda o: jnp.sum(o["lam"] * jnp.flip(1 / o["lam"])),
}


@cache
def programs() -> Programs:
    def model():
        o = {"w": numpyro.sample("w", dist.Normal(0, 1).expand([3]).to_event(1))}
        o["v"] = numpyro.sample("v", dist.Normal(0, 1))
        o["lam"] = numpyro.sample("lam", dist.Gamma(4.0, 3.0).expand([3]).to_event(1))
        o["tau"] = numpyro.sample("tau", dist.Gamma(4.0, 3.0))
        for n, f in BY_NAME.items():
            numpyro.sample(n, f(o), obs=ONES)
        for n, f in FACTORS.items():
            numpyro.factor(n, f(o))

    return Programs(model, draws=3999)


@pytest.mark.parametrize("name", [*BY_NAME, *FACTORS])
def test_right(name):
    found = programs().outcome(name)
    assert found.refused is None and not found.wrong, str(found)


def test_a_function_times_two_elements_by_quadrature_in_three_dimensions():
    """E[f(x) y z] and its slope in the moments, against Gauss-Hermite over all three."""
    f = (IDENTITY * IDENTITY).then("softened", 1.0, lambda x: 1 / (2 + x))
    node, weight = np.polynomial.hermite_e.hermegauss(40)
    grid = np.stack(np.meshgrid(node, node, node, indexing="ij"), -1).reshape(-1, 3)
    w = np.prod(np.stack(np.meshgrid(*3 * [weight / weight.sum()], indexing="ij"), -1).reshape(-1, 3), -1)

    def truth(mean, second):
        x = mean + grid @ np.linalg.cholesky(second - np.outer(mean, mean)).T
        return float((w * x[:, 1] * x[:, 2] / (2 + x[:, 0] ** 2)).sum())

    rng = np.random.default_rng(1)
    mean, root = rng.standard_normal(3), 0.4 * rng.standard_normal((3, 3))
    second = root @ root.T + np.outer(mean, mean) + 0.05 * np.eye(3)

    @jax.jit
    def ours(m, s):
        return _expected(f, m[0], s[0, 0], m[1], m[2], s[0, 1], s[0, 2], s[1, 2], many=False)

    with float64():
        assert abs(float(ours(mean, second)) - truth(mean, second)) < 1e-9
        slopes = jax.jit(jax.grad(ours, argnums=(0, 1)))(mean, second)
    for i in range(3):
        e = 1e-5 * np.eye(3)[i]
        number = (truth(mean + e, second) - truth(mean - e, second)) / 2e-5
        assert abs(number - float(slopes[0][i])) < 1e-7
    for i, j in ((0, 0), (0, 1), (0, 2), (1, 2)):
        # (The upper half alone is asked for; the truth is a function of both.)
        e = np.zeros((3, 3))
        e[i, j] = e[j, i] = 1e-5
        number = (truth(mean, second + e) - truth(mean, second - e)) / 2e-5
        assert abs(number - float(slopes[1][i, j])) < 1e-7


def own_scale(x, y, product=False):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([3]).to_event(1))
    scale = jnp.sqrt(1 + w[0] ** 2) * (jnp.sqrt(1 + w[1] ** 2) if product else 1.0)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x @ w, scale), obs=y)


def _climbed(model, data, algorithm, **options):
    factored = factored_of(as_model(model, data), **options)
    state, elbos = algorithm.init(0, factored, None), []
    while True:
        state, info = algorithm.step(state)
        elbos.append(info.elbo)
        if info.status is not None:
            return np.array(elbos), factored, algorithm.output(state)


def test_a_scale_of_one_element_climbs_to_the_optimum():
    """The slope of the exact ELBO in the Gaussian's own parameters is zero where it ends."""
    data = {"x": X, "y": np.linspace(-2.0, 3.0, 12)}
    elbos, factored, naturals = _climbed(own_scale, data, CoordinateAscent(tolerance=1e-13))
    assert (np.diff(elbos) >= -1e-9).all() and not factored.sampled
    (block,) = factored.blocks
    mean, covariance = block._host(naturals[0])
    first, second = block.first["w"], block.second["w", "w"]

    def elbo(m, root):
        c = root @ root.T
        moments = {first: m, second: c + jnp.outer(m, m)}
        return factored.energy(moments) + 0.5 * jnp.linalg.slogdet(c)[1] + 1.5 * (1 + jnp.log(2 * jnp.pi))

    with float64():
        value, slopes = jax.jit(jax.value_and_grad(elbo, argnums=(0, 1)))(mean, np.linalg.cholesky(covariance))
    assert abs(float(value) - elbos[-1]) < 1e-8
    assert max(float(np.abs(s).max()) for s in slopes) < 1e-4


def test_a_function_of_two_elements_is_refused_or_sampled():
    data = {"x": X, "y": np.linspace(-2.0, 3.0, 12), "product": True}
    with pytest.raises(IncompatibleError, match="the power -2 of a real latent"):
        factored_of(as_model(own_scale, data))
    factored = factored_of(as_model(own_scale, data), num_draws=16)
    assert [t.name for t in factored.sampled] == ["y"]


def test_what_no_block_gives_is_sampled():
    """exp(w_0) alone is a log-normal mean, and w_0 w_1 exp(w_0) has no moments here: that factor is drawn."""

    def model(y):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(w[0] + w[1], jnp.exp(0.5 * w[0])), obs=y)

    with pytest.raises(IncompatibleError, match="factor 'y': the exponential of a Gaussian times that Gaussian"):
        factored_of(as_model(model, {"y": np.ones(())}))
    elbos, factored, _ = _climbed(model, {"y": np.ones(())}, ConjugateComputationVI(num_draws=64), num_draws=64)
    assert [t.name for t in factored.sampled] == ["y"] and (np.diff(elbos) >= -1e-9).all()


def test_a_horseshoe_never_falls_and_says_why_it_is_damped():
    def model(x, y):
        lam = numpyro.sample("lam", dist.HalfCauchy(1.0).expand([3]).to_event(1))
        w = numpyro.sample("w", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ (lam * w), 0.5), obs=y)

    data = {"x": X, "y": X @ [2.0, 0.0, -1.0]}
    elbos, _, _ = _climbed(model, data, CoordinateAscent())
    assert len(elbos) > 1 and (np.diff(elbos) >= -1e-9).all()
    rows = {r.latent: r for r in lb.explain(model, data).rows}
    assert rows["lam"].update.endswith("damped") and rows["w"].kind == "exact"
