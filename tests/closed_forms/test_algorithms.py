"""Laws of the algorithms on closed forms: bounds that never fall, the same bits, the same optimum by every road."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import lowerbound as lb
from lowerbound import algorithms
from lowerbound.algorithms.sweeps import Sweeper
from lowerbound.closed_form import factored_of
from lowerbound.fitting import as_model
from lowerbound.precision import float64
from tests.closed_forms.models import open_scale, several

SEVERAL = several()
ROWS = ("mixture", "small_mixture", "factors")


def fitted(name, algorithm, **options):
    model, data = SEVERAL[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.TrustWarning)
        return lb.fit(model, data, algorithm=algorithm, num_draws=64, **options)


@pytest.mark.parametrize("name", SEVERAL)
def test_no_sweep_lowers_the_elbo(name):
    """Plain sweeps from a random start, one by one, to rounding."""
    model, data = SEVERAL[name]
    factored = factored_of(as_model(model, data))
    sweeper = Sweeper(factored)
    rng = np.random.default_rng(3)
    with float64():
        x = [[np.asarray(n[k], float) for k in b.keys] for b in factored.blocks for n in [b.start(rng, 0.3)]]
        elbos = []
        for _ in range(40):
            x, _, elbo, proper = sweeper(x)
            assert np.asarray(proper).all()
            elbos.append(elbo)
    steps = np.diff(elbos)
    assert (steps >= -1e-10 * np.abs(elbos[-1])).all(), steps.min()
    assert elbos[-1] > elbos[0]


@pytest.mark.parametrize("name", SEVERAL)
def test_the_elbo_read_off_a_sweep_is_that_of_its_q(name):
    """The shortcut (moments times their coefficients) against the whole sum."""
    model, data = SEVERAL[name]
    factored = factored_of(as_model(model, data))
    algorithm = algorithms.CoordinateAscent(num_starts=1, max_steps=8)
    state = algorithm.init(0, factored, None)
    state, _ = algorithm.step(state)
    with float64():
        whole = float(factored.elbo([{k: jax.numpy.asarray(v) for k, v in n.items()} for n in algorithm.output(state)]))
    assert whole == pytest.approx(state.elbo, rel=1e-10)


@pytest.mark.parametrize("name", SEVERAL)
def test_extrapolation_changes_the_road_and_not_the_end(name):
    plain = fitted(name, algorithms.CoordinateAscent(accelerate=False, num_starts=1))
    fast = fitted(name, algorithms.CoordinateAscent(num_starts=1))
    assert (np.diff(fast.trace.elbo) >= -1e-9 * abs(fast.elbo.value)).all()
    assert fast.trace.elbo[-1] == pytest.approx(plain.trace.elbo[-1], abs=2e-3)


@pytest.mark.parametrize("name", ROWS)
def test_memoized_batches_come_to_the_same_optimum(name):
    whole = fitted(name, "coordinate_ascent", seed=1)  # whose starts meet the best maximum
    batches = fitted(name, algorithms.MemoizedVI(batch_size=17, tolerance=1e-10, max_steps=3000))
    assert (np.diff(batches.trace.elbo[:-1]) >= -1e-9 * abs(whole.elbo.value)).all()
    assert batches.elbo.value == pytest.approx(whole.elbo.value, abs=0.02)


@pytest.mark.parametrize("name", ROWS)
def test_stochastic_steps_come_near_the_same_optimum(name):
    whole = fitted(name, "coordinate_ascent", seed=1)
    noisy = fitted(name, algorithms.StochasticVI(batch_size=16, max_steps=60, tolerance=1e-6))
    assert noisy.elbo.value <= whole.elbo.value + 0.05
    assert noisy.elbo.value > whole.elbo.value - 0.02 * abs(whole.elbo.value)


@pytest.mark.parametrize("algorithm", ["coordinate_ascent", "memoized_vi", "stochastic_vi"])
def test_the_same_seed_gives_the_same_bits(algorithm):
    first, second = (fitted("small_mixture", algorithm, seed=5, max_steps=12) for _ in range(2))
    assert first.elbo.value == second.elbo.value
    assert (first.probabilities("z") == second.probabilities("z")).all()


def test_a_factor_without_a_closed_form_is_named_and_can_be_sampled():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((60, 3))
    data = {"x": x, "y": x @ np.array([1.0, -1.0, 0.5]) + 0.7 * rng.standard_normal(60)}
    with pytest.raises(lb.errors.IncompatibleError, match=r"factor 'y': .*sum.*models\.py:\d+ .*conjugate_computation"):
        lb.fit(open_scale, data, algorithm="coordinate_ascent")
    sampled = lb.fit(open_scale, data, algorithm="conjugate_computation")
    whole = lb.fit(open_scale, data)
    assert sampled.verdict.trusted
    assert np.abs((sampled.mean()["w"] - whole.mean()["w"]) / whole.sd()["w"]).max() < 0.1
    assert np.abs((sampled.mean()["s"] - whole.mean()["s"]) / whole.sd()["s"]) < 0.1
    assert (np.diff(sampled.trace.elbo) >= -1e-9 * abs(sampled.elbo.value)).all()


def test_sites_that_are_kept_apart_have_a_lower_bound():
    model, data = SEVERAL["automatic_relevance"]
    joint, apart = (factored_of(as_model(model, data), joined=j) for j in (True, False))
    assert len(joint.blocks) == len(apart.blocks)  # one Gaussian site: nothing to join


def test_batches_that_make_no_sense_are_refused():
    for bad in (0, -3, True):
        with pytest.raises(lb.errors.IncompatibleError, match="batch_size"):
            algorithms.StochasticVI(batch_size=bad)
    with pytest.raises(lb.errors.IncompatibleError, match="forgetting"):
        algorithms.StochasticVI(forgetting=0.4)
    with pytest.raises(lb.errors.IncompatibleError, match="no term of the model runs along the plate 'lines'"):
        fitted("mixture", algorithms.MemoizedVI(plate="lines"))
    with pytest.raises(lb.errors.IncompatibleError, match=r"Pólya–Gamma.*not linear"):
        fitted("logistic", "memoized_vi")


@pytest.mark.parametrize("seed", range(3))
def test_components_with_a_common_scale_are_found_from_any_seed(seed):
    # A scale that all components share is wide when a start begins: one component must not take every element.
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(-2, 1, 60), rng.normal(3, 1, 40)])

    def two_groups(y):
        share = numpyro.sample("share", dist.Beta(1, 1))
        with numpyro.plate("component", 2):
            mean = numpyro.sample("mean", dist.Normal(0, 10))
        sigma = numpyro.sample("sigma", dist.HalfNormal(2))
        with numpyro.plate("row", len(y)):
            z = numpyro.sample("z", dist.Bernoulli(share))
            numpyro.sample("y", dist.Normal(mean[z], sigma), obs=y)

    posterior = lb.fit(two_groups, {"y": y}, seed=seed)
    assert np.allclose(np.sort(posterior.mean()["mean"]), [-2.1, 3.1], atol=0.4)
