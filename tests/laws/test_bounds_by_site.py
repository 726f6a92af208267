"""Bounds of several draws with discrete latents: no bias, against enumeration of all sets of draws and quadrature."""

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

import lowerbound as lb
from lowerbound import gradients, objectives
from lowerbound.algorithms import BlackBoxVI
from lowerbound.errors import IncompatibleError, UnknownNameError
from lowerbound.families.drawn import KINDS, Drawn, categorical
from lowerbound.gradients import Enumeration, Implicit, SiteScoreFunction
from lowerbound.gradients.several_draws import bound_surrogate
from lowerbound.model.base import Model
from lowerbound.model.factor_graph import FactorGraph
from lowerbound.precision import float64
from tests.measure import assert_mean
from tests.registry import OBJECTIVES

REPEATS = 10_000
BOUNDS = {
    "importance weighted": objectives.ImportanceWeighted(3),
    "renyi": objectives.Renyi(2.0, 3),
}


def _model(y: Any) -> None:
    """A number for all rows, two outside of any plate that every row depends on, and one for each row."""
    c = numpyro.sample("c", dist.Categorical(jnp.asarray([0.2, 0.5, 0.3])))
    u = numpyro.sample("u", dist.Bernoulli(jnp.asarray([0.3, 0.6])))
    with numpyro.plate("rows", 2):
        z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.2 * c))
        numpyro.sample("y", dist.Normal(z * (c + 1.0) + u.sum(-1), 0.8), obs=y)


_Y = np.array([0.5, 3.0])
_SHAPES = {"c": ((), 3), "u": ((2,), 2), "z": ((2,), 2)}
WAYS = {
    "enumerated": dict.fromkeys(_SHAPES, Enumeration()),
    "scores": dict.fromkeys(_SHAPES, SiteScoreFunction()),
    "scores of everything": dict.fromkeys(_SHAPES, SiteScoreFunction(rao_blackwell=False)),
    "mixed": {"c": SiteScoreFunction(), "u": Enumeration(), "z": SiteScoreFunction()},
}


def _estimates(model: Model, parts: list[Drawn], way: Any, free: Any, objective: Any, repeats: int = REPEATS) -> Any:
    """Values ``[repeats]``, ELBOs ``[repeats]`` and slopes, by site and parameter ``[repeats, ...]``."""
    graph = FactorGraph.of(model)
    arguments = [jnp.asarray(a) for a in model.arguments]

    def one(key: Any) -> Any:
        def found(phi: Any) -> Any:
            slope = bound_surrogate(objective, graph, parts, way, phi, key, arguments)
            return slope.surrogate, (slope.value, slope.elbo)

        (_, (value, elbo)), slope = jax.value_and_grad(found, has_aux=True)(free)
        return value, elbo, slope

    keys = jax.random.split(jax.random.PRNGKey(5), repeats)
    return jax.tree_util.tree_map(np.asarray, jax.jit(jax.vmap(one))(keys))


def _log_evidence_and_weights() -> tuple[float, Any, Any]:
    """log p(x); the states, by site; their log p(x, z)."""
    model = Model.from_numpyro(_model, {"y": _Y})
    states = np.array(list(itertools.product(range(3), *[range(2)] * 4)))
    z = {"c": states[:, 0], "u": states[:, 1:3], "z": states[:, 3:]}
    graph, arguments = FactorGraph.of(model), [jnp.asarray(a) for a in model.arguments]
    log_p = np.asarray(jax.jit(jax.vmap(lambda v: sum(a.sum() for a in graph.log_probs(v, arguments))))(z))
    return float(np.logaddexp.reduce(log_p)), z, log_p


def _logits() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {n: 0.7 * rng.standard_normal((*shape, k)) for n, (shape, k) in _SHAPES.items()}


def _exact(objective: Any) -> Any:
    """E[h] as a function of logits, by enumeration of all triples of states."""
    _, z, log_p = _log_evidence_and_weights()

    def bound(logits: Any) -> Any:
        log_q = jnp.zeros(len(log_p))
        for n, a in logits.items():
            chosen = jax.nn.one_hot(z[n], a.shape[-1]) * jax.nn.log_softmax(a, axis=-1)
            log_q = log_q + chosen.reshape(len(log_p), -1).sum(1)
        log_w, q = log_p - log_q, jnp.exp(log_q)
        triples = jnp.stack(jnp.meshgrid(log_w, log_w, log_w, indexing="ij"), -1).reshape(-1, 3)
        each = jax.vmap(objective.value)(triples).reshape([len(q)] * 3)
        return jnp.einsum("ijk,i,j,k", each, q, q, q)

    return bound


