"""Bad input: a clear error, by its message, before anything is compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.distributions import constraints

import lowerbound as lb
import lowerbound.fitting  # so that what it imports is patched below, and put back
from lowerbound.errors import DataError, IncompatibleError, LowerboundError, ModelError, UnknownNameError

Y = np.array([0.3, -1.2, 2.5, 0.7])


def normal(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def scaled(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def density(mu, y):
    return -0.5 * mu**2 - 0.5 * jnp.sum((y - mu) ** 2)


SITES = {"mu": lb.Site()}


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch):
    """Whatever is refused here is refused before XLA is asked for anything."""

    def fail(*_, **__):
        pytest.fail("something was compiled before the input was refused")

    monkeypatch.setattr("lowerbound.compilation.compile_lowered", fail)
    monkeypatch.setattr("lowerbound.kernel.compile_lowered", fail)


def refused(kind, pattern, model, data=None, **options):
    with pytest.raises(kind, match=pattern) as caught:
        lb.fit(model, data, **options)
    assert isinstance(caught.value, LowerboundError)
    return str(caught.value)


# -- data ------------------------------------------------------------------------------------------

DATA = {
    "empty": ({"y": np.empty(0)}, r"'y' is empty \(shape \(0,\)\)"),
    "empty columns": ({"y": np.empty((3, 0))}, r"'y' is empty \(shape \(3, 0\)\)"),
    "empty list": ({"y": []}, r"'y' is empty"),
    "NaN": ({"y": np.array([1.0, np.nan, 3.0, np.nan])}, r"'y' has 2 NaN of 4 values, the first in row 1\."),
    "infinite": ({"y": np.array([1.0, 2.0, -np.inf])}, r"'y' has 1 infinite of 3 values, the first in row 2\."),
    "NaN and infinite": (
        {"y": np.array([np.inf, np.nan])},
        r"'y' has 1 NaN and 1 infinite of 2 values, the first in row 0\.",
    ),
    "NaN in a matrix": (
        {"y": np.where(np.eye(3), np.nan, 1.0)},
        r"'y' has 3 NaN of 9 values, the first in row 0 \(index \[0, 0\]\).*mask",
    ),
    "NaN in float32": ({"y": np.array([np.nan], np.float32)}, r"'y' has 1 NaN of 1"),
    "NaN in a list": ({"y": [1.0, float("nan")]}, r"'y' has 1 NaN of 2 values, the first in row 1"),
    "NaN in a jax array": ({"y": jnp.array([1.0, jnp.nan])}, r"'y' has 1 NaN of 2"),
    "NaN alone": ({"y": float("nan")}, r"'y' is NaN"),
    "NaN in an array of no dimension": ({"y": np.array(np.nan)}, r"'y' has 1 NaN of 1"),
    "objects": ({"y": np.array([1.0, None])}, r"'y' is an array of objects \(NoneType, float\); needed: numbers"),
    "strings": ({"y": np.array(["a", "b"], object)}, r"'y' is an array of objects \(str\).*factorize"),
    "not a mapping": (Y, r"data is a ndarray; needed: a dictionary"),
    "a list": ([Y], r"data is a list; needed: a dictionary"),
    "keys": ({1: Y}, r"data has keys \[1\]; needed: strings"),
}


@pytest.mark.parametrize("data, pattern", DATA.values(), ids=DATA)
@pytest.mark.parametrize("model", [normal, lb.LogDensity(density, SITES)], ids=["numpyro", "log_density"])
def test_data(model, data, pattern):
    refused(DataError, pattern, model, data)


def test_a_frame_with_missing_values():
    import pandas as pd

    refused(DataError, r"'y' has 1 NaN of 2 values, the first in row 1", normal, pd.DataFrame({"y": [1.0, None]}))
    refused(DataError, r"'y' is an array of objects", normal, pd.DataFrame({"y": ["a", "b"]}))


def test_nested_data_are_named():
    def fn(d):
        normal(d["inner"]["y"])

    refused(DataError, r"inner.*y.* has 1 NaN", fn, {"d": {"inner": {"y": np.array([np.nan])}}})


def test_observations_from_elsewhere():
    """Data that the model closes over, or that are one number, are checked as well."""
    y = np.array([1.0, np.nan])

    def closed():
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    def number(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Poisson(jnp.exp(mu)), obs=y)

    refused(DataError, r"'y' has 1 NaN of 2 values, the first in row 1", closed)
    refused(DataError, r"'y' has 1 infinite", number, {"y": float("inf")})
    refused(DataError, r"observed 'y' has 1 of 1 values outside the support of Poisson .*: -1", number, {"y": -1})


SUPPORT = {
    "positive": (
        dist.LogNormal(0, 1),
        np.array([1.0, -2.0, 3.0]),
        r"1 of 3 values outside the support of LogNormal \(.*\), the first in row 1: -2\.0",
    ),
    "count": (dist.Poisson(2.0), np.array([1.0, 2.5]), r"1 of 2 values outside .* Poisson .*row 1: 2\.5"),
    "binary": (dist.Bernoulli(0.5), np.array([0, 1, 2]), r"1 of 3 values outside .* Bernoulli\w* .*row 2: 2"),
    "interval": (dist.Beta(2.0, 2.0), np.array([0.5, 1.5, 7.0]), r"2 of 3 values outside .* Beta .*row 1: 1\.5"),
    "simplex": (
        dist.Dirichlet(np.ones(2)),
        np.array([[0.5, 0.5], [0.5, 0.6]]),
        r"1 of 2 values outside .* Dirichlet .*row 1: \[0\.5 0\.6\]",
    ),
    "category": (
        dist.Categorical(np.ones(3) / 3),
        np.array([0, 3]),
        r"1 of 2 values outside .* Categorical\w* .*row 1: 3",
    ),
}


@pytest.mark.parametrize("likelihood, y, pattern", SUPPORT.values(), ids=SUPPORT)
@pytest.mark.parametrize("constant", [False, True], ids=["traced", "constant"])
def test_observations_outside_their_support(likelihood, y, pattern, constant):
    def fn(y):
        if constant:
            np.asarray(y)  # a NumPy function: the data become constants
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.factor("f", -(x**2))
        with numpyro.plate("n", len(y)):
            numpyro.sample("y", likelihood, obs=y)

    refused(DataError, r"observed 'y' has " + pattern, fn, {"y": y})


# -- shapes ----------------------------------------------------------------------------------------


def test_shapes_that_do_not_broadcast():
    def fn(x, y):
        b = numpyro.sample("b", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(b * x, 1), obs=y)

    refused(
        ModelError,
        r"observed 'y' has shape \(4,\), but its distribution Normal has shape \(3,\): they do not broadcast",
        fn,
        {"x": np.ones(3), "y": Y},
    )


def test_a_plate_of_another_size():
    def fn(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("rows", 3):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    refused(ModelError, r"observed 'y' has shape \(4,\).*\(3,\) \(in plate 'rows' of 3\)", fn, {"y": Y})


def test_a_column_against_a_row_counts_every_pair():
    refused(
        ModelError,
        r"observed 'y' has shape \(4, 1\).*Normal has shape \(4,\).*\(4, 4\) log probabilities.*reshape",
        normal,
        {"y": Y[:, None]},
    )


def test_a_known_parameter_is_checked_beside_one_that_is_traced():
    def negative_scale(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, -1.0), obs=y)

    def indefinite(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("y", dist.MultivariateNormal(mu, precision_matrix=np.array([[1.0, 2], [2, 1]])), obs=y)

    refused(ModelError, r"Normal distribution got invalid scale parameter", negative_scale, {"y": Y})
    refused(ModelError, r"MultivariateNormal distribution got invalid precision_matrix", indefinite, {"y": Y[:2]})


def test_an_error_inside_the_model_shows_the_data():
    def fn(x, y):
        b = numpyro.sample("b", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ b, 1), obs=y)

    refused(
        ModelError,
        r"the model raised TypeError: .*\n.*x: float64\[4, 3\], y: float64\[4\]",
        fn,
        {"x": np.ones((4, 3)), "y": Y},
    )


def test_shapes_of_a_log_density_are_shown():
    fn = lb.LogDensity(lambda mu, x, y: -jnp.sum((y - mu * x) ** 2), SITES)
    refused(ModelError, r"raised TypeError: .*\n.*x: float64\[3\], y: float64\[4\]", fn, {"x": np.ones(3), "y": Y})


# -- arguments -------------------------------------------------------------------------------------


def test_arguments_of_a_model():
    refused(ModelError, r"takes \(y\); data gave nothing\. Missing: y\.", normal)
    refused(ModelError, r"takes \(y\); data gave y, z\. Unknown: z\.", normal, {"y": Y, "z": Y})
    refused(ModelError, r"data gave z\. Missing: y\. Unknown: z\.", normal, {"z": Y})
    refused(ModelError, r"\['y'\] by position only.*Remove the", lambda y, /: normal(y), {"y": Y})
    refused(ModelError, r"Missing: y", functools.partial(normal))


def test_arguments_of_a_log_density():
    fn = lb.LogDensity(density, SITES)
    refused(ModelError, r"takes \['mu', 'y'\]; the sites are \['mu'\].* Missing data: \['y'\]", fn)
    refused(ModelError, r"Unknown data: \['z'\]", fn, {"y": Y, "z": Y})
    refused(
        ModelError,
        r"\['mu'\] are taken by name and \['tau'\] are not",
        lb.LogDensity(density, {**SITES, "tau": lb.Site()}),
        {"y": Y},
    )
    refused(ModelError, r"\['mu'\] are names of sites and of data", fn, {"mu": 1.0, "y": Y})
    refused(ModelError, r"Name its parameters after the sites", lb.LogDensity(lambda *, a: 0.0, SITES))
    refused(ModelError, r"Name its parameters after the sites", lb.LogDensity(lambda: 0.0, SITES))


@pytest.mark.parametrize("model", [None, 3, "model.py", {"mu": 1}])
def test_not_a_model(model):
    refused(ModelError, r"the model is a \w+; needed: a NumPyro model \(a function\) or a lb.LogDensity", model)


def test_a_bound_model_takes_no_data():
    model = lb.Model.from_numpyro(normal, {"y": Y})
    refused(DataError, r"bound to its data already", model, {"y": Y})


# -- latent and observed sites -----------------------------------------------------------------------


def test_no_latents():
    refused(
        ModelError,
        r"'fn' has no latent sites",
        _named(lambda y: numpyro.sample("y", dist.Normal(0, 1), obs=y)),
        {"y": Y},
    )
    refused(ModelError, r"has no sites, so there is nothing to infer.*Declare", lb.LogDensity(density, {}), {"y": Y})
    refused(ModelError, r"has no sites", lb.LogDensity(density, ["mu"]), {"y": Y})


def test_nothing_observed_for_want_of_an_argument():
    """Data that default to None and were forgotten; a model that has none to give is fitted, to its prior."""

    def fn(x, y=None):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu + 0 * x, 1), obs=y)

    refused(ModelError, r"'fn' has no observed sites.*was not given y\. Pass the data", fn, {"x": Y})


def test_discrete_latents():
    def counts(y):
        k = numpyro.sample("k", dist.Poisson(2.0))
        numpyro.sample("y", dist.Normal(k, 1), obs=y)

    def labels(y):
        k = numpyro.sample("k", dist.Categorical(np.ones(2) / 2))
        numpyro.sample("y", dist.Normal(k, 1), obs=y)

    def chosen(y):
        n = numpyro.sample("n", dist.DiscreteUniform(0, 5))
        k = numpyro.sample("k", dist.Binomial(n, 0.5))
        numpyro.sample("y", dist.Normal(k, 1), obs=y)

    def vector(y):
        k = numpyro.sample("k", dist.Multinomial(3, np.ones(2) / 2))
        numpyro.sample("y", dist.Normal(k[0], 1), obs=y)

    refused(ModelError, r"discrete latent site 'k' can take infinitely many values .*Cut it off", counts, {"y": Y})
    refused(ModelError, r"'k' takes values up to an end that another .*the widest range", chosen, {"y": Y})
    refused(ModelError, r"'k' has support .* whose values are vectors.*a Categorical for each trial", vector, {"y": Y})
    refused(IncompatibleError, r"'labels' has discrete latents alone \(k\)", labels, {"y": Y}, family="dense")
    wrong = {"k": 3}
    refused(DataError, r"init\['k'\] has 1 labels outside of \[0, 1\]", labels, {"y": Y}, init=wrong)
    refused(UnknownNameError, "unknown latent in init 'j'", labels, {"y": Y}, init={"j": 0})
    sites = {"k": lb.Site(constraints.integer_interval(0, 3))}
    refused(ModelError, r"site 'k' is discrete.*not supported yet", lb.LogDensity(lambda k: -(k**2.0), sites))


def test_two_sites_of_one_name():
    def fn(y):
        numpyro.sample("mu", dist.Normal(0, 1))
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    refused(ModelError, r"unique names.*`?mu", fn, {"y": Y})


def test_python_decisions_on_a_latent():
    def branch(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu if mu > 0 else 0.0, 1), obs=y)

    def numpy_function(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(np.exp(mu), 1), obs=y)

    for fn in (branch, numpy_function):
        refused(ModelError, r"value of a latent variable.*jnp\.where", fn, {"y": Y})
    refused(ModelError, r"jnp\.where", lb.LogDensity(lambda mu: -mu if mu > 0 else mu, SITES))


def test_supports():
    sphere = dist.ProjectedNormal(np.ones(3))

    def fn(y):
        d = numpyro.sample("direction", sphere)
        numpyro.sample("y", dist.Normal(d[0], 1), obs=y)

    refused(ModelError, r"site 'direction' has support .*no smooth bijection.*ProjectedNormalReparam", fn, {"y": Y})

    def site(support, shape=()):
        return lb.LogDensity(lambda x: -jnp.sum(x**2), {"x": lb.Site(support, shape)})

    refused(
        ModelError,
        r"site 'x' has shape \(\), but its support .* 1 dimension\(s\).*shape=\(3,\)",
        site(constraints.simplex),
    )
    refused(
        ModelError, r"site 'x' has shape \(3,\), but .* matrices.*shape=\(3, 3\)", site(constraints.corr_cholesky, (3,))
    )
    refused(
        ModelError,
        r"site 'x' has shape \(2, 3\), which .* does not admit: Input is not square",
        site(constraints.corr_cholesky, (2, 3)),
    )
    refused(ModelError, r"site 'x': support is 'positive'; needed: a numpyro constraint", site("positive"))
    refused(ModelError, r"site 'x' has shape \(0,\); needed: positive", site(constraints.real, (0,)))
    refused(ModelError, r"site 'x' has shape .*whole numbers", site(constraints.real, (2.5,)))
    refused(
        ModelError,
        r"site 'mu' is a tuple; needed: lb.Site",
        lb.LogDensity(density, {"mu": (constraints.real, ())}),
        {"y": Y},
    )
    refused(ModelError, r"LogDensity needs a function, got int", lb.LogDensity(3, SITES))


# -- what a log density returns ----------------------------------------------------------------------


RETURNS = {
    "vector": (lambda mu, y: -((y - mu) ** 2), r"returned an array of shape \(4,\); needed: a scalar.*jnp\.sum"),
    "one-element vector": (lambda mu, y: -((y[:1] - mu) ** 2), r"returned an array of shape \(1,\); needed: a scalar"),
    "int": (lambda mu, y: 0, r"returned int\w*, which has no gradient"),
    "integer array": (lambda mu, y: jnp.round(mu).astype(int), r"returned int64, which has no gradient"),
    "bool": (lambda mu, y: mu > 0, r"returned bool, which has no gradient"),
    "None": (lambda mu, y: None, r"returned NoneType; needed: a scalar"),
    "tuple": (lambda mu, y: (mu, y), r"returned tuple; needed: a scalar"),
    "string": (lambda mu, y: "x", r"returned str; needed: a scalar"),
    "complex": (lambda mu, y: mu + 1j, r"returned complex128, which has no gradient"),
}


@pytest.mark.parametrize("fn, pattern", RETURNS.values(), ids=RETURNS)
def test_what_a_log_density_returns(fn, pattern):
    refused(ModelError, pattern, lb.LogDensity(fn, SITES), {"y": Y})


# -- options -----------------------------------------------------------------------------------------

OPTIONS = {
    "family": (
        {"family": "dens"},
        UnknownNameError,
        r"unknown family 'dens'\. Did you mean 'dense'\? Known: arrow, dense, diagonal",
    ),
    "family nowhere near": ({"family": "zzz"}, UnknownNameError, r"unknown family 'zzz'\. Known: arrow, dense, "),
    "algorithm": (
        {"algorithm": "score_regresion"},
        UnknownNameError,
        r"unknown algorithm 'score_regresion'\. Did you mean 'score_regression'\? Known: amortized_vi, ",
    ),
    "family class": (
        {"family": lb.families.Dense},
        IncompatibleError,
        r"family is the class Dense; needed: an object\. Write Dense\(\)",
    ),
    "algorithm class": (
        {"algorithm": lb.algorithms.GradientVI},
        IncompatibleError,
        r"algorithm is the class GradientVI; needed: an object",
    ),
    "family of another kind": (
        {"family": 3},
        IncompatibleError,
        r"family is 3; needed: one of arrow, dense, .*lowerbound\.families",
    ),
    "algorithm as family": (
        {"family": lb.algorithms.Maximum()},
        IncompatibleError,
        r"family is Maximum.*lowerbound\.families",
    ),
    "family as algorithm": (
        {"algorithm": lb.families.Dense()},
        IncompatibleError,
        r"algorithm is Dense\(\).*lowerbound\.algorithms",
    ),
    "pair": ({"family": "dense", "algorithm": "maximum"}, IncompatibleError, r"Maximum finds a point.*'dense'"),
    "pair the other way": (
        {"family": "point_mass", "algorithm": "score_regression"},
        IncompatibleError,
        r"not point_mass.*'maximum'",
    ),
    "gradient of a point": (
        {"family": "point_mass", "algorithm": "gradient_vi"},
        IncompatibleError,
        r"a point mass has no log q",
    ),
    "sample average of a point": (
        {"family": "point_mass", "algorithm": "sample_average"},
        IncompatibleError,
        r"'maximum'",
    ),
    "seed": ({"seed": -1}, DataError, r"seed is -1; needed: a whole number, zero or more"),
    "seed as text": ({"seed": "0"}, DataError, r"seed is '0'"),
    "seed as a flag": ({"seed": True}, DataError, r"seed is True"),
    "seed as a float": ({"seed": 1.5}, DataError, r"seed is 1\.5"),
    "max_steps": ({"max_steps": 0}, DataError, r"max_steps is 0; needed: a positive whole number"),
    "max_steps as a float": ({"max_steps": 10.0}, DataError, r"max_steps is 10\.0"),
    "num_draws": ({"num_draws": 10}, DataError, r"num_draws is 10; needed: a whole number, at least 64"),
    "num_draws as text": ({"num_draws": "many"}, DataError, r"num_draws is 'many'"),
    "callback": ({"callback": 3}, DataError, r"callback is 3; needed: a function"),
}


@pytest.mark.parametrize("options, kind, pattern", OPTIONS.values(), ids=OPTIONS)
def test_options(options, kind, pattern):
    refused(kind, pattern, scaled, {"y": Y}, **options)


def test_products():
    product, dense = lb.families.Product, lb.families.Dense()

    def fails(kind, pattern, blocks):
        with pytest.raises(kind, match=pattern):
            lb.fit(scaled, {"y": Y}, family=product(blocks))

    fails(UnknownNameError, r"unknown site 'mau'\. Did you mean 'mu'\? Known: mu, sigma", {"mau": dense, ...: dense})
    fails(IncompatibleError, r"sites \['sigma'\] are in no block", {"mu": dense})
    fails(IncompatibleError, r"site 'mu' is in two blocks", {"mu": dense, ("mu", "sigma"): dense})
    fails(IncompatibleError, r"Product needs a dictionary", {})
    fails(IncompatibleError, r"Product needs a dictionary", [("mu", dense)])
    fails(IncompatibleError, r"'mu' is given 'dense'; needed: Dense\(\)", {"mu": "dense", ...: dense})
    fails(IncompatibleError, r"A point mass has no density", {"mu": lb.families.PointMass(), ...: dense})


@pytest.mark.parametrize("rank", [0, -1, 2.5, "10", True, None])
def test_ranks(rank):
    with pytest.raises(IncompatibleError, match=r"rank is .*; needed: a positive integer"):
        lb.families.LowRank(rank=rank)


def test_gradient_vi():
    vi = lb.algorithms.GradientVI
    with pytest.raises(IncompatibleError, match=r"optimizer is 'adam'; needed: an optax optimiser"):
        vi(optimizer="adam")
    with pytest.raises(IncompatibleError, match=r"optimizer is <function adam.*needed: an optax optimiser"):
        vi(optimizer=optax.adam)
    with pytest.raises(IncompatibleError, match=r"score_function gradient needs at least 2 draws.*num_samples=1"):
        vi(objective=lb.objectives.ELBO(num_samples=1), gradient=lb.gradients.ScoreFunction())
    with pytest.raises(IncompatibleError, match=r"objective is 'elbo'"):
        vi(objective="elbo")
    with pytest.raises(IncompatibleError, match=r"gradient is 'stl'"):
        vi(gradient="stl")
    for n in (0, -3, 1.5, True):
        with pytest.raises(IncompatibleError, match=r"ELBO\(num_samples=.*needed: a positive integer"):
            lb.objectives.ELBO(num_samples=n)


def test_a_tracer_as_data():
    @jax.jit
    def inside(y):
        return lb.fit(normal, {"y": y}).elbo.value

    with pytest.raises(DataError, match=r"'y' is being traced.*outside of jax\.jit"):
        inside(Y)


def _named(fn):
    fn.__name__ = "fn"
    return fn


@pytest.mark.parametrize("family", ["flow", "sinh_arcsinh", "particles", "point_mass", "arrow"])
def test_families_that_have_their_own_objective(family):
    with pytest.raises(
        IncompatibleError, match=rf"objective='renyi'.* family='{family}' is fitted by .*Leave objective"
    ):
        lb.fit(scaled, {"y": Y}, family=family, objective="renyi")


def test_an_objective_that_needs_draws():
    with pytest.raises(IncompatibleError, match=r"objective='mmd'.*lb\.objectives\.MMD\(draws\)"):
        lb.fit(scaled, {"y": Y}, objective="mmd")
