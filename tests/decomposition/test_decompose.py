"""log p(x) = ELBO + KL: against enumeration, closed forms and SciPy's quadrature, and each route against the others."""

from __future__ import annotations

import itertools
import math

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from scipy.integrate import quad

import lowerbound as lb
from lowerbound.families import DenseGaussian
from tests.closed_forms.models import beta_bernoulli, conjugate

CONJUGATE = conjugate()
HEADS = np.array([1, 1, 0, 1, 0, 1, 1])


def two_switches(y):
    a = numpyro.sample("a", dist.Bernoulli(0.3))
    with numpyro.plate("n", 2):
        b = numpyro.sample("b", dist.Categorical(jnp.array([0.2, 0.5, 0.3])))
    numpyro.sample("y", dist.Normal(a + b.sum(), 1.0), obs=y)


def mixture(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.4, 0.6])))
        numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def scale_of(y):
    s = numpyro.sample("s", dist.HalfNormal(2.0))
    numpyro.sample("y", dist.Normal(0.0, s), obs=y)


# -- discrete ------------------------------------------------------------------------------------------


def test_a_discrete_model_is_enumerated():
    qa, qb = 0.6, np.array([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]])
    states = []
    for a, i, j in itertools.product(range(2), range(3), range(3)):
        prior = (0.3 if a else 0.7) * np.array([0.2, 0.5, 0.3])[[i, j]].prod()
        states.append((prior * stats.norm.pdf(2.2, a + i + j, 1.0), (qa if a else 1 - qa) * qb[0, i] * qb[1, j]))
    evidence = sum(p for p, _ in states)
    elbo = sum(q * math.log(p / q) for p, q in states)
    kl = sum(q * math.log(q * evidence / p) for p, q in states)
    got = lb.decompose(two_switches, {"y": 2.2}, {"a": dist.Bernoulli(qa), "b": qb})
    assert got.route == "enumeration" and (got.log_evidence.se, got.elbo.se, got.kl.se) == (0, 0, 0)
    # Parameters of the model are of single precision where it makes arrays of them.
    assert got.log_evidence.value == pytest.approx(math.log(evidence), abs=1e-6)
    assert got.elbo.value == pytest.approx(elbo, abs=1e-6)
    assert got.kl.value == pytest.approx(kl, abs=1e-6)
    assert abs(got.residual) < 1e-12


def test_q_on_an_impossible_state_has_an_infinite_kl():
    def switch(y):
        a = numpyro.sample("a", dist.Bernoulli(0.5))
        numpyro.factor("only_on", jnp.where(a == 1, 0.0, -jnp.inf))
        numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    got = lb.decompose(switch, {"y": 0.0}, {"a": np.array([0.25, 0.75])})
    assert got.kl.value == math.inf and got.elbo.value == -math.inf and math.isnan(got.residual)
    assert got.log_evidence.value == pytest.approx(-math.log(2) - 0.5 * math.log(2 * math.pi), abs=1e-6)
    assert "q has probability 0.25 on states with p(x, z) = 0, such as {'a': 0}" in got.reasons[0]
    with pytest.raises(lb.errors.DataError, match="every joint state of the discrete latents of 'switch' has"):
        lb.decompose(switch, {"y": np.array(1e200)}, {"a": np.array([0.0, 1.0])})
    exact = lb.decompose(switch, {"y": 0.0}, {"a": np.array([0.0, 1.0])})
    assert exact.kl.value == pytest.approx(0.0, abs=1e-12) and abs(exact.residual) < 1e-12


# -- conjugate -----------------------------------------------------------------------------------------


#: A q of the posterior's family that is not the posterior.
OF_THE_FAMILY = {
    "beta_bernoulli": dist.Beta(9.0, 30.0),
    "gamma_poisson": dist.Gamma(30.0, 10.0),
    "dirichlet_categorical": dist.Dirichlet(np.array([4.0, 9.0, 5.0, 6.0])),
    "gaussian_regression": DenseGaussian(np.array([0.9, -1.0, 0.4, 0.2]), 0.1 * np.eye(4)),
    "wishart_precision": dist.Wishart(12.0, rate_matrix=12.0 * np.eye(3)),
    "inverse_gamma_variance": dist.InverseGamma(5.0, 4.0),
    "exponential_gamma": dist.Gamma(9.0, 8.0),
    "unknown_variance_regression": None,
    "normal_gamma": None,
    "normal_wishart": None,
}
# The families of two latents together are no distributions of NumPyro: a fit gives the posterior.
TOGETHER = [n for n, q in OF_THE_FAMILY.items() if q is None]
ALONE = [n for n, q in OF_THE_FAMILY.items() if q is not None]


