"""What goes wrong while a fit runs: it goes on, names what it can, and never answers NaN."""

import os
import subprocess
import sys
import textwrap
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import lowerbound as lb
from lowerbound.errors import ModelError, NotFiniteError, TrustWarning

ONE = {"x": lb.Site()}
THREE = {"x": lb.Site(constraints.real, (3,))}
Y = np.array([0.3, -1.2, 2.5, 0.7])


def quietly(model, data=None, **options):
    """A fit whose verdict is not in question; no other warning may pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        return lb.fit(model, data, **options)


def has_no_nan(posterior):
    for table in (posterior.mean(), posterior.sd(), posterior.sample(100), posterior.quantile(0.5)):
        assert not any(np.isnan(v).any() for v in table.values())
    assert not posterior.summary()[["mean", "sd"]].isna().any().any()


# -- not finite in part of the space -------------------------------------------------------------------

PARTS = {
    "nan beyond a line": (lambda x: jnp.where(x > -1, -0.5 * x**2, jnp.nan), ONE),
    "zero beyond a line": (lambda x: jnp.where(x > 0, -0.5 * x**2, -jnp.inf), ONE),
    "infinite beyond a line": (lambda x: jnp.where(x > -1, -0.5 * x**2, jnp.inf), ONE),
    "checkerboard far out": (
        lambda x: jnp.where((jnp.sum(x**2) > 9) & (jnp.floor(x).sum() % 2 == 0), jnp.nan, -0.5 * jnp.sum(x**2)),
        THREE,
    ),
    "checkerboard near": (
        lambda x: jnp.where((jnp.sum(x**2) > 0.25) & (jnp.floor(2 * x).sum() % 2 == 0), jnp.nan, -0.5 * jnp.sum(x**2)),
        THREE,
    ),
    "gradient nan on one side": (lambda x: -0.5 * x**2 + jnp.where(x > 0, jnp.sqrt(x), 0.0), ONE),
}


@pytest.mark.parametrize("fn, sites", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("family", ["dense", "low_rank", "point_mass"])
def test_not_finite_in_part_of_the_space(fn, sites, family):
    posterior = quietly(lb.LogDensity(fn, sites), family=family)
    has_no_nan(posterior)
    if posterior.verdict.trusted and sites is ONE:  # then it must be right
        grid = np.linspace(-8, 8, 20001)
        value = np.asarray(jax.vmap(fn)(grid))
        weight = np.exp(np.where(np.isfinite(value), value, -np.inf))
        mean = (grid * weight).sum() / weight.sum()
        assert abs(posterior.mean()["x"] - mean) < 0.05


@pytest.mark.parametrize("sites", [ONE, THREE], ids=["1", "3"])
def test_finite_only_far_from_the_origin(sites):
    fn = lb.LogDensity(lambda x: jnp.where((x > 3).all(), -0.5 * ((x - 8) ** 2).sum(), jnp.nan), sites)
    posterior = lb.fit(fn)
    np.testing.assert_allclose(posterior.mean()["x"], 8.0, atol=1e-3)


def test_the_culprit_is_named_when_draws_meet_it():
    def model(y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        # NaN for x < -2, one draw of the prior in forty
        numpyro.sample("y", dist.Normal(0.0, 10 + jnp.sqrt(x + 2)), obs=y)

    posterior = quietly(model, {"y": 1.0})
    assert any("observed site 'y' (Normal)" in r and "scale = nan" in r for r in posterior.verdict.reasons)
    has_no_nan(posterior)


# -- nowhere finite, nowhere a gradient ------------------------------------------------------------------


def test_nan_at_every_start_names_site_distribution_row_and_parameters():
    def model(y, x):
        b = numpyro.sample("b", dist.Normal(0, 1))
        with numpyro.plate("n", len(y)):
            numpyro.sample("y", dist.Normal(b, jnp.sqrt(x)), obs=y)

    with pytest.raises(
        NotFiniteError,
        match=r"'model' is not finite at any of 16 starting points.*"
        r"observed site 'y' \(Normal\): log probability is nan "
        r"in row 2, 1 of 4 in all, with loc = 0, scale = nan there",
    ):
        lb.fit(model, {"y": Y, "x": np.array([1.0, 2.0, -3.0, 4.0])})


def test_nan_at_every_start_of_a_prior():
    def model(y):
        x = numpyro.sample("x", dist.Normal(jnp.log(-1.0), 1))
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    with pytest.raises(NotFiniteError, match=r"site 'x' \(Normal\): log probability is nan, with loc = nan"):
        lb.fit(model, {"y": 1.0})


def test_nan_at_every_start_of_a_log_density():
    with pytest.raises(NotFiniteError, match=r"the log density is nan"):
        lb.fit(lb.LogDensity(lambda x: jnp.log(-1 - x**2), ONE))
    with pytest.raises(NotFiniteError, match=r"the log density is inf"):
        lb.fit(lb.LogDensity(lambda x: x**2 + jnp.inf, ONE))


def test_a_gradient_that_is_nan_everywhere_is_named():
    def norm_at_zero(x, z):
        return -0.5 * jnp.sum(x**2) - 0.5 * z**2 + jnp.sqrt(jnp.sum((x - x) ** 2))

    sites = {**THREE, "z": lb.Site()}
    with pytest.raises(NotFiniteError, match=r"its gradient is not finite in site\(s\) x \(a branch of jnp\.where"):
        lb.fit(lb.LogDensity(norm_at_zero, sites))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jax.lax.stop_gradient(-0.5 * jnp.sum(x**2)),
        lambda x: -jnp.sum(jnp.round(x) ** 2),
        lambda x: -jnp.sum(jnp.where(x > 0, 1.0, 2.0)),
        lambda x: jnp.sum(jnp.zeros(3)),
    ],
    ids=["stop_gradient", "round", "comparison", "unused"],
)
def test_no_gradient(fn):
    with pytest.raises(ModelError, match=r"has no gradient with respect to x: .*stop_gradient"):
        lb.fit(lb.LogDensity(fn, THREE))


# -- improper and unbounded --------------------------------------------------------------------------------


def test_a_latent_that_nothing_bounds():
    def model(y):
        numpyro.sample("free", dist.ImproperUniform(constraints.real, (), ()))
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    with pytest.warns(TrustWarning, match=r"flat or improper.*give free a proper prior"):
        posterior = lb.fit(model, {"y": Y})
    assert posterior.status is lb.Status.FLAT
    assert posterior.verdict.status is lb.VerdictStatus.NOT_TRUSTED
    assert posterior.verdict.parameters == ("free",)
    has_no_nan(posterior)


def test_a_positive_latent_that_nothing_bounds():
    sites = {"x": lb.Site(), "free": lb.Site(constraints.positive)}
    with pytest.warns(TrustWarning, match=r"give free a proper prior"):
        posterior = lb.fit(lb.LogDensity(lambda x, free: -0.5 * x**2, sites))
    assert posterior.status is lb.Status.FLAT
    has_no_nan(posterior)


def test_a_sum_that_alone_is_known():
    def model(y):
        a = numpyro.sample("a", dist.ImproperUniform(constraints.real, (), ()))
        b = numpyro.sample("b", dist.ImproperUniform(constraints.real, (), ()))
        c = numpyro.sample("c", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(a + b + c, 1), obs=y)

    with pytest.warns(TrustWarning, match=r"give a, b a proper prior"):
        posterior = lb.fit(model, {"y": Y})
    assert posterior.status is lb.Status.FLAT
    has_no_nan(posterior)


@pytest.mark.parametrize(
    "fn, sites",
    [
        (lambda x: jnp.sum(x), THREE),
        (lambda x: jnp.sum(x**2), THREE),
        (lambda s: -jnp.log(s), {"s": lb.Site(constraints.positive)}),
    ],
    ids=["linear", "quadratic", "pole"],
)
def test_a_density_without_a_mode(fn, sites):
    with pytest.warns(TrustWarning, match="point mass"):
        posterior = lb.fit(lb.LogDensity(fn, sites), family="point_mass")
    assert posterior.status is lb.Status.UNBOUNDED
    has_no_nan(posterior)
    assert not quietly(lb.LogDensity(fn, sites)).verdict.trusted


def test_the_mode_of_a_centred_hierarchy_is_unbounded():
    def model(y):
        tau = numpyro.sample("tau", dist.HalfCauchy(5))
        with numpyro.plate("n", len(y)):
            theta = numpyro.sample("theta", dist.Normal(0, tau))
            numpyro.sample("y", dist.Normal(theta, 1), obs=y)

    posterior = quietly(model, {"y": Y}, family="point_mass")
    assert posterior.status is lb.Status.UNBOUNDED
    has_no_nan(posterior)


# -- interruptions ---------------------------------------------------------------------------------------


def curved(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand([4]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.StudentT(3.0, jnp.tanh(mu[0] * mu[1]) + mu[2:].sum(), tau), obs=y)


@pytest.mark.parametrize(
    "family, algorithm", [("dense", None), ("low_rank", None), ("diagonal", "gradient_vi"), ("point_mass", None)]
)
def test_an_interruption_returns_the_posterior_so_far(family, algorithm):
    seen = []

    def stop(info):
        seen.append(info)
        if info.phase in ("fitting", "maximising"):
            raise KeyboardInterrupt

    with pytest.warns(TrustWarning):
        posterior = lb.fit(curved, {"y": Y}, family=family, algorithm=algorithm, callback=stop)
    assert posterior.status is lb.Status.INTERRUPTED
    assert posterior.verdict.status is lb.VerdictStatus.NOT_TRUSTED
    assert not posterior.verdict.converged
    assert "interrupted" in " ".join(posterior.verdict.reasons)
    assert len(posterior.trace) == len(seen) and seen[-1].phase == posterior.trace.phase[-1]
    has_no_nan(posterior)


def test_an_interruption_while_draws_are_weighed(monkeypatch):
    import lowerbound.diagnostics.weighing as loop

    calls = []
    original = loop.weigh

    def weigh(*arguments, **options):
        calls.append(options)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(loop, "weigh", weigh)
    posterior = quietly(curved, {"y": Y})
    assert posterior.status is lb.Status.INTERRUPTED
    assert calls[1]["rounds"] == 1
    has_no_nan(posterior)


def test_an_interruption_before_there_is_anything_is_passed_on():
    with pytest.raises(KeyboardInterrupt):
        lb.fit(curved, {"y": Y}, family="low_rank", callback=lambda info: (_ for _ in ()).throw(KeyboardInterrupt))


def test_an_error_in_the_callback_is_the_users():
    with pytest.raises(ZeroDivisionError):
        lb.fit(curved, {"y": Y}, callback=lambda info: 1 / 0)


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to another process")
def test_ctrl_c_from_a_terminal():
    """A real SIGINT, sent by the process to itself from another thread once it is fitting."""
    script = textwrap.dedent(
        """
        import os, signal, threading, time, warnings
        import jax.numpy as jnp, lowerbound as lb
        from numpyro.distributions import constraints
        warnings.simplefilter("ignore")
        started = threading.Event()

        def press():
            started.wait()
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=press, daemon=True).start()

        def callback(info):
            if info.phase == "fitting":
                started.set()
                for _ in range(1000):
                    time.sleep(0.01)

        sites = {"x": lb.Site(constraints.real, (3,))}
        fn = lb.LogDensity(lambda x: -jnp.sum(x**4) - 0.1 * jnp.sum(x[1:] * x[:-1]), sites)
        posterior = lb.fit(fn, callback=callback)
        print(posterior.status.name, posterior.verdict.status.name, posterior.mean()["x"].shape)
        """
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split("\n")[0] == "INTERRUPTED NOT_TRUSTED (3,)"
