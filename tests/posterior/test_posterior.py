"""What a person does with a posterior."""

import jax
import numpy as np
import pytest
import scipy.stats as st

import lowerbound as lb
from lowerbound.errors import DataError, IncompatibleError
from lowerbound.families import DenseGaussian, DiagonalGaussian, Point, ProductBlock
from tests.posterior.models import ALL, X, Y, fitted, line


def test_the_cases_are_what_they_are_for():
    assert fitted("line").verdict.status is lb.VerdictStatus.TRUSTED
    assert fitted("corrected").corrected and fitted("density").corrected
    assert isinstance(fitted("line").q, DenseGaussian)
    assert isinstance(fitted("diagonal").q, DiagonalGaussian)
    assert isinstance(fitted("product").q, ProductBlock)
    assert isinstance(fitted("point_mass").q, Point) and fitted("point_mass").is_point


@pytest.mark.parametrize("which", ALL)
def test_shapes_and_types_of_draws(which):
    p = fitted(which)
    draws = p.sample(7)
    expected = {
        "line": {"b": (2,), "mean": (12,), "count": ()},
        "density": {"a": (), "b": ()},
    }.get(which, {"rate": (), "w": (3,), "s": (2,), "total": ()})
    assert {k: v.shape[1:] for k, v in draws.items()} == expected
    assert all(type(v) is np.ndarray and len(v) == 7 for v in draws.values())
    assert all(v.dtype == np.float64 for k, v in draws.items() if k != "count")
    if which == "line":
        assert draws["count"].dtype.kind == "i" and (draws["count"] == 3).all()
    assert {k: np.shape(v) for k, v in p.mean().items()} == expected
    assert {k: np.shape(v) for k, v in p.sd().items()} == expected
    assert {k: np.shape(v) for k, v in p.quantile(0.1).items()} == expected
    assert {k: np.shape(v) for k, v in p.quantile([0.1, 0.5, 0.9]).items()} == {k: (3, *s) for k, s in expected.items()}
    assert tuple(p.sites) == tuple(k for k in expected if k not in ("mean", "count", "total"))


@pytest.mark.parametrize("which", ["line", "corrected", "product"])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 1000])
def test_any_number_of_draws(which, n):
    draws = fitted(which).sample(n)
    assert all(len(v) == n for v in draws.values())
    assert all(np.isfinite(v).all() for v in draws.values())


def test_one_draw_does_not_depend_on_how_many_there_are_beside_it():
    p = fitted("line")
    x = p.sample_unconstrained(130)
    whole = p._sites.constrain(x)
    for k, v in p._sites.constrain(x[100:101]).items():
        np.testing.assert_array_equal(v, whole[k][100:101])


@pytest.mark.parametrize("which", ["line", "corrected"])
def test_seeds(which):
    p = fitted(which)
    a, b, c = p.sample(50), p.sample(50, seed=0), p.sample(50, seed=1)
    for k in ("b", "mean") if which == "line" else ("rate", "w", "total"):
        np.testing.assert_array_equal(a[k], b[k])
        assert not np.array_equal(a[k], c[k])