@cache
def _truth(which: str) -> tuple[float, dict[str, np.ndarray]]:
    with float64():
        value, slope = jax.jit(jax.value_and_grad(_exact(BOUNDS[which])))(_logits())
        return float(value), {k: np.asarray(v) for k, v in slope.items()}


@cache
def _found(which: str, way: str) -> Any:
    with float64():
        model = Model.from_numpyro(_model, {"y": _Y})
        parts = [categorical(n, d.shape, d.values) for n, d in model.discrete.items()]
        free = {n: {"logits": jnp.asarray(a)} for n, a in _logits().items()}
        return _estimates(model, parts, WAYS[way], free, BOUNDS[which])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("which", BOUNDS)
def test_gradients_of_discrete_latents_are_unbiased(which, way):
    value, slope = _truth(which)
    found, _, slopes = _found(which, way)
    assert_mean(found, value, "bound")
    for n in _SHAPES:
        assert_mean(slopes[n]["logits"], slope[n], f"slope of {n}")
        assert np.abs(slope[n]).max() > 0.02


def test_own_factors_take_noise_away():
    def variance(way):
        slopes = _found("importance weighted", way)[2]
        return sum(float(slopes[n]["logits"].var(0).sum()) for n in _SHAPES)

    assert variance("enumerated") < variance("scores") / 2 < variance("scores of everything") / 2


def test_a_bound_rises_with_draws_and_meets_the_evidence():
    with float64():
        evidence, z, log_p = _log_evidence_and_weights()
        one, three = float(_exact(objectives.ELBO(3))(_logits())), _truth("importance weighted")[0]
        elbo = _found("importance weighted", "scores")[1]
    log_q = np.zeros(len(log_p))
    for n, a in _logits().items():
        each = np.take_along_axis(np.broadcast_to(a, (len(log_p), *a.shape)), z[n][..., None], -1)[..., 0]
        log_q += (each - np.logaddexp.reduce(a, -1)).reshape(len(log_p), -1).sum(1)
    assert_mean(elbo, one, "ELBO")
    # The mean of weights that take finitely many values, each with its multinomial count.
    counts = np.random.default_rng(0).multinomial(2**17, np.exp(log_q), size=200)
    many = np.log(counts @ np.exp(log_p - log_q) / 2**17)
    assert one < three < many.mean() < evidence + 5 * many.std() / np.sqrt(200)
    assert many.mean() > evidence - 0.01


# -- continuous blocks beside a discrete one: the exact bound of two draws, by quadrature -----------------------------


def _beside(y: Any) -> None:
    rate = numpyro.sample("rate", dist.Weibull(1.3, 1.7))
    z = numpyro.sample("z", dist.Bernoulli(0.4))
    numpyro.sample("y", dist.Normal(rate * (1.0 + z), 0.7), obs=y)


@pytest.mark.parametrize("kind", ["gamma", "log_normal"])
def test_continuous_blocks_beside_discrete_ones_are_unbiased(kind):
    objective = objectives.ImportanceWeighted(2)
    with float64():
        model = Model.from_numpyro(_beside, {"y": np.array(1.9)})
        parts = [KINDS[kind][1]("rate", ()), categorical("z", (), np.arange(2))]
        u, step = np.linspace(-9.0, 3.0, 300, retstep=True)
        x = np.exp(u)
        graph, arguments = FactorGraph.of(model), [jnp.asarray(a) for a in model.arguments]
        points = {"rate": np.repeat(x, 2), "z": np.tile([0, 1], len(x))}
        log_p = jax.vmap(lambda v: sum(a.sum() for a in graph.log_probs(v, arguments)))(points)
        free: Any = {"rate": {"log_mean": 0.1, "log_shape": 1.2} if kind == "gamma" else {"location": 0.1,
                "log_scale": -0.7}, "z": {"logits": np.array([0.3, -0.2])}}  # fmt: skip
        free = jax.tree_util.tree_map(jnp.asarray, free)

        def bound(phi):
            own = parts[0].log_prob(phi["rate"], points["rate"]) + jax.nn.log_softmax(phi["z"]["logits"])[points["z"]]
            q = jnp.exp(own) * points["rate"] * step
            log_w = log_p - own
            pairs = jax.vmap(lambda a: jax.vmap(lambda b: objective.value(jnp.stack([a, b])))(log_w))(log_w)
            return q @ pairs @ q, q.sum()

        (value, mass), truth = jax.jit(jax.value_and_grad(bound, has_aux=True))(free)
        assert abs(mass - 1) < 1e-6
        found, _, slopes = _estimates(
            model, parts, {"rate": Implicit(), "z": SiteScoreFunction()}, free, objective, repeats=40_000
        )
    assert_mean(found, value, "bound")
    for n, parameters in truth.items():
        for k, slope in parameters.items():
            assert_mean(slopes[n][k], slope, f"slope of {n}, {k}")
    assert min(float(jnp.abs(s)) for s in truth["rate"].values()) > 0.02


