"""Effects of coaching on test scores in eight schools, partially pooled.

The data are the estimated effects and their standard errors of Rubin (1981), "Estimation in parallel
randomized experiments", Journal of Educational Statistics 6, table 1: published numbers, free to use.
The model is that of Gelman et al., Bayesian Data Analysis, section 5.5, in its non-centred form.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

title = "Eight schools: the effect of coaching in each, partially pooled (Rubin 1981)"


def eight_schools(y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", jnp.shape(y)[0]):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("effect", dist.Normal(theta, sigma), obs=y)


model = eight_schools


def data() -> dict[str, np.ndarray]:
    return {
        "y": np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
        "sigma": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
    }