@pytest.mark.parametrize("name", ALONE)
def test_the_evidence_of_a_conjugate_model_is_its_closed_form(name):
    model, data, evidence = CONJUGATE[name]
    q = OF_THE_FAMILY[name]
    got = lb.decompose(model, data, q)
    assert got.route == "conjugate"
    assert abs(got.log_evidence.value - evidence) < 1e-9 * abs(evidence)
    assert got.kl.value > 0.01
    assert abs(got.residual) < 1e-9 * max(1.0, abs(got.elbo.value))


@pytest.mark.parametrize("name", TOGETHER)
def test_of_the_posterior_itself_nothing_is_left(name):
    model, data, evidence = CONJUGATE[name]
    got = lb.decompose(model, data, lb.fit(model, data, algorithm="coordinate_ascent"))
    assert got.route == "conjugate"
    assert abs(got.log_evidence.value - evidence) < 1e-9 * abs(evidence)
    assert abs(got.kl.value) < 1e-9 and abs(got.residual) < 1e-9 * abs(evidence)


# -- quadrature ----------------------------------------------------------------------------------------


def test_quadrature_and_the_conjugate_route_agree():
    q = dist.Beta(2.5, 1.5)
    exact, nodes = (lb.decompose(beta_bernoulli, {"y": HEADS}, q, route=r) for r in ("conjugate", "quadrature"))
    for a, b in ((exact.log_evidence, nodes.log_evidence), (exact.elbo, nodes.elbo), (exact.kl, nodes.kl)):
        assert a.value == pytest.approx(b.value, abs=1e-9)
    assert nodes.route == "quadrature" and abs(nodes.residual) < 1e-9


def test_quadrature_is_that_of_scipy():
    def log_joint(s):
        prior = math.log(2) - math.log(2.0) - 0.5 * math.log(2 * math.pi) - s**2 / 8
        return prior - math.log(s) - 0.5 * math.log(2 * math.pi) - 1.3**2 / (2 * s**2)

    def log_q(s):
        return 3 * math.log(2.0) - math.lgamma(3.0) + 2 * math.log(s) - 2 * s

    evidence = quad(lambda s: math.exp(log_joint(s)), 1e-9, np.inf, epsabs=1e-13)[0]
    elbo = quad(lambda s: math.exp(log_q(s)) * (log_joint(s) - log_q(s)), 1e-12, 60, epsabs=1e-12, limit=200)[0]
    kl = quad(
        lambda s: math.exp(log_q(s)) * (log_q(s) - log_joint(s) + math.log(evidence)),
        1e-12,
        60,
        epsabs=1e-12,
        limit=200,
    )[0]
    got = lb.decompose(scale_of, {"y": 1.3}, dist.Gamma(3.0, 2.0))
    assert got.route == "quadrature"
    assert got.log_evidence.value == pytest.approx(np.log(evidence), abs=1e-8)
    assert got.elbo.value == pytest.approx(elbo, abs=1e-8)
    assert got.kl.value == pytest.approx(kl, abs=1e-8)
    assert abs(got.residual) < 1e-9
    # A q over a part of the support is smooth in coordinates of its own.
    part = lb.decompose(scale_of, {"y": 1.3}, dist.Uniform(0.5, 2.0))
    elbo = quad(lambda s: (log_joint(s) + math.log(1.5)) / 1.5, 0.5, 2.0, epsabs=1e-13)[0]
    assert part.elbo.value == pytest.approx(elbo, abs=1e-6) and abs(part.residual) < 1e-9


