"""Every support that NumPyro's ``biject_to`` knows, as a latent site of each kind of model."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import biject_to, constraints

import lowerbound as lb
from lowerbound.errors import ModelError
from tests.model.compare import agrees_with_numpyro, round_trip

# support: (a distribution over it, or None for an improper prior; its shape; unconstrained size)
SUPPORTS = {
    "real": (constraints.real, dist.StudentT(4.0, 1.0, 2.0), (), 1),
    "real_vector": (constraints.real_vector, dist.MultivariateNormal(jnp.ones(3), 2 * jnp.eye(3)), (3,), 3),
    "real_matrix": (constraints.real_matrix, None, (2, 3), 6),
    "positive": (constraints.positive, dist.Gamma(2.0, 3.0), (), 1),
    "nonnegative": (constraints.nonnegative, None, (), 1),
    "softplus_positive": (constraints.softplus_positive, None, (), 1),
    "greater_than": (
        constraints.greater_than(-1.5),
        dist.LeftTruncatedDistribution(dist.Normal(0, 1), low=-1.5),
        (),
        1,
    ),
    "greater_than_eq": (constraints.greater_than_eq(2.0), None, (), 1),
    "pareto": (constraints.greater_than_eq(2.0), dist.Pareto(2.0, 3.0), (), 1),
    "less_than": (constraints.less_than(0.5), dist.RightTruncatedDistribution(dist.Normal(0, 1), high=0.5), (), 1),
    "less_than_eq": (constraints.less_than_eq(0.5), None, (), 1),
    "unit_interval": (constraints.unit_interval, dist.Beta(2.0, 3.0), (), 1),
    "interval": (constraints.interval(-2.0, 5.0), dist.Uniform(-2.0, 5.0), (), 1),
    "open_interval": (constraints.open_interval(-2.0, 5.0), None, (), 1),
    "truncated": (constraints.interval(-2.0, 5.0), dist.TruncatedNormal(1.0, 2.0, low=-2.0, high=5.0), (), 1),
    "circular": (constraints.circular, dist.VonMises(0.5, 2.0), (), 1),
    "l1_ball": (constraints.l1_ball, None, (3,), 3),
    "simplex": (constraints.simplex, dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])), (3,), 2),
    "zero_sum": (constraints.zero_sum(1), dist.ZeroSumNormal(1.5, event_shape=(4,)), (4,), 3),
    "zero_sum_matrix": (constraints.zero_sum(2), dist.ZeroSumNormal(1.5, event_shape=(3, 4)), (3, 4), 6),
    "ordered_vector": (constraints.ordered_vector, None, (3,), 3),
    "positive_ordered_vector": (constraints.positive_ordered_vector, None, (3,), 3),
    "corr_cholesky": (constraints.corr_cholesky, dist.LKJCholesky(3, 2.0), (3, 3), 3),
    "corr_matrix": (constraints.corr_matrix, dist.LKJ(3, 2.0), (3, 3), 3),
    "lower_cholesky": (constraints.lower_cholesky, None, (3, 3), 6),
    "softplus_lower_cholesky": (constraints.softplus_lower_cholesky, None, (3, 3), 6),
    "scaled_unit_lower_cholesky": (constraints.scaled_unit_lower_cholesky, None, (3, 3), 6),
    "positive_definite": (constraints.positive_definite, dist.Wishart(5.0, scale_matrix=jnp.eye(3)), (3, 3), 6),
    "positive_semidefinite": (constraints.positive_semidefinite, None, (3, 3), 6),
    "independent": (
        constraints.independent(constraints.positive, 1),
        dist.Gamma(2.0 * np.ones(3)).to_event(1),
        (3,),
        3,
    ),
}


def test_no_support_is_left_out():
    # complex has no real density; cat is made of others.
    covered = {type(s) for s, *_ in SUPPORTS.values()} | {type(constraints.complex), constraints._Cat}
    assert set(biject_to._registry) <= covered


@pytest.mark.parametrize("name", SUPPORTS)
def test_support(name):
    """The NumPyro model has NumPyro's density, and the log density of the same has it too."""
    support, prior, shape, size = SUPPORTS[name]
    if prior is None:
        event = support.event_dim
        prior = dist.ImproperUniform(support, shape[: len(shape) - event], shape[len(shape) - event :])

    def fn(y):
        x = numpyro.sample("x", prior)
        numpyro.sample("y", dist.Normal((x * x).sum(), 3.0), obs=y)

    def density(x, y):
        return prior.log_prob(x).sum() + dist.Normal((x * x).sum(), 3.0).log_prob(y)

    data = {"y": np.array(1.3)}
    same = lb.Model.from_log_density(lb.LogDensity(density, {"x": lb.Site(support, shape)}), data)
    model = agrees_with_numpyro(fn, data, same=same)
    assert (model.sites["x"].shape, model.dimension, same.dimension) == (shape, size, size)
    if name != "l1_ball":  # its inverse loses digits near the faces
        round_trip(model)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize(
    "name", ["positive", "unit_interval", "simplex", "corr_cholesky", "zero_sum", "positive_definite"]
)
def test_in_plates(name, batch):
    """The Jacobian of a site in plates is counted once a row (it was once counted rows squared)."""
    prior = SUPPORTS[name][1]

    def fn(y):
        from contextlib import ExitStack

        with ExitStack() as stack:
            for i, n in enumerate(reversed(batch)):
                stack.enter_context(numpyro.plate(f"p{i}", n, dim=-1 - i))
            x = numpyro.sample("x", prior)
        numpyro.sample("y", dist.Normal((x * x).sum(), 3.0), obs=y)

    model = agrees_with_numpyro(fn, {"y": np.array(1.3)})
    assert model.sites["x"].shape[: len(batch)] == batch
    round_trip(model)


def test_complex_is_refused():
    def fn(y):
        x = numpyro.sample("x", dist.ImproperUniform(constraints.complex, (), ()))
        numpyro.sample("y", dist.Normal(jnp.abs(x), 1.0), obs=y)

    with pytest.raises(ModelError, match=r"'x'.*Complex"):
        lb.Model.from_numpyro(fn, {"y": 1.0})
