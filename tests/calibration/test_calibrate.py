"""``lb.calibrate``: exact posteriors pass, wrong ones are found, and what a person gets."""

from __future__ import annotations

import builtins

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import lowerbound as lb
from lowerbound import calibration as module
from lowerbound import kernel
from lowerbound.errors import DataError, IncompatibleError, ModelError, UnknownNameError
from lowerbound.model.base import Model
from lowerbound.model.given import as_model

NOISE = 0.5


def conjugate(y):
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(x, NOISE), obs=y)


class Stub:
    """Stands in for a fit of :func:`conjugate`: draws of the exact posterior, made wrong on purpose."""

    def __init__(self, sd=1.0, shift=0.0, draws=None, verdict=lambda y: "TRUSTED", fails=lambda y: False):
        self.sd, self.shift, self.draws, self.verdict_of, self.fails = sd, shift, draws, verdict, fails

    def __call__(self, model, **options):
        [self.y] = (float(a) for a in model.arguments)
        if self.fails(self.y):
            raise FloatingPointError("made to fail")
        return self

    status = lb.Status.CONVERGED

    @property
    def verdict(self):
        class Verdict:
            status = lb.VerdictStatus[self.verdict_of(self.y)]

        return Verdict

    def sample(self, n, seed):
        noise = np.random.default_rng(seed).normal(size=n)
        if self.draws is not None:
            return {"x": self.draws(self.y, noise)}
        sd = (1 + NOISE**-2) ** -0.5
        return {"x": self.y * sd**2 / NOISE**2 + sd * (self.shift + self.sd * noise)}


@pytest.fixture
def stub(monkeypatch):
    def use(**options):
        monkeypatch.setattr(module, "fit", Stub(**options))
        return lb.calibrate(conjugate, {"y": 0.0}, num_datasets=options.pop("n", 150))

    return use


# -- right and wrong posteriors ------------------------------------------------------------------------------


def test_exact_posteriors_pass(stub):
    calibration = stub()
    assert calibration.ok, str(calibration)
    assert calibration.counts == {"TRUSTED": 150}
    assert calibration.names[0] == "x" and set(calibration.names[1:]) == {"log_likelihood", "log_joint"}
    assert calibration.summary()["ok"].all()
    assert "as far as the tests see" in calibration.sentence


@pytest.mark.parametrize(
    ("wrong", "shape"),
    [
        ({"sd": 0.6}, "too narrow"),
        ({"sd": 1.8}, "too wide"),
        ({"shift": 0.6}, "too high"),
        ({"shift": -0.6}, "too low"),
    ],
)
def test_wrong_posteriors_do_not(stub, wrong, shape):
    calibration = stub(**wrong)
    assert not calibration.ok
    assert calibration.miscalibrated()["x"] == shape
    assert calibration.miscalibrated(trusted=True)["x"] == shape
    assert f"x ({shape})" in calibration.sentence and "trusted verdict are miscalibrated" in calibration.sentence
    assert not calibration.summary().loc["x", "ok"]


def test_a_fit_that_returns_the_prior_is_seen_by_the_likelihood_alone(stub):
    calibration = stub(draws=lambda y, noise: noise)
    p = calibration.summary()["p"]
    assert p["x"] > 0.05
    assert p["log_likelihood"] < 1e-6
    assert not calibration.ok and "x" not in calibration.miscalibrated()


def test_a_fit_with_the_wrong_sign_is_seen_by_the_likelihood(stub):
    # x -> -x leaves the prior as it is: over all data sets together, the ranks of x are symmetric.
    calibration = stub(draws=lambda y, noise: -(y * 0.8 + noise * 0.2**0.5))
    assert calibration.summary().loc["log_likelihood", "p"] < 1e-6


