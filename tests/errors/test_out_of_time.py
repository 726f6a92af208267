"""max_seconds: the answer so far, called what it is."""

from __future__ import annotations

import time

import jax.numpy as jnp
import numpy as np
import pytest

import lowerbound as lb
from lowerbound.diagnostics.verdict import VerdictStatus
from lowerbound.errors import DataError, TrustWarning
from lowerbound.kernel import Kernel
from lowerbound.model import Model

TARGET = lb.LogDensity(lambda x: -jnp.sum(jnp.cosh(x)) + 0.3 * jnp.sum(jnp.sin(3 * x)), {"x": lb.Site(shape=(4,))})


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), "ten", True, [1.0]])
def test_not_a_number_of_seconds(bad):
    with pytest.raises(DataError, match=r"max_seconds is .*; needed: a positive number of seconds"):
        lb.fit(TARGET, max_seconds=bad)


def test_out_of_time_is_no_answer(monkeypatch):
    """From the first step that has a q, the clock says that the time is over."""
    monkeypatch.setattr(Kernel, "late", property(lambda self: self.waiting.deadline is not None))
    with pytest.warns(TrustWarning, match="allow more max_seconds"):
        posterior = lb.fit(TARGET, max_seconds=1000.0)
    assert posterior.status is lb.Status.OUT_OF_TIME and "max_seconds" in posterior.status.sentence
    verdict = posterior.verdict
    assert verdict.status is VerdictStatus.NOT_TRUSTED and verdict.fatal
    assert posterior.trials == () and posterior.source == "q" and np.isnan(verdict.r_hat)
    assert posterior.sample(10)["x"].shape == (10, 4)
    # It has ended long before the fit without a limit does.
    assert posterior.counts["steps"] <= lb.fit(TARGET).counts["steps"]


def test_enough_time_changes_nothing():
    with_limit, without = lb.fit(TARGET, max_seconds=1e6), lb.fit(TARGET)
    np.testing.assert_array_equal(with_limit.q.mean, without.q.mean)
    assert with_limit.status is without.status
    assert repr(with_limit.verdict) == repr(without.verdict)


def test_late_is_after_the_deadline():
    kernel = Kernel(Model.from_log_density(TARGET))
    assert not kernel.late
    kernel.deadline = time.monotonic() + 1000
    assert not kernel.late
    kernel.deadline = time.monotonic() - 1
    assert kernel.late
