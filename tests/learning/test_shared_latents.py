"""Latents that all rows share, beside a network for the rows': exact where everything is Gaussian, and quadrature."""

from __future__ import annotations

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import gammaln, logsumexp

import lowerbound as lb
from lowerbound.algorithms import AmortizedVI, Status
from lowerbound.algorithms.row_weights import RowWeights
from lowerbound.diagnostics.rows.assessment import assess_rows
from lowerbound.diagnostics.rows.checks import check_rows, judge_rows
from lowerbound.diagnostics.rows.shared_latents import check_shared, judge_shared
from lowerbound.encoder import Encoder
from lowerbound.families import Amortized
from lowerbound.model import Model
from lowerbound.model.by_row import RowModel
from lowerbound.precision import float32, float64

N, W, SD = 60, np.array([1.0, -0.5, 0.8]), 0.7
RNG = np.random.default_rng(0)
X = (1.5 + RNG.normal(size=(N, 1))) * W + SD * RNG.normal(size=(N, 3))


def spread(x):
    """mu ~ N(0, 4), z_i ~ N(mu, 1), x_i ~ N(W z_i, SD^2)."""
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Normal(mu, 1))
        numpyro.sample("x", dist.Normal(z[:, None] * W, SD).to_event(1), obs=x)


#: Of (mu, z): precision, mean and covariance; log p(x), by the marginal; and the gap of the best diagonal Gaussian.
PRECISION = np.diag([0.25 + N, *N * [1 + W @ W / SD**2]])
PRECISION[0, 1:] = PRECISION[1:, 0] = -1
COVARIANCE = np.linalg.inv(PRECISION)
MEAN = COVARIANCE @ np.concatenate([[0], X @ W / SD**2])
EVIDENCE = float(
    dist.MultivariateNormal(
        np.zeros(3 * N), np.asarray(SD**2 * np.eye(3 * N) + np.kron(np.eye(N) + 4 * np.ones((N, N)), np.outer(W, W)))
    ).log_prob(X.ravel())
)
GAP = 0.5 * (np.log(np.diag(PRECISION)).sum() - np.linalg.slogdet(PRECISION)[1])


@pytest.fixture(scope="module")
def problem() -> RowWeights:
    """With the network that is exact: z_i = (x_i'W / SD^2 + E[mu]) / (1 + W'W / SD^2)."""
    network = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    weight = np.stack([W / SD**2 / PRECISION[1, 1], np.zeros(3)])
    bias = np.array([MEAN[0] / PRECISION[1, 1], -0.5 * np.log(PRECISION[1, 1])])
    network = eqx.tree_at(lambda n: (n.weight, n.bias), network, (jnp.asarray(weight), jnp.asarray(bias)))
    with float32():
        return RowWeights(RowModel(Model.from_numpyro(spread, {"x": X})), Amortized(network))


def learned(problem: RowWeights, location: float, scale: float):
    """The exact network, with q(mu) = N(location, scale^2)."""
    with float32():
        weights, parameters, _ = problem.start()
        shared = {"location": [location], "lower": [[0.0]], "log_diagonal": [np.log(scale)]}
        return weights, parameters, {k: jnp.asarray(v, jnp.float32) for k, v in shared.items()}


@pytest.fixture(scope="module")
def exact(problem):
    """The best mean-field q there is."""
    return learned(problem, MEAN[0], PRECISION[0, 0] ** -0.5)


def test_rows_and_what_they_share_add_up_to_the_model():
    def mixed(x):
        s = numpyro.sample("s", dist.Gamma(2.0, 1.0))
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.LogNormal(0, 1))
        a = numpyro.sample("a", dist.Normal(jnp.zeros(2), s).to_event(1))
        with numpyro.plate("rows", x.shape[0]):
            numpyro.sample("x", dist.Normal(z[:, None] * a[0], s + a[1] ** 2).to_event(1), obs=x)

    model = Model.from_numpyro(mixed, {"x": X[:7]})
    rows = RowModel(model)
    assert rows.shared == ["s", "a"] and rows.dimension == 1 and rows.shared_places.tolist() == [0, 8, 9]
    z, g = RNG.normal(size=(7, 1)), RNG.normal(size=3)

    def both(z, g, flat, arguments):
        each, rest = jax.vmap(lambda u, x: rows.terms(u, g, [x], arguments))(z, X[:7])
        return each.sum() + rest[0], rest[0], model.log_density(flat, arguments)

    with float64():
        apart, rest, whole = map(float, jax.jit(both)(z, g, rows.flat(z, g), model.arguments))
    assert apart == pytest.approx(whole, rel=1e-9)
    # log p(g) has the Jacobian of s = exp(u), and nothing of the rows'.
    s = np.exp(g[0])
    prior = dist.Gamma(2.0, 1.0).log_prob(s) + dist.Normal(0, s).log_prob(g[1:]).sum() + g[0]
    assert rest == pytest.approx(float(prior), rel=1e-5)


