"""What may be compared: draws, sites, posteriors; how the answer reads; what each wrong argument is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import lowerbound as lb
from lowerbound import divergences as dv
from lowerbound.errors import DataError, IncompatibleError, UnknownNameError

DATA = np.random.default_rng(0).normal(1.0, 2.0, 30)
MANY = np.random.default_rng(3).standard_normal(200)
NORMAL = dist.Normal(0.0, 1.0)
X, Y = np.random.default_rng(1).normal(size=(2, 40))


def one(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    numpyro.sample("y", dist.Normal(mu, 2.0), obs=y)


def two(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = numpyro.sample("tau", dist.HalfNormal(5.0))
    numpyro.deterministic("twice", 2 * mu)
    numpyro.sample("y", dist.Normal(mu, tau), obs=y)


def exact(y: np.ndarray) -> dist.Normal:
    precision = 1 / 100 + len(y) / 4
    return dist.Normal(y.sum() / 4 / precision, precision**-0.5)


@pytest.fixture(scope="module")
def posteriors() -> tuple[lb.Posterior, lb.Posterior]:
    return lb.fit(two, {"y": DATA}), lb.fit(two, {"y": DATA + 0.5})


@pytest.fixture(scope="module")
def simple() -> lb.Posterior:
    return lb.fit(one, {"y": DATA})


def test_a_posterior_against_the_exact_one(simple):
    truth = exact(DATA)
    for found in (dv.kl(simple, truth), dv.kl(truth, simple), dv.jensen_shannon(simple, truth)):
        assert not found.exact and float(found) < 1e-4
    other = exact(DATA + 0.5)
    found = dv.kl(simple, other)
    assert abs(float(found) - float(dv.kl(truth, other))) < 5 * found.se
    assert float(dv.wasserstein(simple, truth)) < 0.1
    assert abs(float(dv.energy(simple, other)) - float(dv.energy(truth, other))) < 5 * dv.energy(simple, other).se


def test_two_posteriors_of_a_model(posteriors):
    p, q = posteriors
    found = dv.kl(p, q)
    assert found.exact == "closed form of two Gaussians" and found > 0.1
    assert float(dv.kl(p, p)) == 0
    sampled = dv.kl(p, q, method="monte_carlo")
    assert abs(float(sampled) - float(found)) < 5 * sampled.se
    # Over sites it is the same number: a bijection changes nothing.
    from lowerbound.divergences.generators import KL
    from lowerbound.divergences.laws import Fitted
    from lowerbound.divergences.monte_carlo import sampled as average

    by_site = average(Fitted(p), Fitted(q), KL, num_draws=4000, seed=1)
    assert abs(by_site.value - float(found)) < 5 * by_site.se
    assert dv.mmd(p, q, permutations=99, num_draws=200).p_value == 0.01
    assert dv.mmd(p, p.sample(200, seed=9), permutations=99, num_draws=200).p_value > 0.01
    assert dv.energy(p, {k: p.sample(50)[k] for k in ("tau", "mu")}) < 0.05


def test_the_model_of_a_posterior_has_a_score(posteriors):
    p, q = posteriors
    own, other = dv.stein(p, p, num_draws=300, bootstraps=99), dv.stein(p, q, num_draws=300, bootstraps=99)
    assert own.p_value > 0.01 and other.p_value == 0.01
    # Draws by site are brought to the unconstrained space.
    by_site = dv.stein(p, p.sample(300), bandwidth=0.4)
    assert float(by_site) == pytest.approx(float(dv.stein(p, p, num_draws=300, bandwidth=0.4)), rel=1e-6)


def test_a_posterior_and_its_own_draws_are_two_sets(simple):
    own = simple.sample(400)
    assert 0 < dv.energy(simple, own, permutations=99, num_draws=400).p_value < 1
    assert abs(float(dv.kl(simple, own))) < 0.2  # draws of p that are draws of q are refused


def test_how_an_answer_reads():
    e = dv.kl(NORMAL, dist.Normal(1.0, 1.0))
    assert isinstance(e, dv.Estimate) and repr(e) == "0.5 (exact: closed form of two Gaussians)"
    assert float(e) == 0.5 and e < 1 and e <= 0.5 and e > 0 and e >= 0.5 and f"{e:.2f}" == "0.50"
    assert sorted([dv.Estimate(2.0, 0.1), dv.Estimate(1.0, 0.1)])[0].value == 1.0
    assert repr(dv.Estimate(0.25, 0.012, note="why", p_value=0.01)) == "0.250 ± 0.012 (p = 0.01; why)"
    assert f"{e}" == repr(e)
    with pytest.raises(AttributeError):
        e.value = 1.0


def test_an_answer_is_a_number_with_an_error():
    e, other = dv.Estimate(0.25, 0.012), dv.Estimate(0.5, 0.03)
    assert e == 0.25 and np.float64(0.25) == e and e == np.float64(0.25) and e != 0.3 and e != other and e != "0.25"
    assert e == dv.Estimate(0.25, 0.012) and e != dv.Estimate(0.25, 0.013) and len({e, 0.25}) == 1
    assert dv.kl(NORMAL, NORMAL) == 0
    assert np.sqrt(e) == 0.5 and np.asarray([e, other]).tolist() == [0.25, 0.5] and np.asarray(e).dtype == float
    # The delta method, by simulation of normal errors.
    rng = np.random.default_rng(0)
    a, b = (rng.normal(x.value, x.se, 200_000) for x in (e, other))
    cases = {
        "+": (e + other, a + b),
        "-": (e - other, a - b),
        "*": (e * other, a * b),
        "/": (e / other, a / b),
        "number": (2 * e - 1 / other + np.float64(3.0), 2 * a - 1 / b + 3),
        "sum": (sum([e, other]), a + b),
        "negative": (abs(-e), a),
    }
    for name, (found, draws) in cases.items():
        assert isinstance(found, dv.Estimate), name
        assert found.se == pytest.approx(draws.std(), rel=0.03) and abs(found.value - draws.mean()) < 0.02, name
    exact = dv.kl(NORMAL, dist.Normal(1.0, 1.0))
    assert repr(2 * exact) == "1 (exact: closed form of two Gaussians)" and not (exact + e).exact
    assert (0 * dv.Estimate(1.0, np.inf)).se == 0 and (dv.Estimate(1.0, np.inf) + 1).se == np.inf
    with pytest.raises(TypeError):
        e + "1"


WRONG = {
    "draws": (lambda: dv.hellinger(X, NORMAL), IncompatibleError, "p is an array of shape.*use mmd, energy"),
    "draws of a route": (lambda: dv.kl(X, NORMAL, method="sum"), IncompatibleError, "p is an array of shape"),
    "draws too few": (lambda: dv.kl(X, NORMAL), DataError, "p has 40 draws; needed: 100 or more"),
    "draws of counts": (lambda: dv.kl(np.arange(200) % 7, NORMAL), DataError, "column 0 of p's draws has 7 different"),
    "a chain that stayed": (lambda: dv.kl(NORMAL, np.repeat(MANY, [1] * 199 + [2])), DataError, "1 of 201 draws of q"),
    "draws of both": (lambda: dv.kl(MANY, MANY), DataError, "200 draws of p are draws of q too"),
    "a plane": (lambda: dv.kl(np.stack([MANY, MANY], 1), np.stack([MANY, -MANY], 1)), DataError, "in a plane"),
    "neighbours": (lambda: dv.kl(MANY, NORMAL, neighbours=0), DataError, "neighbours is 0; needed: a whole number"),
    "a batch": (lambda: dv.kl(dist.Normal(jnp.zeros(3), 1.0), NORMAL), IncompatibleError, r"to_event\(1\)"),
    "a batch of draws": (lambda: dv.energy(dist.Normal(jnp.zeros(3), 1.0), X), IncompatibleError, r"to_event\(1\)"),
    "shapes": (
        lambda: dv.kl(dist.Normal(jnp.zeros(3), 1.0).to_event(1), NORMAL),
        IncompatibleError,
        r"event shapes \(3,\) and \(\)",
    ),
    "improper": (
        lambda: dv.kl(NORMAL, dist.ImproperUniform(dist.constraints.real, (), ())),
        IncompatibleError,
        "q is ImproperUniform, which is improper",
    ),
    "a point": (lambda: dv.total_variation(NORMAL, dist.Delta(0.0)), IncompatibleError, "q is Delta.*no density"),
    "a scale": (
        lambda: dv.kl(dist.Normal(0.0, -1.0, validate_args=False), NORMAL),
        DataError,
        "p, Normal, has the parameter scale = -1",
    ),
    "a nan": (
        lambda: dv.energy(X, dist.Normal(np.nan, 1.0, validate_args=False)),
        DataError,
        "q, Normal, has the parameter loc = nan",
    ),
    "an unknown route": (lambda: dv.kl(NORMAL, NORMAL, method="sums"), UnknownNameError, "Did you mean 'sum'"),
    "a closed route": (lambda: dv.kl(NORMAL, NORMAL, method="sum"), IncompatibleError, "method 'sum'"),
    "no closed form": (
        lambda: dv.kl(dist.StudentT(3.0), NORMAL, method="closed"),
        IncompatibleError,
        "no closed form for StudentT and Normal",
    ),
    "few draws": (lambda: dv.kl(NORMAL, NORMAL, num_draws=10), DataError, "num_draws is 10; needed.*100"),
    "seed": (lambda: dv.kl(NORMAL, NORMAL, seed=-1), DataError, "seed is -1"),
    "concave": (
        lambda: dv.f_divergence(NORMAL, NORMAL, f=lambda u: -((u - 1) ** 2)),
        IncompatibleError,
        "f is not convex: its slope falls",
    ),
    "f(1)": (
        lambda: dv.f_divergence(NORMAL, NORMAL, f=lambda u: u**2),
        IncompatibleError,
        r"f\(1\) is 1; .*Subtract 1",
    ),
    "f no array": (
        lambda: dv.f_divergence(NORMAL, NORMAL, f=lambda u: 0.0 if u == 1 else 1.0),
        IncompatibleError,
        "f failed at an array",
    ),
    "f one number": (lambda: dv.f_divergence(NORMAL, NORMAL, f=np.sum), IncompatibleError, "elementwise"),
    "f infinite": (
        lambda: dv.f_divergence(NORMAL, NORMAL, f=lambda u: np.where(u < 0.01, np.inf, np.abs(u - 1))),
        IncompatibleError,
        "needed: finite",
    ),
    "f limit": (
        lambda: dv.f_divergence(NORMAL, dist.Uniform(0.0, 1.0), f=lambda u: (u - 1) ** 2),
        IncompatibleError,
        "at_infinity=lim",
    ),
    "order": (lambda: dv.renyi(NORMAL, NORMAL, order=-1.0), IncompatibleError, "order is -1.0; Rényi"),
    "no order": (lambda: dv.alpha(NORMAL, NORMAL, order=np.inf), IncompatibleError, "order of alpha is inf"),
    "nan": (lambda: dv.mmd(np.where(X > 2, X, np.nan), Y), DataError, r"values of p are not finite.*in draw 0"),
    "too few": (lambda: dv.mmd(X[:3], Y), DataError, "p has 3 draws; needed: 10"),
    "columns": (lambda: dv.mmd(X[:, None], np.ones((20, 2))), IncompatibleError, r"shape \(40, 1\).*\(20, 2\)"),
    "sites": (lambda: dv.energy({"a": X}, {"b": X}), IncompatibleError, r"sites \['a'\].*sites \['b'\]"),
    "counts": (lambda: dv.energy({"a": X, "b": X[:5]}, {"a": X, "b": X}), DataError, "different number of draws"),
    "empty": (lambda: dv.energy({}, X), DataError, "empty mapping"),
    "a word": (lambda: dv.energy("draws", X), IncompatibleError, "p is str 'draws'; needed: draws"),
    "none": (lambda: dv.energy(None, X), IncompatibleError, "p is NoneType None; needed: draws"),
    "no draws": (lambda: dv.energy(np.empty((0, 2)), X), DataError, r"p has shape \(0, 2\), and so no draws"),
    "complex": (lambda: dv.energy(X + 1j, X), DataError, "p has complex numbers"),
    "kernel of a shape": (
        lambda: dv.mmd(X, Y, kernel=lambda a, b: np.ones(3)),
        IncompatibleError,
        r"gave shape \(3,\)",
    ),
    "kernel of nan": (
        lambda: dv.mmd(X, Y, kernel=lambda a, b: np.full((len(a), len(b)), np.nan)),
        DataError,
        "the kernel is nan at",
    ),
    "kernel that fails": (lambda: dv.mmd(X, Y, kernel=lambda a, b: a @ b), IncompatibleError, "the kernel failed at"),
    "scores of none": (lambda: dv.stein(NORMAL, NORMAL, num_draws=1), DataError, "num_draws is 1; needed.*10 or more"),
    "scores of a part": (lambda: dv.stein(NORMAL, NORMAL, num_draws=20.5), DataError, "num_draws is 20.5"),
    "density of vectors": (
        lambda: dv.stein(lambda z: -(z**2), X[:, None]),
        IncompatibleError,
        r"p gave .* of shape \(1,\)",
    ),
    "density that fails": (
        lambda: dv.stein(lambda z: z @ z.T @ z, X),
        IncompatibleError,
        "p failed at a draw of shape",
    ),
    "bandwidths": (lambda: dv.stein(NORMAL, X, bandwidth=[1.0, 2.0]), DataError, "needed: one number, or None"),
    "one number": (lambda: dv.energy(3.0, X), DataError, "p is the number 3.0"),
    "kernel": (lambda: dv.mmd(X, Y, kernel="gauss"), UnknownNameError, "Did you mean 'gaussian'"),
    "bandwidth": (lambda: dv.mmd(X, Y, bandwidth=0.0), DataError, "bandwidth is 0.0; needed: a positive"),
    "its own": (lambda: dv.mmd(X, Y, kernel=lambda a, b: a @ b.T, bandwidth=1.0), IncompatibleError, "has its own"),
    "equal draws": (lambda: dv.mmd(np.zeros(20), np.zeros(20)), DataError, "median distance between draws is 0"),
    "permutations": (lambda: dv.energy(X, Y, permutations=-1), DataError, "permutations is -1"),
    "many permutations": (lambda: dv.energy(np.arange(7000.0), Y, permutations=9), DataError, "6000 or fewer"),
    "order 3": (lambda: dv.wasserstein(X, Y, order=3), IncompatibleError, "order is 3; needed: 1 or 2"),
    "slices": (lambda: dv.wasserstein(X, Y, method="slices"), UnknownNameError, "Did you mean 'sliced'"),
    "projections": (lambda: dv.wasserstein(X, Y, projections=1), DataError, "projections is 1"),
    "regularization": (lambda: dv.wasserstein(X, Y, regularization=0.0), DataError, "regularization is 0.0"),
    "large plan": (lambda: dv.wasserstein(np.ones((6000, 2)), np.ones((9, 2))[[0] * 10]), DataError, "5000 or fewer"),
    "large program": (lambda: dv.dudley(np.arange(500.0), Y), DataError, "400 points or fewer"),
    "no score": (lambda: dv.stein(X, Y), IncompatibleError, "which has no score"),
    "an edge": (lambda: dv.stein(dist.Gamma(2.0, 1.0), Y), IncompatibleError, "the log of a positive number"),
    "statistic": (lambda: dv.stein(NORMAL, Y, statistic="w"), UnknownNameError, "unknown statistic"),
    "bad score": (lambda: dv.stein(jnp.sqrt, X), DataError, "score of p is not finite"),
    "no classifier": (lambda: dv.classifier(X, Y, model="logistic"), IncompatibleError, "needed: a scikit-learn"),
    "folds": (lambda: dv.classifier(X, Y, folds=1), DataError, "folds is 1"),
    "few for folds": (lambda: dv.classifier(X, Y, folds=30), DataError, "40 draws; needed: 60"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_wrong_argument_is_told(case):
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call()


def test_posteriors_that_cannot_be_compared(posteriors, simple):
    p, _ = posteriors
    with pytest.raises(IncompatibleError, match="same names and shapes"):
        dv.kl(p, simple)
    with pytest.raises(IncompatibleError, match="distribution of one"):
        dv.kl(p, NORMAL)
    with pytest.raises(IncompatibleError, match="needed: the same sites"):
        dv.energy(p, simple)
    with pytest.raises(IncompatibleError, match="draws by site"):
        dv.stein(p, X)
    for n in (1, 3):
        with pytest.raises(DataError, match=f"q has {n} draws; needed: 10 or more"):
            dv.stein(simple, {"mu": X[:n]})
    with pytest.raises(IncompatibleError, match=r"site 'mu': draws of q have shape \(40, 1\)"):
        dv.stein(simple, {"mu": X[:, None]})
    with pytest.raises(DataError, match="one number of draws of every site"):
        dv.stein(p, {"mu": X})
    with pytest.warns(lb.errors.TrustWarning, match="point mass"):
        point = lb.fit(one, {"y": DATA}, algorithm="maximum", family="point_mass", escalate=False)
    with pytest.raises(IncompatibleError, match="is made of points"):
        dv.kl(point, simple)


def test_optional_libraries_are_asked_for_at_use(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r"pip install 'lowerbound\[transport\]'"):
        dv.wasserstein(np.ones((20, 2)), np.zeros((20, 2)))
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        dv.classifier(X, Y)


def test_optional_and_heavy_libraries_are_left_alone_until_then():
    program = (
        "import sys, lowerbound as lb; assert 'jax' not in sys.modules; lb.divergences.kl; "
        "print([m for m in ('sklearn', 'ot', 'scipy.optimize', 'scipy.stats') if m in sys.modules])"
    )
    path = os.pathsep.join(filter(None, [str(Path(lb.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stdout.strip() == "[]", done.stderr
