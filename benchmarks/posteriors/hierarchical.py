"""The eight schools, in the two ways of writing them."""

from __future__ import annotations

import numpyro
import numpyro.distributions as dist


def eight_schools_centered(y, sigma):
    """Effects given their scale. The joint density has no mode: it grows without bound as tau goes to 0."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([y.shape[0]]).to_event(1))
    numpyro.sample("obs", dist.Normal(theta, sigma), obs=y)


def eight_schools_noncentered(y, sigma):
    """Standardised effects, scaled afterwards."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    standard = numpyro.sample("theta_trans", dist.Normal(0, 1).expand([y.shape[0]]).to_event(1))
    theta = numpyro.deterministic("theta", mu + tau * standard)
    numpyro.sample("obs", dist.Normal(theta, sigma), obs=y)
