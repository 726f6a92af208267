"""Whether a household changes its well, against its distance to a safe one and the arsenic in its own.

The data are simulated here from a fixed seed, in the style of the survey of Bangladeshi wells in Gelman
and Hill, Data Analysis Using Regression and Multilevel/Hierarchical Models, section 5.4; they are in
the public domain (CC0).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

title = "Logistic regression: who changes to a safe well (simulated)"


def logistic_regression(x, switched):
    n, d = jnp.shape(x)
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 2.5))
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([d]).to_event(1))
    with numpyro.plate("household", n):
        numpyro.sample("switch", dist.Bernoulli(logits=intercept + x @ beta), obs=switched)


model = logistic_regression


def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    n = 500
    distance = rng.gamma(1.5, 0.32, n)  # 100 m
    arsenic = 0.5 + rng.gamma(1.3, 0.9, n)  # in units of 100 micrograms a litre
    education = rng.integers(0, 13, n) / 4.0  # in units of 4 years
    community = rng.integers(0, 2, n).astype(float)
    x = np.stack([distance, arsenic, education, community], axis=1).round(3)
    logits = -0.2 + x @ np.array([-0.9, 0.5, 0.17, -0.12])
    return {"x": x, "switched": (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(int)}