def test_a_mixture_with_its_labels_and_without():
    y = np.array([-2.0, -1.5, 2.5, 0.2])
    logs = []
    for z in itertools.product((0, 1), repeat=len(y)):
        same = np.equal.outer(z, z)
        log_prior = np.log(np.array([0.4, 0.6])[list(z)]).sum()
        logs.append(log_prior + stats.multivariate_normal(np.zeros(4), 9.0 * same + np.eye(4)).logpdf(y))
    evidence = np.logaddexp.reduce(logs)
    mu = dist.Normal(jnp.array([-1.5, 1.5]), 0.7).to_event(1)
    z = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.5, 0.5]])
    alone, both = (lb.decompose(mixture, {"y": y}, q) for q in ({"mu": mu}, {"mu": mu, "z": z}))
    for got in (alone, both):
        assert got.route == "quadrature"
        assert got.log_evidence.value == pytest.approx(evidence, abs=1e-6)
        assert abs(got.residual) < 1e-9
    # KL(q(mu) q(z) ‖ p) = KL(q(mu) ‖ p) + E KL(q(z) ‖ p(z | mu)): more latents, a larger KL.
    assert both.kl.value > alone.kl.value + 0.01


def test_q_beyond_the_support_has_an_infinite_kl():
    got = lb.decompose(scale_of, {"y": 1.3}, dist.Normal(1.0, 0.1))
    assert got.kl.value == math.inf and got.elbo.value == -math.inf and np.isfinite(got.log_evidence.value)
    assert "q['s'] is over" in got.reasons[0] and "infinite" in got.reasons[0]
    assert "-inf + inf" in str(got)


def normal(y):
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


def counts(y):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def signless(y):
    z = numpyro.sample("z", dist.Normal(0.0, 10.0))
    halves = dist.Categorical(jnp.array([0.5, 0.5]))
    numpyro.sample("y", dist.MixtureSameFamily(halves, dist.Normal(jnp.stack([z, -z], -1), 0.1)), obs=y)


@pytest.mark.parametrize("q", [dist.StudentT(2.0), dist.Cauchy(0.0, 1.0), None])
def test_tails_of_q_that_log_p_has_no_mean_under(q):
    # E z² of both, and E rate of a half-Cauchy (whose unconstrained tail is exponential), do not exist.
    model, y, q = (normal, 1.0, q) if q is not None else (counts, np.array([3, 1, 4]), dist.HalfCauchy(1.0))
    got = lb.decompose(model, {"y": y}, q)
    assert (got.elbo.value, got.kl.value, got.route) == (-math.inf, math.inf, "quadrature")
    assert np.isfinite(got.log_evidence.value) and "has no limit" in got.reasons[0]


@pytest.mark.parametrize("df", [2.02, 3.0])
def test_next_to_that_border_what_lies_beyond_the_nodes_counts(df):
    # The posterior is N(1/2, 1/2), and E (z - 1/2)² = ν/(ν - 2) + 1/4.
    exact = 0.5 * math.log(math.pi) + df / (df - 2) + 0.25 - float(stats.t(df).entropy())
    got = lb.decompose(normal, {"y": 1.0}, dist.StudentT(df))
    assert abs(got.kl.value - exact) < max(1e-9, 2 * got.kl.se) < 1e-6


def test_draws_under_heavy_tails_say_so():
    for df, kl in ((1.5, math.inf), (2.0, None)):
        got = lb.decompose(normal, {"y": 1.0}, dist.StudentT(df), route="sampling")
        assert got.kl.value == kl if kl else got.kl.se == math.inf
        assert "tail shape k-hat" in got.reasons[0] and "no mean" in got.reasons[0]


def test_two_modes_far_apart_are_both_integrated():
    evidence = stats.norm(0.0, math.sqrt(100.01)).logpdf(7.0)
    got = lb.decompose(signless, {"y": 7.0}, dist.Normal(7.0, 0.1))
    assert got.log_evidence.value == pytest.approx(evidence, abs=1e-6)
    # q is all but the posterior of one of the two, log 2 from that of both.
    assert got.kl.value == pytest.approx(math.log(2), abs=1e-4) and abs(got.residual) < 1e-9


# -- sampling ------------------------------------------------------------------------------------------


