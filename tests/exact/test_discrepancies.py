"""Discrepancies over pairs of draws as objectives, where their value and optimum are known.

q = N(0, v I) and a unit bivariate normal of correlation r, by symmetry the best of all independent normals. With
A = I / v - P, P the precision, and k = exp(-|x - y|^2 / g), Stein's identity for q and the independence of x + y and
x - y give

    KSD^2 = E[x' A k A y] = c tr A^2,      c = E[k x'y] / 2 = (2 v^2 / g) (1 + 4 v / g)^-2,
    MMD^2 = (1 + 4 v / g)^-1 - 2 prod (1 + 2 (1 ± r + v) / g)^-1/2 + prod (1 + 4 (1 ± r) / g)^-1/2,

and the inverse multiquadric is such kernels with g = h^2 / t, t ~ Gamma(1/2, 1).
"""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import lowerbound as lb
from lowerbound import families, objectives
from lowerbound.errors import DataError, IncompatibleError, TrustWarning, UnknownNameError
from lowerbound.gradients import Reparameterized
from lowerbound.model.given import as_model
from lowerbound.objectives import Target
from lowerbound.objectives.pairs import usual_width
from lowerbound.precision import float64
from tests.measure import assert_mean, z_score

R = 0.7
SCALES = np.array([1.0, 5.0])
_ROOT = np.linalg.cholesky([[1.0, R], [R, 1.0]])


def _over_kernels(f: Any) -> Any:
    """E f(g) over g = h^2 / t: with t = a^2, an integral against a normal density on the half line."""
    a, w = np.polynomial.legendre.leggauss(200)
    a, w = 3 * (a + 1), 3 * w
    return sum(wi * 2 / np.sqrt(np.pi) * np.exp(-(ai**2)) * f(usual_width(2) ** 2 / ai**2) for ai, wi in zip(a, w))  # noqa: B905


def ksd(v: Any) -> Any:
    square = sum((1 / v - 1 / (1 + s * R)) ** 2 for s in (-1, 1))
    return square * _over_kernels(lambda g: (2 * v**2 / g) * (1 + 4 * v / g) ** -2)


def mmd(v: Any) -> Any:
    def one(g):
        across = np.prod([(1 + 2 * (1 + s * R + v) / g) ** -0.5 for s in (-1, 1)], axis=0)
        return 1 / (1 + 4 * v / g) - 2 * across + np.prod([(1 + 4 * (1 + s * R) / g) ** -0.5 for s in (-1, 1)])

    return _over_kernels(one)


_V = np.linspace(0.2, 1.5, 1301)
BEST = {"kernel_stein": float(_V[np.argmin(ksd(_V))]), "mmd": float(_V[np.argmin(mmd(_V))])}


def target() -> lb.LogDensity:
    precision = jnp.asarray(np.linalg.inv(_ROOT @ _ROOT.T))
    return lb.LogDensity(
        lambda z: -0.5 * (z / SCALES - 1) @ precision @ (z / SCALES - 1), {"z": lb.Site(constraints.real, (2,))}
    )


def drawn(n: int) -> np.ndarray:
    """Draws of the target with its mean and covariance."""
    e = np.random.default_rng(0).standard_normal((n // 2, 2))
    e = np.concatenate([e, -e])
    return (np.linalg.solve(np.linalg.cholesky(np.cov(e.T, bias=True)), e.T).T @ _ROOT.T + 1) * SCALES


def test_where_the_optima_lie():
    """Stein's is inside of the ELBO's; the MMD's near the margins. In the limits of wide kernels they are known."""
    assert BEST["kernel_stein"] < 1 - R**2 < BEST["mmd"] < 1
    wide = sum((1 - _V / (1 + s * R)) ** 2 for s in (-1, 1))  # c ∝ v^2
    assert abs(_V[np.argmin(wide)] - (1 - R**2) / (1 + R**2)) < 1e-3


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "mmd" else n for n in BEST])
def test_the_optimum_of_a_mean_field_on_a_correlated_gaussian(name):
    objective = objectives.KernelStein() if name == "kernel_stein" else objectives.MMD({"z": drawn(1000)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        posterior = lb.fit(target(), family="diagonal", objective=objective, num_draws=256)
    assert posterior.status.converged
    np.testing.assert_allclose(posterior.q.variance() / SCALES**2, BEST[name], rtol=0.06)
    np.testing.assert_allclose(posterior.q.mean / SCALES, 1, atol=0.06)
    found = posterior.bound(objective, num_draws=2048)
    if name == "mmd":
        assert abs(found.value - float(mmd(BEST[name]))) < 5 * found.se + 1e-3
    else:  # in q's own scale
        assert found.value > 5 * found.se
    # Where the family holds the posterior, it is zero.
    exact = lb.fit(target(), family="dense", algorithm="score_regression")
    found = exact.bound(objective)
    assert abs(found.value) < 5 * found.se + (0.001 if name == "mmd" else 1e-9)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "mmd" else n for n in BEST])
