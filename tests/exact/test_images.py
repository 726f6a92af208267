"""An image of q that has mass becomes a mode: by enumeration of all assignments, and by quadrature."""

from __future__ import annotations

import itertools

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import gammaln, logsumexp
from scipy.stats import multivariate_normal, norm

import lowerbound as lb
from lowerbound.algorithms.base import Mode
from lowerbound.diagnostics.chains.hamiltonian import Walkers
from lowerbound.diagnostics.modes.image_modes import image_modes, recognised
from lowerbound.diagnostics.modes.images import Images
from lowerbound.diagnostics.weights.importance import weigh
from lowerbound.diagnostics.weights.proposals import Component, Fold
from lowerbound.families import DenseGaussian
from lowerbound.kernel import Kernel
from lowerbound.model.sites import SiteMap

X = np.array([-4.0, -3.5, -5.0, 4.0, 4.5, 3.0])
THREE = np.array([-6.0, -6.5, -5.7, 0.1, 0.3, 6.0, 5.8])
SD = 5.0


def components(x, alpha, location):
    w = numpyro.sample("w", dist.Dirichlet(alpha))
    m = numpyro.sample("m", dist.Normal(location, SD).to_event(1))
    with numpyro.plate("row", len(x)):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(m[z], 1.0), obs=x)


def enumerated(x, alpha, location):
    """log p(x), mean and sd of m: given z the weights integrate to gamma functions, and the means to Gaussians."""
    k, n, logs, means, variances = len(alpha), len(x), [], [], []
    for z in itertools.product(range(k), repeat=n):
        z = np.array(z)
        c = np.bincount(z, minlength=k)
        prior = gammaln(alpha.sum()) - gammaln(alpha.sum() + n) + (gammaln(alpha + c) - gammaln(alpha)).sum()
        same = np.equal.outer(z, z).astype(float)
        logs.append(prior + multivariate_normal(location[z], SD**2 * same + np.eye(n)).logpdf(x))
        variances.append(1 / (SD**-2 + c))
        means.append(variances[-1] * (location / SD**2 + np.bincount(z, x, k)))
    p, means, variances = np.exp(np.array(logs) - logsumexp(logs)), np.array(means), np.array(variances)
    return logsumexp(logs), p @ means, np.sqrt(p @ (variances + means**2) - (p @ means) ** 2)


def agrees(posterior, truth):
    total, mean, sd = truth
    assert posterior.verdict.trusted, posterior.verdict
    found = posterior.log_evidence
    assert abs(found.value - total) < 5 * found.se + 1e-3 and found.se < 0.02
    np.testing.assert_allclose((posterior.mean()["m"] - mean) / sd, 0.0, atol=0.06)
    np.testing.assert_allclose(np.log(posterior.sd()["m"] / sd), 0.0, atol=0.06)


@pytest.mark.parametrize("alpha, location", [([1.0, 1.0], [-1.0, 1.0]), ([1.0, 6.0], [0.0, 0.0])])
def test_a_prior_that_tells_components_apart_a_little(alpha, location):
    alpha, location = np.array(alpha), np.array(location)
    posterior = lb.fit(components, {"x": X, "alpha": alpha, "location": location})
    agrees(posterior, enumerated(X, alpha, location))
    # Where the assignments are certain the masses of the two are those of the two.
    if location.any():
        by_order = norm.logpdf([-4.1, 3.8], location, SD).sum() - norm.logpdf([3.8, -4.1], location, SD).sum()
        assert max(posterior.verdict.modes) == pytest.approx(1 / (1 + np.exp(-by_order)), abs=0.02)
    assert len(posterior.verdict.modes) == 2
    said = [r for r in posterior.verdict.reasons if r.startswith("a mode is q with components 0 and 1 of ")]
    assert len(said) == 1 and "m exchanged" in said[0]


@pytest.mark.slow
def test_six_labellings_of_three_components_as_a_mixture():
    alpha, location = np.ones(3), np.array([-0.5, 0.0, 0.5])
    posterior = lb.fit(components, {"x": THREE, "alpha": alpha, "location": location}, family="dense", escalate=True)
    assert posterior.family_name == "mixture" and len(posterior.verdict.modes) == 6
    agrees(posterior, enumerated(THREE, alpha, location))


