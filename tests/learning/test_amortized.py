"""A network that gives each row its block of q: against brute force, and models whose evidence is known."""

from __future__ import annotations

import dataclasses
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy.special import logsumexp

import lowerbound as lb
from lowerbound.algorithms import AmortizedVI
from lowerbound.algorithms.row_weights import RowWeights
from lowerbound.encoder import Encoder
from lowerbound.errors import DataError
from lowerbound.families import Amortized
from lowerbound.model import Model
from lowerbound.model.by_row import RowModel
from lowerbound.objectives.prior import row_prior
from lowerbound.precision import float32, float64

RNG = np.random.default_rng(3)
W, SD = np.array([1.0, -0.5, 2.0]), 0.7
X = RNG.normal(size=(30, 1)) * W + SD * RNG.normal(size=(30, 3))


def line(x):
    w = numpyro.param("w", jnp.asarray(W))
    sd = numpyro.param("sd", SD, constraint=constraints.positive)
    numpyro.factor("penalty", -0.5 * jnp.sum(w**2))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("x", dist.Normal(z[:, None] * w, sd).to_event(1), obs=x)


def exact_network() -> eqx.nn.Linear:
    """The posterior of a row: N(w'x / (w'w + sd^2), sd^2 / (w'w + sd^2))."""
    total = W @ W + SD**2
    made = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    weight, bias = np.stack([W / total, np.zeros(3)]), np.array([0.0, 0.5 * np.log(SD**2 / total)])
    return eqx.tree_at(lambda n: (n.weight, n.bias), made, (jnp.asarray(weight), jnp.asarray(bias)))


def evidence(x: np.ndarray) -> np.ndarray:
    return np.asarray(dist.MultivariateNormal(np.zeros(3), np.outer(W, W) + SD**2 * np.eye(3)).log_prob(x))


def mixed(x):
    """Two latents in a row, one of them positive and of two elements, its plate not the last axis."""
    b = numpyro.param("b", 0.3)
    with numpyro.plate("columns", 2), numpyro.plate("rows", x.shape[0]):
        s = numpyro.sample("s", dist.Gamma(2.0, 1.0 + b**2))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1).to_event(1))
        numpyro.sample("x", dist.Normal((s[:, 0] * z[:, 0])[:, None] * b, s[:, 1:]).to_event(1), obs=x)


def test_rows_add_up_to_the_model():
    model = Model.from_numpyro(mixed, {"x": X})
    rows = RowModel(model)
    assert (rows.size, rows.dimension, rows.arrays, rows.plate) == (30, 4, ["x"], "rows")
    z = RNG.normal(size=(30, 4))

    def both(z, x, flat, arguments):
        each, rest = jax.vmap(lambda u, x: rows.terms(u, jnp.zeros(0), [x], arguments))(z, x)
        return each, rest, model.log_density(flat, arguments)

    with float64():
        each, rest, whole = jax.jit(both)(z, X, rows.flat(z), model.arguments)
    assert np.asarray(each).sum() + float(rest[0]) == pytest.approx(float(whole), rel=1e-9)
    # The vector's order is that of the sites, whose plates come where they come.
    sites = model.unflatten(rows.flat(z))
    np.testing.assert_array_equal(sites["s"], z[:, :2])
    np.testing.assert_array_equal(sites["z"], z[:, 2:])


def test_the_prior_of_a_row():
    prior = row_prior(RowModel(Model.from_numpyro(mixed, {"x": X})))
    assert prior is not None
    np.testing.assert_array_equal(prior.index, [2, 3])
    np.testing.assert_array_equal(prior.sd, [1, 1])


@pytest.fixture(scope="module")
def exact() -> Encoder:
    with float32():
        problem = RowWeights(RowModel(Model.from_numpyro(line, {"x": X})), Amortized(exact_network()))
        return Encoder(problem, problem.start())


def test_bounds_of_the_exact_network_are_the_evidence(exact):
    # Row by row, and what is outside of the plate once.
    penalty = -0.5 * W @ W
    for objective in (lb.objectives.ELBO(4), lb.objectives.ImportanceWeighted(4), lb.objectives.Renyi(0.5, 4)):
        assert float(exact.bound(objective)) == pytest.approx(evidence(X).sum() + penalty, abs=2e-3)
    new = RNG.normal(size=(7, 3))
    np.testing.assert_allclose(exact.log_evidence({"x": new}, num_draws=16), evidence(new), atol=2e-4)
    encoded = exact.encode({"x": new})
    np.testing.assert_allclose(encoded.mean["z"], new @ W / (W @ W + SD**2), rtol=1e-5)
    np.testing.assert_allclose(encoded.sd["z"], SD / np.sqrt(W @ W + SD**2), rtol=1e-5)
    np.testing.assert_allclose(exact.decode(np.array([0.0, 2.0]))["x"], [0 * W, 2 * W], rtol=1e-6)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (X, "rows are ndarray; needed: a dictionary of x to arrays"),
        ({"y": X}, "the rows given have y; needed: x"),
        ({"x": X[:, :2]}, r"rows 'x' have shape \(30, 2\); needed: \(rows, 3\)"),
        ({"x": X[0]}, r"rows 'x' have shape \(3,\); needed: \(rows, 3\)"),
        ({"x": X[:0]}, r"rows 'x' have shape \(0, 3\)"),
        ({"x": np.where(np.arange(30)[:, None] == 4, np.nan, X)}, r"not finite in 1 row\(s\), first 4"),
    ],
)
def test_rows_that_are_none(exact, data, match):
    with pytest.raises(DataError, match=match):
        exact.encode(data)
    with pytest.raises(DataError, match=match):
        exact.log_evidence(data, num_draws=2)


