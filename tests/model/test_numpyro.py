"""NumPyro models of every shape: plates, scan, handlers, improper and dynamic supports."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

import lowerbound as lb
from lowerbound.errors import TrustWarning
from lowerbound.model.given import as_model
from lowerbound.precision import float64
from tests.model.compare import agrees_with_numpyro, log_densities, points, round_trip

Y = np.array([0.3, -1.2, 2.5, 0.7, 1.9, -0.4])


def test_nested_plates():
    def fn(y):
        scale = numpyro.sample("scale", dist.HalfNormal(2))
        with numpyro.plate("groups", 2, dim=-2):
            mu = numpyro.sample("mu", dist.LogNormal(0, scale))
            with numpyro.plate("rows", 3, dim=-1):
                z = numpyro.sample("z", dist.Gamma(2, mu))
                numpyro.sample("y", dist.Normal(z, scale), obs=y)

    model = agrees_with_numpyro(fn, {"y": Y.reshape(2, 3)})
    assert {n: s.shape for n, s in model.sites.items()} == {"scale": (), "mu": (2, 1), "z": (2, 3)}
    assert set(model.sites["z"].plates) == {"groups", "rows"}
    round_trip(model)


def whole(y):
    scale = numpyro.sample("scale", dist.HalfNormal(2))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Gamma(2, 1))
        numpyro.sample("y", dist.Normal(z, scale), obs=y)


def in_minibatches(y):
    scale = numpyro.sample("scale", dist.HalfNormal(2))
    with numpyro.plate("rows", len(y), subsample_size=2) as i:
        z = numpyro.sample("z", dist.Gamma(2, 1))
        numpyro.sample("y", dist.Normal(z, scale), obs=y[i])


def in_minibatches_by_subsample(y):
    scale = numpyro.sample("scale", dist.HalfNormal(2))
    with numpyro.plate("rows", len(y), subsample_size=2):
        z = numpyro.sample("z", dist.Gamma(2, 1))
        numpyro.sample("y", dist.Normal(z, scale), obs=numpyro.subsample(y, event_dim=0))


@pytest.mark.parametrize("fn", [in_minibatches, in_minibatches_by_subsample])
def test_a_subsampled_plate_is_run_over_all_rows(fn):
    model = agrees_with_numpyro(fn, {"y": Y}, of=whole)
    assert model.sites["z"].shape == (6,)
    with float64():
        factors = model.factors({"scale": 1.0, "z": np.ones(6)})
    assert all(f.scale is None or f.scale == 1 for f in factors)


def test_scan():
    def fn(y):
        scale = numpyro.sample("scale", dist.HalfNormal(1))

        def step(carry, yt):
            h = numpyro.sample("h", dist.LogNormal(0.1 * carry, scale))
            numpyro.deterministic("twice", 2 * h)
            with numpyro.plate("p", 2):
                g = numpyro.sample("g", dist.Gamma(2, 3))
            w = numpyro.sample("w", dist.Dirichlet(np.ones(3)))
            numpyro.sample("y", dist.Normal(h + g.sum() + w[0], 1), obs=yt)
            return h, None

        scan(step, 0.0, y)

    model = agrees_with_numpyro(fn, {"y": Y})
    assert {n: s.shape for n, s in model.sites.items()} == {"scale": (), "h": (6,), "g": (6, 2), "w": (6, 3)}
    assert dict(model.deterministics) == {"twice": (6,)}
    round_trip(model)
    x = points(model, 1)[0]
    with float64():
        values = model.constrain(jnp.asarray(x), model.arguments)
    np.testing.assert_allclose(values["twice"], 2 * np.asarray(values["h"]))


def hierarchy(y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("n", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def test_reparam_loc_scale():
    fn = handlers.reparam(hierarchy, config={"theta": LocScaleReparam(0)})
    model = agrees_with_numpyro(fn, {"y": Y})
    assert list(model.sites) == ["mu", "tau", "theta_decentered"]
    assert dict(model.deterministics) == {"theta": (6,)}
    assert model.name == "hierarchy"


def test_reparam_transform():
    def fn(y):
        with numpyro.plate("n", len(y)):
            z = numpyro.sample(
                "z", dist.TransformedDistribution(dist.HalfNormal(1), dist.transforms.AffineTransform(1.0, 3.0))
            )
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)

    fn = handlers.reparam(fn, config={"z": TransformReparam()})
    model = agrees_with_numpyro(fn, {"y": Y})
    assert list(model.sites) == ["z_base"]
    round_trip(model)


def test_factor_deterministic_and_improper():
    def fn(y):
        mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
        w = numpyro.sample("w", dist.ImproperUniform(constraints.simplex, (), (3,)))
        with numpyro.plate("p", 2):
            s = numpyro.sample("s", dist.ImproperUniform(constraints.positive, (), ()))
        numpyro.deterministic("ratio", mu / s)
        numpyro.factor("penalty", -(mu**2) + jnp.log(w).sum() - s.sum())

    model = agrees_with_numpyro(fn, {"y": Y})
    assert list(model.deterministics) == ["ratio"]
    assert model.dimension == 1 + 2 + 2


def test_dynamic_support():
    def fn(y):
        low = numpyro.sample("low", dist.Normal(0, 1))
        width = numpyro.sample("width", dist.HalfNormal(2))
        a = numpyro.sample("a", dist.Uniform(low, low + width))
        with numpyro.plate("n", 3):
            b = numpyro.sample("b", dist.TruncatedNormal(0.0, 1.0, low=low))
        numpyro.sample("y", dist.Normal(a + b.sum(), 1), obs=y)

    model = agrees_with_numpyro(fn, {"y": Y})
    round_trip(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)  # its posterior is a funnel; here the supports matter
        posterior = lb.fit(fn, {"y": Y})
    draws = posterior.sample(200)
    assert (draws["a"] > draws["low"]).all() and (draws["a"] < draws["low"] + draws["width"]).all()
    assert (draws["b"] > draws["low"][:, None]).all()


def test_obs_mask_has_latents_for_the_missing():
    def fn(y, seen):
        mu = numpyro.sample("mu", dist.Normal(0, 3))
        with numpyro.plate("n", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y, obs_mask=seen)

    seen = np.array([True, True, False, True, False, True])
    model = lb.Model.from_numpyro(fn, {"y": Y, "seen": seen})
    assert list(model.sites) == ["mu", "y_unobserved"]
    posterior = lb.fit(fn, {"y": Y, "seen": seen})
    precision = 1 / 9 + seen.sum()
    np.testing.assert_allclose(posterior.mean()["mu"], Y[seen].sum() / precision, rtol=1e-6)
    np.testing.assert_allclose(posterior.sd()["mu"], precision**-0.5, rtol=1e-6)
    # The deterministic has the observed rows as they are, and draws for the others.
    draws = posterior.sample(50)["y"]
    np.testing.assert_array_equal(draws[:, seen], np.broadcast_to(Y[seen], (50, 4)))
    np.testing.assert_allclose(posterior.mean()["y"][~seen], posterior.mean()["mu"], rtol=1e-6)
    np.testing.assert_allclose(posterior.sd()["y"][~seen], (1 + 1 / precision) ** 0.5, rtol=1e-6)
    # What stands in for the observed rows does not touch the evidence.
    evidence = dist.MultivariateNormal(np.zeros(4), np.eye(4) + 9.0).log_prob(Y[seen])
    np.testing.assert_allclose(posterior.elbo.value, evidence, rtol=1e-5)


def test_a_mask_takes_observations_out():
    def fn(y, seen):
        mu = numpyro.sample("mu", dist.Normal(0, 3))
        s = numpyro.sample("s", dist.HalfNormal(1))
        with numpyro.plate("n", len(y)), handlers.mask(mask=seen):
            numpyro.sample("y", dist.LogNormal(mu, s), obs=y)

    # A masked row may hold what the distribution does not admit.
    seen = Y > 0
    data = {"y": np.where(seen, Y, -1.0), "seen": seen}
    model = agrees_with_numpyro(fn, data)

    def without(y):
        mu = numpyro.sample("mu", dist.Normal(0, 3))
        s = numpyro.sample("s", dist.HalfNormal(1))
        numpyro.sample("y", dist.LogNormal(mu, s), obs=y)

    x = points(model)
    other = lb.Model.from_numpyro(without, {"y": Y[seen]})
    np.testing.assert_allclose(log_densities(model, x), log_densities(other, x), rtol=1e-12)
    assert lb.fit(fn, data).status is lb.Status.CONVERGED  # so its gradient is finite too


@pytest.mark.parametrize("handler", [handlers.scale(scale=3.0), handlers.mask(mask=False)], ids=["scale", "mask"])
def test_scale_and_mask_leave_the_jacobian_of_a_latent_alone(handler):
    """They change log p(z), of the constrained variable; the transform is not part of the model."""

    def fn(y):
        with handler:
            s = numpyro.sample("s", dist.HalfNormal(2))
        numpyro.sample("y", dist.Normal(0, s), obs=y)

    times = 3.0 if isinstance(handler, handlers.scale) else 0.0
    model = lb.Model.from_numpyro(fn, {"y": 1.0})
    x = points(model)
    s = np.exp(x[:, 0])
    with float64():
        expected = times * dist.HalfNormal(2.0).log_prob(s) + dist.Normal(0, s).log_prob(1.0) + x[:, 0]
    np.testing.assert_allclose(log_densities(model, x), expected, rtol=1e-12)


def test_scale_of_an_observation():
    def fn(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with handlers.scale(scale=10.0):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    agrees_with_numpyro(fn, {"y": Y})
    posterior = lb.fit(fn, {"y": Y})
    np.testing.assert_allclose(posterior.mean()["mu"], 10 * Y.sum() / (1 + 10 * len(Y)), rtol=1e-6)


def test_scope():
    def fn(y):
        with handlers.scope(prefix="a"):
            s = numpyro.sample("s", dist.HalfNormal(2))
        numpyro.sample("y", dist.Normal(0, s), obs=y)

    model = agrees_with_numpyro(fn, {"y": Y})
    assert list(model.sites) == ["a/s"]
    round_trip(model)


def test_condition_and_substitute_of_a_latent():
    def fn(y=None):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    model = lb.Model.from_numpyro(handlers.condition(fn, {"y": Y}))
    expected = lb.Model.from_numpyro(fn, {"y": Y})
    x = points(model)
    np.testing.assert_allclose(log_densities(model, x), log_densities(expected, x), rtol=1e-12)


def test_to_event_mixture_and_multivariate():
    def fn(x, y):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
        chol = numpyro.sample("chol", dist.LKJCholesky(2, 1.0))
        with numpyro.plate("n", 3):
            numpyro.sample("xy", dist.MultivariateNormal(w, scale_tril=chol), obs=x)
        p = numpyro.sample("p", dist.Dirichlet(np.ones(2)))
        parts = dist.Normal(w, 1.0)
        with numpyro.plate("m", 6):
            numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(p), parts), obs=y)

    agrees_with_numpyro(fn, {"x": Y.reshape(3, 2), "y": Y})


def test_a_sampler_that_would_fail_is_never_called():
    """A vague Gamma underflows to zero when drawn from; nothing is drawn from a prior here."""

    def fn(y):
        precision = numpyro.sample("precision", dist.Gamma(1e-3, 1e-3))
        numpyro.sample("y", dist.Normal(0, precision**-0.5), obs=y)

    posterior = lb.fit(fn, {"y": Y})
    np.testing.assert_allclose(posterior.mean()["precision"], (1e-3 + 3) / (1e-3 + (Y**2).sum() / 2), rtol=0.02)


# -- data ------------------------------------------------------------------------------------------


def line(x, y):
    b = numpyro.sample("b", dist.Normal(0, 1))
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.Normal(b * x, 1), obs=y)


X = np.arange(6.0)


def _frame():
    import pandas as pd

    return pd.DataFrame({"x": X, "y": Y})


@pytest.mark.parametrize(
    "data",
    [
        lambda: {"x": X, "y": Y},
        lambda: {"x": X.tolist(), "y": Y.tolist()},
        lambda: {"x": tuple(X), "y": tuple(Y)},
        lambda: {"x": X.astype(np.int32), "y": Y},
        lambda: {"x": jnp.asarray(X), "y": Y},
        lambda: {"x": X[::-1][::-1], "y": np.asfortranarray(Y)},
        _frame,
        lambda: {"x": _frame()["x"], "y": _frame()["y"]},
        lambda: {"x": list(np.array(X)), "y": list(Y)},
    ],
    ids=["numpy", "lists", "tuples", "integers", "jax", "views", "frame", "series", "lists of numpy numbers"],
)
def test_forms_of_data(data):
    model = lb.Model.from_numpyro(line, data())
    expected = lb.Model.from_numpyro(line, {"x": X, "y": Y})
    x = points(model)
    np.testing.assert_array_equal(log_densities(model, x), log_densities(expected, x))
    assert list(model.argument_names) == ["x", "y"]


def test_float32_data_are_computed_with_in_float64():
    y = Y.astype(np.float32)
    model = lb.Model.from_numpyro(line, {"x": X, "y": y})
    assert all(a.dtype == np.float64 for a in model.arguments)
    expected = lb.Model.from_numpyro(line, {"x": X, "y": y.astype(float)})
    x = points(model)
    np.testing.assert_array_equal(log_densities(model, x), log_densities(expected, x))


@pytest.mark.parametrize("y", [10.0, np.float64(10.0), np.array(10.0), np.float32(10.0), 10, jnp.array(10.0)])
def test_one_number(y):
    def fn(y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)

    posterior = lb.fit(fn, {"y": y})
    np.testing.assert_allclose(posterior.mean()["x"], 8.0, rtol=1e-9)


def test_static_arguments():
    def fn(y, *, n, kind, flag, nothing, names, scale):
        assert isinstance(n, int) and kind == "normal" and flag is True and nothing is None
        assert names == ["a", "b"] and isinstance(scale, float)
        x = numpyro.sample("x", dist.Normal(0, scale).expand([n]).to_event(1))
        if flag:
            numpyro.sample("y", dist.Normal(x[0], 1), obs=y)

    data = {"y": Y, "n": 3, "kind": "normal", "flag": True, "nothing": None, "names": ["a", "b"], "scale": 2.0}
    model = lb.Model.from_numpyro(fn, data)
    assert model.sites["x"].shape == (3,)
    assert list(model.argument_names) == ["y"]


def test_nested_data():
    def fn(d):
        x = numpyro.sample("x", dist.Normal(0, 1))
        with numpyro.plate("n", d["size"]):
            numpyro.sample("y", dist.Normal(x * d["inner"]["x"], 1), obs=d["y"])

    data = {"d": {"y": Y, "inner": {"x": X.tolist()}, "size": 6}}
    model = agrees_with_numpyro(fn, {"d": {"y": Y, "inner": {"x": X}, "size": 6}})
    model_of_lists = lb.Model.from_numpyro(fn, data)
    x = points(model)
    np.testing.assert_array_equal(log_densities(model, x), log_densities(model_of_lists, x))
    assert len(model.arguments) == len(model_of_lists.arguments) == 2


def test_numpy_functions_of_data_fall_back_to_constants():
    def fn(t, y):
        gaps = np.diff(t)
        design = np.stack([np.ones_like(t), t], 1)
        for g in gaps:
            assert g > 0
        b = numpyro.sample("b", dist.Normal(0, 1).expand([design.shape[1]]).to_event(1))
        numpyro.sample("y", dist.Normal(design @ b, gaps.mean()), obs=y)

    model = agrees_with_numpyro(fn, {"t": X, "y": Y})
    posterior = lb.fit(fn, {"t": X, "y": Y})
    design = np.stack([np.ones(6), X], 1)
    precision = np.eye(2) + design.T @ design
    np.testing.assert_allclose(posterior.mean()["b"], np.linalg.solve(precision, design.T @ Y), rtol=1e-6)
    assert model.dimension == 2


def test_a_python_if_on_data_works():
    def fn(y):
        x = numpyro.sample("x", dist.Normal(0, 1 if y[0] > 0 else 2))
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    agrees_with_numpyro(fn, {"y": Y})


def test_partials_and_callable_objects():
    model = lb.Model.from_numpyro(functools.partial(line, X), {"y": Y})
    assert model.name == "line"

    class Line:
        def __call__(self, y, x=X):
            line(x, y)

    other = lb.Model.from_numpyro(Line(), {"y": Y})
    assert other.name == "Line"
    x = points(model)
    np.testing.assert_allclose(log_densities(model, x), log_densities(other, x), rtol=1e-12)


def test_a_model_bound_already():
    model = lb.Model.from_numpyro(line, {"x": X, "y": Y})
    a, b = lb.fit(model), lb.fit(line, {"x": X, "y": Y})
    np.testing.assert_array_equal(a.mean()["b"], b.mean()["b"])


def test_binding_leaves_the_users_data_alone():
    y = Y.copy()
    y.setflags(write=False)
    data = {"x": X, "y": y}
    lb.Model.from_numpyro(line, data)
    assert data["y"] is y


def test_two_threads_may_run_models_at_once():
    """NumPyro keeps one stack of handlers for all threads."""
    import threading

    failed, barrier = [], threading.Barrier(4)

    def bind(k):
        def fn(y):
            for i in range(20):
                numpyro.sample(f"x{k}_{i}", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(0, 1), obs=y)

        try:
            barrier.wait()
            for _ in range(3):
                assert list(lb.Model.from_numpyro(fn, {"y": Y}).sites) == [f"x{k}_{i}" for i in range(20)]
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=bind, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed


def test_the_users_precision_is_left_as_found():
    before = jax.config.jax_enable_x64
    lb.Model.from_numpyro(line, {"x": X, "y": Y})
    assert jax.config.jax_enable_x64 == before
    assert jnp.ones(1).dtype == (jnp.float64 if before else jnp.float32)


def test_tracing_compiles_nothing():
    """Neither the checks of matrices, known or traced, nor the values of labels."""

    def fn(y):
        with numpyro.plate("components", 2):
            mu = numpyro.sample("mu", dist.MultivariateNormal(jnp.zeros(2), precision_matrix=0.1 * jnp.eye(2)))
            precision = numpyro.sample("L", dist.Wishart(4.0, rate_matrix=jnp.eye(2)))
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Categorical(np.full(2, 0.5)))
            numpyro.sample("y", dist.MultivariateNormal(mu[z], precision_matrix=precision[z]), obs=y)

    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        listen := lambda event, _, **__: compiled.append(event) if "backend_compile" in event else None
    )
    try:
        model = as_model(fn, {"y": Y.reshape(3, 2)})
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled
    assert model.discrete["z"].values.tolist() == [0, 1]


def test_a_number_observed_under_a_distribution_that_asks_for_arrays():
    def model(y):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Uniform(z - 1, z + 1), obs=y)

    at = {"z": np.array(0.5)}
    number, array = (as_model(model, {"y": y}) for y in (0.2, np.array(0.2)))
    assert float(number.log_joint(at)) == float(array.log_joint(at))