def test_draws_satisfy_their_supports_and_deterministics():
    draws = fitted("corrected").sample(500)
    assert (draws["rate"] > 0).all() and (draws["s"] > 0).all() and (draws["w"] > 0).all()
    np.testing.assert_allclose(draws["w"].sum(-1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(draws["total"], draws["rate"] + draws["s"].sum(-1), rtol=1e-12)
    draws = fitted("line").sample(500)
    np.testing.assert_allclose(draws["mean"], draws["b"][:, :1] + draws["b"][:, 1:] * X, rtol=1e-12)


@pytest.mark.parametrize("which", ["line", "corrected", "diagonal", "product", "density"])
def test_moments_and_quantiles_are_those_of_the_draws(which):
    p = fitted(which)
    n = 20_000
    draws = p.sample(n, seed=3)
    # Corrected draws come from a finite pool: their own error is that of its effective size.
    size = min(n, p.summary()["ess"].iloc[0]) if p.corrected else n
    for k, v in draws.items():
        if k == "count":
            continue
        mean, sd = p.mean()[k], p.sd()[k]
        assert (np.abs(v.mean(0) - mean) < 5 * sd / np.sqrt(n)).all()
        z = (v - mean) / sd
        assert (np.abs(z.std(0) - 1) < 5 * np.sqrt((z**4).mean() / n)).all()
        for prob in (0.05, 0.5, 0.9):
            share = (v <= p.quantile(prob)[k]).mean(0)
            assert (np.abs(share - prob) < 5 * np.sqrt(prob * (1 - prob) / min(n, size))).all()


def test_exact_moments_of_a_gaussian_posterior():
    design = np.stack([np.ones(12), X], 1)
    precision = np.eye(2) + design.T @ design / 0.25
    mean = np.linalg.solve(precision, design.T @ Y / 0.25)
    p = fitted("line")
    np.testing.assert_allclose(p.mean()["b"], mean, rtol=1e-8)
    np.testing.assert_allclose(p.sd()["b"], np.sqrt(np.diagonal(np.linalg.inv(precision))), rtol=1e-8)
    np.testing.assert_allclose(p.mean()["mean"], design @ mean, rtol=1e-8)
    evidence = st.multivariate_normal(np.zeros(12), 0.25 * np.eye(12) + design @ design.T).logpdf(Y)
    np.testing.assert_allclose(float(p.elbo), evidence, rtol=1e-8)
    np.testing.assert_allclose(p.log_evidence.value, evidence, rtol=1e-6)


def test_moments_of_a_corrected_posterior_are_the_truth():
    p = fitted("density")
    error = 5 / np.sqrt(p.summary()["ess"].iloc[0])
    for k, d in {"a": st.gamma(3, scale=0.5), "b": st.beta(2, 5)}.items():
        assert abs(p.mean()[k] - d.mean()) < error * d.std()
        assert abs(p.sd()[k] / d.std() - 1) < error
        share = d.cdf(p.quantile(0.25)[k])
        assert abs(share - 0.25) < error


# -- densities -----------------------------------------------------------------------------------------


def test_log_prob_on_the_real_line():
    p = fitted("line")
    b = p.sample(20)["b"]
    expected = st.multivariate_normal(np.asarray(p.q.mean), p.q.covariance()).logpdf(b)
    np.testing.assert_allclose(p.log_prob({"b": b}), expected, rtol=1e-8)
    one = p.log_prob({"b": b[0]})
    assert np.ndim(one) == 0
    np.testing.assert_allclose(one, expected[0], rtol=1e-8)
    # Deterministics beside the latents do no harm.
    np.testing.assert_allclose(p.log_prob(p.sample(20)), expected, rtol=1e-8)


def test_log_prob_on_constrained_supports():
    """q is log-normal in a, logit-normal in b, with respect to a and b themselves."""
    p = fitted("density")
    a, b = np.array([0.2, 1.0, 4.0]), np.array([0.1, 0.5, 0.95])
    u = np.stack([np.log(a), np.log(b / (1 - b))], 1)
    expected = (
        st.multivariate_normal(np.asarray(p.q.mean), p.q.covariance()).logpdf(u) - np.log(a) - np.log(b * (1 - b))
    )
    np.testing.assert_allclose(p.log_prob({"a": a, "b": b}), expected, rtol=1e-8)


def test_log_prob_integrates_to_one():
    p = fitted("density")
    a, b = np.linspace(1e-4, 14, 1500), np.linspace(1e-4, 1 - 1e-4, 400)
    grid = np.meshgrid(a, b, indexing="ij")
    density = np.exp(p.log_prob({"a": grid[0].ravel(), "b": grid[1].ravel()}))
    assert abs(density.sum() * (a[1] - a[0]) * (b[1] - b[0]) - 1) < 2e-3


def test_log_prob_broadcasts_a_site_that_is_given_once():
    p = fitted("density")
    b = np.array([0.1, 0.5])
    np.testing.assert_allclose(p.log_prob({"a": 1.0, "b": b}), p.log_prob({"a": np.ones(2), "b": b}), rtol=1e-14)


@pytest.mark.parametrize(
    "values", [{"a": -1.0, "b": 0.5}, {"a": 0.0, "b": 0.5}, {"a": 1.0, "b": 1.5}, {"a": np.inf, "b": 0.5}]
)
def test_log_prob_outside_the_support(values):
    assert fitted("density").log_prob(values) == -np.inf


def test_log_prob_refuses():
    p = fitted("density")
    with pytest.raises(
        DataError, match=r"log_prob was given 'a' and not 'b'; needed: all continuous latents \('a', 'b'\)"
    ):
        p.log_prob({"a": 1.0})
    with pytest.raises(DataError, match=r"site 'b' has shape \(3,\); needed: \(2,\).*or \(\)"):
        p.log_prob({"a": np.ones(2), "b": np.full(3, 0.5)})
    with pytest.raises(DataError, match=r"'a' has 1 NaN"):
        p.log_prob({"a": np.nan, "b": 0.5})
    with pytest.raises(DataError, match=r"site 'a' is 'x'; needed: numbers"):
        p.log_prob({"a": "x", "b": 0.5})


# -- tables ----------------------------------------------------------------------------------------------


def test_summary_is_as_arviz_has_it():
    import arviz

    p = fitted("line")
    table = p.summary()
    theirs = arviz.summary(p.to_arviz(500), var_names=["b", "mean"])
    ours = list(table.columns)
    assert ours[:6] == ["mean", "sd", "hdi_3%", "hdi_97%", "mcse_mean", "mcse_sd"]
    assert set(ours[:6]) <= set(theirs.columns)
    assert list(table.index) == ["b[0]", "b[1]", *(f"mean[{i}]" for i in range(12)), "count"]
    assert list(theirs.index) == list(table.index)[:14]
    for column in ("mean", "sd"):
        np.testing.assert_allclose(theirs[column], table[column].iloc[:14], atol=0.12)


@pytest.mark.parametrize("which", ["line", "corrected", "density"])
@pytest.mark.parametrize("mass", [0.5, 0.9, 0.94])
def test_hdi_is_that_of_arviz_on_the_same_draws(which, mass):
    import arviz

    from lowerbound.weighted import narrowest_interval

    for v in fitted(which).sample(3000).values():
        if v.dtype.kind != "f":
            continue
        flat = v.reshape(len(v), -1)
        low, high = narrowest_interval(flat, np.full(len(flat), 1 / len(flat)), mass)
        for j in range(flat.shape[1]):
            a, b = arviz.hdi(flat[:, j], hdi_prob=mass)
            # Both hold the mass and are as narrow, to within a draw.
            gap = 3 * np.diff(np.sort(flat[:, j])).max()
            assert abs((high[j] - low[j]) - (b - a)) < gap
            assert np.mean((flat[:, j] >= low[j]) & (flat[:, j] <= high[j])) >= mass


def test_the_names_of_the_interval_follow_its_mass():
    assert list(fitted("line").summary(hdi_prob=0.9).columns)[2:4] == ["hdi_5%", "hdi_95%"]
    narrow, wide = (fitted("line").summary(hdi_prob=m) for m in (0.5, 0.99))
    assert (wide.iloc[:14, 3] - wide.iloc[:14, 2] > narrow.iloc[:14, 3] - narrow.iloc[:14, 2]).all()


def test_refusals():
    p = fitted("line")
    for n in (0, -1, 2.5, "many", True, None):
        with pytest.raises(DataError, match="sample needs a positive number of draws"):
            p.sample(n)
    for seed in (-1, 0.5, "x", True):
        with pytest.raises(DataError, match=r"seed is .*; needed: a whole number"):
            p.sample(3, seed=seed)
    for probability in (-0.1, 1.1, [0.5, 2.0], np.nan, [[0.5]]):
        with pytest.raises(DataError, match="quantile needs probabilities between 0 and 1"):
            p.quantile(probability)
    for mass in (0.0, 1.0, 95):
        with pytest.raises(DataError, match=r"hdi_prob is .*; needed: between 0 and 1"):
            p.summary(hdi_prob=mass)
    with pytest.raises(IncompatibleError, match=r"Use posterior\.sample\(n\)\['b'\]"):
        p["b"]


def test_attributes():
    p = fitted("line")
    assert isinstance(p.elbo, lb.Estimate) and float(p.elbo) == p.elbo.value
    assert list(p.timings) == ["compile", "fit", "check", "escalation", "total"] and min(p.timings.values()) >= 0
    assert sum(p.timings.values()) == pytest.approx(2 * p.timings["total"])
    assert p.counts["evaluations"] > 0 and p.counts["steps"] >= 0
    assert {"jax", "numpyro", "numpy", "lowerbound"} <= set(p.versions)
    assert len(p.trace) == len(p.trace.elbo) == len(p.trace.seconds) > 0
    assert p.log_weights.shape[0] >= 1000 and np.isfinite(p.log_weights).all()
    assert p.model_name == "line" and p.family_name == "dense" and p.seed == 0
    for word in ("line", "1 sites, 2 dimensions", "dense", "TRUSTED"):
        assert word in repr(p)


def test_a_point_mass_has_no_spread():
    p = fitted("mode")
    assert p.verdict.status is lb.VerdictStatus.NOT_TRUSTED and p.status is lb.Status.CONVERGED
    # The mode of the constrained density, as documented.
    np.testing.assert_allclose([p.mean()["a"], p.mean()["b"]], [1.0, 0.2], rtol=1e-4)
    assert all((np.asarray(v) == 0).all() for v in p.sd().values())
    draws = p.sample(5)
    assert all((v == v[0]).all() for v in draws.values())
    assert float(p.elbo) == -np.inf
    assert (p.summary()["sd"] == 0).all()


# -- precision, seeds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("x64", [False, True])
def test_float64_whatever_the_users_setting_is(x64):
    before = jax.config.jax_enable_x64
    with jax.enable_x64(x64):
        p = lb.fit(line, {"x": X, "y": Y})
        draws = p.sample(10)
        density = p.log_prob({"b": draws["b"]})
        assert jax.numpy.ones(1).dtype == (np.float64 if x64 else np.float32)
    assert jax.config.jax_enable_x64 == before
    assert draws["b"].dtype == density.dtype == np.float64
    reference = fitted("line")
    np.testing.assert_array_equal(draws["b"], reference.sample(10)["b"])
    np.testing.assert_array_equal(density, reference.log_prob({"b": draws["b"]}))


def test_the_same_seed_gives_the_same_bits():
    a = fitted("corrected")
    b = lb.fit(*_again())
    c = lb.fit(*_again(), seed=1)
    for x, y, z in ((a.mean()[k], b.mean()[k], c.mean()[k]) for k in ("rate", "w", "s", "total")):
        np.testing.assert_array_equal(x, y)
        assert not np.array_equal(x, z)
    np.testing.assert_array_equal(a.log_weights, b.log_weights)
    assert a.elbo == b.elbo and a.pareto_k == b.pareto_k


def _again():
    from tests.posterior.models import shapes

    return shapes, {"y": np.array([0.2, 1.4, 0.5])}


def test_two_fits_in_two_threads():
    """Each gives what it gives alone, to the last bits: linear algebra may round another way beside another fit."""
    import threading
    import warnings

    answers, failed, barrier = {}, [], threading.Barrier(2)

    def work(which):
        try:
            barrier.wait()
            with_data = (line, {"x": X, "y": Y}) if which == "line" else _again()
            answers[which] = lb.fit(*with_data).sample(200)
        except BaseException as e:
            failed.append(e)

    with warnings.catch_warnings():
        threads = [threading.Thread(target=work, args=(w,)) for w in ("line", "corrected")]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert not failed
    for which, draws in answers.items():
        for k, v in fitted(which).sample(200).items():
            np.testing.assert_allclose(draws[k], v, rtol=1e-12, atol=1e-14)
