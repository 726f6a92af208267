"""f-divergences: closed forms against quadrature and sums, published values, laws, estimates within five errors."""

from __future__ import annotations

from math import erf, inf, isfinite, log, pi, sqrt

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.special import beta
from scipy.stats import t as student

from lowerbound import divergences as dv

COUNTS = {"poisson", "geometric", "bernoulli", "categorical", "binomial"}
#: Two members of each family that has a closed form.
PAIRS = {
    "normal": (dist.Normal(0.3, 1.2), dist.Normal(-0.5, 2.0)),
    "half_normal": (dist.HalfNormal(1.0), dist.HalfNormal(1.6)),
    "log_normal": (dist.LogNormal(0.3, 0.5), dist.LogNormal(-0.5, 0.6)),
    "gamma": (dist.Gamma(2.0, 1.5), dist.Gamma(3.0, 0.7)),
    "inverse_gamma": (dist.InverseGamma(2.0, 1.5), dist.InverseGamma(3.0, 0.7)),
    "exponential": (dist.Exponential(2.0), dist.Exponential(3.0)),
    "beta": (dist.Beta(1.7, 1.5), dist.Beta(2.0, 1.2)),
    "laplace": (dist.Laplace(0.0, 1.0), dist.Laplace(0.5, 2.0)),
    "von_mises": (dist.VonMises(0.0, 1.0), dist.VonMises(0.5, 2.0)),
    "poisson": (dist.Poisson(3.0), dist.Poisson(4.0)),
    "geometric": (dist.GeometricProbs(0.3), dist.GeometricProbs(0.4)),
    "bernoulli": (dist.BernoulliProbs(0.3), dist.BernoulliProbs(0.4)),
    "categorical": (
        dist.CategoricalProbs(jnp.array([0.125, 0.25, 0.625])),
        dist.CategoricalProbs(jnp.array([0.25, 0.25, 0.5])),
    ),
    "binomial": (dist.BinomialProbs(0.3, 5), dist.BinomialProbs(0.4, 5)),
}
MEASURES = {
    "kl": dv.kl,
    "jeffreys": dv.jeffreys,
    "hellinger": dv.hellinger,
    "chi2": dv.chi2,
    "alpha": lambda p, q, **how: dv.alpha(p, q, order=-0.3, **how),
    "renyi": lambda p, q, **how: dv.renyi(p, q, order=0.7, **how),
}
EVERY = {**MEASURES, "jensen_shannon": dv.jensen_shannon, "total_variation": dv.total_variation}


@pytest.mark.parametrize("family", PAIRS)
def test_closed_forms_are_the_sums_and_integrals(family):
    p, q = PAIRS[family]
    other = "sum" if family in COUNTS else "quadrature"
    for name, measure in MEASURES.items():
        for a, b in ((p, q), (q, p)):
            if family == "laplace" and name not in ("kl", "jeffreys"):
                continue  # no closed form
            exact, found = measure(a, b, method="closed"), measure(a, b, method=other)
            assert exact.exact.startswith("closed form") and other in found.exact and exact.se == found.se == 0
            # Parameters that JAX made are float32 to begin with.
            assert float(exact) == pytest.approx(float(found), rel=3e-7, abs=1e-12), name


def test_total_variation_of_gaussians_is_its_integral():
    for p, q in [
        (dist.Normal(0.0, 1.0), dist.Normal(1.0, 1.0)),
        (dist.Normal(0.0, 1.0), dist.Normal(1.0, 2.0)),
        (dist.Normal(0.0, 3.0), dist.Normal(0.0, 2.0)),
    ]:
        closed, found = dv.total_variation(p, q, method="closed"), dv.total_variation(p, q, method="quadrature")
        assert float(closed) == pytest.approx(float(found), abs=1e-10)
    # One covariance, any dimension: 2 Φ(δ/2) - 1.
    root = jnp.array([[1.0, 0.0], [0.5, 2.0]])
    p, q = (dist.MultivariateNormal(jnp.array(m), scale_tril=root) for m in ([0.0, 0.0], [1.0, 1.5]))
    distance = np.linalg.norm(np.linalg.solve(np.asarray(root), [1.0, 1.5]))
    assert float(dv.total_variation(p, q)) == pytest.approx(erf(distance / 2 / sqrt(2)), rel=1e-6)


