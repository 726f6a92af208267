"""The suite that judges the verdicts: its truths are true, exact draws pass it, and a wrong verdict counts as wrong."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from numpyro.infer import Predictive
from scipy.stats import multivariate_normal

from benchmarks.trust.hierarchies import groups
from benchmarks.trust.quadrature import mixture, moments
from benchmarks.trust.registry import REGISTRY, names
from benchmarks.trust.regressions import horseshoe
from benchmarks.trust.score import MEAN, SD, answer, confusion, errors, shares, summary, wrong
from benchmarks.trust.series import gaussian_states, random_walk
from benchmarks.trust.target import Case, Moments
from lowerbound.model.given import as_model
from lowerbound.precision import float64


def density(case: Case):
    """Log density and constrained sites at an unconstrained vector, and its length."""
    model = as_model(case.model, case.data)
    return (lambda x: (model.log_density(x, model.arguments), model.constrain(x, model.arguments))), model.dimension


def on_a_grid(case: Case, low: float, high: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Moments by a grid over the unconstrained space, zoomed in twice on where the mass was found."""
    with float64():
        evaluate, p = density(case)
        many = jax.jit(jax.vmap(evaluate))
        axes = [np.linspace(low, high, {1: 8001, 2: 301}[p])] * p
        for _ in range(3):
            points = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], 1)
            log_density, sites = (jax.tree.map(np.asarray, v) for v in many(points))
            log_density = np.where(np.isnan(log_density), -np.inf, log_density)
            seen = points[log_density > log_density.max() - 32]
            found = {k: moments(log_density, v) for k, v in case.look(sites).items()}
            steps = [a[1] - a[0] for a in axes]
            axes = [
                np.linspace(seen[:, i].min() - steps[i], seen[:, i].max() + steps[i], len(a))
                for i, a in enumerate(axes)
            ]
    return found


#: Built by default; the others, some of which take seconds, with the slow tests.
QUICK = ("normal_mean", "beta_binomial", "funnel", "modes_2d_near_3", "cauchy", "one_over_x", "horseshoe_8_of_40_rows")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in REGISTRY])
def test_target_builds_and_its_truth_fits_the_sites(name):
    target = REGISTRY[name]
    case = target.build()
    truth = target.truth(case)
    if name != "constant":  # refused by fit, as it should be
        with float64():
            evaluate, p = density(case)
            value, sites = jax.eval_shape(evaluate, np.zeros(p))
        assert value.shape == ()
        draws = {k: np.random.default_rng(0).uniform(0.1, 0.9, (3, *s.shape)) for k, s in sites.items()}
        shapes = {k: v.shape[1:] for k, v in case.look(draws).items()}
        assert {k: m.mean.shape for k, m in truth.items()} == {k: shapes[k] for k in truth}
    assert bool(truth) == (target.kind == "proper")
    for m in truth.values():
        assert m.mean.shape == m.sd.shape
        assert np.isfinite(m.mean).all() and np.isfinite(m.sd).all() and (m.sd >= 0).all() and (m.sd > 0).any()


def test_names_are_targets_or_themes():
    assert len(REGISTRY) >= 120
    assert names() == list(REGISTRY)
    assert set(names(["series", "ring"])) == {n for n, t in REGISTRY.items() if t.theme == "series"} | {"ring"}
    with pytest.raises(SystemExit, match="unknown target nonesuch; themes: bundled"):
        names(["nonesuch"])


#: Between which ends of the unconstrained space the mass lies, in every coordinate.
WITHIN = {
    "normal_mean": (-10, 10),
    "normal_gamma": (-30, 30),
    "inverse_gamma_variance": (-10, 20),
    "waiting_times_in_seconds": (-25, -5),
    "banana_mild": (-12, 20),
    "ring": (-8, 8),
    "lkj_two_series": (-8, 8),
    "log_of_gamma": (-120, 10),
    "scale_pushed_to_zero": (-12, 2),
    "excess_scale_at_zero": (-30, 5),
    "modes_2d_near_3": (-12, 8),
    "crossed_cigars": (-8, 8),
    "sign_unknown": (-8, 8),
    "product_pair": (-9, 9),
    "logistic_few_rows": (-15, 20),
    "logistic_separable_wide_prior": (-50, 60),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHIN)
