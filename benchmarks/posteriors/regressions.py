"""Linear regressions, most of them in raw units and with flat priors."""

from __future__ import annotations

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from benchmarks.posteriors.priors import flat, restricted


def earn_height(earn, height):
    """Earnings in dollars on height in inches, neither centred nor scaled."""
    beta = flat("beta", constraints.real_vector, (2,))
    sigma = flat("sigma", constraints.positive)
    numpyro.sample("obs", dist.Normal(beta[0] + beta[1] * height, sigma), obs=earn)


def logearn_interaction_z(earn, height, male):
    """Log earnings on standardised height, sex and their product."""
    z = (height - jnp.mean(height)) / jnp.std(height, ddof=1)
    beta = flat("beta", constraints.real_vector, (4,))
    sigma = flat("sigma", constraints.positive)
    mean = beta[0] + beta[1] * z + beta[2] * male + beta[3] * z * male
    numpyro.sample("obs", dist.Normal(mean, sigma), obs=jnp.log(earn))


def kidscore_interaction(kid_score, mom_hs, mom_iq):
    """Test scores on the mother's schooling, IQ and their product: almost collinear in raw units."""
    beta = flat("beta", constraints.real_vector, (4,))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    mean = beta[0] + beta[1] * mom_hs + beta[2] * mom_iq + beta[3] * mom_hs * mom_iq
    numpyro.sample("obs", dist.Normal(mean, sigma), obs=kid_score)


def sblrc(X, y):
    """Five correlated regressors."""
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10))
    numpyro.sample("obs", dist.Normal(X @ beta, sigma), obs=y)


def diamonds(X, Y):
    """Log price of 5,000 diamonds on 24 columns that are nearly collinear (written by brms)."""
    centred = X[:, 1:] - jnp.mean(X[:, 1:], axis=0)
    b = numpyro.sample("b", dist.Normal(0, 1).expand([X.shape[1] - 1]).to_event(1))
    intercept = numpyro.sample("Intercept", dist.StudentT(3, 8, 10))
    sigma = restricted("sigma", constraints.positive, dist.StudentT(3.0, 0.0, 10.0))
    numpyro.sample("obs", dist.Normal(intercept + centred @ b, sigma), obs=Y)