def test_known_values():
    normal = dist.Normal(0.0, 1.0)
    # Chyzak & Nielsen (2019): KL of Cauchys is log(((s + t)² + (l - m)²) / (4 s t)).
    assert float(dv.kl(dist.Cauchy(0.0, 1.0), dist.Cauchy(1.0, 2.0))) == pytest.approx(log(10 / 8), rel=1e-10)
    assert float(dv.kl(dist.Uniform(0.0, 1.0), normal)) == pytest.approx(0.5 * log(2 * pi) + 1 / 6, rel=1e-10)
    assert float(dv.kl(dist.Uniform(0.0, 1.0), dist.Uniform(-0.5, 2.0))) == pytest.approx(log(2.5), rel=1e-10)
    assert float(dv.total_variation(dist.Uniform(0.0, 1.0), dist.Uniform(0.5, 2.0))) == pytest.approx(2 / 3, rel=1e-10)
    assert float(dv.chi2(normal, dist.Normal(1.0, 1.0))) == pytest.approx(np.expm1(1.0), rel=1e-12)
    assert float(dv.renyi(normal, dist.Normal(2.0, 1.0), order=3.0)) == pytest.approx(6.0, rel=1e-12)
    # Two that do not meet: JS is log 2, Hellinger and total variation 1.
    apart = dist.Uniform(0.0, 1.0), dist.Uniform(3.0, 4.0)
    assert float(dv.jensen_shannon(*apart)) == pytest.approx(log(2), rel=1e-12)
    assert float(dv.hellinger(*apart)) == 1 == pytest.approx(float(dv.total_variation(*apart)), rel=1e-12)
    # A sum over counts: a zero-inflated Poisson.
    zero = 0.1 + 0.9 * np.exp(-3.0)
    expected = zero * np.log(zero / np.exp(-3.0)) + 0.9 * (1 - np.exp(-3.0)) * np.log(0.9)
    found = dv.kl(dist.ZeroInflatedPoisson(0.1, 3.0), dist.Poisson(3.0))
    assert float(found) == pytest.approx(expected, rel=1e-6) and "sum" in found.exact


@pytest.mark.parametrize("scale, shift", [(1e-6, 0.0), (1e6, 0.0), (1.0, 1e6)])
def test_quadrature_does_not_care_for_units(scale, shift):
    p, q = (np.float64(shift), np.float64(scale)), (np.float64(shift + scale), np.float64(2 * scale))
    expected = log(2) + 2 / 8 - 0.5
    for method in ("closed", "quadrature"):
        found = float(dv.kl(dist.Normal(*p), dist.Normal(*q), method=method))
        assert found == pytest.approx(expected, rel=1e-8), method


def test_narrow_against_wide():
    p, q = dist.Normal(np.float64(0.0), np.float64(1e-3)), dist.Normal(np.float64(1e3), np.float64(1e3))
    for measure in (dv.kl, dv.hellinger, dv.total_variation):
        for a, b in ((p, q), (q, p)):
            assert float(measure(a, b, method="quadrature")) == pytest.approx(float(measure(a, b)), rel=1e-8)


MULTIVARIATE = {
    "dense": (
        dist.MultivariateNormal(jnp.zeros(2), jnp.array([[2.0, 0.5], [0.5, 1.0]])),
        dist.MultivariateNormal(jnp.ones(2), 1.5 * jnp.eye(2)),
    ),
    "dirichlet": (dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])), dist.Dirichlet(jnp.array([2.0, 2.0, 2.0]))),
}


@pytest.mark.parametrize("pair", [MULTIVARIATE["dense"], MULTIVARIATE["dirichlet"], PAIRS["gamma"], PAIRS["beta"]])
def test_kl_is_that_of_numpyro(pair):
    for p, q in (pair, pair[::-1]):
        assert float(dv.kl(p, q)) == pytest.approx(float(dist.kl_divergence(p, q)), rel=2e-5)


def test_every_form_of_a_gaussian():
    p = MULTIVARIATE["dense"][0]
    flat = dist.Normal(jnp.ones(2), sqrt(1.5)).to_event(1)
    assert float(dv.kl(p, flat)) == pytest.approx(float(dv.kl(*MULTIVARIATE["dense"])), rel=1e-6)
    low = dist.LowRankMultivariateNormal(jnp.zeros(2), jnp.array([[1.0], [2.0]]), jnp.ones(2))
    full = dist.MultivariateNormal(jnp.zeros(2), jnp.array([[2.0, 2.0], [2.0, 5.0]]))
    assert float(dv.kl(low, flat)) == pytest.approx(float(dv.kl(full, flat)), rel=1e-6)


