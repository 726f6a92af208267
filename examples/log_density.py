"""A log density in plain JAX, with declared supports: change points in a Poisson rate, summed out.

Run: python examples/log_density.py
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from numpyro.distributions import constraints

import lowerbound as lb


def log_joint(rates, counts):
    """log p(counts, rates), the year of the change summed out.

    Every year of change is as probable as any other: log mean_t p(counts | rates, change at t).
    """
    n = counts.shape[0]
    log_poisson = counts * jnp.log(rates[:, None]) - rates[:, None] - gammaln(counts + 1)  # [2, n]
    before = jnp.concatenate([jnp.zeros(1), jnp.cumsum(log_poisson[0])])
    after = jnp.sum(log_poisson[1]) - jnp.concatenate([jnp.zeros(1), jnp.cumsum(log_poisson[1])])
    likelihood = jax.nn.logsumexp((before + after)[1:n]) - jnp.log(n - 1)
    prior = jnp.sum(jnp.log(0.2) - 0.2 * rates)  # Exponential(0.2) on each rate
    return prior + likelihood


def simulate() -> dict[str, np.ndarray]:
    """Sixty years of counts; the rate falls from 4 to 1 after the 25th."""
    rng = np.random.default_rng(0)
    return {"counts": rng.poisson(np.where(np.arange(60) < 25, 4.0, 1.0))}


def main() -> None:
    target = lb.LogDensity(log_joint, {"rates": lb.Site(constraints.positive, (2,))})
    posterior = lb.fit(target, simulate())
    print(posterior.summary().round(3))
    print(posterior.verdict)
    print("log evidence:", posterior.log_evidence)


if __name__ == "__main__":
    main()
