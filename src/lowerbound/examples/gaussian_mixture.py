"""Waiting times between eruptions, a mixture of two Gaussians with the assignments summed out.

The means are ordered, so that the two components cannot trade places. The data are simulated here from
a fixed seed, with proportions like those of the Old Faithful geyser (Azzalini and Bowman 1990); they
are in the public domain (CC0).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

title = "Gaussian mixture: waiting times, assignments summed out (simulated)"


def gaussian_mixture(waiting):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([2.0, 2.0])))
    ordered = dist.TransformedDistribution(
        dist.Normal(jnp.array([60.0, 3.0]), jnp.array([20.0, 1.0])).to_event(1), dist.transforms.OrderedTransform()
    )  # the second is the logarithm of the distance between the two
    means = numpyro.sample("means", ordered)
    sds = numpyro.sample("sds", dist.LogNormal(2.0, 0.5).expand([2]).to_event(1))
    mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), dist.Normal(means, sds))
    with numpyro.plate("row", jnp.shape(waiting)[0]):
        numpyro.sample("wait", mixture, obs=waiting)


model = gaussian_mixture


def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    n = 250
    long = rng.random(n) < 0.64
    waiting = np.where(long, rng.normal(80.0, 6.0, n), rng.normal(54.5, 6.0, n))  # minutes
    return {"waiting": waiting.round(0)}
