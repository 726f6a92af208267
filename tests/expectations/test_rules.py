"""Every rule: against quadrature where one number is random, against Monte Carlo where more is; bounds from below."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.special import expit, ndtr

from lowerbound.expectations.moments import bound_expectation, expectation
from lowerbound.expectations.rules import RULES
from lowerbound.expectations.rules.heavy_tails import _tail
from lowerbound.expectations.rules.logistic import _albert, _jaakkola
from lowerbound.precision import float64
from tests.expectations.programs import Programs, moments_of, some_naturals

Y3 = np.array([[0.4, -1.0, 2.0], [1.5, 0.2, -0.7]])
SPD2 = np.array([[1.3, 0.4], [0.4, 0.9]])
COUNTS = np.array([[2, 0, 1], [1, 3, 0]])


#: Values of these distributions, with constant parameters: the latent of the same name.
VALUES = {
    "Normal": lambda: dist.Normal(0.3, 1.7),
    "LogNormal": lambda: dist.LogNormal(-0.2, 0.6),
    "HalfNormal": lambda: dist.HalfNormal(1.4),
    "Gamma": lambda: dist.Gamma(2.5, 1.7),
    "Chi2": lambda: dist.Chi2(5.0),
    "InverseGamma": lambda: dist.InverseGamma(3.5, 2.2),
    "Exponential": lambda: dist.Exponential(0.8),
    "Beta": lambda: dist.Beta(2.5, 1.3),
    "BetaProportion": lambda: dist.BetaProportion(0.3, 4.0),
    "Uniform": lambda: dist.Uniform(0.0, 1.0),
    "HalfCauchy": lambda: dist.HalfCauchy(0.7),
    "StudentT": lambda: dist.StudentT(4.0, 0.5, 1.2),
    "Cauchy": lambda: dist.Cauchy(0.5, 1.2),
    "Laplace": lambda: dist.Laplace(0.5, 1.2),
}
#: Observed, with one random number among the parameters: r real, g positive, v in the unit interval.
OBSERVED = {
    "Normal(r)": ("r", lambda r: (dist.Normal(2 * r - 1, 0.7), 0.4)),
    "Normal(scale g)": ("g", lambda g: (dist.Normal(0.3, g), 1.4)),
    "Normal(precision g)": ("g", lambda g: (dist.Normal(0.3, 1 / jnp.sqrt(2 * g)), 1.4)),
    "Normal(variance g)": ("g", lambda g: (dist.Normal(0.3, jnp.sqrt(g)), 1.4)),
    "Normal(scale exp r)": ("r", lambda r: (dist.Normal(0.3, jnp.exp(0.4 * r)), 1.4)),
    "LogNormal(r)": ("r", lambda r: (dist.LogNormal(r, 0.7), 0.4)),
    "LogNormal(scale g)": ("g", lambda g: (dist.LogNormal(0.1, g), 0.4)),
    "HalfNormal(g)": ("g", lambda g: (dist.HalfNormal(g), 0.9)),
    "Gamma(rate g)": ("g", lambda g: (dist.Gamma(2.5, g), 0.9)),
    "Gamma(shape g)": ("g", lambda g: (dist.Gamma(g, 1.5), 0.9)),
    "Gamma(shape g, rate g)": ("g", lambda g: (dist.Gamma(g, g), 0.9)),
    "InverseGamma(rate g)": ("g", lambda g: (dist.InverseGamma(2.5, g), 0.9)),
    "InverseGamma(shape g)": ("g", lambda g: (dist.InverseGamma(g, 1.5), 0.9)),
    "Exponential(g)": ("g", lambda g: (dist.Exponential(3 * g), 0.9)),
    "Exponential(exp r)": ("r", lambda r: (dist.Exponential(jnp.exp(0.5 * r)), 0.9)),
    "Beta(g, 1)": ("g", lambda g: (dist.Beta(g, 1.0), 0.3)),
    "Poisson(g)": ("g", lambda g: (dist.Poisson(2 * g), 3)),
    "GammaPoisson(3, g)": ("g", lambda g: (dist.GammaPoisson(3.0, 2 * g), 4)),
    "NegativeBinomial(exp r)": ("r", lambda r: (dist.NegativeBinomial2(jnp.exp(0.5 * r + 0.2), 2.0), 3)),
    "NegativeBinomial(logits)": ("r", lambda r: (dist.NegativeBinomialLogits(3.0, 0.7 * r), 2)),
    "Poisson(exp r)": ("r", lambda r: (dist.Poisson(jnp.exp(0.5 * r + 0.2)), 3)),
    "Bernoulli(v)": ("v", lambda v: (dist.Bernoulli(v), 1)),
    "Bernoulli(v), a miss": ("v", lambda v: (dist.Bernoulli(v), 0)),
    "Binomial(v)": ("v", lambda v: (dist.Binomial(7, v), 3)),
    "Geometric(v)": ("v", lambda v: (dist.Geometric(v), 3)),
    "Uniform(0, r)": ("r", lambda r: (dist.Uniform(0.0, 2.0 + 0 * r), 1.3)),
    "Bernoulli(logits r)": ("r", lambda r: (dist.Bernoulli(logits=r), 1)),
    "Bernoulli(logits 3 r - 1), a miss": ("r", lambda r: (dist.Bernoulli(logits=3 * r - 1), 0)),
    "Bernoulli(expit r)": ("r", lambda r: (dist.Bernoulli(expit(2 * r)), 1)),
    "Bernoulli(1 / (1 + exp(-r)))": ("r", lambda r: (dist.Bernoulli(1 / (1 + jnp.exp(-r))), 0)),
    "Bernoulli(ndtr r)": ("r", lambda r: (dist.Bernoulli(ndtr(1.5 * r)), 1)),
    "Bernoulli(ndtr r), a miss": ("r", lambda r: (dist.Bernoulli(ndtr(r - 0.5)), 0)),
    "Binomial(logits r)": ("r", lambda r: (dist.Binomial(7, logits=r), 3)),
    "Binomial(ndtr r)": ("r", lambda r: (dist.Binomial(7, ndtr(r)), 3)),
    "Geometric(logits r)": ("r", lambda r: (dist.Geometric(logits=r), 3)),
    "StudentT(r)": ("r", lambda r: (dist.StudentT(4.0, r, 0.8), 1.3)),
    "StudentT(scale g)": ("g", lambda g: (dist.StudentT(4.0, 0.1, g), 1.3)),
    "Cauchy(r)": ("r", lambda r: (dist.Cauchy(r, 0.8), 1.3)),
    "Laplace(r)": ("r", lambda r: (dist.Laplace(r, 0.8), 1.3)),
    "Laplace(scale g)": ("g", lambda g: (dist.Laplace(0.1, g), 1.3)),
    "HalfCauchy(g)": ("g", lambda g: (dist.HalfCauchy(g), 1.3)),
}
#: Those that have no closed form: log(beta function) of what is random, a Uniform's end that only looks random, and
#: links of one number that are taken apart before they are recognised.
OPEN = {"Beta(g, 1)", "Uniform(0, r)", "Bernoulli(1 / (1 + exp(-r)))", "Bernoulli(ndtr r)", "Binomial(ndtr r)"}
#: Those with a bound.
BOUNDED = {n for n in OBSERVED if n.startswith(("StudentT", "Cauchy", "Laplace", "HalfCauchy"))}
BOUNDED |= {n for n in OBSERVED if "logits" in n or "expit" in n or "exp(-r)" in n or "ndtr" in n}
BOUNDED |= {"HalfCauchy", "StudentT", "Cauchy", "Laplace", "GammaPoisson(3, g)", "NegativeBinomial(exp r)"}


def scalars():
    for name, d in VALUES.items():
        numpyro.sample(name, d())
    o = {"r": numpyro.sample("r", dist.Normal(0, 1)), "g": numpyro.sample("g", dist.Gamma(3.0, 2.0))}
    o["v"] = numpyro.sample("v", dist.Beta(2.0, 2.0))
    for name, (latent, f) in OBSERVED.items():
        d, obs = f(o[latent])
        numpyro.sample(name, d, obs=jnp.asarray(obs))


@pytest.fixture(scope="module")
def one() -> Programs:
    return Programs(scalars, priors=True)


def _grid(support: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and log weights of the trapezoidal rule in the unconstrained coordinate."""
    u = np.linspace(-30, 30, n)
    step = np.full(n, np.log(u[1] - u[0]))
    if support == "positive":
        return np.exp(u), step + u
    if support == "unit":
        x = 1 / (1 + np.exp(-u))
        return np.clip(x, 1e-300, 1 - 1e-16), step - np.logaddexp(0, u) - np.logaddexp(0, -u)
    return u, step