def test_truth_agrees_with_a_grid_over_the_model_itself(name):
    """The truths are derived on paper or on the constrained space; the grid knows only the model's log density."""
    case = REGISTRY[name].build()
    truth, found = REGISTRY[name].truth(case), on_a_grid(case, *WITHIN[name])
    for k, m in truth.items():
        spread = m.sd > 0
        assert np.abs((found[k][0] - m.mean)[spread] / m.sd[spread]).max() < 2e-3
        np.testing.assert_allclose(found[k][1][spread], m.sd[spread], rtol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "funnel",
        "banana_strong",
        "student_multivariate",
        "gumbel",
        "gammas",
        "dirichlet_sparse",
        "uniform_box",
        "lkj_prior",
        "spike_and_slab",
    ],
)
def test_exact_draws_are_accurate(name):
    """Where nothing is observed the prior's own sampler gives exact draws: 4,000 of them must pass."""
    case = REGISTRY[name].build()
    with float64():
        draws = Predictive(case.model, num_samples=4000)(jax.random.key(3), **(case.data or {}))
    row = errors(case.look({k: np.asarray(v) for k, v in draws.items()}), REGISTRY[name].truth(case))
    assert row["mean_error"] < MEAN and row["sd_error"] < SD
    assert row["mean_error"] < 0.08  # five standard errors


@pytest.mark.slow
def test_groups_agree_with_importance_sampling_from_the_prior():
    """Three groups: a million draws of the prior, weighted by the likelihood."""
    case = groups(3, 1.0, (0.8, 2.0), True, False, 5)
    rng, n = np.random.default_rng(0), 1_000_000
    mu, tau = rng.normal(0, 10, n), np.abs(rng.normal(0, 3, n))
    theta = mu[:, None] + tau[:, None] * rng.normal(size=(n, 3))
    w = np.exp(-0.5 * (((case.data["y"] - theta) / case.data["error"]) ** 2).sum(1))
    w /= w.sum()
    for k, draws in {"mu": mu, "tau": tau, "theta": theta}.items():
        mean, sd = case.truth[k]
        estimate = np.tensordot(w, draws, 1)
        error = np.sqrt(np.tensordot(w**2, (draws - estimate) ** 2, 1))
        assert np.max(np.abs(estimate - mean) / error) < 5
        square = np.tensordot(w, (draws - mean) ** 2, 1)
        error = np.sqrt(np.tensordot(w**2, ((draws - mean) ** 2 - square) ** 2, 1))
        assert np.max(np.abs(square - np.square(sd)) / error) < 5


