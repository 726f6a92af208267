r"""Stochastic variational inference: coordinate updates from minibatches of rows.

    lambda  <-  (1 - rho_t) lambda + rho_t lambda_hat_t,        rho_t = (t + delay)^-forgetting,

where lambda_hat_t is the optimum of a global block if the batch's rows, n / b times over, were all the data, and the
local blocks of those rows are at their optima given the globals (Hoffman, Blei, Wang & Paisley 2013). The step is along
the natural gradient of a noisy ELBO; sums of rho_t diverge and those of rho_t^2 converge for forgetting in (1/2, 1]
(Robbins & Monro 1951).

At the end the local blocks of all rows are set to their optima, batch by batch, and the ELBO of what is returned is
exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.algorithms.base import Algorithm, Info, Status, check_positive
from lowerbound.algorithms.coordinate_ascent import CoordinateAscent
from lowerbound.algorithms.factored import Factored, damped, optimum_of
from lowerbound.algorithms.minibatch import Batched, data_plate, place_of, started
from lowerbound.algorithms.unobserved import ascended, with_unobserved
from lowerbound.compilation import compile_once, lift
from lowerbound.errors import IncompatibleError
from lowerbound.families.exponential.base import blend
from lowerbound.precision import float64

#: Rounds over the local blocks at most, where one is not enough (several that depend on each other, bounds, steps that
#: are damped), and the relative change of natural parameters below which they are over.
_ROUNDS, _STILL = 100, 1e-9
#: Epochs whose mean ELBO is compared with that of as many before.
_WINDOW = 4


class BatchProgram:
    """One compiled function for batches of one size: local optima, the energies, and the globals' optima."""

    def __init__(self, factored: Factored, plate: str, size: int):
        self.batched = Batched(factored, plate, size)
        f, b = factored, self.batched
        self.shared_keys = [list(f.blocks[i].keys) for i in b.shared]
        self.local_keys = [list(block.keys) for block in b.local_blocks]
        with float64():
            zeros = [f.blocks[i].start(np.random.default_rng(0), 0.0) for i in b.shared]
            shared = [
                [jax.ShapeDtypeStruct(np.shape(n[k]), np.float64) for k in keys]
                for n, keys in zip(zeros, self.shared_keys, strict=True)
            ]
            starts = [block.start(np.random.default_rng(0), 0.0) for block in b.local_blocks]
            local = [
                [jax.ShapeDtypeStruct(np.shape(n[k]), np.float64) for k in keys]
                for n, keys in zip(starts, self.local_keys, strict=True)
            ]
            arguments = (shared, local, jax.ShapeDtypeStruct((size,), np.int32))
            lifted = lift(lambda x, _: self._run(*x), arguments, [])
            self._arguments = jax.device_put(lifted.arguments)
            self._program, _ = compile_once(lambda x, a: lifted.call(x, a), arguments, self._arguments)

    def _run(self, shared: Any, local: Any, rows: Any) -> Any:
        b, f = self.batched, self.batched.factored
        naturals = [dict(zip(k, n, strict=True)) for k, n in zip(self.shared_keys, shared, strict=True)]
        own = [dict(zip(k, n, strict=True)) for k, n in zip(self.local_keys, local, strict=True)]
        moments: dict[Any, Any] = {}
        for i, n in zip(b.shared, naturals, strict=True):
            moments |= f.blocks[i].moments(n)
        for block, n in zip(b.local_blocks, own, strict=True):
            moments |= block.moments(n)
        terms, bounds = b.restricted(rows)
        own = self._local(own, moments, terms, bounds)
        for block, n in zip(b.local_blocks, own, strict=True):
            moments |= block.moments(n)
        energy = b.energy(moments, terms, bounds)
        entropy = sum((block.entropy(n) for block, n in zip(b.local_blocks, own, strict=True)), jnp.zeros(()))
        rest = b.energy(moments, b.other_terms, b.other_bounds)
        rest = rest + sum(f.blocks[i].entropy(n) for i, n in zip(b.shared, naturals, strict=True))
        times = b.rows / b.size
        best = []
        for i, keys in zip(b.shared, self.shared_keys, strict=True):
            block = f.blocks[i]

            def whole(values: Any, keys: Any = keys) -> Any:
                there = {**moments, **dict(zip(keys, values, strict=True))}
                return times * b.energy(there, terms, bounds) + b.energy(there, b.other_terms, b.other_bounds)

            slope = jax.grad(whole)([moments[k] for k in keys])
            natural = block.natural(dict(zip(keys, slope, strict=True)))
            best.append([natural[k] for k in keys])
        local_out = [[n[k] for k in keys] for n, keys in zip(own, self.local_keys, strict=True)]
        return best, local_out, energy + entropy, rest

    def _local(
        self, own: list[dict[Any, Any]], moments: dict[Any, Any], terms: Any, bounds: Any
    ) -> list[dict[Any, Any]]:
        """The local blocks at their optima given the globals: at once, or in rounds until nothing moves."""
        b, f = self.batched, self.batched.factored
        keys = {k for block in b.local_blocks for k in block.keys}
        near, near_bounds = [t for t in terms if t.needs & keys], [t for t in bounds if t.needs & keys]

        def round_(naturals: list[dict[Any, Any]]) -> list[dict[Any, Any]]:
            there, out = dict(moments), list(naturals)
            for block, n in zip(b.local_blocks, naturals, strict=True):
                there |= block.moments(n)
            for j, (i, block) in enumerate(zip(b.local, b.local_blocks, strict=True)):
                mine = set(block.keys)
                touching = [t for t in near if t.needs & mine], [t for t in near_bounds if t.needs & mine]
                best = optimum_of(f, block, there, *touching)
                out[j] = damped(f, block, out[j], best, there, *touching) if f.curved(i) else best
                there |= block.moments(out[j])
            return out

        alone = len(b.local) == 1 and not near_bounds and not f.curved(b.local[0])
        if alone or not b.local:
            return round_(own)
        order = [list(block.keys) for block in b.local_blocks]

        def flat(naturals: list[dict[Any, Any]]) -> list[list[Any]]:
            return [[n[k] for k in ks] for n, ks in zip(naturals, order, strict=True)]

        def moving(carry: Any) -> Any:
            count, change, _ = carry
            return (count < _ROUNDS) & (change > _STILL)

        def turn(carry: Any) -> Any:
            count, _, values = carry
            after = flat(round_([dict(zip(ks, v, strict=True)) for ks, v in zip(order, values, strict=True)]))
            pairs = [(x, y) for n, m in zip(after, values, strict=True) for x, y in zip(n, m, strict=True)]
            change = jnp.stack([(jnp.abs(x - y) / (1 + jnp.abs(x))).max() for x, y in pairs]).max()
            return count + 1, change, after

        _, _, values = jax.lax.while_loop(moving, turn, (0, jnp.asarray(jnp.inf), flat(own)))
        return [dict(zip(ks, v, strict=True)) for ks, v in zip(order, values, strict=True)]

    def __call__(self, shared: Any, local: Any, rows: np.ndarray) -> tuple[Any, Any, float, float]:
        """(the globals' optima if this batch were all the data, local natural parameters, the batch's part of the
        ELBO, and the part that no row is in)."""
        with float64():
            best, own, energy, rest = self._program((shared, local, rows.astype(np.int32)), self._arguments)
        return best, own, float(energy), float(rest)

    def local_start(self, rng: np.random.Generator) -> list[list[np.ndarray]]:
        """Natural parameters of the local blocks to begin with."""
        starts = [block.start(rng, 0.1) for block in self.batched.local_blocks]
        return [[np.asarray(n[k], float) for k in keys] for n, keys in zip(starts, self.local_keys, strict=True)]