def test_bounds_at_the_best_mean_field(problem, exact):
    encoder = Encoder(problem, exact)
    elbo = encoder.bound(lb.objectives.ELBO(4), num_draws=512)
    assert abs(elbo.value - (EVIDENCE - GAP)) < 5 * elbo.se < 1
    tighter = encoder.bound(lb.objectives.ImportanceWeighted(16), num_draws=512)
    assert elbo.value < tighter.value < EVIDENCE + 5 * tighter.se
    # Of a new row: its predictive density under q(mu).
    new = RNG.normal(size=(4, 3))
    covariance = (1 + 1 / PRECISION[0, 0]) * np.outer(W, W) + SD**2 * np.eye(3)
    predictive = dist.MultivariateNormal(MEAN[0] * W, covariance).log_prob(new)
    np.testing.assert_allclose(encoder.log_evidence({"x": new}, num_draws=4000), predictive, atol=0.05)
    below = encoder.bound(lb.objectives.ImportanceWeighted(32), {"x": new}, num_draws=4096)
    assert below.value < float(predictive.sum()) + 5 * below.se < below.value + 1
    np.testing.assert_allclose(encoder.decode(np.array([0.0, 2.0]))["x"], [0 * W, 2 * W], atol=1e-6)


def test_gradients_are_those_of_the_exact_bound(problem):
    # In q(mu)'s mean m and sd s, ELBO = const - (m - E[mu])^2 P / 2 - s^2 P / 2 + log s, P its precision given z.
    # What is linear cancels between mirror images, so that the first has no noise at all.
    away, scale, p = 0.1, 0.2, PRECISION[0, 0]
    at = learned(problem, MEAN[0] + away, scale)
    vi = AmortizedVI(objective=lb.objectives.ELBO(2))
    with float32():

        def gradient(parameters, key):
            def surrogate(q):
                rows = problem.device_rows
                return vi.slope(problem, q, rows, jax.random.split(key, N), problem.arguments, N)

            return jax.grad(surrogate)(parameters)[2]

        found = jax.jit(jax.vmap(gradient, (None, 0)))(at, jax.random.split(jax.random.key(0), 400))
    for name, right in (("location", -away * p / N), ("log_diagonal", (1 - scale**2 * p) / N)):
        each = np.asarray(found[name], float)[:, 0]
        assert abs(each.mean() - right) < 5 * each.std() / np.sqrt(len(each)) + 1e-6 < 0.2 * abs(right), name
    assert found["location"].std() < 1e-6


def test_weights_of_what_is_shared_know_the_posterior(problem, exact):
    with float32():
        blocks = problem.blocks(exact, None)
    checks = check_shared(problem, exact, blocks, 0)
    assert checks is not None
    assert checks.pareto_k < 0.5 and checks.noise < 0.05
    assert abs(checks.log_evidence.value - EVIDENCE) < 5 * checks.log_evidence.se < 1
    assert abs(checks.mean[0]) < 0.1
    # Mean field takes the spread of mu given the rows' latents for all of it.
    assert checks.log_sd[0] == pytest.approx(0.5 * np.log(COVARIANCE[0, 0] * PRECISION[0, 0]), abs=0.05)


def test_a_narrow_gaussian_of_what_is_shared_is_corrected(problem):
    narrow = learned(problem, MEAN[0], 0.75 * PRECISION[0, 0] ** -0.5)
    with float32():
        location, scale = problem.blocks(narrow, None)
    found = assess_rows(problem, narrow, Status.CONVERGED, "", location, scale, 0)
    assert found.verdict.status is lb.VerdictStatus.CORRECTED and found.verdict.parameters == ("mu",)
    assert "shared latents resampled" in found.corrections[0].sentence
    se = np.sqrt(COVARIANCE[0, 0] / len(found.draws))
    assert abs(found.draws[:, 0].mean() - MEAN[0]) < 5 * se
    assert found.draws[:, 0].std() == pytest.approx(COVARIANCE[0, 0] ** 0.5, rel=0.15)
    # Rows' draws are those given mu: they know its spread, and move with it.
    of_rows = found.draws[:, 1:].mean(1)
    exactly = COVARIANCE[0, 1:].mean() / np.sqrt(COVARIANCE[0, 0] * COVARIANCE[1:, 1:].mean())
    assert np.corrcoef(found.draws[:, 0], of_rows)[0, 1] == pytest.approx(exactly, abs=0.2)


