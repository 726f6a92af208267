"""Stan's two ways of writing a prior that NumPyro has no single distribution for."""

from __future__ import annotations

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints


def flat(name, support=constraints.real, shape=()):
    """A parameter declared and given no prior: density 1 on its support."""
    return numpyro.sample(name, dist.ImproperUniform(support, (), shape))


def restricted(name, support, prior, shape=()):
    """``prior`` on the part of the line that ``support`` leaves, not normalised again.

    This is what ``real<lower=0> sigma; sigma ~ normal(0, 2);`` means; the constant that makes it integrate
    to one does not depend on the parameter and is left out.
    """
    value = flat(name, support, shape)
    numpyro.factor(f"{name}_prior", prior.log_prob(value).sum())
    return value


def positive_vector():
    """Independent positive elements, as one event."""
    return constraints.independent(constraints.positive, 1)
