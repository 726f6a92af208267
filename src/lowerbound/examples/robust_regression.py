"""A straight line through points of which one in ten is far off, with Student-t noise.

The degrees of freedom are learned; their prior Gamma(2, 0.1) is that of Juárez and Steel (2010),
"Model-based clustering of non-Gaussian panel data based on skew-t distributions", Journal of Business
and Economic Statistics 28. The data are simulated here from a fixed seed and are in the public domain
(CC0).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

title = "Robust regression: a line with outliers, Student-t noise (simulated)"


def robust_regression(x, y):
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 10.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 5.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    nu = numpyro.sample("nu", dist.Gamma(2.0, 0.1))
    with numpyro.plate("row", jnp.shape(y)[0]):
        numpyro.sample("point", dist.StudentT(nu, intercept + slope * x, sigma), obs=y)


model = robust_regression


def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    n = 80
    x = rng.uniform(-2.0, 2.0, n)
    y = 1.0 + 2.0 * x + 0.5 * rng.normal(size=n)
    off = rng.random(n) < 0.1
    y = np.where(off, y + rng.normal(0.0, 8.0, n), y)
    return {"x": x.round(3), "y": y.round(3)}