def test_sampling_agrees_with_the_exact_numbers_and_with_itself():
    model, data, _ = CONJUGATE["gaussian_regression"]
    q = DenseGaussian(np.array([1.0, -1.0, 0.5, 0.3]), 0.08 * np.eye(4))
    exact = lb.decompose(model, data, q, route="conjugate")
    got = lb.decompose(model, data, q, route="sampling", num_draws=4096)
    assert got.route == "sampling" and abs(got.z) < 5
    for a, b in ((exact.log_evidence, got.log_evidence), (exact.elbo, got.elbo), (exact.kl, got.kl)):
        assert 0 < b.se < 0.1
        assert abs(a.value - b.value) < 5 * b.se
    again = lb.decompose(model, data, q, route="sampling", num_draws=4096)
    assert again == got


# -- what it says --------------------------------------------------------------------------------------


def test_the_table_has_the_three_and_what_is_left():
    text = str(lb.decompose(two_switches, {"y": 2.2}, {"a": np.array([0.5, 0.5]), "b": np.full((2, 3), 1 / 3)}))
    lines = text.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["log p(x)", "= ELBO(q)", "+ KL(q ‖ p(z | x))", "residual"]


def test_errors_of_q():
    discrete = two_switches, {"y": 2.2}
    b = np.full((2, 3), 1 / 3)
    with pytest.raises(lb.errors.DataError, match=r"q has no site 'b'; needed: every latent"):
        lb.decompose(*discrete, {"a": np.array([0.5, 0.5])})
    with pytest.raises(lb.errors.DataError, match="q has a site 'c', which 'two_switches' has not"):
        lb.decompose(*discrete, {"a": np.array([0.5, 0.5]), "b": b, "c": b})
    with pytest.raises(lb.errors.DataError, match=r"q\['b'\] has shape \(3,\); needed: probabilities \(2, 3\)"):
        lb.decompose(*discrete, {"a": np.array([0.5, 0.5]), "b": b[0]})
    with pytest.raises(lb.errors.DataError, match=r"sums from 0\.9 to 0\.9; needed"):
        lb.decompose(*discrete, {"a": np.array([0.4, 0.5]), "b": b})
    one = scale_of, {"y": 1.3}
    with pytest.raises(lb.errors.DataError, match=r"q\['s'\] has shape \(2,\); needed: \(\)"):
        lb.decompose(*one, dist.Gamma(jnp.ones(2), 1.0))
    with pytest.raises(lb.errors.DataError, match="q is a str; needed: a Posterior"):
        lb.decompose(*one, "dense")
    with pytest.raises(lb.errors.DataError, match=r"q\['s'\] is a float; needed: a NumPyro distribution"):
        lb.decompose(*one, {"s": 1.0})
    with pytest.raises(lb.errors.IncompatibleError, match="q is over 2 unconstrained dimensions, 'scale_of' has 1"):
        lb.decompose(*one, DenseGaussian(np.zeros(2), np.eye(2)))
    with pytest.raises(lb.errors.IncompatibleError, match="has continuous latents"):
        lb.decompose(*one, dist.Gamma(1.0, 1.0), route="enumeration")
    with pytest.raises(lb.errors.IncompatibleError, match="route is 'exact'; needed: one of"):
        lb.decompose(*one, dist.Gamma(1.0, 1.0), route="exact")
    with pytest.raises(lb.errors.DataError, match="num_draws is 1"):
        lb.decompose(*one, dist.Gamma(1.0, 1.0), num_draws=1)


def test_too_many_states_are_refused():
    def many(y):
        with numpyro.plate("n", 30):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(z.sum(), 1.0), obs=y)

    with pytest.raises(lb.errors.IncompatibleError, match="1,073,741,824 joint states"):
        lb.decompose(many, {"y": 3.0}, {"z": np.full((30, 2), 0.5)})


def test_a_posterior_of_other_data_is_refused():
    model, data, _ = CONJUGATE["gamma_poisson"]
    posterior = lb.fit(model, data, algorithm="coordinate_ascent")
    with pytest.raises(lb.errors.IncompatibleError, match="other sites or other data"):
        lb.decompose(model, {"y": data["y"] + 1}, posterior)
    assert abs(lb.decompose(model, data, posterior).residual) < 1e-9
