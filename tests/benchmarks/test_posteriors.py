"""The reference posteriors of the benchmarks: complete, finite, and the densities they claim to be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats as st
from numpyro.infer.util import initialize_model, log_density

from benchmarks.accuracy import accurate, score
from benchmarks.posteriors import REGISTRY
from benchmarks.posteriors.registry import Reference
from benchmarks.posteriors.time_series import runge_kutta
from lowerbound.precision import float64


@pytest.mark.parametrize("name", REGISTRY)
def test_density_is_finite_and_the_reference_fits_the_sites(name):
    p = REGISTRY[name]
    data, reference = p.data(), p.reference()
    assert all(np.isfinite(v).all() for v in data.values())

    @jax.jit  # one program is quicker than hundreds of small ones
    def at_the_origin():
        start = initialize_model(jax.random.key(0), p.model, model_kwargs=data, validate_grad=False)
        origin = {k: np.zeros(np.shape(v)) for k, v in start.param_info.z.items()}
        return start.potential_fn(origin), start.postprocess_fn(origin)

    with float64():
        energy, sites = at_the_origin()
    assert energy.dtype == np.float64 and np.isfinite(energy)
    columns = p.columns({k: np.asarray(v)[None] for k, v in sites.items()})
    count = len(reference.parameters)
    assert columns.shape == (1, count)
    assert reference.mean.shape == reference.sd.shape == (count,) and reference.quantiles.shape == (count, 99)
    assert (reference.sd > 0).all() and (np.diff(reference.quantiles) > 0).all()
    sizes = [np.size(sites[s]) for s in p.sites]
    written = [
        k if n == 1 and not np.ndim(sites[k]) else f"{k}[{i + 1}]"
        for k, n in zip(p.sites, sizes, strict=True)
        for i in range(n)
    ]
    assert written == list(reference.parameters)


def logearn_interaction_z(z, earn, height, male):
    h = st.zscore(height, ddof=1)
    design = np.stack([np.ones_like(h), h, male, h * male], 1)
    return st.norm(design @ z["beta"], z["sigma"]).logpdf(np.log(earn)).sum()


def garch11(z, y, sigma1):
    beta1 = z["beta1_share"] * (1 - z["alpha1"])
    total, variance = 0.0, sigma1**2
    for t in range(len(y)):
        if t:
            variance = z["alpha0"] + z["alpha1"] * (y[t - 1] - z["mu"]) ** 2 + beta1 * variance
        total += st.norm(z["mu"], np.sqrt(variance)).logpdf(y[t])
    return total + np.log(1 - z["alpha1"])  # the density of the share, not of beta1


def low_dim_gauss_mix(z, y):
    first, second = (st.norm(z["mu"][i], z["sigma"][i]).pdf(y) for i in (0, 1))
    prior = st.norm(0, 2).logpdf([*z["mu"], *z["sigma"]]).sum() + st.beta(5, 5).logpdf(z["theta"])
    return prior + np.log(z["theta"] * first + (1 - z["theta"]) * second).sum()


def hmm_example(z, y):
    """All the state sequences' weight, by a scaled forward recursion on probabilities."""
    transition = np.stack([z["theta1"], z["theta2"]])
    emission = st.norm(z["mu"], 1).pdf(y[:, None])
    total, alpha = 0.0, emission[0]
    for row in emission[1:]:
        total, alpha = total + np.log(alpha.sum()), alpha / alpha.sum() @ transition * row
    return total + np.log(alpha.sum()) + st.norm([3, 10], 1).logpdf(z["mu"]).sum()


def gp_pois_regr(z, x, k):
    covariance = z["alpha"] ** 2 * np.exp(-0.5 * (np.subtract.outer(x, x) / z["rho"]) ** 2) + 1e-10 * np.eye(len(x))
    f = np.linalg.cholesky(covariance) @ z["f_tilde"]
    prior = st.gamma(25, scale=1 / 4).logpdf(z["rho"]) + st.norm(0, 2).logpdf(z["alpha"])
    return prior + st.norm.logpdf(z["f_tilde"]).sum() + (k * f - np.exp(f) - scipy.special.gammaln(k + 1)).sum()


POINTS = {
    logearn_interaction_z: lambda r: {"beta": r.normal([9, 0, 0, 0]), "sigma": r.gamma(2)},
    garch11: lambda r: {"mu": r.normal(), "alpha0": r.gamma(2), "alpha1": r.beta(2, 2), "beta1_share": r.beta(2, 2)},
    low_dim_gauss_mix: lambda r: {"mu": np.sort(r.normal(size=2)), "sigma": r.gamma(2, size=2), "theta": r.beta(2, 2)},
    hmm_example: lambda r: {
        "theta1": r.dirichlet([1, 1]),
        "theta2": r.dirichlet([1, 1]),
        "mu": np.sort(r.gamma(2, size=2)),
    },
    gp_pois_regr: lambda r: {"rho": r.gamma(25) / 4, "alpha": r.gamma(2), "f_tilde": r.normal(size=11)},
}


@pytest.mark.parametrize("independent", POINTS, ids=lambda f: f.__name__)
def test_density_agrees_with_an_independent_implementation(independent):
    p = REGISTRY[independent.__name__]
    data, rng = p.data(), np.random.default_rng(0)
    differences, density = [], jax.jit(lambda z: log_density(p.model, (), data, z)[0])
    for _ in range(3):
        z = POINTS[independent](rng)
        with float64():
            here = float(density(z))
        differences.append(here - independent(z, **data))
    assert np.ptp(differences) < 1e-8 * max(1, abs(here))


def test_differential_equation_is_solved_as_closely_as_stan_asks():
    """Stan's own tolerance there is 1e-5 of the state at each of its steps."""
    p = REGISTRY["lotka_volterra"]
    times, mean = p.data()["ts"], p.reference().mean
    theta, start = mean[:4], mean[4:6]

    def slope(z):
        prey, predator = z
        return (theta[0] - theta[1] * predator) * prey, (theta[3] * prey - theta[2]) * predator

    with float64():
        states = np.asarray(jax.jit(lambda z: runge_kutta(lambda v: jnp.stack(slope(v)), z, times))(start))
    exact = scipy.integrate.solve_ivp(
        lambda _, z: slope(z), (0, times[-1]), start, t_eval=times, rtol=1e-11, atol=1e-11
    )
    np.testing.assert_allclose(states, exact.y.T, rtol=1e-5)


def test_scores_of_a_shifted_and_stretched_answer():
    levels = np.arange(1, 100) / 100
    quantiles = st.norm([[3.0], [-10.0]], [[2.0], [0.1]]).ppf(levels)
    reference = Reference(("a", "b"), np.array([3.0, -10.0]), np.array([2.0, 0.1]), quantiles)
    standard = st.norm.ppf((np.arange(4000) + 0.5) / 4000)[:, None]
    exact = score(reference.mean + reference.sd * standard, reference)
    assert accurate(exact) and exact["shape_max"] < 0.01
    wrong = score(reference.mean + reference.sd * (0.1 + 2 * standard), reference)
    assert wrong["mean_avg"] == pytest.approx(0.1, abs=1e-6)
    assert wrong["sd_max"] == pytest.approx(np.log(2), abs=2e-3)
    assert not accurate(wrong)
    assert not accurate(score(np.full((4000, 2), np.nan), reference))
