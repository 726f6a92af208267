"""Gradients site by site: no bias, against quadrature and enumeration of all states; what each is worth in variance."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import special, stats

from lowerbound.errors import IncompatibleError, ModelError
from lowerbound.families.drawn import KINDS, Drawn, categorical
from lowerbound.gradients import SITES, Enumeration, Implicit, SiteScoreFunction, check_site
from lowerbound.gradients.by_site import default_site_gradient, surrogate
from lowerbound.model.base import Model
from lowerbound.model.factor_graph import FactorGraph
from lowerbound.precision import float64
from tests.measure import assert_mean
from tests.registry import SITE_GRADIENTS

REPEATS = 6000


def _estimates(model: Model, parts: list[Drawn], gradients: Any, free: Any, repeats: int = REPEATS, s: int = 2) -> Any:
    """ELBOs ``[repeats]`` and slopes, by site and parameter ``[repeats, ...]``."""
    graph = FactorGraph.of(model)
    arguments = [jnp.asarray(a) for a in model.arguments]

    def one(key: Any) -> Any:
        def found(phi: Any) -> Any:
            slope = surrogate(graph, parts, gradients, phi, key, s, arguments)
            return slope.surrogate, slope.elbo

        (_, elbo), slope = jax.value_and_grad(found, has_aux=True)(free)
        return elbo, slope

    return jax.tree_util.tree_map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.PRNGKey(7), repeats)))


# -- continuous blocks: the exact slope of E_q[log p] + H(q), by quadrature ------------------------------------------

#: Of every kind: the prior, as NumPyro and SciPy have it, and free parameters of a q that is far from it.
CONTINUOUS: dict[str, tuple[Any, Any, dict[str, float]]] = {
    "normal": (dist.StudentT(3.0, 0.5, 1.2), stats.t(3.0, 0.5, 1.2), {"location": 0.3, "log_scale": -0.2}),
    "log_normal": (dist.Weibull(1.3, 1.7), stats.weibull_min(1.7, 0, 1.3), {"location": 0.2, "log_scale": -0.5}),
    "gamma": (dist.HalfCauchy(1.5), stats.halfcauchy(0, 1.5), {"log_mean": 0.1, "log_shape": -0.3}),
    "inverse_gamma": (
        dist.LogNormal(0.3, 0.8),
        stats.lognorm(0.8, 0, np.exp(0.3)),
        {"log_mean": 0.1, "log_shape": 0.9},
    ),
    "beta": (dist.Beta(1.7, 0.8), stats.beta(1.7, 0.8), {"log_a": -0.2, "log_b": 0.6}),
    "von_mises": (
        dist.VonMises(2.0, 1.5),
        stats.vonmises(1.5, 2.0),
        {"direction": -1.0, "log_concentration": 0.4},
    ),
}
_SIMPLEX = (np.array([2.0, 0.7, 1.1]), np.array([0.4, -0.5, 0.9]))


def _priors() -> None:
    for kind, (prior, _, _) in CONTINUOUS.items():
        numpyro.sample(kind, prior)
    numpyro.sample("dirichlet", dist.Dirichlet(jnp.asarray(_SIMPLEX[0])))
    numpyro.sample("seen", dist.Normal(0.0, 1.0), obs=jnp.zeros(()))


def _by_quadrature(kind: str, free: dict[str, float]) -> float:
    """E_q[log p] + H(q), by the trapezium rule in the unconstrained coordinate."""
    part = KINDS[kind][1](kind, ())
    u = np.linspace(-40.0, 30.0, 20_001)
    if kind == "normal":
        x, slope = u, np.ones_like(u)
    elif kind in ("beta", "von_mises"):
        x, slope = special.expit(u), special.expit(u) * special.expit(-u)
    else:
        x, slope = np.exp(u), np.exp(u)
    if kind == "von_mises":
        x, slope = 2 * np.pi * x - np.pi, 2 * np.pi * slope
    inside = (slope > 0) & (x != 1.0) & (x < 1e12)
    x, slope = x[inside], slope[inside]
    natural = {k: np.asarray(v) for k, v in part.natural({k: jnp.asarray(v) for k, v in free.items()}).items()}
    log_q = np.asarray(part.block.log_prob(natural, {kind: x}))
    q = np.exp(log_q) * slope * (u[1] - u[0])
    assert q.sum() == pytest.approx(1.0, abs=1e-6)
    return float((q * (CONTINUOUS[kind][1].logpdf(x) - log_q)).sum())


@cache
def _continuous() -> Any:
    with float64():
        model = Model.from_numpyro(_priors)
        parts = [KINDS[k][1](k, tuple(model.sites[k].shape)) for k in model.sites]
        free = {k: {n: jnp.asarray(v) for n, v in f.items()} for k, (_, _, f) in CONTINUOUS.items()}
        free["dirichlet"] = {"log_concentration": jnp.asarray(_SIMPLEX[1])}
        return _estimates(model, parts, dict.fromkeys(model.sites, Implicit()), free)


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_implicit_gradients_are_unbiased(kind):
    _, slopes = _continuous()
    with float64():
        for name, value in CONTINUOUS[kind][2].items():
            up, down = ({**CONTINUOUS[kind][2], name: value + h} for h in (1e-4, -1e-4))
            truth = (_by_quadrature(kind, up) - _by_quadrature(kind, down)) / 2e-4
            assert_mean(slopes[kind][name], truth, f"slope of {name}")
            assert abs(truth) > 0.02


def test_the_implicit_gradient_of_a_dirichlet_is_unbiased():
    prior, log_a = _SIMPLEX

    def elbo(log_a: Any) -> Any:
        a = jnp.exp(log_a)
        log_x = jax.scipy.special.digamma(a) - jax.scipy.special.digamma(a.sum())
        g = jax.scipy.special.gammaln
        return ((prior - a) * log_x).sum() - g(a.sum()) + g(a).sum()

    with float64():
        truth = np.asarray(jax.grad(elbo)(jnp.asarray(log_a)))
    assert_mean(_continuous()[1]["dirichlet"]["log_concentration"], truth, "slope")


# -- discrete blocks: the exact slope, by enumeration of all states -------------------------------------------------


def _discrete(y: Any) -> None:
    """A number for all rows, one for each row, and two outside of any plate that every row depends on."""
    c = numpyro.sample("c", dist.Categorical(jnp.asarray([0.2, 0.5, 0.3])))
    u = numpyro.sample("u", dist.Bernoulli(jnp.asarray([0.3, 0.6])))
    with numpyro.plate("rows", 3):
        z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.2 * c))
        numpyro.sample("y", dist.Normal(z * (c + 1.0) + u.sum(-1), 0.8), obs=y)


_Y = np.array([0.5, 3.0, 1.5])
_SHAPES = {"c": ((), 3), "u": ((2,), 2), "z": ((3,), 2)}
WAYS = {
    "all enumerated": {n: Enumeration() for n in _SHAPES},
    "one enumerated": {"c": SiteScoreFunction(), "u": SiteScoreFunction(), "z": Enumeration()},
    "scores": {n: SiteScoreFunction() for n in _SHAPES},
    "scores of everything": {n: SiteScoreFunction(rao_blackwell=False) for n in _SHAPES},
}


def _logits() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {n: 0.7 * rng.standard_normal((*shape, k)) for n, (shape, k) in _SHAPES.items()}


@cache
def _truth() -> tuple[float, dict[str, np.ndarray]]:
    with float64():
        model = Model.from_numpyro(_discrete, {"y": _Y})
        states = np.array(list(itertools.product(range(3), *[range(2)] * 5)))
        z = {"c": states[:, 0], "u": states[:, 1:3], "z": states[:, 3:]}
        arguments = [jnp.asarray(a) for a in model.arguments]
        graph = FactorGraph.of(model)
        log_p = jax.jit(jax.vmap(lambda v: sum(a.sum() for a in graph.log_probs(v, arguments))))(z)

        def elbo(logits: Any) -> Any:
            log_q = jnp.zeros(len(states))
            for n, a in logits.items():
                chosen = jax.nn.one_hot(z[n], a.shape[-1]) * jax.nn.log_softmax(a, axis=-1)
                log_q = log_q + chosen.reshape(len(states), -1).sum(1)
            return (jnp.exp(log_q) * (log_p - log_q)).sum()

        value, slope = jax.jit(jax.value_and_grad(elbo))(_logits())
        return float(value), {k: np.asarray(v) for k, v in slope.items()}


@cache
def _found(way: str) -> Any:
    with float64():
        model = Model.from_numpyro(_discrete, {"y": _Y})
        parts = [categorical(n, d.shape, d.values) for n, d in model.discrete.items()]
        free = {n: {"logits": jnp.asarray(a)} for n, a in _logits().items()}
        return _estimates(model, parts, WAYS[way], free, s=2)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_of_discrete_latents_are_unbiased(way):
    value, slope = _truth()
    elbo, found = _found(way)
    assert_mean(elbo, value, "ELBO")
    for n in _SHAPES:
        assert_mean(found[n]["logits"], slope[n], f"slope of {n}")
        assert np.abs(slope[n]).max() > 0.02


def test_each_way_has_less_variance_than_the_next():
    total = [sum(found["logits"].var(0).sum() for found in _found(way)[1].values()) for way in WAYS]
    assert 4 * total[0] < total[1] < total[2] < total[3], total


# -- rows in a plate ------------------------------------------------------------------------------------------------


def _rows(y: Any) -> None:
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(jnp.asarray([0.2, 0.5, 0.3])))
        numpyro.sample("y", dist.Normal(jnp.asarray([-2.0, 0.0, 2.0])[z], 1.0), obs=y)


@cache
def _variance(how: Any) -> tuple[float, Any]:
    with float64():
        y = 2.0 * np.random.default_rng(3).standard_normal(30)
        model = Model.from_numpyro(_rows, {"y": y})
        parts = [categorical("z", (30,), np.arange(3))]
        free = {"z": {"logits": jnp.zeros((30, 3))}}
        _, slope = _estimates(model, parts, {"z": how}, free, repeats=1000, s=4)
        return float(slope["z"]["logits"].var(0).sum()), slope["z"]["logits"].mean(0)


def test_scores_over_their_own_factors_have_none_of_the_other_rows_noise():
    # 30 rows: the whole of log p varies 30 times as much as one row's part of it.
    plain, _ = _variance(SiteScoreFunction(rao_blackwell=False))
    own, _ = _variance(SiteScoreFunction())
    assert 10 * own < plain


def test_enumeration_has_no_variance():
    none, exact = _variance(Enumeration())
    _, mean = _variance(SiteScoreFunction())
    assert none < 1e-25
    assert np.abs(exact - mean).max() < 0.2 < np.abs(exact).max()


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", SITE_GRADIENTS, ids=lambda g: g.name)
@pytest.mark.parametrize("kind", SITES)
def test_every_pair_of_block_and_gradient_is_as_the_table_says(kind, gradient):
    if gradient.name in SITES[kind]:
        check_site("x", kind, gradient, 2)
    else:
        with pytest.raises(IncompatibleError, match=f"the {gradient.name} gradient is not one for 'x', a {kind} block"):
            check_site("x", kind, gradient, 2)


def test_the_table_has_every_kind_of_block_and_every_gradient():
    assert set(SITES) == {*KINDS, "categorical"}
    assert {g for row in SITES.values() for g in row} == {g.name for g in SITE_GRADIENTS}


def test_a_score_needs_two_draws():
    with pytest.raises(IncompatibleError, match=r"needs at least 2 draws a step.*num_samples=1"):
        check_site("z", "categorical", SiteScoreFunction(), 1)


# -- the factor graph -----------------------------------------------------------------------------------------------


def test_the_graph_has_each_latents_factors_and_the_axes_along_which_they_mix():
    model = Model.from_numpyro(_discrete, {"y": _Y})
    graph = FactorGraph.of(model)
    names = {n: [graph.factors[i].name for i in graph.touching(n)] for n in _SHAPES}
    assert names == {"c": ["c", "z", "y"], "u": ["u", "y"], "z": ["z", "y"]}
    assert {n: graph.free_axes(n) for n in _SHAPES} == {"c": (), "u": (0,), "z": ()}
    with float64():
        at = {"c": np.array(1), "u": np.array([1, 0]), "z": np.array([0, 1, 1])}
        found = [np.asarray(a) for a in graph.log_probs(at, [jnp.asarray(a) for a in model.arguments])]
        by_name = {f.name: a for f, a in zip(graph.factors, found, strict=True)}
        own = {n: np.asarray(graph.blanket(n, {i: found[i] for i in graph.touching(n)})) for n in _SHAPES}
    np.testing.assert_allclose(own["z"], by_name["z"] + by_name["y"], rtol=1e-12)
    np.testing.assert_allclose(own["c"], by_name["c"] + by_name["z"].sum() + by_name["y"].sum(), rtol=1e-12)
    np.testing.assert_allclose(own["u"], by_name["u"].sum() + by_name["y"].sum(), rtol=1e-12)  # u is in no plate
    parts = {n: categorical(n, d.shape, d.values) for n, d in model.discrete.items()}
    assert {n: Enumeration().evaluations(graph, p) for n, p in parts.items()} == {"c": 3, "u": 4, "z": 2}
    many = categorical("u", (2,), np.arange(9))
    assert isinstance(default_site_gradient(graph, many), SiteScoreFunction)
    assert isinstance(default_site_gradient(graph, parts["z"]), Enumeration)


def test_two_plates_in_another_order():
    def model(y):
        columns, rows = numpyro.plate("columns", 2, dim=-1), numpyro.plate("rows", 3, dim=-2)
        with rows:
            a = numpyro.sample("a", dist.Bernoulli(0.3))
        with columns:
            b = numpyro.sample("b", dist.Bernoulli(0.4))
        with rows, columns:
            numpyro.sample("y", dist.Normal(1.0 * a + 2.0 * b, 1.0), obs=y)

    y = np.arange(6.0).reshape(3, 2)
    bound = Model.from_numpyro(model, {"y": y})
    graph = FactorGraph.of(bound)
    with float64():
        at = {"a": np.array([[0], [1], [1]]), "b": np.array([0, 1])}
        found = dict(enumerate(graph.log_probs(at, [jnp.asarray(a) for a in bound.arguments])))
        last = np.asarray(found[2])
        a = np.asarray(graph.blanket("a", {i: found[i] for i in graph.touching("a")}))
        b = np.asarray(graph.blanket("b", {i: found[i] for i in graph.touching("b")}))
    np.testing.assert_allclose(a, np.asarray(found[0]) + last.sum(1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(b, np.asarray(found[1]) + last.sum(0), rtol=1e-12)
    assert np.shape(graph.spread("a", 2, np.zeros((3, 1)))) == (3, 1)
    assert graph.free_axes("a") == graph.free_axes("b") == ()  # an axis of size one is in no plate, and mixes nothing


def test_a_model_that_mixes_the_rows_of_a_plate_is_refused():
    def model(y):
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Bernoulli(0.3))
            numpyro.sample("y", dist.Normal(1.0 * z[::-1], 1.0), obs=y)

    bound = Model.from_numpyro(model, {"y": _Y[1:]})
    graph = FactorGraph.of(bound)
    with float64(), pytest.raises(ModelError, match="'y' and the discrete latent 'z' are both in the plate 'rows'"):
        graph.check_plates({"z": np.array([0, 1])}, lambda z: graph.log_probs(z, [jnp.asarray(_Y[1:])]))
