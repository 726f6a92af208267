"""The one compiled function of a fit: ``vmap(value_and_grad(log density))`` at a fixed batch.

Nearly all of the time to an answer is XLA compilation, so there is one small program and everything
else (linear algebra, line searches, stopping rules) is NumPy on the host. The search for a start, the
variational updates, the importance weights and the checks all call this same program; shorter
batches are padded, never re-shaped, so nothing compiles twice.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from lowerbound.compilation import Lifted, compile_lowered, flops, lift, of_model
from lowerbound.errors import IncompatibleError, ModelError
from lowerbound.model.base import Model
from lowerbound.precision import float64
from lowerbound.waiting import Waiting

#: Draws evaluated by one call. 64 measured best for models of up to about 1e5 rows: the cost of a call
#: is then that of its arithmetic, and a regression on 64 draws is exact up to 32 dimensions.
BATCH = 64
#: Largest number of elements of any intermediate array over the whole batch (float64: 256 MiB).
MAX_ELEMENTS = 2**25
#: Arithmetic of a call below which a density is compiled that way: about a millisecond. (Of eight models these took 35
#: to 55 per cent less time to compile. A mixture's density of 1e7 runs 30 per cent longer, which 300 calls feel.)
_LITTLE = 5e6
#: What one evaluation costs the host, in units of arithmetic.
_HOST = 2e4


class Kernel:
    """log density and gradient at many points, compiled once.

    Args:
        model: A model bound to its data.
        jacobian: Whether the density is that of the unconstrained variables (with the Jacobian of
            the transform) or of the constrained ones.
        deadline: When to give up a call, or the compilation, that does not return, on the clock of
            ``time.monotonic()``; None waits for ever. It may be set at any time.

    Attributes:
        batch: Points per call of the program.
        evaluations: Log densities and gradients evaluated so far.
        compile_seconds: Wall time spent tracing and compiling.
        cache_hit: Whether the program came from this process's memory.
        flops: Arithmetic of one evaluation, as far as the compiler knows it.
        at: Phase and step that the fit is in, kept up to date by the loop; for messages.
        broken: The latest point at which the value or gradient was not finite, and ``at`` as it was then.
    """

    def __init__(self, model: Model, *, jacobian: bool = True, deadline: float | None = None):
        if model.discrete:
            raise IncompatibleError(
                f"{model.name!r} has discrete latents ({', '.join(model.discrete)}) that cannot be summed out: they "
                "depend on each other given the rest. So it has no log density of the others, nor what needs one."
            )
        start = time.perf_counter()
        self.model = model
        self.dimension = model.dimension
        self.waiting = Waiting(f"the log density of {model.name!r}", deadline)
        Waiting(f"the compilation of {model.name!r}", deadline)(lambda: self._build(model, jacobian))
        self.evaluations = 0
        self.at: tuple[str, int] = ("starting", 0)
        self.broken: tuple[np.ndarray, tuple[str, int]] | None = None
        self.compile_seconds = time.perf_counter() - start

    def _build(self, model: Model, jacobian: bool) -> None:
        """Trace and compile."""
        with float64():
            build = lambda: self._trace(model, jacobian)  # noqa: E731
            (traced, self.batch, self._program, hit), again = of_model(model, ("kernel", jacobian), build)
            self.log_density = traced.at(model.arguments)
            self.arguments = jax.device_put(self.log_density.arguments)
        self.cache_hit = again or hit
        self.flops = flops(self._program) / self.batch

    def _trace(self, model: Model, jacobian: bool) -> tuple[Lifted, int, Any, bool]:
        """The traced density, points per call, and their program; whether it was in memory."""
        point = jax.ShapeDtypeStruct((self.dimension,), np.float64)
        traced = lift(lambda x, a: model.log_density(x, a, jacobian=jacobian), point, model.arguments)
        batch = choose_batch(traced.jaxpr)
        points = jax.ShapeDtypeStruct((batch, self.dimension), np.float64)
        f = jax.vmap(jax.value_and_grad(traced.call), in_axes=(0, None))
        arguments = jax.device_put(traced.arguments)
        try:
            lowered = jax.jit(f).lower(points, arguments)
        except (ValueError, NotImplementedError) as e:
            # How JAX says that an operation has no derivative (a while_loop, a callback) or no batched form. What
            # the compiler itself may raise later is not the model's fault, and passes.
            raise ModelError(
                f"the log density of {model.name!r} has no gradient that JAX can compute, or cannot be evaluated "
                f"at many points at once: {str(e).splitlines()[0]} A callback needs jax.custom_jvp with its "
                "derivative and vmap_method=...; a while_loop has to become a scan or a fori_loop of fixed length."
            ) from e
        program, hit = compile_lowered(lowered, points, arguments, direct=flops(lowered) < _LITTLE)
        return traced, batch, program, hit

    @property
    def price(self) -> float:
        """What one evaluation and its use cost, in units of arithmetic: about 6e9 of them are a second."""
        return max(self.flops, _HOST + self.dimension**2)

    @property
    def deadline(self) -> float | None:
        """When to give up a call that does not return; see :class:`~lowerbound.waiting.Waiting`."""
        return self.waiting.deadline

    @deadline.setter
    def deadline(self, value: float | None) -> None:
        self.waiting.deadline = value

    @property
    def late(self) -> bool:
        """Whether the deadline has passed, so that nothing should be begun that can be left."""
        return self.waiting.deadline is not None and time.monotonic() > self.waiting.deadline

    def rebind(self, model: Model) -> Kernel:
        """The same program for the same model with other numbers among its arguments, not compiled again."""
        other = copy.copy(self)
        constants = len(self.arguments) - len(self.model.arguments)
        other.model = model
        with float64():
            other.arguments = [*self.arguments[:constants], *jax.device_put(list(model.arguments))]
        other.compile_seconds = 0.0
        other.broken = None
        return other

    def learn(self, leaves: Sequence[Any]) -> None:
        """Move the parameters of the model itself; see :meth:`Model.with_parameters`."""
        other = self.rebind(self.model.with_parameters(leaves))
        self.model, self.arguments = other.model, other.arguments

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log density ``[m]`` and gradient ``[m, p]`` at ``x [m, p]``; any m, padded to whole batches."""
        x = np.asarray(x, np.float64)
        m, p = x.shape
        if self.waiting.deadline is None:
            value, gradient = self._evaluate(x)
        else:
            # Batches one by one, so that what is timed is always the same call.
            blocks = [x[i : i + self.batch] for i in range(0, m, self.batch)]
            parts = [self.waiting(lambda block=block: self._evaluate(block)) for block in blocks]
            value = np.concatenate([v for v, _ in parts]) if parts else np.empty(0)
            gradient = np.concatenate([g for _, g in parts]) if parts else np.empty((0, p))
        self.evaluations += m
        flat = gradient.ravel()
        with np.errstate(over="ignore", invalid="ignore"):  # the square may overflow where the number does not
            if not math.isfinite(value.dot(value) + flat.dot(flat)):
                self._remember(x, value, gradient)
        return value, gradient

    def _remember(self, x: np.ndarray, value: np.ndarray, gradient: np.ndarray) -> None:
        bad = ~np.isfinite(value)
        if not bad.any():
            bad = ~np.isfinite(gradient).all(1)
        if bad.any():
            self.broken = x[bad.argmax()].copy(), self.at

    def _evaluate(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        m, p = x.shape
        value, gradient = np.empty(m), np.empty((m, p))
        with float64():
            pending = []
            for i in range(0, m, self.batch):
                block = x[i : i + self.batch]
                if len(block) < self.batch:
                    block = np.concatenate([block, np.broadcast_to(block[-1], (self.batch - len(block), p))])
                pending.append((i, self._program(block, self.arguments)))
                if len(pending) > 4:
                    _collect(pending.pop(0), value, gradient, self.batch)
            for item in pending:
                _collect(item, value, gradient, self.batch)
        return value, gradient


def _collect(item: tuple[int, Any], value: np.ndarray, gradient: np.ndarray, batch: int) -> None:
    i, (v, g) = item
    n = min(batch, len(value) - i)
    value[i : i + n] = np.asarray(v)[:n]
    gradient[i : i + n] = np.asarray(g)[:n]


def choose_batch(jaxpr: Any) -> int:
    """Points per call: :data:`BATCH`, fewer where a single point's largest array is huge."""
    largest = max(_sizes(jaxpr), default=1)
    batch = BATCH
    while batch > 1 and batch * largest > MAX_ELEMENTS:
        batch //= 2
    return batch


def _sizes(jaxpr: Any) -> Iterator[int]:
    for eqn in jaxpr.eqns:
        for v in eqn.outvars:
            yield int(np.prod(getattr(v.aval, "shape", ()) or (1,)))
        for sub in jex.jaxprs_in_params(eqn.params):
            yield from _sizes(getattr(sub, "jaxpr", sub))