# -- fits -------------------------------------------------------------------------------------------------------------


def test_a_fit_by_name_finds_the_optimum_of_a_bound_of_several_draws():
    """Where discrete latents depend on each other: the bound at the answer is the largest, by enumeration."""
    y = np.array([0.2, 1.1])

    def coupled(y):
        c = numpyro.sample("c", dist.Bernoulli(0.4))
        with numpyro.plate("rows", 2):
            z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.3 * c))
            numpyro.sample("y", dist.Normal(1.0 * z * (c + 1.0), 0.7), obs=y)

    algorithm = BlackBoxVI(objective=objectives.ImportanceWeighted(4), gradients={"c": "site_score_function"})
    with pytest.warns(lb.errors.TrustWarning):
        found = lb.fit(coupled, {"y": y}, algorithm=algorithm)
    states = np.array(list(itertools.product(range(2), repeat=3)))
    c, z = states[:, :1], states[:, 1:]
    normal = -0.5 * ((y - z * (c + 1.0)) / 0.7) ** 2 - 0.5 * np.log(2 * np.pi * 0.49)
    prior = np.where(z == 1, 0.2 + 0.3 * c, 0.8 - 0.3 * c)
    log_p = np.log(np.where(c[:, 0] == 1, 0.4, 0.6)) + (np.log(prior) + normal).sum(1)

    def bound(p):
        log_q = (states * np.log(p) + (1 - states) * np.log1p(-p)).sum(1)
        w, q = np.exp(log_p - log_q), np.exp(log_q)
        mean = (w[:, None, None, None] + w[:, None, None] + w[:, None] + w) / 4
        return float(np.einsum("ijkl,i,j,k,l", np.log(mean), q, q, q, q))

    from scipy.optimize import minimize

    best = minimize(lambda a: -bound(1 / (1 + np.exp(-a))), np.zeros(3), method="BFGS")
    at = np.array([float(found.probabilities("c")[1]), *found.probabilities("z")[:, 1]])
    assert found.status.converged
    assert bound(at) > -best.fun - 0.002
    np.testing.assert_allclose(at, 1 / (1 + np.exp(-best.x)), atol=0.05)


def test_objectives_that_black_box_vi_takes_and_refuses():
    known = {make(2).name for make in OBJECTIVES}
    assert set(gradients.SITE_COMPATIBLE) | set(gradients.SITE_REFUSED) == known
    assert not set(gradients.SITE_COMPATIBLE) & set(gradients.SITE_REFUSED)
    for make in OBJECTIVES:
        objective = make(4)
        if objective.name in gradients.SITE_COMPATIBLE:
            assert BlackBoxVI(objective=objective).sought is objective
        else:
            with pytest.raises(IncompatibleError, match=f"{objective.name} is no objective of black_box_vi"):
                BlackBoxVI(objective=objective)
    with pytest.raises(IncompatibleError, match="the objective has a number of draws of its own"):
        BlackBoxVI(objective=objectives.Renyi(0.5), num_samples=4)
    with pytest.raises(IncompatibleError, match="objective is 'renyi'; needed"):
        BlackBoxVI(objective="renyi")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UnknownNameError, match="site_score_function"):
        BlackBoxVI(gradients={"z": "site_score_functio"})
    with pytest.raises(IncompatibleError, match="forward_kl is no objective of black_box_vi"):
        lb.fit(_model, {"y": _Y}, algorithm="black_box_vi", objective="forward_kl")
