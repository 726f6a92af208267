"""What stands around a distribution: masks, scales, plates, expansion, broadcasting of what is observed."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

from tests.expectations.programs import Programs

N, M, K = 4, 3, 3
Y4 = np.array([0.3, -0.8, 1.9, 0.1])
Y34 = np.random.default_rng(3).standard_normal((M, N))
MASK4 = np.array([True, False, True, True])
MASK34 = Y34 > -0.4
W4 = np.array([0.5, 2.0, 1.0, 3.0])
C4 = np.array([0, 2, 1, 3])


class Latents:
    """One of each kind, of coinciding sizes."""

    def __init__(self) -> None:
        self.s = numpyro.sample("s", dist.Normal(0, 1))
        self.h = numpyro.sample("h", dist.Normal(0, 1))
        self.a = numpyro.sample("a", dist.Normal(0, 1).expand([N]).to_event(1))
        self.m = numpyro.sample("m", dist.Normal(0, 1).expand([K]).to_event(1))
        self.t = numpyro.sample("t", dist.Gamma(4.0, 3.0))
        self.tau = numpyro.sample("tau", dist.Gamma(4.0, 3.0).expand([N]).to_event(1))
        self.u = numpyro.sample("u", dist.Beta(2.0, 3.0))
        self.pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(K)))
        self.P = numpyro.sample("P", dist.Wishart(4.0, rate_matrix=jnp.eye(N)))
        with numpyro.plate("n of z", N):
            self.z = numpyro.sample("z", dist.Categorical(jnp.ones(K) / K))


def _in_plates(name, d, obs, mask=None, scale=1.0):
    d = d if mask is None else d.mask(mask)
    rows, columns = numpyro.plate(f"{name} rows", M, dim=-2), numpyro.plate(f"{name} columns", N, dim=-1)
    with rows, columns, handlers.scale(scale=scale):
        numpyro.sample(name, d, obs=obs)


def _subsampled(name, o):
    with numpyro.plate(f"{name} plate", N, subsample_size=2) as i:
        numpyro.sample(name, dist.Normal(o.a[i], 1.0), obs=jnp.asarray(Y4)[i])


def _handler_mask(name, d, obs, mask):
    with handlers.mask(mask=mask):
        numpyro.sample(name, d, obs=obs)


def _handler_scale(name, d, obs, scale):
    with handlers.scale(scale=scale):
        numpyro.sample(name, d, obs=obs)


def _nested(name, o):
    with numpyro.plate(f"{name} n", N), handlers.scale(scale=2.0), handlers.mask(mask=MASK4), handlers.scale(scale=1.5):
        numpyro.sample(name, dist.Normal(o.s, 1 / jnp.sqrt(o.t)).mask(Y4 > 0), obs=Y4)


def plain(f):
    """A site of this distribution, observed."""
    return lambda name, o: numpyro.sample(name, f(o)[0], obs=f(o)[1])


#: Sites by name; those of the second table have a bound.
EXACT = {
    "an array under a scalar": plain(lambda o: (dist.Normal(o.s, 1 / jnp.sqrt(o.t)), Y4)),
    "a matrix under a scalar": plain(lambda o: (dist.Normal(o.s, 1 / jnp.sqrt(o.t)), Y34)),
    "a matrix under a row": plain(lambda o: (dist.Normal(o.a, 1 / jnp.sqrt(o.tau)), Y34)),
    "one number under a row": plain(lambda o: (dist.Normal(o.a, 1 / jnp.sqrt(o.tau)), np.array(0.7))),
    "counts under a scalar": plain(lambda o: (dist.Poisson(o.t), C4)),
    "truths under a scalar": plain(lambda o: (dist.Bernoulli(o.u), MASK4.astype(int))),
    "categories under one simplex": plain(lambda o: (dist.Categorical(o.pi), np.array([0, 1, 1, 2]))),
    "vectors under one": plain(lambda o: (dist.MultivariateNormal(o.a, precision_matrix=o.P), Y34)),
    "expanded": plain(lambda o: (dist.Normal(o.s, 1 / jnp.sqrt(o.t)).expand([M, N]), Y34)),
    "expanded, less observed": plain(lambda o: (dist.Normal(o.s, 1 / jnp.sqrt(o.t)).expand([M, N]), Y4)),
    "expanded and an event": plain(lambda o: (dist.Normal(o.s, 1.0).expand([M, N]).to_event(2), Y34)),
    "an event, expanded": plain(lambda o: (dist.Normal(o.a, 1 / jnp.sqrt(o.tau)).to_event(1).expand([M]), Y34)),
    "an event, expanded twice": plain(
        lambda o: (dist.Normal(o.s, 1.0).expand([N]).to_event(1).expand([M]).to_event(1), Y34)
    ),
    "a column, expanded": plain(
        lambda o: (dist.Normal(o.a[:M, None], 1 / jnp.sqrt(o.tau[:M, None])).expand([M, N]), Y34)
    ),
    "a column, expanded, masked, an event": plain(
        lambda o: (dist.Normal(o.a[:M, None], 1.0).expand([M, N]).mask(MASK34).to_event(1), Y34)
    ),
    "masked": plain(lambda o: (dist.Normal(o.a, 1 / jnp.sqrt(o.tau)).mask(MASK4), Y4)),
    "masked by a row": plain(lambda o: (dist.Normal(o.a, 1.0).expand([M, N]).mask(MASK4), Y34)),
    "masked by a column": plain(lambda o: (dist.Normal(o.a, 1.0).expand([M, N]).mask(MASK34[:, :1]), Y34)),
    "masked outside of an event": plain(lambda o: (dist.Normal(o.a, 1.0).to_event(1).expand([M]).mask(MASK4[:3]), Y34)),
    "masked inside and outside": plain(
        lambda o: (dist.Normal(o.s, 1.0).expand([M, N]).mask(MASK34).to_event(1).mask(MASK4[:3]), Y34)
    ),
    "masked by nothing": plain(lambda o: (dist.Normal(o.a, 1.0).mask(False), Y4)),
    "masked by one truth": plain(lambda o: (dist.Normal(o.a, 1.0).mask(True), Y4)),
    "masked vectors": plain(
        lambda o: (dist.MultivariateNormal(o.a, precision_matrix=o.P).expand([M]).mask(MASK4[:3]), Y34)
    ),
    "the handler's mask": lambda n, o: _handler_mask(n, dist.Normal(o.a, 1 / jnp.sqrt(o.tau)), Y4, MASK4),
    "the handler's scale": lambda n, o: _handler_scale(n, dist.Normal(o.a, 1 / jnp.sqrt(o.tau)), Y4, 2.5),
    "a scale for each": lambda n, o: _handler_scale(n, dist.Normal(o.a, 1 / jnp.sqrt(o.tau)), Y4, jnp.asarray(W4)),
    "a scale for each event": lambda n, o: _handler_scale(
        n, dist.Normal(o.a, 1.0).expand([M, N]).to_event(1), Y34, jnp.asarray(W4[:M])
    ),
    "scales and masks, nested": _nested,
    "plates": lambda n, o: _in_plates(n, dist.Normal(o.a, 1 / jnp.sqrt(o.t)), Y34, MASK34, 1.5),
    "plates over a scalar": lambda n, o: _in_plates(n, dist.Normal(o.s, 1 / jnp.sqrt(o.t)), Y34),
    "a plate, subsampled": _subsampled,
    "a value that is computed": lambda n, o: _handler_mask(
        n, dist.Normal(o.a, 1.0), jnp.where(MASK4, jnp.log(jnp.where(MASK4, W4, -1.0)), jnp.nan), MASK4
    ),
    "without a rule": plain(lambda o: (dist.Weibull(o.t, 2.0), np.exp(Y4))),
    "an outcome chosen by a latent": plain(
        lambda o: (dist.Normal(o.m[o.z], 1.0).mask(MASK4), Y4),
    ),
}
BOUNDED = {
    "Student, an array under a scalar": plain(lambda o: (dist.StudentT(4.0, o.s, 1 / jnp.sqrt(o.t)), Y4)),
    "Student, a matrix under a row": plain(lambda o: (dist.StudentT(4.0, o.a, 1.0), Y34)),
    "Student, masked and an event": plain(
        lambda o: (dist.StudentT(4.0, o.a, 1.0).expand([M, N]).mask(MASK34).to_event(1), Y34)
    ),
    "Student, expanded": plain(lambda o: (dist.StudentT(3.0, o.s, 1.0).expand([M, N]), Y34)),
    "Student, a component each": plain(lambda o: (dist.StudentT(3.0, o.m[o.z], 1 / jnp.sqrt(o.t)), Y4)),
    "Laplace, an array under a scalar": plain(lambda o: (dist.Laplace(o.s, o.t), Y4)),
    "Laplace, scaled": lambda n, o: _handler_scale(n, dist.Laplace(o.a, 1.0), Y4, jnp.asarray(W4)),
    "Cauchy, plates": lambda n, o: _in_plates(n, dist.Cauchy(o.s, 1.0), Y34, MASK34, 1.5),
    "logits, an array under a scalar": plain(lambda o: (dist.Bernoulli(logits=o.s), MASK4.astype(int))),
    "logits, masked": plain(lambda o: (dist.Bernoulli(logits=o.a + o.s).mask(MASK4), (Y4 > 0) * 1)),
    "logits of a component": plain(lambda o: (dist.Bernoulli(logits=o.m[o.z]), (Y4 > 0) * 1)),
    "binomial logits": plain(lambda o: (dist.Binomial(5, logits=o.a), C4)),
    "a random weight": lambda n, o: _handler_scale(n, dist.Laplace(o.a, 1.0), Y4, o.tau),
    "a weight that it depends on": lambda n, o: _handler_scale(n, dist.StudentT(3.0, o.a, o.tau), Y4, o.tau),
    "a mask that a latent decides": plain(lambda o: (dist.StudentT(3.0, o.m[o.z], 1.0).mask(o.z == 1), Y4)),
    "a mask that a latent decides, exactly": plain(lambda o: (dist.Normal(o.m[o.z], 1.0).mask(o.z == 1), Y4)),
    "Student, what is masked is not a number": lambda n, o: _handler_mask(
        n, dist.StudentT(3.0, o.a, 1.0), jnp.where(MASK4, Y4, jnp.nan), MASK4
    ),
    "Laplace, what is masked is not a number": lambda n, o: _handler_mask(
        n, dist.Laplace(o.a, 1.0), jnp.where(MASK4, Y4, jnp.nan), MASK4
    ),
}
#: Those of the second table that may be refused.
REFUSABLE = ("a random weight", "a weight that it depends on", "a mask that a latent decides")


def model():
    o = Latents()
    for name, site in {**EXACT, **BOUNDED}.items():
        site(name, o)


@pytest.fixture(scope="module")
def programs() -> Programs:
    return Programs(model)


@pytest.mark.parametrize("name", EXACT)
def test_exact(programs, name):
    found = programs.outcome(name)
    assert found.refused is None, found
    assert not found.bound and not found.wrong, found


@pytest.mark.parametrize("name", BOUNDED)
def test_bounded(programs, name):
    found = programs.outcome(name)
    assert found.refused is None or name.startswith(REFUSABLE), found
    assert not found.wrong, found
