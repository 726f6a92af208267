"""Laws of the algorithms on closed forms: bounds that never fall, the same bits, the same optimum by every road."""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import lowerbound as lb
from lowerbound import algorithms, compilation
from lowerbound.algorithms.factored import Factored
from lowerbound.algorithms.remainder import remaining
from lowerbound.algorithms.sweeps import Sweeper
from lowerbound.closed_form import factored_of
from lowerbound.model.given import as_model
from lowerbound.precision import float64
from tests.closed_forms.models import conjugate, open_scale, several

SEVERAL = several()
ROWS = ("mixture", "small_mixture", "factors")
#: One whose starts reach the best optimum of each of these by all algorithms; several exist.
SEED = 1


@cache
def exact_elbo(name: str) -> Factored:
    model, data = SEVERAL[name]
    return factored_of(as_model(model, data))


@cache
def climbed(name: str, algorithm, seed: int = 0) -> tuple[np.ndarray, list]:
    """The ELBO step by step, and the natural parameters at the end: the algorithm alone, without a verdict."""
    state = algorithm.init(seed, exact_elbo(name), None)
    elbos = []
    while True:
        state, info = algorithm.step(state)
        elbos.append(info.elbo)
        if info.status is not None:
            return np.array(elbos), algorithm.output(state)


@pytest.mark.parametrize("name", SEVERAL)
def test_no_sweep_lowers_the_elbo(name):
    """Plain sweeps from a random start, one by one, to rounding."""
    factored = exact_elbo(name)
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
    factored = exact_elbo(name)
    algorithm = algorithms.CoordinateAscent(num_starts=1, max_steps=8)
    state = algorithm.init(0, factored, None)
    state, _ = algorithm.step(state)
    with float64():
        naturals = algorithm.output(state)
        # As lists, since keys have no order; and in one program: JAX would compile each operation by itself.
        values = [[np.asarray(n[k], float) for k in b.keys] for b, n in zip(factored.blocks, naturals, strict=True)]

        def elbo(values):
            return factored.elbo(
                [dict(zip(b.keys, v, strict=True)) for b, v in zip(factored.blocks, values, strict=True)]
            )

        whole = float(jax.jit(elbo)(values))
    assert whole == pytest.approx(state.elbo, rel=1e-10)


@pytest.mark.parametrize("name", SEVERAL)
def test_extrapolation_changes_the_road_and_not_the_end(name):
    plain, _ = climbed(name, algorithms.CoordinateAscent(accelerate=False, num_starts=1))
    fast, _ = climbed(name, algorithms.CoordinateAscent(num_starts=1))
    assert (np.diff(fast) >= -1e-9 * abs(fast[-1])).all()
    assert fast[-1] == pytest.approx(plain[-1], abs=2e-3)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "factors" else n for n in ROWS])
def test_memoized_batches_come_to_the_same_optimum(name):
    whole, _ = climbed(name, algorithms.CoordinateAscent(), SEED)
    batches, _ = climbed(name, algorithms.MemoizedVI(batch_size=17), SEED)
    assert (np.diff(batches[:-1]) >= -1e-9 * abs(whole[-1])).all()
    assert batches[-1] == pytest.approx(whole[-1], abs=0.1)


@pytest.mark.parametrize("name", ROWS)
def test_stochastic_steps_come_near_the_same_optimum(name):
    whole, _ = climbed(name, algorithms.CoordinateAscent(), SEED)
    noisy, _ = climbed(name, algorithms.StochasticVI(batch_size=16, max_steps=60, tolerance=1e-6), SEED)
    assert noisy[-1] <= whole[-1] + 0.05
    assert noisy[-1] > whole[-1] - 0.02 * abs(whole[-1])


@pytest.mark.parametrize("kind", [algorithms.CoordinateAscent, algorithms.MemoizedVI, algorithms.StochasticVI])
def test_the_same_seed_gives_the_same_bits(kind):
    runs = [climbed.__wrapped__("small_mixture", kind(max_steps=12), 5) for _ in range(2)]
    (first, one), (second, two) = runs
    assert (first == second).all()
    assert all((a[k] == b[k]).all() for a, b in zip(one, two, strict=True) for k in a)


@pytest.mark.parametrize(("rate", "steps"), [(0.5, 12), (0.9, 100), (0.999, 3000)])
def test_what_is_left_of_a_geometric_ascent_is_known(rate, steps):
    bounds = -700.0 - 30.0 * rate ** np.arange(steps)
    left = 30.0 * rate ** (steps - 1)
    assert abs(remaining(list(bounds)) - left) < 1e-3 * left


def test_what_is_left_of_an_ascent_that_has_ended_or_begun():
    assert remaining([-3.0, -3.0, -3.0]) == 0.0
    assert remaining([-3.0]) == remaining([-3.0, -2.0]) == remaining([-3.0, -2.5, -2.0, -1.5, -1.0]) == np.inf


def test_a_slow_ascent_does_not_end_early():
    """Two latents that explain one sum, kept apart: sweeps gain little, and the optimum is far."""

    def model(y):
        a = numpyro.sample("a", dist.Normal(0, 1))
        b = numpyro.sample("b", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(a + b, 0.03).expand([4]).to_event(1), obs=y)

    f = factored_of(as_model(model, {"y": np.full(4, 3.0)}), joined=False)
    ends = []
    for tolerance in (1e-6, 1e-14):
        algorithm = algorithms.CoordinateAscent(joined=False, accelerate=False, tolerance=tolerance, num_starts=1)
        state = algorithm.init(0, f, None)
        while True:
            state, info = algorithm.step(state)
            if info.status is not None:
                break
        ends.append(info.elbo)
    assert abs(ends[0] - ends[1]) < 2e-6 * abs(ends[1])


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
    """A slope and an intercept are correlated in the posterior: one block has them so, two have not."""
    model, data, evidence = conjugate()["gaussian_regression"]
    found = {}
    for joined in (True, False):
        factored = factored_of(as_model(model, data), joined=joined)
        algorithm = algorithms.CoordinateAscent(joined=joined)
        state = algorithm.init(0, factored, None)
        for _ in range(50):
            state, _ = algorithm.step(state)
        found[joined] = len(factored.blocks), state.elbo
    assert [n for n, _ in found.values()] == [1, 2]
    assert found[True][1] == pytest.approx(evidence, rel=1e-9)
    assert found[False][1] < evidence - 1e-4


def test_batches_that_make_no_sense_are_refused():
    for bad in (0, -3, True):
        with pytest.raises(lb.errors.IncompatibleError, match="batch_size"):
            algorithms.StochasticVI(batch_size=bad)
    with pytest.raises(lb.errors.IncompatibleError, match="forgetting"):
        algorithms.StochasticVI(forgetting=0.4)
    with pytest.raises(lb.errors.IncompatibleError, match="no term of the model runs along the plate 'lines'"):
        climbed("mixture", algorithms.MemoizedVI(plate="lines"))
    with pytest.raises(lb.errors.IncompatibleError, match=r"Pólya–Gamma.*not linear"):
        climbed("logistic", algorithms.MemoizedVI())


def test_a_compiler_without_the_shorter_way_is_asked_for_the_longer(monkeypatch):
    monkeypatch.setattr(compilation, "_DIRECT", {"xla_no_such_option": True})
    with float64():
        program, known = compilation.compile_once(lambda x: 3.0 * x + 0.25, np.zeros(5), direct=True)
        assert not known
        np.testing.assert_array_equal(program(np.arange(5.0)), 3.0 * np.arange(5.0) + 0.25)
