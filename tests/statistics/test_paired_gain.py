"""The paired gain of the importance-weighted bound, against closed forms for Gaussians."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import lowerbound as lb
from lowerbound.diagnostics import paired_gain
from lowerbound.errors import IncompatibleError
from lowerbound.families import DenseGaussian, DiagonalGaussian
from lowerbound.kernel import Kernel
from lowerbound.model import Model

LOG_EVIDENCE = 2.5


def kernel_of(density, d: int) -> Kernel:
    return Kernel(Model.from_log_density(lb.LogDensity(density, {"x": lb.Site(shape=(d,))}), {}))


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return kernel_of(lambda x: LOG_EVIDENCE - 0.5 * (x**2).sum() - 1.5 * jnp.log(2 * jnp.pi), 3)


EXACT = DiagonalGaussian(np.zeros(3), np.ones(3))
SHIFTED = DiagonalGaussian(np.array([0.4, 0.0, -0.3]), np.ones(3))
NARROW = DiagonalGaussian(np.zeros(3), np.array([0.8, 1.0, 0.6]))


def kl(q: DiagonalGaussian) -> float:
    """KL(q || N(0, I))."""
    return 0.5 * float((q.location**2 + q.scale**2 - 1 - 2 * np.log(q.scale)).sum())


@pytest.mark.parametrize(("old", "new"), [(SHIFTED, EXACT), (NARROW, EXACT), (SHIFTED, NARROW), (NARROW, SHIFTED)])
def test_one_draw_is_the_difference_of_the_divergences(kernel, old, new):
    gain = paired_gain(kernel, old, new, np.random.default_rng(0), num_groups=4000, num_draws=1)
    assert 0 < gain.se < 0.05
    assert abs(gain.value - (kl(old) - kl(new))) < 5 * gain.se


def test_sixteen_draws_gain_what_their_weights_cannot_mend(kernel):
    # Against the exact q the new bound is log p(x), so the gain is log p(x) - IW_16(old), here from other draws. For
    # a shift a, log w is normal: log w = -a'e - |a|^2 / 2, w of mean one.
    gain = paired_gain(kernel, SHIFTED, EXACT, np.random.default_rng(1), num_groups=2000)
    log_w = 0.5 * np.random.default_rng(2).standard_normal((40_000, 16)) - 0.125
    loss = -np.log(np.exp(log_w).mean(1))
    assert abs(gain.value - loss.mean()) < 5 * np.hypot(gain.se, loss.std() / 200)
    assert gain.value < 0.5 * kl(SHIFTED)


def test_the_same_q_gains_nothing_at_all(kernel):
    same = DenseGaussian(SHIFTED.location, np.diag(SHIFTED.scale))
    gain = paired_gain(kernel, SHIFTED, same, np.random.default_rng(3))
    assert abs(gain.value) < 1e-12 and gain.se < 1e-12


def test_common_noise_makes_the_error_small(kernel):
    near = DiagonalGaussian(SHIFTED.location + 0.01, SHIFTED.scale)
    gain = paired_gain(kernel, SHIFTED, near, np.random.default_rng(4), num_groups=500, num_draws=1)
    x = SHIFTED.sample(np.random.default_rng(5), 500)
    alone = (kernel(x)[0] - SHIFTED.log_prob(x)).std() / np.sqrt(500)
    assert gain.se < alone / 10


def test_other_coordinates_have_their_own_kernel(kernel):
    # Three times as wide: the density loses 3 log 3, and the exact q there is as good as here.
    other = kernel_of(
        lambda x: LOG_EVIDENCE - 0.5 * ((x / 3) ** 2).sum() - 1.5 * jnp.log(2 * jnp.pi) - 3 * jnp.log(3.0), 3
    )
    wide = DiagonalGaussian(np.zeros(3), 3 * np.ones(3))
    gain = paired_gain(kernel, EXACT, wide, np.random.default_rng(6), new_kernel=other)
    assert abs(gain.value) < 1e-10


def test_what_is_not_finite():
    half = kernel_of(lambda x: jnp.where(x[0] > 0, -0.5 * x[0] ** 2, -jnp.inf), 1)
    inside = DiagonalGaussian(np.array([30.0]), np.ones(1))
    outside = DiagonalGaussian(np.array([-30.0]), np.ones(1))
    assert paired_gain(half, inside, outside, np.random.default_rng(7)).value == -np.inf
    assert paired_gain(half, outside, inside, np.random.default_rng(7)).value == np.inf


def test_bad_arguments(kernel):
    rng = np.random.default_rng(8)
    with pytest.raises(IncompatibleError, match="a block of 2 dimensions for a log density of 3"):
        paired_gain(kernel, EXACT, DiagonalGaussian(np.zeros(2), np.ones(2)), rng)
    with pytest.raises(IncompatibleError, match="at least 2 groups"):
        paired_gain(kernel, EXACT, EXACT, rng, num_groups=1)