def test_independent_elements_add():
    p, q = dist.Normal(jnp.zeros(3), 2.0).to_event(1), dist.StudentT(3.0).expand([3]).to_event(1)
    one = dist.Normal(0.0, 2.0), dist.StudentT(3.0)
    assert float(dv.kl(p, q)) == pytest.approx(3 * float(dv.kl(*one)), rel=1e-8)
    assert "3 independent elements" in dv.kl(p, q).exact
    affinity = (1 - float(dv.hellinger(*one))) ** 3
    assert float(dv.hellinger(p, q)) == pytest.approx(1 - affinity, rel=1e-8)
    a, b = dist.Gamma(jnp.array([1.0, 2.0]), 2.0).to_event(1), dist.Gamma(1.0, 2.0).expand([2]).to_event(1)
    assert float(dv.kl(a, b)) == pytest.approx(float(dv.kl(dist.Gamma(2.0, 2.0), dist.Gamma(1.0, 2.0))), rel=1e-6)


WISHARTS = (
    dist.Wishart(4.0, scale_matrix=jnp.array([[2.0, 0.5], [0.5, 1.0]])),
    dist.Wishart(5.0, scale_matrix=1.5 * jnp.eye(2)),
)
SAMPLED = {
    "dense": MULTIVARIATE["dense"],
    "dirichlet": MULTIVARIATE["dirichlet"],
    "wishart": WISHARTS,
    "normal": PAIRS["normal"],
    "poisson": PAIRS["poisson"],
}


@pytest.mark.parametrize("family", SAMPLED)
def test_estimates_are_within_five_errors(family):
    p, q = SAMPLED[family]
    for name, measure in EVERY.items():
        if name in ("jensen_shannon", "total_variation") and p.event_shape:
            continue  # nothing to hold them against
        exact, found = measure(p, q), measure(p, q, method="monte_carlo", seed=3)
        assert not found.exact and exact.exact
        if isfinite(found.se):
            assert abs(float(found) - float(exact)) < 5 * found.se, name


def test_a_mean_without_variance_says_so():
    # p²/q of N(0, 2²) and N(0, 1) has no integral.
    p, q = dist.Normal(0.0, 2.0), dist.Normal(0.0, 1.0)
    for method in ("auto", "quadrature"):
        found = dv.chi2(p, q, method=method)
        assert float(found) == inf and "no limit" in found.note
    found = dv.chi2(p, q, method="monte_carlo")
    assert found.se == inf and "cannot be believed" in found.note and "± inf" in repr(found)


def test_of_terms_with_a_heavy_tail_the_error_is_infinite_or_holds_the_truth():
    # p²/q of N(0, l) and N(0, 1) has the tail shape k = l - 1: a variance only below l = 1.5.
    for wide, share in ((1.2, 0.9), (1.5, 0.5), (1.8, 0.1)):
        p, q = dist.Normal(0.0, sqrt(wide)), dist.Normal(0.0, 1.0)
        truth = 1 / sqrt(wide * (2 - wide)) - 1
        found = [dv.chi2(p, q, method="monte_carlo", num_draws=10_000, seed=i) for i in range(30)]
        finite = [e for e in found if isfinite(e.se)]
        assert len(finite) >= share * len(found) if wide < 1.5 else len(finite) <= share * len(found)
        assert sum(abs(float(e) - truth) > 1.96 * e.se for e in finite) <= 4
        assert all("may have no variance" in e.note for e in found if not isfinite(e.se))
    # Terms that crowd at their greatest value have no tail.
    assert isfinite(dv.kl(dist.Normal(0.0, 1.0), dist.Normal(0.7, 1.3), method="monte_carlo").se)


# -- tails on the line -----------------------------------------------------------------------------------------

NO_LIMIT = {
    "cauchy": (dist.Cauchy(0.0, 1.0), dist.Laplace(0.0, 1.0), "lower"),
    "half cauchy": (dist.HalfCauchy(1.0), dist.Exponential(1.0), "upper"),
    "student": (dist.StudentT(2.0), dist.Normal(0.0, 1.0), "lower"),
    "inverse gamma": (dist.InverseGamma(1.0, 1.0), dist.Gamma(2.0, 1.0), "upper"),
    "pareto": (dist.Pareto(1.0, 1.0), dist.Exponential(1.0), "upper"),
    "near zero": (dist.Exponential(1.0), dist.InverseGamma(1.0, 1.0), "lower"),
}


@pytest.mark.parametrize("case", NO_LIMIT)
def test_a_tail_that_falls_as_one_over_x_has_no_limit(case):
    p, q, side = NO_LIMIT[case]
    found = dv.kl(p, q)
    assert float(found) == inf and f"no limit in the {side} tail" in found.note


