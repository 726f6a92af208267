"""Mass in an image of q: what no search has met is seen where it is the mirror image, or a relabelling, of what was."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import lowerbound as lb

X = np.array([-4.0, -3.5, -5.0, 4.0, 4.5, 3.0])


def components(x, alpha, location):
    w = numpyro.sample("w", dist.Dirichlet(alpha))
    m = numpyro.sample("m", dist.Normal(location, 5.0).to_event(1))
    with numpyro.plate("row", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(m[z], 1.0), obs=x)


@pytest.mark.parametrize("alpha, location", [([1.0, 1.0], [-1.0, 1.0]), ([1.0, 6.0], [0.0, 0.0])])
@pytest.mark.filterwarnings("ignore::lowerbound.errors.TrustWarning")
def test_a_prior_that_tells_components_apart_a_little(alpha, location):
    posterior = lb.fit(components, {"x": X, "alpha": np.array(alpha), "location": np.array(location)})
    assert posterior.verdict.status is lb.VerdictStatus.NOT_TRUSTED
    assert posterior.verdict.sentence.startswith("Another mode was missed")
    assert posterior.evidence.upper is None


def test_labellings_that_are_counted_are_none():
    posterior = lb.fit(components, {"x": X, "alpha": np.ones(2), "location": np.zeros(2)})
    assert posterior.verdict.trusted, posterior.verdict


@pytest.mark.filterwarnings("ignore::lowerbound.errors.TrustWarning")
def test_loadings_and_factors_of_the_other_sign():
    def factor(x):
        w = numpyro.sample("w", dist.Normal(np.zeros(2), 1).to_event(1))
        with numpyro.plate("row", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(0, 1))
            numpyro.sample("x", dist.Normal(z[:, None] * w, 1.0).to_event(1), obs=x)

    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 1)) * np.array([1.5, -1.0]) + rng.normal(size=(40, 2))
    verdict = lb.fit(factor, {"x": x}).verdict
    # Half of the mass has the other sign: q knows both halves, or it is said.
    assert len(verdict.modes) == 2 or verdict.sentence.startswith("Another mode was missed: w, z of the other sign")


def test_a_posterior_that_is_its_own_image_has_nothing_missing():
    def model(y):
        a = numpyro.sample("a", dist.Normal(0, 1))
        b = numpyro.sample("b", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(a + b, 1.0), obs=y)

    assert lb.fit(model, {"y": 0.3}).verdict.status is lb.VerdictStatus.TRUSTED
