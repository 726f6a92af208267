"""A density that does not return is given up, by name; one that is merely slow is not."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

import lowerbound as lb
from lowerbound.errors import NotRespondingError
from lowerbound.kernel import Kernel
from lowerbound.model.given import as_model
from lowerbound.waiting import Waiting


def kernel(**options):
    return Kernel(as_model(lb.LogDensity(lambda x: -0.5 * x**2, {"x": lb.Site()})), **options)


def test_without_a_deadline_nothing_runs_elsewhere():
    seen = []
    Waiting("a call")(lambda: seen.append(threading.current_thread()))
    assert seen == [threading.current_thread()]


def test_the_same_numbers_with_a_deadline():
    k = kernel()
    x = np.linspace(-3, 3, 200)[:, None]
    plain = k(x)
    k.deadline = time.monotonic() + 100
    for a, b in zip(plain, k(x), strict=True):
        np.testing.assert_array_equal(a, b)
    assert k(np.empty((0, 1)))[1].shape == (0, 1)
    assert k.waiting.calls == 4


def test_an_error_is_passed_on():
    with pytest.raises(ZeroDivisionError):
        Waiting("a call", time.monotonic() + 100)(lambda: 1 / 0)


def test_a_python_loop_is_stopped():
    ended = threading.Event()

    def loop():
        try:
            while True:
                pass
        finally:
            ended.set()

    with pytest.raises(
        NotRespondingError, match=r"the model has not returned after .*Python loop, and has been stopped"
    ):
        Waiting("the model", time.monotonic())(loop)
    assert ended.wait(10)


def test_what_cannot_be_stopped_is_said_to_go_on():
    release = threading.Event()
    with pytest.raises(NotRespondingError, match=r"it was the first call.*goes on in the background.*max_seconds"):
        Waiting("the model", time.monotonic())(release.wait)
    release.set()


def test_a_call_after_the_deadline_still_has_its_time():
    w = Waiting("a call", time.monotonic() - 100)
    assert w(lambda: 3) == 3
    w.longest = 1.0  # so it has ten seconds, not one
    assert w(lambda: time.sleep(1.2)) is None
    assert w.calls == 2


def test_earlier_calls_are_told():
    w = Waiting("a call", time.monotonic())
    w(lambda: None)
    release = threading.Event()
    with pytest.raises(NotRespondingError, match="the longest of the 1 calls before it"):
        w(release.wait)
    release.set()


def test_a_model_that_never_ends_while_it_is_traced():
    def density(x):
        while density.hangs:
            pass
        return -0.5 * x**2

    density.hangs = False
    model = as_model(lb.LogDensity(density, {"x": lb.Site()}))
    density.hangs = True
    with pytest.raises(NotRespondingError, match=r"compilation of 'density' has not returned.*has been stopped"):
        Kernel(model, deadline=time.monotonic())
    density.hangs = False
    assert Kernel(model, deadline=time.monotonic() + 100)(np.zeros((1, 1)))[0] == 0  # nothing is left locked


def _run(body):
    script = textwrap.dedent(
        """
        import os, signal, threading, time
        import jax, jax.numpy as jnp, numpy as np, lowerbound as lb
        from lowerbound.model.given import as_model
        from lowerbound.kernel import Kernel

        @jax.custom_jvp
        def wait(x):
            asleep = lambda a: (time.sleep(10_000), a)[1]
            return jax.pure_callback(asleep, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="expand_dims")

        wait.defjvp(lambda primals, tangents: (wait(*primals), tangents[0]))

        def forever(x):
            x = jax.lax.stop_gradient(x)
            return jax.lax.while_loop(lambda c: c > -1.0, lambda c: jnp.abs(jnp.sin(c)), x)

        def kernel(fn, seconds):
            model = as_model(lb.LogDensity(lambda x: -0.5 * x**2 + fn(x), {"x": lb.Site()}))
            k = Kernel(model)
            k.deadline = time.monotonic() + seconds
            return k
        """
    ) + textwrap.dedent(body)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("fn", ["wait", "forever"])
def test_a_hanging_computation_is_given_up_and_the_process_can_end(fn):
    done = _run(
        f"""
        try:
            kernel({fn}, 0.0)(np.zeros((3, 1)))
        except lb.errors.NotRespondingError as error:
            print(error)
        """
    )
    assert done.returncode == 0, done.stderr
    assert "the log density of '<lambda>' has not returned after" in done.stdout
    assert "goes on in the background" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to another process")
def test_ctrl_c_reaches_a_caller_that_waits():
    done = _run(
        """
        k = kernel(wait, 10_000.0)
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            k(np.zeros((3, 1)))
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "interrupted\n"


def test_every_algorithm_waits_no_longer_than_it_may(monkeypatch):
    # Gradient VI has a compiled program of its own, which waits through the kernel's.
    seen = []
    original = Waiting.__call__

    def spy(self, call):
        seen.append(self.what)
        return original(self, call)

    monkeypatch.setattr(Waiting, "__call__", spy)
    target = lb.LogDensity(lambda x: -0.5 * jnp.sum(x**2), {"x": lb.Site()})
    lb.fit(target, family="diagonal", algorithm="gradient_vi", max_steps=1000)
    assert any("log density" in what for what in seen)