@pytest.mark.slow
def test_groups_with_unknown_noise_agree_with_a_gibbs_sampler():
    """theta and mu from their conditionals, log tau and log sigma by a random walk."""
    case = REGISTRY["groups_noise_unknown"].build()
    group, y = case.data["group"], case.data["y"]
    size, total, rng = np.bincount(group), np.bincount(group, y), np.random.default_rng(1)
    mu, tau, sigma, theta = -20.0, 5.0, 8.0, total / size
    kept = []
    for i in range(22_000):
        precision = size / sigma**2 + 1 / tau**2
        theta = (total / sigma**2 + mu / tau**2) / precision + rng.normal(size=60) / np.sqrt(precision)
        precision = 60 / tau**2 + 1 / 900
        mu = theta.sum() / tau**2 / precision + rng.normal() / np.sqrt(precision)
        spread, rest = ((theta - mu) ** 2).sum(), ((y - theta[group]) ** 2).sum()
        for _ in range(2):
            t = tau * np.exp(0.2 * rng.normal())
            gain = 59 * np.log(tau / t) + spread / 2 * (tau**-2 - t**-2) + (tau**2 - t**2) / 200
            tau = t if np.log(rng.uniform()) < gain else tau
            s = sigma * np.exp(0.08 * rng.normal())
            gain = (len(y) - 1) * np.log(sigma / s) + rest / 2 * (sigma**-2 - s**-2) + (sigma**2 - s**2) / 200
            sigma = s if np.log(rng.uniform()) < gain else sigma
        if i >= 2000:
            kept.append((mu, tau, sigma, *theta[:5]))
    draws = np.array(kept).reshape(20, 1000, -1)
    truth = case.truth
    mean = np.array([truth["mu"][0], truth["tau"][0], truth["sigma"][0], *truth["theta"][0][:5]])
    sd = np.array([truth["mu"][1], truth["tau"][1], truth["sigma"][1], *truth["theta"][1][:5]])
    for values, expected in ((draws, mean), ((draws - mean) ** 2, sd**2)):
        batches = values.mean(1)  # a thousand sweeps each: nearly independent
        z = (batches.mean(0) - expected) / (batches.std(0, ddof=1) / np.sqrt(20))
        assert np.abs(z).max() < 5


@pytest.mark.slow
def test_horseshoe_sampler_agrees_with_importance_sampling():
    """Three columns: beta integrated out, y ~ N(0, I + X diag((lambda tau)²) Xᵀ), scales drawn from their prior."""
    case = horseshoe(12, 3, 6, keep=2500)
    out = case.look(case.reference(np.random.default_rng(4)))
    x, y, rng = case.data["x"], case.data["y"], np.random.default_rng(5)
    local, tau = np.abs(rng.standard_cauchy((400_000, 3))), np.abs(rng.standard_cauchy(400_000))
    # In the basis of X's Gram matrix: precision G + diag(1/(lambda tau)²) of beta, log evidence by its determinant.
    scale = (local * tau[:, None]) ** 2
    precision = x.T @ x + np.eye(3) / np.maximum(scale, 1e-200)[:, None, :]
    mean = np.linalg.solve(precision, np.broadcast_to(x.T @ y, (len(tau), 3))[..., None])[..., 0]
    log_w = 0.5 * mean @ (x.T @ y) - 0.5 * np.linalg.slogdet(precision)[1] - 0.5 * np.log(scale).sum(1)
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    assert 1 / (w**2).sum() > 2000
    for k, exact in {"beta": mean, "log lambda": np.log(local), "log tau": np.log(tau)}.items():
        estimate = np.tensordot(w, exact, 1)
        error = np.sqrt(np.tensordot(w**2, (exact - estimate) ** 2, 1))
        batches = out[k].reshape(40, 250, *exact.shape[1:]).mean(1)
        total = np.sqrt(error**2 + batches.var(0, ddof=1) / 40)
        assert np.max(np.abs(estimate - batches.mean(0)) / total) < 5, k


