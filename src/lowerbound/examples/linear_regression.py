"""Yearly earnings against height, years of education and sex, all in raw units.

Nothing is centred or scaled: the intercept is the earnings of a person of height zero, far outside the
data and strongly correlated with the slope, and the coefficients span five orders of magnitude.
The data are simulated here from a fixed seed, in the style of the earnings surveys used in teaching
regression; they are in the public domain (CC0).
"""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist

title = "Linear regression: earnings on height, education and sex, in raw units (simulated)"


def linear_regression(height, education, male, earnings):
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 200_000.0))
    b_height = numpyro.sample("b_height", dist.Normal(0.0, 2_000.0))
    b_education = numpyro.sample("b_education", dist.Normal(0.0, 10_000.0))
    b_male = numpyro.sample("b_male", dist.Normal(0.0, 50_000.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(50_000.0))
    mean = intercept + b_height * height + b_education * education + b_male * male
    with numpyro.plate("person", len(earnings)):
        numpyro.sample("earning", dist.Normal(mean, sigma), obs=earnings)


model = linear_regression


def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    n = 400
    male = rng.integers(0, 2, n).astype(float)
    height = np.round(rng.normal(163.0 + 13.0 * male, 7.0), 1)  # cm
    education = np.clip(np.round(rng.normal(13.5, 2.5, n)), 8, 20)  # years
    mean = -45_000.0 + 250.0 * height + 2_500.0 * education + 8_000.0 * male
    earnings = np.round(rng.normal(mean, 15_000.0), -2)  # a year
    return {"height": height, "education": education, "male": male, "earnings": earnings}