def test_verdicts_tell_the_good_fits_from_the_bad(stub):
    def draws(y, noise):
        return y * 0.8 + (0.2**0.5 if y > 0 else 0.05) * noise

    calibration = stub(draws=draws, verdict=lambda y: "CORRECTED" if y > 0 else "NOT_TRUSTED")
    assert calibration.miscalibrated()["x"] == "too narrow"
    assert calibration.miscalibrated(trusted=True) == {}
    assert not calibration.ok
    n = int(calibration.is_trusted.sum())
    assert 50 < n < 100
    assert f"Those of the {n} fits that are trusted show nothing." in calibration.sentence
    assert f"the {n} trusted fits alone" in str(calibration)


def test_few_trusted_fits_are_not_judged(stub):
    calibration = stub(sd=0.3, verdict=lambda y: "TRUSTED" if y > 2 else "NOT_TRUSTED")
    assert 0 < calibration.is_trusted.sum() < 20
    assert calibration.miscalibrated(trusted=True) == {} and not calibration.ok
    assert "too few to test" in calibration.sentence


def test_fits_that_fail_are_counted_and_left_out(stub):
    calibration = stub(fails=lambda y: y > 1)
    failed = calibration.counts["FAILED"]
    assert 10 < failed < 60 and len(calibration.ranks) == 150 - failed
    assert calibration.errors[0] == "FloatingPointError: made to fail"
    # Whether a fit fails depends on the data alone, so the ranks of the rest are uniform still.
    assert calibration.ok
    assert "first failure: FloatingPointError: made to fail" in str(calibration)


def test_nothing_can_be_said_of_fits_that_all_fail(stub):
    calibration = stub(fails=lambda y: True)
    assert not calibration.ok and calibration.counts == {"FAILED": 150}
    assert "Only 0 fits gave draws" in calibration.sentence and "made to fail" in str(calibration)


# -- real fits -----------------------------------------------------------------------------------------------


def compilations():
    counted = []

    def count(event, duration, **_):
        if "backend_compile" in event:
            counted.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    return counted


def test_more_data_sets_are_not_more_programs():
    def model(t, y):  # of its own, so that nothing is known of it yet
        x = numpyro.sample("x", dist.Normal(0, 1.37))
        numpyro.sample("y", dist.Normal(x * t, 0.73), obs=y)

    data = {"t": np.arange(3.0), "y": np.zeros(3)}
    counted = compilations()
    lb.calibrate(model, data, num_datasets=2)
    few = len(counted)
    assert few > 0
    calibration = lb.calibrate(model, data, num_datasets=6, seed=1)
    assert len(calibration.ranks) == 6
    assert len(counted) == few


def test_data_sets_share_one_trace_and_are_fitted_as_if_each_had_its_own(monkeypatch):
    def model(t, y):
        x = numpyro.sample("x", dist.Normal(0, 1.21))
        numpyro.sample("y", dist.StudentT(4.0, x * t, 0.61), obs=y)

    def by_value(t, y):  # NumPy needs the numbers of t: the data are constants of the program
        x = numpyro.sample("x", dist.Normal(0, 1.21))
        numpyro.sample("y", dist.Normal(x * np.diff(t), 0.61), obs=y)

    traced = []
    build = kernel.Kernel._trace
    monkeypatch.setattr(kernel.Kernel, "_trace", lambda self, *a: traced.append(0) or build(self, *a))
    calibrate = lambda: lb.calibrate(model, {"t": np.arange(3.0), "y": np.zeros(3)}, num_datasets=3)  # noqa: E731
    together = calibrate()
    assert len(traced) == 1
    with monkeypatch.context() as m:
        m.setattr(Model, "on", lambda self, other: other)
        apart = calibrate()
    assert len(traced) == 4
    np.testing.assert_array_equal(together.ranks, apart.ranks)
    assert together.verdicts == apart.verdicts

    a, b = (as_model(by_value, {"t": np.arange(k, k + 4.0) ** 2, "y": np.ones(3)}) for k in (0, 1))
    assert not a.traced and a.on(b) is b
    a, b = (as_model(model, {"t": np.arange(3.0), "y": np.full(3, k)}) for k in (0.0, 1.0))
    x = np.linspace(-1, 1, 5)[:, None]
    alike = kernel.Kernel(a)(x), kernel.Kernel(a.on(b))(x), kernel.Kernel(b)(x)
    np.testing.assert_array_equal(alike[1][0], alike[2][0])
    np.testing.assert_array_equal(alike[1][1], alike[2][1])
    assert (alike[0][0] != alike[1][0]).any()