@pytest.mark.slow
def test_states_of_a_random_walk_agree_with_the_whole_joint_precision():
    """Its smoothing distribution from the tridiagonal precision, and its evidence from the whole covariance."""
    steps, q, r = 30, 0.6, 0.4
    y, order = np.random.default_rng(2).normal(size=steps), np.minimum.outer(np.arange(steps), np.arange(steps))
    difference = np.eye(steps) - np.eye(steps, k=-1)
    prior = difference.T @ np.diag([1 / 25] + [1 / q**2] * (steps - 1)) @ difference
    covariance = np.linalg.inv(prior + np.eye(steps) / r**2)
    evidence = multivariate_normal(np.zeros(steps), 25 + q**2 * order + r**2 * np.eye(steps)).logpdf(y)
    found = gaussian_states(25 + q**2 * order, y, np.arange(steps), r)
    walk = random_walk(y, np.array([q]), np.array([r]))
    for log_evidence, mean, variance in (found, tuple(v[0] for v in walk)):
        np.testing.assert_allclose(mean, covariance @ y / r**2, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(variance, np.diag(covariance), rtol=1e-8)
        assert log_evidence == pytest.approx(evidence + steps / 2 * np.log(2 * np.pi))


def test_quadrature_of_a_normal():
    x = np.linspace(-9, 13, 4001)
    log_density = -0.5 * ((x - 2) / 0.7) ** 2
    np.testing.assert_allclose(moments(log_density, x), (2, 0.7), rtol=1e-10)
    np.testing.assert_allclose(mixture(log_density, x, np.full(4001, 0.51)), (2, 1), rtol=1e-10)


def test_errors_name_the_worst_coordinate_and_leave_out_constants():
    standard = np.linspace(-1, 1, 1001)[:, None] / np.std(np.linspace(-1, 1, 1001), ddof=1)
    truth = {"a": Moments(np.zeros(2), np.ones(2)), "c": Moments(np.ones(1), np.zeros(1))}
    row = errors({"a": np.hstack([standard, 1.5 * standard + 0.1]), "c": np.full((1001, 1), 7.0)}, truth)
    assert row["mean_at"] == row["sd_at"] == "a[1]"
    assert row["mean_error"] == pytest.approx(0.1) and row["sd_error"] == pytest.approx(0.5)
    assert errors({"a": np.full((10, 2), np.nan), "c": np.ones((10, 1))}, truth)["mean_error"] == np.inf
    with pytest.raises(ValueError, match=r"draws of 'a' have the shape \(3,\), its truth \(2,\)"):
        errors({"a": np.zeros((10, 3))}, truth)


def row(target, verdict, kind="proper", mean=0.0, sd=0.0):
    if verdict == "error":
        return {"target": target, "seed": 0, "kind": kind, "error": "not done after 300 seconds"}
    return {"target": target, "seed": 0, "kind": kind, "verdict": verdict, "mean_error": mean, "sd_error": sd}


def test_wrong_verdicts_are_counted_as_wrong():
    rows = [
        row("good", "TRUSTED", mean=0.14, sd=0.19),
        row("good", "CORRECTED"),
        row("doubted", "NOT_TRUSTED"),
        row("shifted", "TRUSTED", mean=0.16),
        row("narrow", "CORRECTED", sd=0.21),
        row("broken", "CORRECTED", mean=float("inf"), sd=float("inf")),
        row("honest", "NOT_TRUSTED", mean=3.0),
        row("late", "error"),
        row("cauchy", "CORRECTED", kind="no_moments"),
        row("flat", "TRUSTED", kind="improper"),
        row("flat", "NOT_TRUSTED", kind="improper"),
        row("constant", "error", kind="improper"),
    ]
    assert [wrong(r) for r in rows] == [False] * 3 + [True] * 3 + [False] * 2 + [True] * 2 + [False] * 2
    assert answer(rows[7]) == "inaccurate"
    counts = confusion(rows)
    assert sum(counts.values()) == len(rows)
    assert [counts["accurate", v] for v in ("TRUSTED", "CORRECTED", "NOT_TRUSTED", "error")] == [1, 1, 1, 0]
    assert [counts["inaccurate", v] for v in ("TRUSTED", "CORRECTED", "NOT_TRUSTED", "error")] == [1, 2, 1, 1]
    assert [counts["no proper answer", v] for v in ("TRUSTED", "CORRECTED", "NOT_TRUSTED", "error")] == [1, 1, 1, 1]
    assert shares(rows) == {"wrong": 5, "doubted": pytest.approx(1 / 3), "useful": pytest.approx(2 / 8)}
    text = summary(rows)
    assert "Vouched for and wrong (5): shifted, narrow, broken, cauchy, flat." in text
    assert "Accurate and not trusted (1): doubted." in text
    assert "Errors (2): late, constant." in text