@dataclass(eq=False)
class State:
    """What the next step needs."""

    full: Factored
    factored: Factored
    program: BatchProgram
    rng: np.random.Generator
    shared: list[list[np.ndarray]]
    order: np.ndarray
    place: int = 0
    step: int = 0
    elbo: float = -np.inf
    window: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    status: Status | None = None
    final: list[dict[Any, Any]] | None = None


@dataclass(frozen=True)
class StochasticVI(Algorithm):
    """Natural-gradient steps on minibatches.

    Args:
        batch_size: Rows of a batch; None for one in 32 of them, between 64 and 2,048.
        plate: Of the rows; None for the one with most of them.
        delay, forgetting: Of the step size (t + delay)^-forgetting.
        tolerance: Stop when the mean ELBO of four epochs is above that of the four before by less than this share.
        max_steps: Epochs before giving up.
        joined: As in :class:`~lowerbound.algorithms.CoordinateAscent`.
        init_values: Where to start.
    """

    batch_size: int | None = None
    plate: str | None = None
    delay: float = 1.0
    forgetting: float = 0.7
    tolerance: float = 1e-4
    max_steps: int = 200
    joined: bool = True
    init_values: Mapping[str, Any] | None = None
    name = "stochastic_vi"

    def __post_init__(self) -> None:
        check_positive("StochasticVI", tolerance=self.tolerance, max_steps=self.max_steps)
        if self.batch_size is not None:
            check_positive("StochasticVI", batch_size=self.batch_size)
        if not 0.5 < self.forgetting <= 1:
            raise IncompatibleError(
                f"StochasticVI(forgetting={self.forgetting!r}): needed: a number above 0.5 and at most 1, or the steps "
                "do not converge."
            )
        if not self.delay >= 0:
            raise IncompatibleError(f"StochasticVI(delay={self.delay!r}): needed: zero or more.")

    def rule(self) -> str:
        return f"{_WINDOW} epochs raised the mean ELBO by less than {self.tolerance:g} of its size"

    check = CoordinateAscent.check

    def started_from(self, values: Mapping[str, Any] | None) -> StochasticVI:
        return self if not values else dataclasses.replace(self, init_values=dict(values))

    def init(self, seed: int, kernel: Any, family: Any) -> State:
        full: Factored = kernel
        factored = ascended(full)
        plate = self.plate or data_plate(factored)
        rows = Batched(factored, plate, 1).rows
        size = self.batch_size or int(np.clip(rows // 32, min(64, rows), 2048))
        size = min(size, rows)
        rng = np.random.default_rng([seed, 12])
        with float64():
            program = BatchProgram(factored, plate, size)
            for n in self.init_values or {}:
                if factored.index(n) in program.batched.local:
                    raise IncompatibleError(
                        f"init[{n!r}]: latents of the rows' own are fitted anew for each batch; start from those of "
                        "the others, or use algorithm='coordinate_ascent'."
                    )
            naturals = started(factored, plate, seed, self.init_values, self.joined)
            shared = [
                [np.asarray(naturals[i][k], float) for k in keys]
                for i, keys in zip(program.batched.shared, program.shared_keys, strict=True)
            ]
        return State(full, factored, program, rng, shared, rng.permutation(rows))

    def step(self, state: State) -> tuple[State, Info]:
        """An epoch."""
        program, b = state.program, state.program.batched
        with float64():
            batches = max(1, b.rows // b.size)
            for _ in range(batches):
                if state.place + b.size > b.rows:
                    state.order, state.place = state.rng.permutation(b.rows), 0
                rows = state.order[state.place : state.place + b.size]
                state.place += b.size
                rate = (state.step + 1 + self.delay) ** -self.forgetting
                best, _, energy, rest = program(state.shared, program.local_start(state.rng), rows)
                state.window.append(b.rows / b.size * energy + rest)
                state.shared = self._moved(state, best, rate)
                state.step += 1
            mean = float(np.mean(state.window))
            se = float(np.std(state.window) / np.sqrt(len(state.window)))
            state.window = []
            state.means.append(mean)
            state.elbo = mean
            done = False
            if len(state.means) >= 2 * _WINDOW:
                last, before = np.mean(state.means[-_WINDOW:]), np.mean(state.means[-2 * _WINDOW : -_WINDOW])
                done = last - before < self.tolerance * max(1.0, abs(last))
            if done:
                state.status = Status.CONVERGED
            elif len(state.means) >= self.max_steps:
                state.status = Status.MAX_STEPS
            if not np.isfinite(mean):
                state.status = Status.NOT_FINITE
            if state.status is not None:
                self._finish(state)
        return state, Info(
            "stochastic VI", state.step, state.elbo, se if state.status is None else 0.0, status=state.status
        )

    def _moved(self, state: State, best: Any, rate: float) -> list[list[np.ndarray]]:
        """The step, shortened where it would leave what is a distribution."""
        b, f = state.program.batched, state.factored
        out = []
        for i, keys, old, new in zip(b.shared, state.program.shared_keys, state.shared, best, strict=True):
            before = dict(zip(keys, (np.asarray(a) for a in old), strict=True))
            after = dict(zip(keys, (np.asarray(a) for a in new), strict=True))
            at = rate
            moved = blend(before, after, at)
            while at > 1e-6 and not bool(f.blocks[i].proper(moved)):
                at *= 0.3
                moved = blend(before, after, at)
            out.append([moved[k] for k in keys])
        return out

    def _finish(self, state: State) -> None:
        """The local blocks of all rows, and the exact ELBO."""
        state.final, state.elbo = completed(state.factored, state.program, state.shared, state.rng)

    def output(self, state: State) -> Any:
        if state.final is None:
            self._finish(state)
        return with_unobserved(state.full, state.final)


def completed(
    factored: Factored, program: BatchProgram, shared: list[list[np.ndarray]], rng: np.random.Generator
) -> tuple[list[dict[Any, Any]], float]:
    """Natural parameters of all blocks, the local ones at their optima, and the exact ELBO."""
    b = program.batched
    total, rest = 0.0, 0.0
    parts: list[list[list[np.ndarray]]] = []
    programs = {b.size: program}
    for start in range(0, b.rows, b.size):
        rows = np.arange(start, min(start + b.size, b.rows))
        if len(rows) not in programs:
            programs[len(rows)] = BatchProgram(factored, b.plate, len(rows))
        own = programs[len(rows)]
        _, local, energy, rest = own(shared, own.local_start(rng), rows)
        total += energy
        parts.append([[np.asarray(a) for a in n] for n in local])
    out: list[dict[Any, Any]] = [{} for _ in factored.blocks]
    for i, keys, n in zip(b.shared, program.shared_keys, shared, strict=True):
        out[i] = {k: np.asarray(a) for k, a in zip(keys, n, strict=True)}
    for j, i in enumerate(b.local):
        for m, k in enumerate(program.local_keys[j]):
            pieces = [p[j][m] for p in parts]
            place = place_of(factored, k, factored.blocks[i].latents[0], b.plate) or 0
            out[i][k] = np.concatenate(pieces, axis=place) if len(pieces) > 1 else pieces[0]
    return out, total + rest