def test_what_is_shared_and_not_checked_is_not_trusted():
    checks = check_rows(np.zeros((5, 1000)) + 1e-3 * RNG.normal(size=(5, 1000)), sampled=True)
    verdict = judge_rows(Status.CONVERGED, "", checks, 10_000)
    assert verdict.status is lb.VerdictStatus.TRUSTED
    said = judge_shared(verdict, None, ["mu"], 10_000)
    assert said.status is lb.VerdictStatus.NOT_TRUSTED and said.parameters == ("mu",)
    assert any("the shared latents mu: 10,000 rows are too many" in s for s in said.not_checked)


@pytest.mark.slow
def test_a_fit_against_quadrature():
    """Counts with a rate that varies: log rate_i = a + b z_i, against a grid over (a, b) and quadrature over z."""

    def counts(y):
        b = numpyro.sample("b", dist.HalfNormal(1.0))
        a = numpyro.sample("a", dist.Normal(0, 2.0))
        with numpyro.plate("rows", y.shape[0]):
            z = numpyro.sample("z", dist.Normal(0, 1))
            numpyro.sample("y", dist.Poisson(jnp.exp(a + b * z)), obs=y[:, 0])

    rng = np.random.default_rng(1)
    y = rng.poisson(np.exp(1 + 0.6 * rng.standard_normal((200, 1)))).astype(float)
    network = eqx.nn.MLP(1, 2, 16, 1, activation=jnp.tanh, key=jax.random.key(1))
    vi = AmortizedVI(objective=lb.objectives.ELBO(2), batch_size=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.TrustWarning)
        posterior = lb.fit(counts, {"y": y}, family=Amortized(network, inputs="y"), algorithm=vi)

    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    a, b = np.meshgrid(np.linspace(0.4, 1.6, 121), np.linspace(0.1, 1.3, 121), indexing="ij")
    eta = a[..., None] + b[..., None] * nodes
    log_p = sum(
        c * logsumexp(v * eta - np.exp(eta) - gammaln(v + 1) + np.log(weights / weights.sum()), axis=-1)
        for v, c in zip(*np.unique(y, return_counts=True), strict=True)
    )
    log_p = log_p + np.asarray(dist.Normal(0, 2.0).log_prob(a) + dist.HalfNormal(1.0).log_prob(b), float)
    evidence, p = logsumexp(log_p) + 2 * np.log(0.01), np.exp(log_p - logsumexp(log_p))
    assert abs(posterior.log_evidence.value - evidence) < 5 * posterior.log_evidence.se < 1.5
    assert float(posterior.elbo) < evidence
    assert posterior.verdict.status is lb.VerdictStatus.CORRECTED
    mean, sd = posterior.mean(), posterior.sd()
    for name, grid in (("a", a), ("b", b)):
        right = (p * grid).sum()
        spread = np.sqrt((p * (grid - right) ** 2).sum())
        assert abs(mean[name] - right) < 0.3 * spread, name
        assert sd[name] == pytest.approx(spread, rel=0.25), name
    assert {k: v.shape for k, v in posterior.sample(3).items()} == {"b": (3,), "a": (3,), "z": (3, 200)}
    assert np.isfinite(posterior.log_prob(posterior.sample(3))).all()
    assert posterior.encoder.encode({"y": np.array([[0.0], [9.0]])}).mean["z"].shape == (2,)


@pytest.mark.slow
def test_a_fit_reaches_the_best_mean_field(tmp_path):
    family = Amortized(eqx.nn.Linear(3, 2, key=jax.random.key(0)), shared="diagonal")
    vi = AmortizedVI(objective=lb.objectives.ELBO(2), batch_size=30)
    posterior = lb.fit(spread, {"x": X}, family=family, algorithm=vi)
    q = posterior.q.blocks[1]
    assert abs(q.mean[0] - MEAN[0]) < 0.2 * COVARIANCE[0, 0] ** 0.5
    assert q.variance()[0] ** 0.5 == pytest.approx(PRECISION[0, 0] ** -0.5, rel=0.1)
    assert posterior.verdict.trusted
    assert abs(posterior.mean()["z"] - MEAN[1:]).max() < 0.15
    posterior.save(tmp_path / "p.lb")
    again = lb.load(tmp_path / "p.lb")
    np.testing.assert_array_equal(again.sample(5)["mu"], posterior.sample(5)["mu"])
