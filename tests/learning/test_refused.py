"""What is refused where a model learns, or a network answers for rows; before anything is compiled."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import lowerbound as lb
from lowerbound.errors import DataError, IncompatibleError, ModelError
from lowerbound.families import Amortized

X = np.random.default_rng(0).normal(size=(40, 3))


def refused(kind, match, model, data=None, **options):
    with pytest.raises(kind, match=match):
        lb.fit(model, {"x": X} if data is None else data, progress=False, **options)


def factor_model(x):
    w = numpyro.param("w", jnp.ones(3))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("x", dist.Normal(z[:, None] * w, 1).to_event(1), obs=x)


def network(inputs: int = 3, outputs: int = 2) -> eqx.nn.Linear:
    return eqx.nn.Linear(inputs, outputs, key=jax.random.key(0))


def test_parameters_without_latents():
    def fn(x):
        numpyro.sample("x", dist.Normal(numpyro.param("m", 0.0), 1), obs=x)

    refused(ModelError, r"no latent sites.*it has parameters, m: give them priors", fn)


def test_parameters_with_discrete_latents_alone():
    def fn(x):
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Bernoulli(0.3))
            numpyro.sample("x", dist.Normal(numpyro.param("m", jnp.zeros(2))[z][:, None], 1).to_event(1), obs=x)

    match = r"parameters to learn \(m\) and discrete latents alone \(z\).*Give the parameters priors"
    refused(IncompatibleError, match, fn)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"init_value": np.array([1.0, np.nan])}, "not all finite"),
        ({"init_value": -1.0, "constraint": constraints.positive}, "not inside its constraint"),
        ({"init_value": {"a": 1.0}, "constraint": constraints.positive}, "a constraint is for one array"),
        ({"init_value": {}}, "without any numbers"),
        ({"init_value": None}, "no initial value"),
    ],
)
def test_where_parameters_start(arguments, match):
    def fn(x):
        numpyro.param("m", **arguments)
        numpyro.sample("x", dist.Normal(numpyro.sample("z", dist.Normal(0, 1)), 1), obs=x)

    refused(ModelError, match, fn)


@pytest.mark.parametrize(
    "name", ["score_regression", "sample_average", "coordinate_ascent", "stochastic_vi", "from_gaussian", "maximum"]
)
def test_algorithms_that_do_not_learn(name):
    refused(IncompatibleError, rf"{name} does not learn .* 'factor_model' has some: w", factor_model, algorithm=name)


def test_calibration_of_what_is_learned():
    with pytest.raises(IncompatibleError, match=r"has parameters \(w\) that every fit would learn anew"):
        lb.calibrate(factor_model, {"x": X}, progress=False)


@pytest.mark.parametrize("name", ["forward_kl", "chi_upper_bound", "tail_adaptive"])
def test_objectives_that_are_no_lower_bound(name):
    refused(IncompatibleError, rf"{name} is no lower bound .*parameters \(w\)", factor_model, objective=name)


def test_families_that_cannot_be_learned_with():
    refused(IncompatibleError, r"family='arrow' finds its layout", factor_model, family="arrow")
    many = {"x": np.zeros((1200, 3))}
    refused(IncompatibleError, r"family='dense' over 1,200 dimensions", factor_model, many, family="dense")


@pytest.mark.parametrize(
    ("family", "kind", "match"),
    [
        (Amortized(network(), inputs="y"), DataError, r"no array 'y' .*those with rows: x"),
        (Amortized(network(4)), IncompatibleError, r"the network raised .* on one row \(x \(3,\)\)"),
        (Amortized(network(3, 3)), IncompatibleError, r"returned \(3,\) for one row .*z \(\), so two arrays \(1,\)"),
        (Amortized(network(), site="u"), IncompatibleError, r"no latent 'u' in 'factor_model': it has z"),
    ],
)
def test_networks_that_do_not_fit_the_rows(family, kind, match):
    refused(kind, match, factor_model, family=family)


def test_what_is_no_network():
    with pytest.raises(IncompatibleError, match="something that can be called"):
        Amortized(3.0)
    with pytest.raises(IncompatibleError, match="no floating-point arrays to train"):
        Amortized(lambda x: x)


def test_batches_and_options():
    amortized, vi = Amortized(network()), lb.algorithms.AmortizedVI
    refused(
        IncompatibleError,
        r"36 rows to train on \(40 less 4 held out\)",
        factor_model,
        family=amortized,
        algorithm=vi(batch_size=37),
    )
    refused(
        IncompatibleError,
        "algorithm='gradient_vi'.*trained by",
        factor_model,
        family=amortized,
        algorithm="gradient_vi",
    )
    refused(IncompatibleError, "amortized_vi trains a network.*Amortized", factor_model, algorithm="amortized_vi")
    with pytest.raises(IncompatibleError, match="no lower bound"):
        vi(objective=lb.objectives.ForwardKL())
    with pytest.raises(IncompatibleError, match="a share of the rows"):
        vi(held_out=1.5)
    with pytest.raises(IncompatibleError, match=r"batch_size=0\): needed"):
        vi(batch_size=0)


def test_models_without_rows_of_their_own():
    def fixed(x):
        with numpyro.plate("rows", 40):
            z = numpyro.sample("z", dist.Normal(0, 1))
            numpyro.sample("x", dist.Normal(jnp.ones((1, 3)) * z[:, None], 1).to_event(1), obs=x)

    def coupled(x):
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(0, 1))
            numpyro.sample("x", dist.Normal(z[:, None], 1 + x.var()).to_event(1), obs=x)

    def none(x):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("x", dist.Normal(z, 1).expand([40, 3]).to_event(2), obs=x)

    family = Amortized(network())
    refused(IncompatibleError, "'z' is in no plate", none, family=family)
    refused(ModelError, r"has 40 rows however many the data have", fixed, family=family)
    refused(IncompatibleError, "the rows of 'coupled' are not independent", coupled, family=family)


def test_latents_that_rows_cannot_share():
    def shared(x):
        m = numpyro.sample("m", dist.Normal(0, 1))
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(m, 1))
            numpyro.sample("x", dist.Normal(z[:, None], 1).to_event(1), obs=x)

    def as_many_as_rows(x):
        m = numpyro.sample("m", dist.Normal(0, 1).expand([x.shape[0]]).to_event(1))
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(m, 1))
            numpyro.sample("x", dist.Normal(z[:, None], 1).to_event(1), obs=x)

    def summed(x):
        m = numpyro.sample("m", dist.Normal(0, 1).expand([x.shape[0]]).to_event(1))
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(jnp.ones(x.shape[0]) @ m, 1))
            numpyro.sample("x", dist.Normal(z[:, None], 1).to_event(1), obs=x)

    def labelled(x):
        m = numpyro.sample("m", dist.Normal(0, 1))
        with numpyro.plate("rows", x.shape[0]):
            k = numpyro.sample("k", dist.Bernoulli(0.5))
            z = numpyro.sample("z", dist.Normal(m + k, 1))
            numpyro.sample("x", dist.Normal(z[:, None], 1).to_event(1), obs=x)

    family, vi = Amortized(network()), lb.algorithms.AmortizedVI
    refused(
        IncompatibleError, "all rows share m, whose posterior would", shared, family=family, algorithm=vi(held_out=0.1)
    )
    refused(ModelError, "or m, outside of it, is as long as it is", as_many_as_rows, family=family)
    refused(IncompatibleError, r"cannot be evaluated on 3 of its rows.*\(m\) whose", summed, family=family)
    refused(IncompatibleError, "has discrete latents", labelled, family=family)
    with pytest.raises(IncompatibleError, match="needed: 'dense' or 'diagonal'"):
        Amortized(network(), shared="low_rank")
