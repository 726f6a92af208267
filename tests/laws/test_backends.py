"""A family is written once: NumPy on the host, JAX in a program, compiled or not, give the same numbers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lowerbound.families import BoundProduct, GaussianBlock
from lowerbound.posterior.storage import _describe, _restore
from lowerbound.precision import float64
from tests.registry import FAMILIES, POINTS, SHAPED, Subject

gaussians = pytest.mark.parametrize("subject", FAMILIES, ids=repr)
subjects = pytest.mark.parametrize("subject", FAMILIES + SHAPED, ids=repr)
#: By default and with the slow tests: outside of a program JAX compiles every operation by itself.
SINGLY = ("dense", "diagonal", "sinh-arcsinh")
singly = pytest.mark.parametrize(
    "subject", [s if s.name in SINGLY else pytest.param(s, marks=pytest.mark.slow) for s in FAMILIES + SHAPED], ids=repr
)
everything = pytest.mark.parametrize("subject", FAMILIES + SHAPED + POINTS, ids=repr)


def _inputs(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    q = subject.block
    return rng.standard_normal((6, q.noise_dimension)), q.mean + rng.standard_normal((6, q.dimension))


def _numbers(block: Any, noise: Any, x: Any) -> dict[str, Any]:
    out = {
        "transform": block.transform(noise),
        "log_prob": block.log_prob(x),
        "entropy": block.entropy(),
        "mean": block.mean,
        "variance": block.variance(),
    }
    if hasattr(block, "whiten"):
        out["whiten"] = block.whiten(x)
    if isinstance(block, GaussianBlock):
        out |= {"log_det": block.log_det(), "covariance": block.covariance()}
    return out


def _assert_equal(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for k in a:
        np.testing.assert_allclose(np.asarray(a[k]), np.asarray(b[k]), rtol=1e-9, atol=1e-10, err_msg=k)


def _agree(subject: Subject, *, compiled: bool) -> None:
    noise, x = _inputs(subject)
    parameters = subject.family.parameters(subject.block)
    on_host = _numbers(subject.family.from_parameters(parameters), noise, x)
    assert all(isinstance(v, (np.ndarray, np.generic, float)) for v in on_host.values()), "the host left NumPy"
    with float64():
        traced = {k: jnp.asarray(v) for k, v in parameters.items()}

        def compute(phi, noise, x):
            return _numbers(subject.family.from_parameters(phi), noise, x)

        found = (jax.jit(compute) if compiled else compute)(traced, jnp.asarray(noise), jnp.asarray(x))
        assert all(v.dtype == np.float64 for v in found.values())
    _assert_equal(on_host, {k: np.asarray(v) for k, v in found.items()})


@subjects
def test_numpy_and_compiled_jax_agree(subject: Subject):
    _agree(subject, compiled=True)


@singly
def test_numpy_and_jax_outside_of_a_program_agree(subject: Subject):
    _agree(subject, compiled=False)


@subjects
def test_float32_stays_float32(subject: Subject):
    noise, x = (a.astype(np.float32) for a in _inputs(subject))
    phi = {k: jnp.asarray(np.asarray(v, np.float32)) for k, v in subject.family.parameters(subject.block).items()}
    with jax.enable_x64(False):
        got = jax.jit(lambda p, e, x: _numbers(subject.family.from_parameters(p), e, x))(phi, noise, x)
    assert {k: str(v.dtype) for k, v in got.items()} == dict.fromkeys(got, "float32")


@everything
def test_parameters_and_from_parameters_are_inverse(subject: Subject):
    q, family = subject.block, subject.family
    parameters = family.parameters(q)
    assert all(np.asarray(v).dtype == np.float64 for v in parameters.values())
    back = family.from_parameters(parameters)
    for k, v in q.arrays().items():
        np.testing.assert_allclose(back.arrays()[k], v, rtol=1e-13, atol=1e-15, err_msg=k)
    again = family.parameters(back)
    for k, v in parameters.items():
        np.testing.assert_allclose(np.asarray(again[k]), np.asarray(v), rtol=1e-12, atol=1e-13, err_msg=k)


@everything
def test_parameters_have_no_constraints(subject: Subject):
    # Any real numbers are a valid member: that is what a gradient step relies on.
    rng = np.random.default_rng(2)
    wild = {k: 3.0 * rng.standard_normal(np.shape(v)) for k, v in subject.family.parameters(subject.block).items()}
    q = subject.family.from_parameters(wild)
    variance = np.asarray(q.variance())
    assert np.isfinite(variance).all()
    if q.noise_dimension:
        assert (variance > 0).all() and np.isfinite(q.entropy())
        assert (np.linalg.eigvalsh(q.covariance()) > 0).all()


@everything
def test_storage_round_trip_is_bit_for_bit(subject: Subject):
    import io
    import json

    q = subject.block
    buffer = io.BytesIO()
    np.savez(buffer, **q.arrays())
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as file:
        back = _restore(json.loads(json.dumps(_describe(q))), dict(file))
    assert type(back) is type(q)
    assert back.arrays().keys() == q.arrays().keys()
    for k, v in q.arrays().items():
        assert np.array_equal(back.arrays()[k], v) and back.arrays()[k].dtype == v.dtype
    noise, x = _inputs(subject)
    assert np.array_equal(back.transform(noise), q.transform(noise))
    assert np.array_equal(back.log_prob(x), q.log_prob(x))


@gaussians
def test_a_zero_low_rank_factor_is_left_because_it_is_a_saddle(subject: Subject):
    # Where a build from variances has no correlations, `parameters` must not return a point with zero gradient.
    built = subject.family.build(np.zeros(subject.block.dimension), np.ones(subject.block.dimension))
    parameters = subject.family.parameters(built)
    factors = [v for k, v in parameters.items() if k.endswith("factor")]
    families = subject.family.families if isinstance(subject.family, BoundProduct) else (subject.family,)
    assert len(factors) == sum(f.name == "low_rank" for f in families)
    assert all(np.linalg.matrix_rank(f) == f.shape[1] for f in factors)
