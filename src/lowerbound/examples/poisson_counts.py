"""Counts of accidents at 20 crossings over several years, with traffic as the exposure.

A hierarchical Poisson regression: each crossing has a rate of its own, drawn around what its speed
limit predicts. The data are simulated here from a fixed seed and are in the public domain (CC0).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

title = "Hierarchical Poisson regression: accidents at crossings, with exposure (simulated)"


def poisson_counts(crossing, speed, exposure, count):
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 2.0))
    b_speed = numpyro.sample("b_speed", dist.Normal(0.0, 1.0))
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    with numpyro.plate("crossings", jnp.shape(speed)[0]):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        log_rate = intercept + b_speed * speed + spread * z
        numpyro.deterministic("log_rate", log_rate)
    with numpyro.plate("row", jnp.shape(count)[0]):
        numpyro.sample("accidents", dist.Poisson(exposure * jnp.exp(log_rate[crossing])), obs=count)


model = poisson_counts


def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    crossings, years = 20, 6
    speed = (rng.choice([30, 50, 70, 100], crossings) - 50) / 20.0  # in 20 km/h above 50
    log_rate = 0.3 + 0.4 * speed + 0.5 * rng.normal(size=crossings)
    crossing = np.repeat(np.arange(crossings), years)
    exposure = rng.gamma(8.0, 0.25, crossings * years).round(3)  # million vehicles
    count = rng.poisson(exposure * np.exp(log_rate[crossing]))
    return {"crossing": crossing, "speed": speed, "exposure": exposure, "count": count}