def test_a_mean_field_family_on_a_correlated_posterior_is_too_narrow():
    def model(y):
        a = numpyro.sample("a", dist.Normal(0, 1))
        b = numpyro.sample("b", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(a + b, 0.2), obs=y)

    q = lb.calibrate(model, {"y": 0.0}, family="diagonal", source="q", num_datasets=20, num_draws=128)
    assert not q.ok
    assert q.miscalibrated()["a"] == q.miscalibrated()["b"] == "too narrow"
    assert q.is_trusted.sum() == 0, "CORRECTED says that q is wrong"


def test_real_fits_of_an_exact_family_pass():
    assert lb.calibrate(conjugate, {"y": 0.0}, source="q", num_datasets=20).ok


def test_the_same_seed_gives_the_same_ranks():
    a, b, c = (lb.calibrate(conjugate, {"y": 0.0}, num_datasets=n, seed=s) for n, s in ((4, 3), (3, 3), (3, 4)))
    np.testing.assert_array_equal(a.ranks[:3], b.ranks)
    assert (b.ranks != c.ranks).any()


def test_coordinates_have_names_and_constants_have_none():
    def model(y):
        numpyro.sample("chol", dist.LKJCholesky(2, 1.0))
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
        with numpyro.plate("n", 3):
            numpyro.sample("y", dist.Normal(p, 0.1), obs=y)

    names = lb.calibrate(model, {"y": np.ones(3)}, num_datasets=2).names
    assert set(names) == {"chol[1,0]", "chol[1,1]", "p[0]", "p[1]", "p[2]", "log_joint", "log_likelihood"}


@pytest.mark.slow
def test_a_log_density_with_its_simulator():
    def log_joint(slope, x, y):
        return -0.5 * slope**2 - 0.5 * jnp.sum(((y - slope * x) / NOISE) ** 2)

    def simulate(rng):
        slope = rng.normal()
        return {"slope": slope}, {"y": slope * np.arange(3.0) + NOISE * rng.normal(size=3)}

    def confused(rng):  # of another scale than the density's
        latents, data = simulate(rng)
        return latents, {"y": 2 * data["y"]}

    density = lb.LogDensity(log_joint, {"slope": lb.Site(constraints.real)})
    data = {"x": np.arange(3.0)}
    calibration = lb.calibrate(density, data, simulate=simulate, num_datasets=20)
    assert calibration.ok and calibration.names == ("slope", "log_joint")
    assert not lb.calibrate(density, data, simulate=confused, num_datasets=20).ok


def test_ctrl_c_returns_what_there_is(monkeypatch):
    fitted = []

    def interrupted(*arguments, **options):
        if len(fitted) == 3:
            raise KeyboardInterrupt
        fitted.append(Stub()(*arguments, **options))
        return fitted[-1]

    monkeypatch.setattr(module, "fit", interrupted)
    calibration = lb.calibrate(conjugate, {"y": 0.0}, num_datasets=50)
    assert len(calibration.ranks) == 3 and not calibration.ok
    assert "interrupted after 3 of 50" in str(calibration)
    fitted[:] = [None] * 3
    with pytest.raises(KeyboardInterrupt):
        lb.calibrate(conjugate, {"y": 0.0}, num_datasets=50)


def test_a_fit_that_was_interrupted_is_not_ranked(monkeypatch):
    class Interrupted(Stub):
        @property
        def status(self):
            return lb.Status.INTERRUPTED if self.y > 0 else lb.Status.CONVERGED

    monkeypatch.setattr(module, "fit", Interrupted())
    calibration = lb.calibrate(conjugate, {"y": 0.0}, num_datasets=50, seed=1)
    assert 0 < len(calibration.ranks) < 50 and not calibration.errors


