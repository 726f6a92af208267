"""A NumPyro model of one's own: fit it, read the verdict, save it, hand it to ArviZ.

Run: python examples/own_model.py
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import lowerbound as lb


def reaction_times(subject, days, milliseconds, subjects):
    """Reaction time against days of sleep deprivation, with an intercept and a slope for each subject.

    Ten rows a subject say much about its coefficients, so the centred form is the better one here.
    """
    intercept = numpyro.sample("intercept", dist.Normal(250, 100))
    slope = numpyro.sample("slope", dist.Normal(0, 50))
    spread = numpyro.sample("spread", dist.HalfNormal(jnp.array([50.0, 20.0])).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(50))
    with numpyro.plate("subject", subjects):
        a = numpyro.sample("a", dist.Normal(intercept, spread[0]))
        b = numpyro.sample("b", dist.Normal(slope, spread[1]))
    numpyro.deterministic("after_a_week", a + 7 * b)
    with numpyro.plate("row", len(days)):
        numpyro.sample("time", dist.Normal(a[subject] + b[subject] * days, sigma), obs=milliseconds)


def simulate(subjects: int = 12, days: int = 10) -> dict:
    """Data from the model at known values, from a fixed seed."""
    rng = np.random.default_rng(0)
    subject = np.repeat(np.arange(subjects), days)
    day = np.tile(np.arange(days, dtype=float), subjects)
    a, b = rng.normal(250, 30, subjects), rng.normal(10, 6, subjects)
    times = a[subject] + b[subject] * day + rng.normal(0, 25, len(day))
    return {"subject": subject, "days": day, "milliseconds": times, "subjects": subjects}


def main() -> None:
    posterior = lb.fit(reaction_times, simulate())
    print(posterior.summary().loc[["intercept", "slope", "spread[0]", "spread[1]", "sigma"]].round(2))
    print(posterior.verdict)

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "reaction_times.lb"
        posterior.save(path)
        print(f"saved: {path.stat().st_size} bytes, read again: {lb.load(path)!r}")

    if importlib.util.find_spec("arviz") is None:
        print("ArviZ is not installed: pip install 'lowerbound[arviz]'")
        return
    inference_data = posterior.to_arviz(1000)
    print("for ArviZ:", dict(inference_data.posterior.sizes))


if __name__ == "__main__":
    main()