def test_latents_that_are_none(exact):
    for latents in (np.zeros((2, 1)), {"z": np.zeros((2, 3))}, {"w": np.zeros(2)}, np.zeros(0), 1.0):
        with pytest.raises(DataError, match=r"decode needs 'z' with shape \(rows\); got"):
            exact.decode(latents)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::lowerbound.errors.TrustWarning")
def test_the_identity_of_rows_of_a_network():
    # q is a Gaussian for each row and the model linear, so that all three are known.
    x = X[:12]
    family = Amortized(eqx.nn.Linear(3, 2, key=jax.random.key(1)), inputs="x", site="z")
    posterior = lb.fit(line, {"x": x}, family=family, algorithm=AmortizedVI(batch_size=6, held_out=0.0), max_steps=20)
    found = lb.decompose(line, {"x": x}, posterior)
    w, sd = posterior.parameters["w"], float(posterior.parameters["sd"])
    exact = dist.MultivariateNormal(np.zeros(3), np.outer(w, w) + sd**2 * np.eye(3)).log_prob(x).sum() - 0.5 * w @ w
    assert found.route == "conjugate" and found.log_evidence.value == pytest.approx(float(exact), rel=1e-5)
    encoded = posterior.encoder.encode({"x": x})
    s = sd**2 / (w @ w + sd**2)
    m, ratio = x @ w / (w @ w + sd**2), encoded.sd["z"] ** 2 / s
    kl = 0.5 * (ratio - 1 - np.log(ratio) + (encoded.mean["z"] - m) ** 2 / s).sum()
    assert found.kl.value == pytest.approx(float(kl), rel=1e-4) and abs(found.residual) < 1e-8


def test_a_bound_of_several_draws_is_taken_row_by_row():
    # By hand, with the same draws, for a network that is wrong.
    wrong = eqx.tree_at(lambda n: n.bias, exact_network(), jnp.array([0.4, -0.2]))
    with float32():
        problem = RowWeights(RowModel(Model.from_numpyro(line, {"x": X})), Amortized(wrong))
        noise = problem.noise(np.random.default_rng(0), 30, 24)
        found, rest = problem(problem.start(), None, np.arange(30), noise)
    location, scale = X @ np.asarray(wrong.weight[0]) + 0.4, np.exp(-0.2)
    z = location[:, None] + scale * noise[:, :, 0]
    by_hand = -0.5 * ((X[:, None, :] - z[..., None] * W) ** 2).sum(-1) / SD**2 - 3 * np.log(SD)
    by_hand += -0.5 * z**2 + 0.5 * noise[:, :, 0] ** 2 + np.log(scale) - 1.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(found, by_hand, atol=1e-3)
    np.testing.assert_allclose(rest, -0.5 * W @ W, rtol=1e-5)
    encoder = Encoder(problem, problem.start())
    elbo = encoder.bound(lb.objectives.ELBO(), num_draws=512)
    weighted = encoder.bound(lb.objectives.ImportanceWeighted(32), num_draws=512)
    largest = evidence(X).sum() + rest[0]
    assert float(elbo) < float(weighted) < largest + 5 * weighted.se
    # The divergence of the row's block from its posterior is known.
    total = W @ W + SD**2
    mean, variance = X @ W / total, SD**2 / total
    divergence = 0.5 * ((location - mean) ** 2 / variance + scale**2 / variance - 1 - np.log(scale**2 / variance))
    assert abs(largest - divergence.sum() - float(elbo)) < 5 * elbo.se
    # A bound of the joint's weights, on the same draws, would be far below.
    joint = logsumexp(found[:, :16].sum(0)) - np.log(16)
    assert joint < (logsumexp(found[:, :16], 1) - np.log(16)).sum() - 1