def test_every_relative_of_kl_sees_that_tail():
    p, q = NO_LIMIT["cauchy"][:2]
    measures = (
        dv.jeffreys,
        lambda a, b: dv.alpha(a, b, order=1.0),
        lambda a, b: dv.renyi(a, b, order=1.0),
        lambda a, b: dv.f_divergence(a, b, f=lambda u: u * np.log(u)),
    )
    for measure in measures:
        assert float(measure(p, q)) == inf
    # ∫ p²/q = ∫ 1/(2 (1 - x)): next to an end other than 0, where x has few digits.
    assert float(dv.chi2(dist.Kumaraswamy(1.0, 1.0), dist.Beta(1.0, 2.0))) == inf
    found = dv.chi2(dist.Kumaraswamy(1.0, 1.0), dist.Beta(1.0, 1.5))
    assert float(found) == pytest.approx(1 / (1.5 * 0.5) - 1, rel=1e-8) and found.exact


@pytest.mark.parametrize("df", [2.001, 2.02, 2.05, 2.4])
def test_next_to_the_border_what_lies_beyond_the_largest_number_counts(df):
    # KL = E x²/2 + log √(2π) - H, with E x² = ν/(ν - 2).
    exact = 0.5 * df / (df - 2) + 0.5 * log(2 * pi) - float(student(df).entropy())
    found = dv.kl(dist.StudentT(df), dist.Normal(0.0, 1.0))
    assert float(found) == pytest.approx(exact, rel=1e-8) and found.exact
    assert ("continued" in found.exact) == (df < 2.04)
    # E|x| = 2 √ν / ((ν - 1) B(1/2, ν/2)).
    df = df - 1
    mean = 2 * sqrt(df) / ((df - 1) * beta(0.5, df / 2))
    found = dv.kl(dist.StudentT(df), dist.Laplace(0.0, 1.0))
    assert float(found) == pytest.approx(log(2) + mean - float(student(df).entropy()), rel=1e-8)


def test_a_ratio_that_grows_beyond_all_bounds_under_a_tail_that_falls_faster():
    # E e^-x of Laplace(0, s) is 1/(1 - s²): KL to Gumbel(0, 1) is finite for s < 1 only.
    s = 0.9
    found = dv.kl(dist.Laplace(0.0, s), dist.Gumbel(0.0, 1.0))
    assert float(found) == pytest.approx(1 / (1 - s * s) - 1 - log(2 * s), rel=1e-8)
    assert float(dv.kl(dist.Laplace(0.0, 1.2), dist.Gumbel(0.0, 1.0))) == inf


# -- laws ------------------------------------------------------------------------------------------------------

LAWS = ["normal", "gamma", "beta", "laplace", "poisson", "categorical"]


@pytest.mark.parametrize("family", LAWS)
def test_laws(family):
    p, q = PAIRS[family]
    found = {n: (float(m(p, q)), float(m(q, p)), float(m(p, p))) for n, m in EVERY.items()}
    for name, (forth, back, same) in found.items():
        assert forth > 0 and back > 0, name
        assert same == pytest.approx(0, abs=1e-10), name
    for name in ("jeffreys", "hellinger", "jensen_shannon", "total_variation"):
        assert found[name][0] == pytest.approx(found[name][1], rel=1e-8), name
    kl, chi2 = found["kl"][0], found["chi2"][0]
    tv, h2, js = found["total_variation"][0], found["hellinger"][0], found["jensen_shannon"][0]
    assert tv <= sqrt(kl / 2)  # Pinsker
    assert h2 <= tv <= sqrt(h2 * (2 - h2))  # Le Cam
    assert -2 * np.log1p(-h2) <= kl <= np.log1p(chi2) <= chi2  # Rényi's order: 1/2, 1, 2
    assert tv <= sqrt(1 - np.exp(-kl))  # Bretagnolle & Huber
    assert js <= log(2) * tv and js <= found["jeffreys"][0] / 4  # Lin
    orders = [float(dv.renyi(p, q, order=o)) for o in (0.2, 0.5, 0.9, 1.0, 1.1)]
    assert orders == sorted(orders)
    assert float(dv.alpha(p, q, order=0.5)) == pytest.approx(4 * h2, rel=1e-7)
    assert float(dv.alpha(p, q, order=0.999999)) == pytest.approx(kl, rel=1e-4)
    assert float(dv.alpha(p, q, order=1.0)) == kl and float(dv.alpha(p, q, order=0.0)) == found["kl"][1]


