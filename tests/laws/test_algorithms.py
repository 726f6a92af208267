"""What is true of every algorithm: same seed, same bits; a refusal before compilation; no second compilation."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import jax
import numpy as np
import pytest

import lowerbound as lb
from lowerbound import compilation
from lowerbound.algorithms import Info, Status
from lowerbound.errors import IncompatibleError, TrustWarning
from lowerbound.kernel import Kernel
from lowerbound.model import Model
from lowerbound.plan import choose
from tests.registry import ALGORITHMS, REFUSED, Fitter, data, log_density

fitters = pytest.mark.parametrize("fitter", ALGORITHMS, ids=repr)


@cache
def bound() -> Model:
    """The model on its data, of which everything is traced once."""
    return Model.from_log_density(log_density(), data())


def _fit(fitter: Fitter, seed: int = 0, rows: int = 0, **options) -> lb.Posterior:
    with warnings.catch_warnings():
        # Whether q is good enough is not the question here.
        warnings.simplefilter("ignore", TrustWarning)
        return lb.fit(
            Model.from_log_density(log_density(), data(rows)) if rows else bound(),
            family=fitter.family(),
            algorithm=fitter.algorithm(),
            seed=seed,
            num_draws=256,
            **options,
        )


@cache
def fitted(fitter: Fitter, seed: int = 0) -> lb.Posterior:
    return _fit(fitter, seed)


def named(name: str) -> lb.Posterior:
    return fitted(next(f for f in ALGORITHMS if f.name == name))


@fitters
def test_same_seed_same_bits_and_another_seed_others(fitter: Fitter):
    first, again = fitted(fitter), _fit(fitter)
    for k, v in first.q.arrays().items():
        assert np.array_equal(v, again.q.arrays()[k]), k
    assert np.array_equal(first.trace.elbo, again.trace.elbo, equal_nan=True)
    assert np.array_equal(first.log_weights, again.log_weights)
    assert first.log_evidence == again.log_evidence or np.isnan(first.log_evidence.value)
    other = fitted(fitter, 1)
    assert any(not np.array_equal(v, other.q.arrays()[k]) for k, v in first.q.arrays().items())


@fitters
def test_seeds_agree_on_the_answer(fitter: Fitter):
    # Different noise, the same q: to a tenth of a standard deviation, a tenth of a log standard deviation.
    first, other = fitted(fitter).q, fitted(fitter, 1).q
    sd = np.sqrt(first.variance()) if first.noise_dimension else np.full(first.dimension, 1e-2)
    assert np.abs((first.mean - other.mean) / sd).max() < 0.1
    if first.noise_dimension:
        assert np.abs(0.5 * np.log(first.variance() / other.variance())).max() < 0.1


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Every program that XLA compiles inside, ours or a stray operation outside of jit."""
    from jax._src import monitoring

    events: list[str] = []

    def listen(event: str, duration: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield events
    finally:
        monitoring.unregister_event_duration_listener(listen)


@fitters
def test_a_second_fit_of_the_same_shapes_compiles_nothing(fitter: Fitter):
    fitted(fitter).mean()
    known = set(compilation._executables)
    with compilations() as events:
        again = _fit(fitter, rows=5)
        again.mean()
    assert events == [], f"{len(events)} programs were compiled again"
    assert set(compilation._executables) == known
    assert not np.array_equal(again.q.mean, fitted(fitter).q.mean), "the new data were not used"


def test_other_shapes_do_compile():
    # The law above could hold because nothing is ever counted.
    model = lb.LogDensity(
        lambda a, y: -0.5 * (y - a @ y[: a.shape[0]]).sum() ** 2 - (a**2).sum(), {"a": lb.Site(shape=(3,))}
    )
    hits, counts = [], []
    for n in (41, 41, 43):
        with compilations() as events:
            hits.append(Kernel(Model.from_log_density(model, {"y": np.arange(float(n))})).cache_hit)
        counts.append(len(events))
    assert hits == [False, True, False]
    assert counts[0] > 0 and counts[1] == 0 and counts[2] > 0


@pytest.mark.parametrize(("algorithm", "family"), REFUSED, ids=lambda v: getattr(v, "__name__", ""))
def test_a_family_that_it_cannot_fit_is_refused_before_compilation(algorithm, family):
    with pytest.raises(IncompatibleError):
        choose(bound(), family(), algorithm())


@fitters
def test_what_it_fits_is_not_refused(fitter: Fitter):
    model = bound()
    family, algorithm = choose(model, fitter.family(), fitter.algorithm())
    assert algorithm.name == fitter.algorithm().name and family.name == fitter.family().name
    assert "\n" not in algorithm.rule() and len(algorithm.rule()) > 20


@fitters
def test_init_step_output(fitter: Fitter):
    # The contract that the loop relies on: a step count that grows in a phase, an answer once there is an ELBO.
    model = bound()
    family, algorithm = choose(model, fitter.family(), fitter.algorithm())
    kernel = Kernel(model, jacobian=fitter.algorithm().name != "maximum")
    state = algorithm.init(0, kernel, family)
    infos: list[Info] = []
    while not infos or not infos[-1].done:
        state, info = algorithm.step(state)
        infos.append(info)
        q = algorithm.output(state)
        assert q is None or (q.dimension == 5 and np.isfinite(q.mean).all())
        assert q is not None or not np.isfinite(info.elbo)
    assert all(a.step <= b.step for a, b in itertools.pairwise(infos) if a.phase == b.phase)
    assert isinstance(infos[-1].status, Status)
    assert all(i.phase for i in infos)
    assert algorithm.output(state).dimension == 5


@fitters
def test_max_steps_stops_it_and_says_so(fitter: Fitter):
    algorithm = fitter.algorithm()
    limit = 100 if algorithm.name == "gradient_vi" else 1
    posterior = _fit(dataclasses.replace(fitter, algorithm=lambda: algorithm), max_steps=limit)
    assert posterior.status is Status.MAX_STEPS
    assert not posterior.verdict.converged
    assert np.isfinite(posterior.q.mean).all()


@pytest.mark.parametrize("fitter", [f for f in ALGORITHMS if f.exact], ids=repr)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_score_regression_steps_do_not_lower_the_elbo(fitter: Fitter, seed):
    # Accepted steps may fall below the best ELBO on the same noise by at most 0.05 nats (the noise's own
    # error); nothing is compared across a change of noise, which changes what the number estimates.
    model = bound()
    family, algorithm = choose(model, fitter.family(), fitter.algorithm())
    kernel = Kernel(model)
    state = algorithm.init(seed, kernel, family)
    best, noise, accepted = -np.inf, None, 0
    while state.phase != "looking for other modes" and state.status is None:
        state, _ = algorithm.step(state)
        if state.walk is None:
            continue
        now = state.walk.current
        if now.noise is not noise:
            best, noise = now.elbo, now.noise
            continue
        accepted += now.elbo != best
        assert now.elbo >= best - 0.05 - 1e-9
        best = max(best, now.elbo)
    assert accepted >= 2


@fitters
def test_the_elbo_rises_from_start_to_end(fitter: Fitter):
    posterior = fitted(fitter)
    if not posterior.q.has_density:
        return
    trace = posterior.trace.elbo[np.isfinite(posterior.trace.elbo)]
    assert trace[-1] > trace[0] - 0.05


@fitters
def test_the_trace_and_the_posterior_speak_of_one_elbo(fitter: Fitter):
    # The trace's last number is on the fit's own noise, the posterior's on fresh draws; constants are kept in both.
    posterior = fitted(fitter)
    if not posterior.q.has_density:
        assert posterior.elbo.value == -np.inf
        return
    # Gradient VI that is stopped at 2,000 steps has had no window to measure an error in: that of 100 steps, then.
    last, se = posterior.trace.elbo[-1], np.nan_to_num(posterior.trace.elbo_se[-1], nan=0.05)
    assert abs(last - posterior.elbo.value) < 0.05 + 5 * np.hypot(se, posterior.elbo.se)


def test_gradient_vi_comes_to_rest_on_the_answer():
    # Noisy steps, but averaged and with a rate that is cut: sqrt(2 KL) below 0.1 from the exact Gaussian.
    root = np.array([[1.0, 0.0, 0.0], [-0.9, 0.4, 0.0], [0.5, 0.2, 2.0]])
    whiten = np.linalg.inv(root)

    def density(x):
        e = whiten @ (x - np.array([3.0, -1.0, 50.0]))
        return -0.5 * e @ e

    target = lb.LogDensity(density, {"x": lb.Site(shape=(3,))})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        posterior = lb.fit(target, algorithm="gradient_vi", family="dense", num_draws=128)
    assert posterior.status is Status.CONVERGED
    e, ratio = whiten @ (posterior.q.mean - [3.0, -1.0, 50.0]), whiten @ posterior.q.covariance() @ whiten.T
    kl = 0.5 * (np.trace(ratio) - 3 - np.linalg.slogdet(ratio)[1] + e @ e)
    assert np.sqrt(2 * kl) < 0.1


def test_richer_families_have_higher_bounds():
    # log p(x) >= dense >= product >= diagonal, each within the errors of the two.
    names = ("score regression, dense", "score regression, product", "score regression, diagonal")
    elbo = [named(n).elbo for n in names]
    for a, b in itertools.pairwise(elbo):
        assert a.value > b.value - 5 * np.hypot(a.se, b.se)
    evidence = named(names[0]).log_evidence
    assert evidence.value > elbo[0].value - 5 * np.hypot(evidence.se, elbo[0].se)
    # ... and dense is really better here, by more than its error: the target has correlations.
    assert elbo[0].value - elbo[2].value > 5 * np.hypot(elbo[0].se, elbo[2].se)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("score regression, diagonal", "sample average, diagonal"),
        ("score regression, product", "sample average, product"),
        ("score regression, dense", "gradient VI, dense"),
    ],
)
def test_algorithms_that_fit_the_same_family_agree(one, other):
    # One optimum, three ways to it: means within 0.15 sd, sds within 15%, bounds within 0.05 nats.
    a, b = named(one), named(other)
    sd = np.sqrt(a.q.variance())
    assert np.abs((a.q.mean - b.q.mean) / sd).max() < 0.15
    assert np.abs(np.log(b.q.variance() / a.q.variance())).max() < 0.3
    assert abs(a.elbo.value - b.elbo.value) < 0.05 + 5 * np.hypot(a.elbo.se, b.elbo.se)