def test_values_and_gradients_are_unbiased(name):
    objective = objectives.KernelStein(4) if name == "kernel_stein" else objectives.MMD(drawn(1000) / SCALES - 1, 4)
    truth, v = {"kernel_stein": ksd, "mmd": mmd}[name], 0.6
    with float64():
        precision = jnp.asarray(np.linalg.inv(_ROOT @ _ROOT.T))
        aim = Target(lambda z: -0.5 * jnp.einsum("si,ij,sj->s", z, precision, z))
        family = families.Diagonal()
        start = family.parameters(families.DiagonalGaussian(np.zeros(2), np.full(2, np.sqrt(v))))
        start = {k: jnp.asarray(a) for k, a in start.items()}

        def one(noise: Any) -> Any:
            # A common factor of both scales: phi is where it is one.
            def of_scale(log_scale: Any) -> Any:
                def build(phi):
                    q = family.from_parameters(phi)
                    return families.DiagonalGaussian(q.mean, q.scale * jnp.exp(log_scale))

                found = Reparameterized().surrogate(objective, aim, build, start, noise)
                return found.surrogate, found.value

            (_, value), slope = jax.value_and_grad(of_scale, has_aux=True)(0.0)
            return value, slope

        noise = jnp.asarray(np.random.default_rng(1).standard_normal((20_000, 4, 2)))
        values, slopes = jax.tree_util.tree_map(np.asarray, jax.jit(jax.vmap(one))(noise))
    difference = (truth(v * np.exp(2e-4)) - truth(v * np.exp(-2e-4))) / 2e-4
    if name == "kernel_stein":
        assert_mean(values, ksd(v), "value")
        assert_mean(slopes, -difference, "slope")
    else:  # up to what 1,000 draws are from the target
        assert abs(values.mean() - mmd(v)) < 5 * values.std() / np.sqrt(len(values)) + 2e-3
        assert abs(slopes.mean() + difference) < 5 * slopes.std() / np.sqrt(len(slopes)) + 2e-3
    assert np.abs(z_score(slopes, 0.0)) > 5  # there is a slope


def _scale(y):
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("m", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.deterministic("twice", 2 * s)
    numpyro.sample("y", dist.Normal(0.0, s), obs=y)


def test_draws_by_site_become_unconstrained_coordinates():
    model = as_model(_scale, {"y": 1.0})
    rng = np.random.default_rng(0)
    draws = {"s": rng.gamma(2.0, size=50), "m": rng.standard_normal((50, 2)), "twice": np.zeros(50)}
    shift, scale = objectives.MMD(draws).coordinates(model)
    x = np.column_stack([np.log(draws["s"]), draws["m"]])
    order = [model.coordinate_names().index(n) for n in ("s", "m[0]", "m[1]")]
    np.testing.assert_allclose(shift[order], x.mean(0), rtol=1e-9)
    np.testing.assert_allclose(scale[order], x.std(0), rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: objectives.KernelStein(1), IncompatibleError, "at least 2"),
        (lambda: objectives.KernelStein(bandwidth=0.0), IncompatibleError, "a positive number, or None"),
        (lambda: objectives.MMD(np.zeros(5)), IncompatibleError, r"of shape \(5,\); needed: draws of the posterior"),
        (lambda: objectives.MMD(np.zeros((5, 2))), DataError, "5 draws of the posterior; needed: 10"),
        (lambda: objectives.MMD(np.full((20, 2), np.nan)), DataError, "20 of MMD's 20 draws are not finite"),
        (lambda: _fitted(np.zeros((20, 3))), DataError, "all of MMD's draws are equal in s"),
        (lambda: _fitted(np.zeros((20, 2))), DataError, "2 columns, and '_scale' has 3 unconstrained coordinates"),
        (
            lambda: _fitted({"s": np.ones(20), "m": np.ones((20, 2)), "mu": np.ones(20)}),
            UnknownNameError,
            "unknown site in MMD's draws 'mu'. Did you mean 'm'.*Known: m, s, twice",
        ),
        (lambda: _fitted({"s": np.ones(20)}), DataError, "every latent site, and 'm' is missing"),
        (lambda: _fitted({"s": np.ones(20), "m": np.ones(20)}), DataError, r"draws of 'm' have shape \(20,\)"),
        (lambda: _fitted({"s": -np.ones(20), "m": np.ones((20, 2))}), DataError, "not finite on the unconstrained"),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def _fitted(draws: Any) -> Any:
    return lb.fit(_scale, {"y": 1.0}, objective=objectives.MMD(draws))


def test_a_bound_by_draws_of_another_model_is_refused_by_name():
    posterior = lb.fit(_scale, {"y": 1.0})
    draws = posterior.sample(20)
    with pytest.raises(UnknownNameError, match="'tau'"):
        posterior.bound(objectives.MMD({**draws, "tau": np.ones(20)}))
