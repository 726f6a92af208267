"""The two parts of an amortized q's gap, where both have a closed form; and blocks refined row by row."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import lowerbound as lb
from lowerbound.algorithms import AmortizedVI
from lowerbound.algorithms.row_weights import RowWeights
from lowerbound.diagnostics.rows.checks import check_rows
from lowerbound.encoder import Encoder
from lowerbound.errors import TrustWarning
from lowerbound.families import Amortized
from lowerbound.model import Model
from lowerbound.model.by_row import RowModel
from lowerbound.precision import float32

RNG = np.random.default_rng(0)
W, SD = np.array([[1.0, 0.5, -0.3], [0.3, 1.0, 0.4]]), 0.5
X = RNG.normal(size=(40, 2)) @ W + SD * RNG.normal(size=(40, 3))
#: Precision and means of the rows' posteriors, which have correlations.
PRECISION = np.eye(2) + W @ W.T / SD**2
MEAN = X @ W.T / SD**2 @ np.linalg.inv(PRECISION)


def factors(x):
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1).to_event(1))
        numpyro.sample("x", dist.Normal(z @ W, SD).to_event(1), obs=x)


class Constant(eqx.Module):
    """A network that looks at nothing: the same block for every row."""

    out: jax.Array

    def __call__(self, row):
        return self.out


def test_both_parts_are_those_of_a_linear_model():
    # KL(N(m, S) || N(mu, P^-1)); its minimum over diagonal S has m = mu, S_jj = 1 / P_jj.
    location, log_scale = np.array([0.3, -0.2]), np.array([-0.4, 0.1])
    away = location - MEAN
    whole = 0.5 * (
        np.diag(PRECISION) @ np.exp(2 * log_scale) - 2 - 2 * log_scale.sum() - np.linalg.slogdet(PRECISION)[1]
    ) + 0.5 * np.einsum("ni,ij,nj->n", away, PRECISION, away)
    held_back = 0.5 * (np.log(np.diag(PRECISION)).sum() - np.linalg.slogdet(PRECISION)[1])
    network = Constant(jnp.asarray(np.concatenate([location, log_scale])))
    with float32():
        problem = RowWeights(RowModel(Model.from_numpyro(factors, {"x": X})), Amortized(network))
        encoder = Encoder(problem, problem.start())
    gap = encoder.gap(num_draws=4000)
    assert abs(gap.approximation.value - held_back) < 5 * gap.approximation.se < 0.05
    assert abs(gap.amortization.value - (whole - held_back).mean()) < 5 * gap.amortization.se < 0.5
    np.testing.assert_allclose(gap.each.mean(0), [gap.amortization.value, gap.approximation.value])
    assert gap.settled == 1
    assert "cannot hold (approximation); seen on 40 rows refined by themselves" in str(gap)
    # Fewer rows than there are: the error is that of taking them for the others.
    few = encoder.gap(num_rows=10)
    assert len(few.rows) == 10 and few.amortization.se > 5 * gap.amortization.se
    # The best diagonal Gaussian, of rows that the fit has not seen too.
    best = encoder.refine({"x": X[:5]})
    np.testing.assert_allclose(best.mean["z"], MEAN[:5], atol=2e-3)
    np.testing.assert_allclose(best.sd["z"], np.tile(1 / np.sqrt(np.diag(PRECISION)), (5, 1)), rtol=2e-3)


def test_refined_blocks_correct_what_a_network_cannot_say():
    family = Amortized(Constant(jnp.zeros(4)))
    vi = AmortizedVI(objective=lb.objectives.ELBO(2), held_out=0.0, patience=3)
    posterior = lb.fit(factors, {"x": X}, family=family, algorithm=vi, max_steps=1000)
    verdict = posterior.verdict
    assert verdict.status is lb.VerdictStatus.CORRECTED, verdict
    [correction] = posterior.corrections
    assert "each row's block refined by itself" in correction.sentence
    assert "a larger network" in verdict.next_step
    assert any("(amortization)" in r for r in verdict.reasons)
    # By the network's own weights most rows could not be used; by the refined ones the posterior is right.
    before = posterior.encoder.gap().pareto_k[:, 0]
    assert (before > 0.7).mean() > 0.3
    sd = np.sqrt(np.diag(np.linalg.inv(PRECISION)))
    assert abs((posterior.mean()["z"] - MEAN) / sd).max() < 5 / np.sqrt(100)
    np.testing.assert_allclose(np.mean(posterior.sd()["z"] / sd, 0), 1, atol=0.05)


def test_even_weights_can_be_used_whatever_their_tail():
    # Nearly all weights between 1 and 1.01, the tail beyond as heavy as one likes, and no matter.
    rng = np.random.default_rng(1)
    tailed = np.log1p(1e-3 * rng.pareto(1.1, size=(3, 1000)))
    checks = check_rows(tailed, sampled=False)
    assert (checks.pareto_k > 0.7).all() and checks.bad == 0
    heavy = check_rows(3 * rng.standard_normal((3, 1000)), sampled=False)
    assert (heavy.pareto_k > 0.7).all() and heavy.bad == 1


@pytest.mark.parametrize("option", ["num_rows", "num_draws"])
def test_a_gap_needs_rows_and_draws(option):
    with float32():
        problem = RowWeights(RowModel(Model.from_numpyro(factors, {"x": X})), Amortized(Constant(jnp.zeros(4))))
    with pytest.raises(lb.errors.IncompatibleError, match=f"{option}=0"):
        Encoder(problem, problem.start()).gap(**{option: 0})


class Clipped(eqx.Module):
    """The exact network of one latent, its location held within -2 and 2: right of rows like those of a fit."""

    weight: jax.Array
    log_scale: jax.Array

    def __call__(self, row):
        return jnp.stack([2 * jnp.tanh(row @ self.weight / 2), self.log_scale])


def one(x):
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Normal(0, 3))
        numpyro.sample("x", dist.Normal(z[:, None] * W[0], SD).to_event(1), obs=x)


def test_rows_unlike_those_of_the_fit_are_named_and_refined():
    near, far = RNG.normal(size=(6, 1)) * 0.2 * W[0], np.outer([9.0, -12.0], W[0])
    rows = np.concatenate([near, far[:1], near, far[1:]])
    precision = 1 / 9 + W[0] @ W[0] / SD**2
    exact = np.asarray(
        dist.MultivariateNormal(np.zeros(3), 9 * np.outer(W[0], W[0]) + SD**2 * np.eye(3)).log_prob(rows)
    )
    network = Clipped(jnp.asarray(W[0] / SD**2 / precision), jnp.asarray(-0.5 * np.log(precision)))
    with float32():
        problem = RowWeights(RowModel(Model.from_numpyro(one, {"x": near})), Amortized(network))
        encoder = Encoder(problem, problem.start())
    found = encoder.log_evidence({"x": near})  # no warning: they would be errors
    np.testing.assert_allclose(found, exact[:6], atol=0.02)
    assert found.usable.all() and (found.se < 0.01).all() and len(found) == 6
    assert np.isnan(encoder.log_evidence({"x": rows}, num_draws=20).pareto_k).all()
    with pytest.warns(TrustWarning, match=r"2 of 14 rows the evidence is too low.* row (6|13) .*refined=True"):
        found = encoder.log_evidence({"x": rows})
    assert np.flatnonzero(~found.usable).tolist() == [6, 13] and (found.pareto_k[[6, 13]] > 1).all()
    assert (exact[[6, 13]] - found.value[[6, 13]] > 10).all()
    assert "2 of them with weights that cannot be used" in str(found)
    refined = encoder.log_evidence({"x": rows}, refined=True)
    assert refined.usable.all()
    np.testing.assert_allclose(refined, exact, atol=0.02)
    # Of a bound those rows are named too; by the rows' own blocks, here exact ones, it is the evidence.
    with pytest.warns(TrustWarning, match="2 of 14 rows the bound is far too low"):
        below = encoder.bound("elbo", {"x": rows})
    above = encoder.bound("elbo", {"x": rows}, refined=True)
    assert below.value < above.value - 20 and abs(above.value - exact.sum()) < 5 * above.se + 0.05