def test_labellings_that_are_counted_are_no_modes():
    # One of three told apart: each of its places is a mode, and the labellings of the others are counted.
    alpha, location = np.array([1.0, 1.0, 2.0]), np.zeros(3)
    posterior = lb.fit(components, {"x": THREE, "alpha": alpha, "location": location})
    assert posterior.verdict.trusted, posterior.verdict
    # Given certain assignments the mass is as alpha + n is of the cluster at the last place: 3, 2 and 2 rows.
    np.testing.assert_allclose(sorted(posterior.verdict.modes), [0.3, 0.3, 0.4], atol=0.02)
    found = posterior.log_evidence
    assert abs(found.value - enumerated(THREE, alpha, location)[0]) < 5 * found.se + 1e-3


def factor(x, location):
    w = numpyro.sample("w", dist.Normal(location, 1).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("x", dist.Normal(z[:, None] * w, 1.0).to_event(1), obs=x)


def by_quadrature(x, location):
    """log p(x), E[w] and P(w_0 > 0): with z integrated out a row is N(0, I + w w')."""
    g = np.linspace(-6, 6, 401)
    a, b = np.meshgrid(g, g, indexing="ij")
    s, d, n = x.T @ x, 1 + a**2 + b**2, len(x)
    square = s[0, 0] + s[1, 1] - (a * a * s[0, 0] + 2 * a * b * s[0, 1] + b * b * s[1, 1]) / d
    log_p = -n * np.log(2 * np.pi) - 0.5 * n * np.log(d) - 0.5 * square
    log_p = log_p + norm.logpdf(a, location[0], 1) + norm.logpdf(b, location[1], 1)
    p = np.exp(log_p - logsumexp(log_p))
    return logsumexp(log_p) + 2 * np.log(g[1] - g[0]), np.array([(p * a).sum(), (p * b).sum()]), p[a > 0].sum()


@pytest.mark.parametrize(
    "options",
    [{}, {"algorithm": "coordinate_ascent"}, pytest.param({"family": "diagonal"}, marks=pytest.mark.slow)],
    ids=["default", "coordinate_ascent", "diagonal"],
)
def test_loadings_and_factors_of_the_other_sign(options):
    rng, location = np.random.default_rng(1), np.array([0.3, 0.0])
    x = rng.normal(size=(40, 1)) * np.array([1.5, -1.0]) + rng.normal(size=(40, 2))
    total, mean, positive = by_quadrature(x, location)
    posterior = lb.fit(factor, {"x": x, "location": location}, **options)
    verdict, found = posterior.verdict, posterior.log_evidence
    assert verdict.trusted, verdict
    assert max(verdict.modes) == pytest.approx(positive, abs=0.03) and len(verdict.modes) == 2
    assert abs(found.value - total) < 5 * found.se + 1e-3 and found.se < 0.1
    np.testing.assert_allclose(posterior.mean()["w"], mean, atol=0.06 * 1.2)


def test_a_posterior_that_is_its_own_image_has_nothing_missing():
    def model(y):
        a = numpyro.sample("a", dist.Normal(0, 1))
        b = numpyro.sample("b", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(a + b, 1.0), obs=y)

    verdict = lb.fit(model, {"y": 0.3}).verdict
    assert verdict.status is lb.VerdictStatus.TRUSTED and verdict.modes == (1.0,)


def product(y):
    a = numpyro.sample("a", dist.Normal(0.1, 1))
    b = numpyro.sample("b", dist.Normal(0, 1))
    c = numpyro.sample("c", dist.Normal(0, 1))
    numpyro.sample("ab", dist.Normal(a * b, 0.05), obs=y)
    numpyro.sample("cc", dist.Normal(c * c, 0.05), obs=y)


@pytest.fixture(scope="module")
def one_of_four():
    """A density with four modes, a Gaussian at one of them, and its images."""
    kernel = Kernel(lb.Model.from_numpyro(product, {"y": 2.0}))
    q = DenseGaussian(np.full(3, np.sqrt(2.0)), np.diag([0.4, 0.4, 0.02]))
    sites = SiteMap(kernel.model.sites, kernel.model.deterministics, kernel.model)
    return kernel, q, Images(kernel, sites, q, 0)


def test_modes_grow_as_the_group_of_the_images(one_of_four):
    kernel, q, images = one_of_four

    def again(modes):
        fold = Fold.of(q, modes)
        return weigh(kernel, q, modes, np.random.default_rng(0), rounds=1, fold=fold)

    first = again([])
    missed = images.missed(first, [q])
    assert missed[0].share > 0.4
    found = image_modes(images, missed, q, [], first.elbo, again)
    signs = {tuple(np.sign(m.mean).astype(int)) for m in found}
    assert signs == {(-1, -1, 1), (1, 1, -1), (-1, -1, -1)} and all(m.separate and m.image for m in found)
    assert not images.missed(again(found), [q, *(m.gaussian for m in found)])
    # Those that a search met are known to be images too; and what these generate is added.
    met = recognised(images, q, [m._replace(image="", moves=()) for m in found])
    for mode in met:
        x = np.asarray(q.mean)[None]
        for move in mode.moves:
            x = move(x)[0]
        assert mode.gaussian.whiten(x).max() < 6
    two = [m for m in met if len(m.moves) == 1][:2]
    assert len(image_modes(images, [], q, two, first.elbo, again)) == 1


def test_an_image_has_the_density_of_the_draws_moved():
    def move(x):  # an involution that stretches
        return np.column_stack([np.sinh(-np.arcsinh(x[:, 0])), 1 / x[:, 1], -x[:, 2]]), -2 * np.log(np.abs(x[:, 1]))

    c = Component(DenseGaussian(np.array([0.3, 2.0, 1.0]), 0.1 * np.eye(3)), None, (move,))
    y = c.draw(np.random.default_rng(0), 4000)
    edges = np.quantile(y[:, 1], [0.2, 0.8])
    # By the trapezium rule: the density of 1 / x, x ~ N(2, 0.1), at the other coordinates' centre.
    t = np.linspace(*edges, 2001)
    at = np.column_stack([np.full(2001, -0.3), t, np.full(2001, -1.0)])
    centre = 2 * norm.logpdf(0, scale=0.1)
    mass = np.trapezoid(np.exp(c.log_prob(at) - centre), t)
    assert abs(mass - 0.6) < 5 * np.sqrt(0.24 / 4000)


def test_chains_are_led_between_modes_of_different_mass(one_of_four):
    kernel, q, images = one_of_four
    moves = tuple(dict(images.all)[said] for said in ("a, b of the other sign", "c of the other sign"))
    x = q.sample(np.random.default_rng(1), kernel.batch)
    walkers = Walkers(kernel, np.random.default_rng(2), x, q, moves)
    walkers.pace(0.9, 24)
    for _ in range(40):
        walkers.transition(adapt=True)
    walkers.begin()
    states = np.stack([walkers.transition(adapt=False) for _ in range(150)])
    # p(a, b) / p(-a, -b) = exp(0.2 a), and |a| has the density of both signs together.
    g = np.linspace(-5, 5, 2001)
    a, b = np.meshgrid(g, g, indexing="ij")
    p = np.exp(norm.logpdf(a, 0.1, 1) + norm.logpdf(b) + norm.logpdf(2.0, a * b, 0.05))
    each = (states[..., 0] > 0).mean(0)
    assert abs(each.mean() - p[a > 0].sum() / p.sum()) < 5 * each.std() / np.sqrt(len(each))
    other = (states[..., 2] > 0).mean(0)
    assert abs(other.mean() - 0.5) < 5 * other.std() / np.sqrt(len(other))


def test_modes_that_no_image_leads_to_are_not_folded(one_of_four):
    _, q, _ = one_of_four
    mode = Mode(np.zeros(3), np.eye(3), 0.0)
    assert Fold.of(q, [mode]) is None and Fold.of(q, []) is None
