"""Other coordinates, the same model: values, densities and Jacobians against those of the model as written."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from scipy import stats

from lowerbound.kernel import Kernel
from lowerbound.model import Model
from lowerbound.model.reparameterization import location_scale
from lowerbound.precision import float64

#: Every kind of site that can be moved, at a location and a scale (or what stands for them) of other latents.
DISTRIBUTIONS = {
    "Normal": lambda m, s: dist.Normal(m, s),
    "StudentT": lambda m, s: dist.StudentT(3.0, m, s),
    "Cauchy": lambda m, s: dist.Cauchy(m, s),
    "Laplace": lambda m, s: dist.Laplace(m, s),
    "Logistic": lambda m, s: dist.Logistic(m, s),
    "Gumbel": lambda m, s: dist.Gumbel(m, s),
    "LogNormal": lambda m, s: dist.LogNormal(m, s),
    "HalfNormal": lambda m, s: dist.HalfNormal(s),
    "HalfCauchy": lambda m, s: dist.HalfCauchy(s),
    "Weibull": lambda m, s: dist.Weibull(s, 1.7),
    "Exponential": lambda m, s: dist.Exponential(s),
    "Gamma": lambda m, s: dist.Gamma(2.5, s),
    "InverseGamma": lambda m, s: dist.InverseGamma(2.5, s),
}


def centrednesses(base: Model, rng: np.random.Generator, names: list[str], *, whole: bool = False) -> list[Model]:
    """At random for each element, not at all, and wholly; one program serves all of them.

    Args:
        whole: All or nothing, as for a multivariate normal.
    """
    some = [] if whole else [{n: rng.uniform(0, 1, base.sites[n].unconstrained_shape) for n in names}] * 2
    return [base.moved(c) for c in (*some, dict.fromkeys(names, 0.0), dict.fromkeys(names, 1.0))]


def assert_same(base: Model, rng: np.random.Generator, names: list[str] | None = None, *, whole: bool = False) -> None:
    """The joint at the same values, the Jacobian against automatic differentiation, and both ways about."""
    models = centrednesses(base, rng, base.movable() if names is None else names, whole=whole)
    moved = models[0]

    def latents(x, arguments):
        values = moved.constrain(x, arguments)
        return {n: values[n] for n in base.sites}

    @jax.jit
    def everything(x, own, arguments):
        z = latents(x, arguments)
        back, log_det = moved.unconstrain(z, arguments)
        u, own_det = base.unconstrain(z, own)
        return {
            "back": back,
            "joint here": moved.log_density(x, arguments, jacobian=False),
            "joint there": base.log_joint(z, own),
            "joint of values": moved.log_joint(z, arguments),
            "density here": moved.log_density(x, arguments),
            "density there": base.log_density(u, own),
            "own": u,
            "slope here": jax.grad(lambda x: moved.log_density(x, arguments))(x),
            "slope there": jax.grad(lambda x: base.log_density(x, own))(x),
            "log det here": log_det,
            "log det there": own_det,
            "jacobian": jax.jacfwd(lambda x: base.unconstrain(latents(x, arguments), own)[0])(x),
        }

    with float64():
        for model in models:
            x = rng.uniform(-1.5, 1.5, base.dimension)
            got = everything(x, base.arguments, model.arguments)
            np.testing.assert_allclose(got["back"], x, atol=1e-9)
            np.testing.assert_allclose(got["joint here"], got["joint there"], rtol=1e-10, atol=1e-9)
            np.testing.assert_allclose(got["joint of values"], got["joint there"], rtol=1e-10, atol=1e-9)
            _, expected = np.linalg.slogdet(np.asarray(got["jacobian"]))
            np.testing.assert_allclose(got["density here"] - got["density there"], expected, rtol=1e-9, atol=1e-8)
            np.testing.assert_allclose(got["log det here"] - got["log det there"], expected, rtol=1e-9, atol=1e-8)
        # The last is centred: what it was, to the rounding of transforms and back.
        np.testing.assert_allclose(got["own"], x, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(got["density here"], got["density there"], rtol=1e-12)
        np.testing.assert_allclose(got["slope here"], got["slope there"], rtol=1e-9, atol=1e-12)


def density_and_slope(model: Model, x) -> tuple[float, np.ndarray]:
    with float64():
        value, slope = jax.jit(jax.value_and_grad(lambda x, a: model.log_density(x, a)))(np.array(x), model.arguments)
    return float(value), np.asarray(slope)


def hierarchy(make):
    def model(y):
        m = numpyro.sample("m", dist.Normal(0, 2))
        s = numpyro.sample("s", dist.LogNormal(0, 1))
        with numpyro.plate("groups", 3):
            z = numpyro.sample("z", make(m, s))
        numpyro.sample("y", dist.Normal(z, 0.7), obs=y)

    return Model.from_numpyro(model, {"y": np.array([0.3, -1.1, 2.0])})


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_same_joint_in_other_coordinates(name):
    rng = np.random.default_rng(3)
    base = hierarchy(DISTRIBUTIONS[name])
    assert base.movable() == ["z"]
    assert base.moved({"z": 0.5}).elsewhere == ("z",)
    assert_same(base, rng)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_non_centred_has_a_prior_that_depends_on_nothing(name):
    """In z~ = (u - f) / g the prior is that of location 0 and scale 1, whatever the other latents are."""
    fn = DISTRIBUTIONS[name]

    def model():
        m = numpyro.sample("m", dist.Normal(0, 2))
        s = numpyro.sample("s", dist.LogNormal(0, 1))
        numpyro.sample("z", fn(m, s))

    base = Model.from_numpyro(model)
    moved = base.moved({"z": 0.0})
    z = 0.8
    with float64():
        density = jax.jit(lambda x: moved.log_density(x, moved.arguments))
        got = [
            float(density(np.array([m, log_s, z]))) - stats.norm(0, 2).logpdf(m) - stats.norm.logpdf(log_s)
            for m, log_s in ((0.0, 0.0), (1.3, -2.0), (-4.0, 3.0))
        ]
        standard = fn(0.0, 1.0)
        real = standard.support is dist.constraints.real
        expected = float(standard.log_prob(z)) if real else float(standard.log_prob(np.exp(z))) + z
    np.testing.assert_allclose(got, expected, atol=1e-10)


@pytest.mark.parametrize("c", [0.0, 0.4])
@pytest.mark.parametrize("log_scale", [-40.0, -300.0])
def test_no_rounding_where_the_scale_is_far_below_the_location(c, log_scale):
    """f + g z~ rounds to f there; the density must still fall off in z~, and its slope be finite."""

    def model():
        m = numpyro.sample("m", dist.Normal(0, 2))
        s = numpyro.sample("s", dist.LogNormal(0, 100))
        numpyro.sample("z", dist.Normal(m, s).expand([2]).to_event(1))

    moved = Model.from_numpyro(model).moved({"z": c})
    m = 3.0
    standard = np.array([1.5, -2.5])
    z = c * m + np.exp(c * log_scale) * standard  # z~ ~ N(c m, g^c)
    value, slope = density_and_slope(moved, [m, log_scale, *z])
    expected = stats.norm(0, 2).logpdf(m) + stats.norm(0, 100).logpdf(log_scale)
    expected += (stats.norm(c * m, np.exp(c * log_scale)).logpdf(z)).sum() if c else stats.norm.logpdf(standard).sum()
    if c and np.exp(c * log_scale) < 1e-12 * m:
        # Then it is c m + g^c z that is rounded by whoever passes it; finite is all that can be asked.
        assert np.isfinite(value) and np.isfinite(slope).all()
    else:
        assert float(value) == pytest.approx(expected, rel=1e-8)
        assert np.isfinite(slope).all()
        np.testing.assert_allclose(slope[2:], -standard * np.exp(-c * log_scale), rtol=1e-6)


def test_a_multivariate_normal_is_moved_whole():
    def model(y):
        m = numpyro.sample("m", dist.Normal(0, 2).expand([3]).to_event(1))
        s = numpyro.sample("s", dist.LogNormal(0, 1).expand([3]).to_event(1))
        factor = numpyro.sample("factor", dist.LKJCholesky(3, 2.0))
        with numpyro.plate("rows", 2):
            z = numpyro.sample("z", dist.MultivariateNormal(m, scale_tril=s[:, None] * factor))
        numpyro.sample("y", dist.Normal(z, 0.7).to_event(1), obs=y)

    rng = np.random.default_rng(0)
    base = Model.from_numpyro(model, {"y": rng.standard_normal((2, 3))})
    assert base.movable() == ["z"]
    assert_same(base, rng, whole=True)


def test_a_multivariate_normal_at_a_tiny_scale():
    def model():
        s = numpyro.sample("s", dist.LogNormal(0, 100))
        factor = s * jnp.array([[1.0, 0.0], [0.6, 0.8]])
        numpyro.sample("z", dist.MultivariateNormal(jnp.array([3.0, -1.0]), scale_tril=factor))

    moved = Model.from_numpyro(model).moved({"z": 0.0})
    value, slope = density_and_slope(moved, [-40.0, 1.0, -2.0])
    expected = stats.norm(0, 100).logpdf(-40.0) + stats.norm.logpdf([1.0, -2.0]).sum()
    assert float(value) == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(slope, [40.0 / 1e4, -1.0, 2.0], atol=1e-8)


def test_rows_of_a_multivariate_normal_with_a_factor_each():
    def model():
        s = numpyro.sample("s", dist.LogNormal(0, 1).expand([4]).to_event(1))
        factor = s[:, None, None] * jnp.array([[1.0, 0.0], [0.6, 0.8]])
        with numpyro.plate("rows", 4):
            numpyro.sample("z", dist.MultivariateNormal(jnp.zeros(2), scale_tril=factor))

    base = Model.from_numpyro(model)
    assert base.movable() == ["z"]
    assert_same(base, np.random.default_rng(1), whole=True)


def test_plates_events_and_expansions():
    """Nested plates, to_event, expand with parameters of fewer dimensions, and several sites at once."""

    def model(y):
        m = numpyro.sample("m", dist.Normal(0, 2).expand([2]).to_event(1))
        s = numpyro.sample("s", dist.HalfNormal(1).expand([2]).to_event(1))
        t = numpyro.sample("t", dist.LogNormal(0, 1))
        with numpyro.plate("columns", 2, dim=-1):
            with numpyro.plate("rows", 3, dim=-2):
                a = numpyro.sample("a", dist.Normal(m, s))
                b = numpyro.sample("b", dist.Exponential(t))
            c = numpyro.sample("c", dist.Normal(0, t).expand([2, 2]).to_event(1))
        d = numpyro.sample("d", dist.Normal(m, s).expand([4, 2]).to_event(2))
        e = numpyro.sample("e", dist.Gamma(2.0, 1 / t).expand([3]).to_event(1))
        mean = a.sum() + b.sum() + c.sum() + d.sum() + e.sum()
        numpyro.sample("y", dist.Normal(mean, 1), obs=y)

    rng = np.random.default_rng(7)
    base = Model.from_numpyro(model, {"y": 0.3})
    assert base.movable() == ["a", "b", "c", "d", "e"]
    assert_same(base, rng)
    assert_same(base, rng, ["d", "b"])


def test_a_chain_of_latents():
    """A moved site that is the location and the scale of another moved one."""

    def model(y):
        s = numpyro.sample("s", dist.LogNormal(0, 1))
        a = numpyro.sample("a", dist.Normal(0, s))
        b = numpyro.sample("b", dist.LogNormal(a, 0.5))
        c = numpyro.sample("c", dist.Normal(a, b))
        numpyro.deterministic("sum", a + b + c)
        numpyro.sample("y", dist.Normal(c, 1), obs=y)

    rng = np.random.default_rng(11)
    base = Model.from_numpyro(model, {"y": 0.3})
    assert base.movable() == ["a", "b", "c"]
    assert_same(base, rng)
    moved = base.moved(dict.fromkeys("abc", 0.3))
    with float64():
        values = jax.jit(moved.constrain)(rng.standard_normal(4), moved.arguments)
        assert float(values["sum"]) == pytest.approx(float(values["a"] + values["b"] + values["c"]))


def test_sites_inside_a_scan():
    """They are not looked for there, but moved where they are asked for by name."""

    def model(y):
        s = numpyro.sample("s", dist.LogNormal(0, 1))

        def transition(carry, obs):
            z = numpyro.sample("z", dist.Normal(0.9 * carry, s))
            numpyro.sample("y", dist.Normal(z, 0.5), obs=obs)
            return z, None

        scan(transition, jnp.zeros(()), y)

    rng = np.random.default_rng(2)
    base = Model.from_numpyro(model, {"y": rng.standard_normal(4)})
    assert base.movable() == []
    assert_same(base, rng, ["z"])


def test_movable_are_those_that_depend_on_latents():
    def model(x, y, mask):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        tau = numpyro.sample("tau", dist.HalfNormal(1))
        numpyro.sample("by_data", dist.Normal(x.mean(), 1 + x.var()))
        numpyro.sample("by_location", dist.Normal(mu, 1))
        numpyro.sample("by_scale", dist.Normal(0, tau))
        numpyro.sample("positive", dist.Gamma(2.0, tau))
        numpyro.sample("by_shape", dist.Gamma(tau, 1.0))  # neither location nor scale
        numpyro.sample("bounded", dist.Beta(tau, 1.0))
        numpyro.sample("dynamic", dist.Uniform(0, tau))  # its support depends on a latent
        numpyro.sample("simplex", dist.Dirichlet(tau * jnp.ones(3)))
        numpyro.sample("by_nothing", dist.Normal(0 * tau, 1))  # the program's dependence, not the numbers'
        with numpyro.plate("n", 3):
            with handlers.mask(mask=mask):
                numpyro.sample("masked", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(mu, tau), obs=y)

    data = {"x": np.arange(3.0), "y": np.arange(3.0), "mask": np.array([True, False, True])}
    base = Model.from_numpyro(model, data)
    assert base.movable() == ["by_location", "by_scale", "positive", "by_nothing"]


def test_nothing_to_move_in_a_model_without_a_hierarchy():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    assert Model.from_numpyro(model, {"y": np.zeros(3)}).movable() == []


def test_the_stand_in_for_missing_observations_is_not_moved():
    def model(y, seen):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("n", 3):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y, obs_mask=seen)

    data = {"y": np.array([0.1, 0.0, 0.4]), "seen": np.array([True, False, True])}
    assert Model.from_numpyro(model, data).movable() == []


def test_scaled_sites_keep_their_scale():
    def model(y):
        m = numpyro.sample("m", dist.Normal(0, 2))
        with handlers.scale(scale=3.0):
            z = numpyro.sample("z", dist.Normal(m, 0.4))
        numpyro.sample("y", dist.Normal(z, 1), obs=y)

    rng = np.random.default_rng(0)
    base = Model.from_numpyro(model, {"y": 1.0})
    assert_same(base, rng)


@pytest.mark.parametrize(
    "fn",
    [
        dist.Normal(0, 1).mask(np.array([True, False])),
        dist.Normal(np.zeros(3), 1).to_event(1).mask(False),
        dist.Beta(1.0, 2.0),
        dist.Uniform(0, 1),
        dist.Dirichlet(np.ones(3)),
        dist.Pareto(1.0, 2.0),
    ],
    ids=lambda fn: type(fn).__name__,
)
def test_what_has_no_location_and_scale(fn):
    assert location_scale(fn) is None


def test_rebind_is_a_fresh_kernel_without_compiling(monkeypatch):
    base = hierarchy(DISTRIBUTIONS["Normal"])
    rng = np.random.default_rng(0)
    kernel = Kernel(base.moved({"z": 0.0}))
    other = base.moved({"z": rng.uniform(0, 1, 3)})
    fresh = Kernel(other)
    assert fresh.cache_hit  # the centredness is an argument, not a constant of the program

    def refuse(*args, **_):
        raise AssertionError("compiled")

    monkeypatch.setattr("lowerbound.compilation.compile_lowered", refuse)
    monkeypatch.setattr("lowerbound.kernel.compile_lowered", refuse)
    rebound = kernel.rebind(other)
    assert rebound.compile_seconds == 0.0 and rebound.model is other
    x = rng.standard_normal((70, base.dimension))
    for a, b in zip(rebound(x), fresh(x), strict=True):
        np.testing.assert_array_equal(a, b)
    old = kernel(x)[0]
    assert np.abs(old - rebound(x)[0]).max() > 0.1  # and the first is what it was
    np.testing.assert_array_equal(old, Kernel.rebind(kernel, kernel.model)(x)[0])