@pytest.mark.parametrize(
    "objective", [lb.objectives.ELBO(2, form="prior"), lb.objectives.ImportanceWeighted(3)], ids=lambda o: o.name
)
def test_gradients_of_batches_have_the_mean_of_all_rows(objective):
    # Over the batches of one epoch the mean is exact, not only expected: each row brings its own noise.
    wrong = eqx.tree_at(lambda n: n.bias, exact_network(), jnp.array([0.4, -0.2]))
    vi = AmortizedVI(objective=objective, batch_size=10)
    with float32():
        problem = RowWeights(
            RowModel(Model.from_numpyro(line, {"x": X})), Amortized(wrong), prior_apart=objective.needs_prior
        )
        keys = jax.random.split(jax.random.key(0), 30)
        order = np.random.default_rng(0).permutation(30).reshape(3, 10)

        def gradient(index):
            rows = [r[index] for r in problem.device_rows]

            def surrogate(p):
                return vi.slope(problem, p, rows, keys[index], problem.arguments, 30)

            return jax.tree_util.tree_leaves(jax.grad(surrogate)(problem.start()))

        whole = jax.jit(gradient)(np.arange(30))
        part = jax.jit(gradient)
        batches = [part(index) for index in order]
    for i, g in enumerate(whole):
        np.testing.assert_allclose(np.mean([b[i] for b in batches], 0), g, rtol=2e-4, atol=2e-5)


def test_a_fit_reaches_the_evidence_of_a_linear_model():
    # One row's posterior is linear in the row, so that a linear network can be exact.
    def unpenalised(x):
        sd = numpyro.param("sd", 1.0, constraint=constraints.positive)
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(0, 1))
            numpyro.sample("x", dist.Normal(z[:, None] * W, sd).to_event(1), obs=x)

    x = np.random.default_rng(5).normal(size=(250, 1)) * W + SD * np.random.default_rng(6).normal(size=(250, 3))
    vi = AmortizedVI(
        objective=lb.objectives.ELBO(2), batch_size=50, held_out=0.0, gradient=lb.gradients.StickingTheLanding()
    )
    family = Amortized(eqx.nn.Linear(3, 2, key=jax.random.key(1)), inputs="x", site="z")
    posterior = lb.fit(unpenalised, {"x": x}, family=family, algorithm=vi, max_steps=4000)
    # The likelihood's maximum over sd, in closed form along W and across it, by a search on a grid.
    grid = np.linspace(0.5, 0.9, 801)
    along, square = (x @ W) ** 2 / (W @ W), (x**2).sum()
    loglik = [
        -0.5 * (along.sum() / (W @ W + s**2) + (square - along.sum()) / s**2)
        - 125 * np.log(W @ W + s**2)
        - 250 * np.log(s**2)
        - 375 * np.log(2 * np.pi)
        for s in grid
    ]
    assert abs(float(posterior.parameters["sd"]) - grid[np.argmax(loglik)]) < 0.01
    # All rows are looked at, so that the errors are those of draws.
    assert -0.1 < float(posterior.elbo) - max(loglik) < 5 * posterior.elbo.se + 0.01
    assert posterior.verdict.status is lb.VerdictStatus.TRUSTED
    assert any("of the network, sd: they are point estimates" in s for s in posterior.verdict.not_checked)
    assert abs(posterior.mean()["z"] - x @ W / (W @ W + SD**2)).max() < 0.3
    assert posterior.sample(10)["z"].shape == (10, 250)
    # The same seed gives the same bits.
    again = lb.fit(unpenalised, {"x": x}, family=family, algorithm=dataclasses.replace(vi, max_steps=40))
    once = lb.fit(unpenalised, {"x": x}, family=family, algorithm=dataclasses.replace(vi, max_steps=40))
    np.testing.assert_array_equal(again.q.location, once.q.location)


def test_an_autoencoder_of_a_few_digits():
    from numpyro.contrib.module import eqx_module
    from sklearn.datasets import load_digits

    x = (load_digits().data[:200] > 7).astype(float)
    decoder = eqx.nn.MLP(2, 64, 16, 1, key=jax.random.key(0))

    def model(x):
        f = eqx_module("decoder", decoder)
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=jax.vmap(f)(z)).to_event(1), obs=x)

    family = Amortized(eqx.nn.MLP(64, 4, 16, 1, key=jax.random.key(1)))
    vi = AmortizedVI(objective=lb.objectives.ImportanceWeighted(3), batch_size=50)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.TrustWarning)
        posterior = lb.fit(model, {"x": x}, family=family, algorithm=vi, max_steps=9, callback=seen.append)
    assert posterior.status is lb.Status.MAX_STEPS
    bounds = [i.elbo for i in seen[1:]]
    assert len(bounds) == 3 and bounds[-1] > bounds[0]
    encoder = posterior.encoder
    assert encoder is not None
    assert encoder.decode(encoder.encode({"x": x[:5]}).mean)["x"].shape == (5, 64)
    assert isinstance(posterior.parameters["decoder"], eqx.nn.MLP)
    elbo, weighted = (encoder.bound(o) for o in (lb.objectives.ELBO(), lb.objectives.ImportanceWeighted(16)))
    assert float(weighted) > float(elbo)
    with pytest.raises(DataError, match=r"rows 'x' have shape \(5, 3\)"):
        encoder.encode({"x": np.zeros((5, 3))})
    with pytest.raises(DataError, match=r"decode needs 'z' with shape \(rows, 2\); got \(4, 3\)"):
        encoder.decode(np.zeros((4, 3)))