def test_data_processing():
    # A finite sum: merging categories, and counting only whether it is zero.
    p, q = jnp.array([0.1, 0.2, 0.7]), jnp.array([0.3, 0.3, 0.4])
    for measure in EVERY.values():
        whole = float(measure(dist.CategoricalProbs(p), dist.CategoricalProbs(q)))
        merged = [dist.CategoricalProbs(jnp.array([a[0] + a[1], a[2]])) for a in (p, q)]
        assert float(measure(*merged)) <= whole
        # A marginal of a Gaussian, and a Gaussian with noise on it.
        gaussians = MULTIVARIATE["dense"]
        one = [dist.Normal(d.loc[0], jnp.sqrt(d.covariance_matrix[0, 0])) for d in gaussians]
        if measure not in (dv.total_variation, dv.jensen_shannon):
            assert float(measure(*one)) <= float(measure(*gaussians))
        noisy = [dist.Normal(d.loc, jnp.sqrt(d.scale**2 + 1)) for d in one]
        assert float(measure(*noisy)) <= float(measure(*one))


# -- a person's f ----------------------------------------------------------------------------------------------


def test_a_given_f():
    p, q = dist.Normal(0.0, 1.0), dist.Normal(0.5, 1.5)
    known = {
        dv.kl: lambda u: u * jnp.log(u),
        dv.chi2: lambda u: (u - 1) ** 2,
        dv.total_variation: lambda u: np.abs(u - 1) / 2,
        dv.hellinger: lambda u: 1 - np.sqrt(u),
    }
    for measure, f in known.items():
        assert float(dv.f_divergence(p, q, f=f)) == pytest.approx(float(measure(p, q)), rel=1e-7)
    sampled = dv.f_divergence(p, q, f=known[dv.kl], method="monte_carlo")
    assert abs(float(sampled) - float(dv.kl(p, q))) < 5 * sampled.se


# -- different supports ----------------------------------------------------------------------------------------


def test_infinite_with_the_reason():
    normal, gamma = dist.Normal(1.0, 1.0), dist.Gamma(2.0, 1.0)
    for method in ("quadrature", "monte_carlo"):
        found = dv.kl(normal, gamma, method=method)
        assert float(found) == inf
        assert "p has mass where q has none" in found.note or "density zero" in found.note
        assert isfinite(dv.kl(gamma, normal, method=method))
        back = dv.jeffreys(gamma, normal, method=method)
        assert float(back) == inf and ("mass" in back.note or "density zero" in back.note)
    # KL is infinite by its tail alone, and the other way it is not.
    assert float(dv.kl(dist.Cauchy(0.0, 1.0), normal)) == inf
    assert "tail" in dv.kl(dist.Cauchy(0.0, 1.0), normal).note
    assert isfinite(dv.kl(normal, dist.Cauchy(0.0, 1.0)))
    half = dist.CategoricalProbs(jnp.array([0.5, 0.5, 0.0])), PAIRS["categorical"][0]
    assert "such as at 2" in dv.kl(*half[::-1]).note and isfinite(dv.kl(*half))
    assert float(dv.kl(dist.BinomialProbs(0.3, 7), dist.BinomialProbs(0.3, 5))) == inf
    assert isfinite(dv.kl(dist.BinomialProbs(0.3, 5), dist.BinomialProbs(0.3, 7)))
    # ... where bounded ones are not infinite.
    for measure in (dv.total_variation, dv.hellinger, dv.jensen_shannon):
        assert 0 < float(measure(normal, gamma)) < 1
        assert "no mass" in dv.hellinger(dist.Uniform(0.0, 1.0), dist.Uniform(2.0, 3.0)).note


def test_counts_and_densities_have_nothing_in_common():
    normal, counts = dist.Normal(0.0, 1.0), dist.Poisson(2.0)
    greatest = {"kl": inf, "jeffreys": inf, "chi2": inf, "hellinger": 1.0, "jensen_shannon": log(2)}
    greatest |= {"total_variation": 1.0, "alpha": inf, "renyi": inf}
    for name, measure in EVERY.items():
        for p, q in ((normal, counts), (counts, normal)):
            found = measure(p, q)
            assert float(found) == pytest.approx(greatest[name]) and "all its mass where" in found.note, name
    assert float(dv.alpha(normal, counts, order=0.5)) == pytest.approx(4.0)
    assert float(dv.f_divergence(normal, counts, f=lambda u: np.abs(u - 1) / 2, at_infinity=0.5)) == pytest.approx(1.0)