# -- what a person sees --------------------------------------------------------------------------------------


def test_text(stub):
    calibration = stub(sd=0.4)
    text = str(calibration)
    assert text.startswith("Calibration of conjugate (dense, score_regression), ranks among draws of posterior\n")
    [line] = [n for n in text.splitlines() if n.startswith("x ")]
    bars = line.split()[1]
    assert len(bars) == 8 and max(bars) in (bars[0], bars[-1]) and line.endswith("too narrow")
    assert "NOT OK: " in text and "  - fits: 150 TRUSTED" in text
    assert "num_ranked=127" in repr(calibration) and len(repr(calibration)) < 500


def test_plots(stub):
    pytest.importorskip("matplotlib")
    calibration = stub()
    figure = calibration.plot()
    assert [a.get_title() for a in figure.axes] == list(calibration.names)
    curve = figure.axes[0].lines[0].get_ydata()
    assert curve[0] == 0 and abs(curve[-1]) < 1e-12  # an ECDF less the diagonal is 0 at both ends
    [axes] = calibration.plot(["x"], kind="histogram").axes
    heights = [b.get_height() for b in axes.patches if b.get_width() < 0.9]
    assert heights == calibration.histogram("x").tolist() and sum(heights) == 150
    with pytest.raises(UnknownNameError, match="unknown kind of plot 'bars'"):
        calibration.plot(kind="bars")
    with pytest.raises(UnknownNameError, match="unknown quantity 'z'"):
        calibration.plot(["z"])


def test_plot_without_matplotlib(stub, monkeypatch):
    calibration, real = stub(), builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        calibration.plot()


def test_progress(capsys):
    lb.calibrate(conjugate, {"y": 0.0}, num_datasets=2, progress=True)
    shown = capsys.readouterr()
    assert "data set 2 of 2" in shown.err and shown.out == ""


# -- refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"num_datasets": 0}, DataError, "num_datasets is 0; needed: a whole number, at least 1"),
        ({"num_ranked": 100}, DataError, "num_ranked is 100; needed: one less than a multiple of 8"),
        ({"source": "chains"}, UnknownNameError, "unknown source 'chains'"),
        ({"alpha": 1.0}, DataError, "alpha is 1.0"),
        ({"seed": -1}, DataError, "seed is -1"),
        ({"max_steps": 0}, DataError, "max_steps is 0"),
        ({"num_draws": 3}, DataError, "num_draws is 3"),
        ({"family": "desne"}, UnknownNameError, "Did you mean 'dense'"),
        ({"family": "point_mass"}, IncompatibleError, "a point mass has no spread"),
        ({"simulate": 3}, DataError, "simulate is 3; needed: a function"),
        ({"simulate": lambda rng: {"x": 0.0}}, DataError, r"simulate returned dict; needed: \(latents, data\)"),
        ({"simulate": lambda rng: ({"z": 0.0}, {"y": 0.0})}, DataError, r"Missing: \['x'\]"),
        (
            {"simulate": lambda rng: ({"x": np.zeros(2)}, {"y": 0.0})},
            DataError,
            r"gave 'x' of shape \(2,\); needed: \(\)",
        ),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
def test_refused(options, error, words):
    with pytest.raises(error, match=words):
        lb.calibrate(conjugate, {"y": 0.0}, **options)


def test_what_cannot_be_simulated_from_is_refused():
    density = lb.LogDensity(lambda x: -0.5 * x**2, {"x": lb.Site()})
    with pytest.raises(ModelError, match=r"a log density: it cannot be simulated from\. Give simulate="):
        lb.calibrate(density)
    with pytest.raises(ModelError, match=r"a lb\.Model, which is bound to its data.*pass the original model"):
        lb.calibrate(lb.Model.from_numpyro(conjugate, {"y": 0.0}))
    with pytest.raises(ModelError, match="Missing: y"):
        lb.calibrate(conjugate)