@pytest.mark.parametrize("name", [*VALUES, *OBSERVED])
def test_one_number_against_quadrature(one, name):
    f = one.factors[name]
    if f.open is not None:
        assert name in OPEN, f.open
        return
    latent = OBSERVED[name][0] if name in OBSERVED else name
    one.draws = 6001
    with float64():
        made = one.factored(f)
        if not made.blocks:
            return
        (block,) = made.blocks
        x, log_w = _grid(one.joint.latents[latent].support, one.draws)
        log_p = np.asarray(one.log_densities({**one.fallback(), latent: x})[name])
        for seed in range(3):
            natural = some_naturals(block, np.random.default_rng(seed))
            moments = moments_of(block, natural)
            closed = sum(float(p(moments).array) for p in expectation(f.value, made.structure).parts)
            closed += sum(float(bound_expectation(b, w, made.structure)(moments)) for b, w in f.bounds)
            w = np.exp(log_w + block.log_prob(natural, {latent: x}))
            np.testing.assert_allclose(w.sum(), 1.0, rtol=1e-7)
            truth = np.where(w > 1e-30, w * log_p, 0.0).sum()
            if name in BOUNDED:
                assert f.bounds
                assert truth - 1.5 < closed < truth + 1e-9, (closed, truth)
            else:
                assert not f.bounds
                np.testing.assert_allclose(closed, truth, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", sorted(BOUNDED - OPEN))
def test_a_bound_is_tight_where_nothing_is_random(one, name):
    """As q narrows it becomes the log density at the mean, in proportion to the variance."""
    f = one.factors[name]
    one.draws = 2
    latent = OBSERVED[name][0] if name in OBSERVED else name
    with float64():
        made = one.factored(f)
        (block,) = made.blocks
        gaps = []
        for sharp in (1e6, 1e4, 1e2):
            natural = some_naturals(block, np.random.default_rng(5), sharp)
            mean = block.mean_and_variance(natural)[latent][0]
            moments = moments_of(block, natural)
            closed = sum(float(p(moments).array) for p in expectation(f.value, made.structure).parts)
            closed += sum(float(bound_expectation(b, w, made.structure)(moments)) for b, w in f.bounds)
            at = {**one.fallback(), latent: np.broadcast_to(mean, (2,))}
            gaps.append(abs(closed - float(np.asarray(one.log_densities(at)[name])[0])))
    assert gaps[0] < 1e-4 and gaps[0] < 0.05 * gaps[1] < 0.05 * 0.05 * gaps[2], gaps


def test_bounds_are_tangents():
    """As a function of the expected square, a bound has the slope that its auxiliary variable's mean gives."""
    with float64():
        for c in (1e-3, 0.3, 1.7, 8.0):
            weight = np.tanh(c / 2) / (2 * c)  # the mean of a Pólya–Gamma(1, c)
            np.testing.assert_allclose(jax.grad(_jaakkola)(c**2, 3.0), -3.0 * weight / 2, rtol=1e-6)
            for nu in (1.0, 4.5):
                np.testing.assert_allclose(jax.grad(_tail)(c**2, nu), -0.5 * (nu + 1) / (nu + c**2), rtol=1e-12)
        for m in (-3.0, -0.2, 1.4):
            slope = jax.grad(_albert, argnums=(0, 1))(m, m**2 + 0.3, 1.0, 0.0)
            # E[w] - m of the truncated normal w > 0 about m; and -1/2 for the square
            excess = np.exp(-0.5 * m**2) / np.sqrt(2 * np.pi) / float(ndtr(m))
            np.testing.assert_allclose(slope, (excess + m, -0.5), rtol=1e-6)


@pytest.mark.parametrize("f", [lambda x: _jaakkola(x, 1.0), lambda x: _tail(x, 3.0), lambda x: -jnp.sqrt(x)])
def test_bounds_are_convex_in_the_square(f):
    """So that the function of an expectation is below the expectation of the function."""
    with float64():
        x = jnp.linspace(1e-3, 40.0, 400)
        y = f(x)
        assert (y[1:-1] <= (y[2:] + y[:-2]) / 2 + 1e-14).all()


def _many():
    o = {}
    o["mu"] = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    o["tau"] = numpyro.sample("tau", dist.Gamma(3.0, 2.0))
    o["df"] = numpyro.sample("df", dist.Gamma(3.0, 2.0))
    o["Gamma of Gammas"] = numpyro.sample("Gamma of Gammas", dist.Gamma(2.0, o["tau"]))
    o["InverseGamma of a Gamma"] = numpyro.sample("InverseGamma of a Gamma", dist.InverseGamma(2.0, o["tau"]))
    numpyro.sample("Gamma, shape and rate", dist.Gamma(o["df"], o["tau"]))
    numpyro.sample("Normal of all", dist.Normal(o["mu"], 1 / jnp.sqrt(o["tau"])))
    numpyro.sample("LogNormal of all", dist.LogNormal(o["mu"], 1 / jnp.sqrt(o["tau"])))
    numpyro.sample("HalfNormal of a scale", dist.HalfNormal(jnp.sqrt(o["tau"])))
    numpyro.sample("HalfCauchy of a scale", dist.HalfCauchy(1 / jnp.sqrt(o["tau"])))
    numpyro.sample("StudentT of all", dist.StudentT(3.0, o["mu"], 1 / jnp.sqrt(o["tau"])))
    numpyro.sample("Laplace of all", dist.Laplace(o["mu"], o["tau"]))
    numpyro.sample("Exponential of a rate", dist.Exponential(o["tau"]))
    # simplexes and counts
    o["pi"] = numpyro.sample("pi", dist.Dirichlet(np.array([0.7, 2.0, 1.3])))
    o["theta"] = numpyro.sample("theta", dist.Dirichlet(np.array([[0.7, 2.0, 1.3], [3.0, 0.2, 1.0]])))
    numpyro.sample("Dirichlet, observed", dist.Dirichlet(np.array([0.7, 2.0, 1.3])), obs=np.array([0.2, 0.5, 0.3]))
    o["z"] = numpyro.sample("z", dist.Categorical(o["pi"]))
    numpyro.sample("Categorical of logits", dist.Categorical(logits=np.array([0.3, -1.0, 2.0])))
    numpyro.sample("Categorical of logs", dist.Categorical(logits=jnp.log(o["pi"])))
    numpyro.sample("Categorical, a row each", dist.Categorical(o["theta"]), obs=np.array([2, 0]))
    numpyro.sample("Bernoulli, latent", dist.Bernoulli(0.3))
    o["u"] = numpyro.sample("u", dist.Beta(2.0, np.array([3.0, 0.7, 1.2])).to_event(1))
    numpyro.sample("Bernoulli, latent of a Beta", dist.Bernoulli(o["u"]).to_event(0))
    numpyro.sample("Binomial, latent of a Beta", dist.Binomial(4, o["u"][0]))
    numpyro.sample("Bernoulli of a component", dist.Bernoulli(o["u"][o["z"]]), obs=1)
    numpyro.sample("Multinomial", dist.Multinomial(np.array([3, 4]), o["theta"]), obs=COUNTS)
    numpyro.sample("Multinomial of one", dist.Multinomial(3, o["pi"]), obs=COUNTS[0])
    # vectors and matrices
    o["x"] = numpyro.sample("x", dist.MultivariateNormal(np.array([0.3, -1.0]), covariance_matrix=SPD2))
    o["L"] = numpyro.sample("L", dist.Wishart(4.5, rate_matrix=SPD2))
    numpyro.sample("Wishart, scale matrix", dist.Wishart(4.5, scale_matrix=SPD2))
    numpyro.sample("Wishart, Cholesky", dist.Wishart(4.5, scale_tril=np.linalg.cholesky(SPD2)))
    o["S"] = numpyro.sample("S", dist.InverseWishart(5.5, scale_matrix=SPD2))
    o["LK"] = numpyro.sample("LK", dist.Wishart(np.array([3.0, 4.5, 6.0]), rate_matrix=SPD2))
    numpyro.sample("MVN of all", dist.MultivariateNormal(o["x"], precision_matrix=o["L"]))
    numpyro.sample("MVN, scaled", dist.MultivariateNormal(o["x"], precision_matrix=o["tau"] * 2.0 * o["L"]))
    numpyro.sample("MVN, covariance", dist.MultivariateNormal(o["x"], covariance_matrix=o["S"]), obs=Y3[0, :2])
    numpyro.sample("MVN, covariance scaled", dist.MultivariateNormal(o["x"], o["S"] / o["tau"]), obs=Y3[:, :2])
    numpyro.sample("MVN, Cholesky", dist.MultivariateNormal(o["x"], scale_tril=np.linalg.cholesky(SPD2)))
    numpyro.sample("MVN, covariances", dist.MultivariateNormal(o["x"], np.stack([SPD2, 2 * SPD2])), obs=Y3[:, :2])
    numpyro.sample(
        "MVN of a component", dist.MultivariateNormal(o["x"], precision_matrix=o["LK"][o["z"]]), obs=Y3[0, :2]
    )
    numpyro.sample("Wishart of a Wishart", dist.Wishart(4.0, rate_matrix=o["L"]))


@pytest.fixture(scope="module")
def many() -> Programs:
    return Programs(_many, draws=8000, priors=True)


#: Latents that are only there to be parameters.
HIDDEN = {"mu", "tau", "df"}


def _names() -> list[str]:
    import inspect
    import re

    return [n for n in dict.fromkeys(re.findall(r'sample\(\s*"([^"]+)"', inspect.getsource(_many))) if n not in HIDDEN]


@pytest.mark.parametrize("name", _names())
def test_many_numbers_against_monte_carlo(many, name):
    found = many.outcome(name)
    assert found.refused is None, found
    assert found.bound == name.startswith(("HalfCauchy", "StudentT", "Laplace")), found
    assert not found.wrong, found


def test_every_rule_is_tried():
    tried = set()

    def look(programs):
        # Traced and not run: a draw of each latent would compile each by itself.
        for site in numpyro.handlers.trace(programs).get_trace().values():
            d = site["fn"]
            while hasattr(d, "base_dist") and type(d) not in RULES:
                d = d.base_dist
            tried.update(c for c in type(d).__mro__ if c in RULES)

    for programs in (scalars, _many):
        with float64(), numpyro.handlers.seed(rng_seed=0):
            jax.eval_shape(lambda p=programs: look(p))
    left = {c.__name__ for c in RULES if c not in tried} - {"ImproperUniform", "Unit", "MultinomialLogits"}
    assert not left
