r"""Memoized variational inference: exact coordinate ascent, some rows at a time, without a step size.

Each batch of rows keeps its *statistics* (:mod:`lowerbound.algorithms.row_statistics`): what its local blocks, at their
optima when it was last visited, contribute to E_q[log p] as a function of the global moments. A visit replaces them,

    S  <-  S - S_b(old) + S_b(new),

and the global blocks go to their exact optima given S (Hughes & Sudderth 2013). So the ELBO of all rows is known at any
time and never falls, globals learn after every batch and not after every pass, and memory holds one batch of rows and
one set of statistics for each. Every row term must be linear in the global moments: augmentation bounds are not.
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
from lowerbound.algorithms.factored import Factored
from lowerbound.algorithms.minibatch import Batched, data_plate, place_of, started
from lowerbound.algorithms.remainder import remaining
from lowerbound.algorithms.row_statistics import Statistic, collected, from_statistics
from lowerbound.algorithms.starts import about_value
from lowerbound.algorithms.stochastic_vi import BatchProgram, completed
from lowerbound.algorithms.unobserved import ascended, with_unobserved
from lowerbound.compilation import compile_once, lift
from lowerbound.errors import IncompatibleError
from lowerbound.precision import float64

#: Passes over the global blocks after each batch.
_PASSES = 2


class _Visit:
    """Compiled: the statistics that a batch leaves behind, at the optima of its local blocks."""

    def __init__(self, program: BatchProgram):
        self.program, b = program, program.batched
        f = b.factored
        local = frozenset(n for i in b.local for n in f.blocks[i].latents)
        shapes: dict[Any, tuple[int, ...]] = {}
        for i in b.shared:
            start = f.blocks[i].start(np.random.default_rng(0), 0.0)
            shapes |= {k: tuple(np.shape(v)) for k, v in start.items()}
        self.statistics = [
            Statistic(t, a, local, shapes)
            for t, a in b.row_terms
            if any(m.latents[-1] not in local for m, _ in t.moments)
        ]
        kept = {id(s.term) for s in self.statistics}
        self.alone = [n for n, (t, _) in enumerate(b.row_terms) if id(t) not in kept]
        self.with_globals = [n for n, (t, _) in enumerate(b.row_terms) if id(t) in kept]
        with float64():
            starts = [block.start(np.random.default_rng(0), 0.0) for block in b.local_blocks]
            shape = [
                [jax.ShapeDtypeStruct(np.shape(n[k]), np.float64) for k in keys]
                for n, keys in zip(starts, program.local_keys, strict=True)
            ]
            arguments = (shape, jax.ShapeDtypeStruct((b.size,), np.int32))
            lifted = lift(lambda x, _: self._run(*x), arguments, [])
            self._arguments = jax.device_put(lifted.arguments)
            self._compiled, _ = compile_once(lambda x, a: lifted.call(x, a), arguments, self._arguments)

    def _run(self, local: Any, rows: Any) -> Any:
        b = self.program.batched
        moments: dict[Any, Any] = {}
        own = []
        for block, keys, n in zip(b.local_blocks, self.program.local_keys, local, strict=True):
            own.append(dict(zip(keys, n, strict=True)))
            moments |= block.moments(own[-1])
        terms, _ = b.restricted(rows)
        arrays = []
        for s, n in zip(self.statistics, self.with_globals, strict=True):
            axis = _new_axis(b.row_terms[n][0], terms[n], b.row_terms[n][1])
            arrays.append(collected(s, terms[n], axis, moments))
        energy = sum((terms[n](moments).array for n in self.alone), jnp.zeros(()))
        entropy = sum((block.entropy(n) for block, n in zip(b.local_blocks, own, strict=True)), jnp.zeros(()))
        return arrays, energy + entropy

    def __call__(self, local: Any, rows: np.ndarray) -> tuple[list[np.ndarray], float]:
        with float64():
            arrays, own = self._compiled((local, rows.astype(np.int32)), self._arguments)
        return [np.asarray(a) for a in arrays], float(own)


def _new_axis(old: Any, new: Any, axis: Any) -> Any:
    """The axis of a restricted term that stands in for one of the whole."""
    for a, b in zip(old.constants, new.constants, strict=True):
        if axis in a.axes:
            return b.axes[a.axes.index(axis)]
    for (_, a), (_, b) in zip(old.moments, new.moments, strict=True):
        for i, j in zip(a, b, strict=True):
            if i is axis:
                return j if not hasattr(j, "axes") else j.axes[0]
            if hasattr(i, "axes") and axis in i.axes:
                return j.axes[i.axes.index(axis)]
    raise AssertionError("a row term without its rows")


class _Globals:
    """Compiled: the global blocks at their optima given the statistics of all rows, and the ELBO's global part."""

    def __init__(self, visit: _Visit):
        b = visit.program.batched
        self.visit, self.batched = visit, b
        f = b.factored
        with float64():
            zeros = [f.blocks[i].start(np.random.default_rng(0), 0.0) for i in b.shared]
            shared = [
                [jax.ShapeDtypeStruct(np.shape(n[k]), np.float64) for k in keys]
                for n, keys in zip(zeros, visit.program.shared_keys, strict=True)
            ]
            arrays = [jax.ShapeDtypeStruct(s.shape, np.float64) for s in visit.statistics]
            lifted = lift(lambda x, _: self._run(*x), (shared, arrays), [])
            self._arguments = jax.device_put(lifted.arguments)
            self._compiled, _ = compile_once(lambda x, a: lifted.call(x, a), (shared, arrays), self._arguments)

    def _run(self, shared: Any, arrays: Any) -> Any:
        b, f = self.batched, self.batched.factored
        keys = self.visit.program.shared_keys
        terms: list[Any] = [
            *b.other_terms,
            *(from_statistics(s, a) for s, a in zip(self.visit.statistics, arrays, strict=True)),
        ]
        naturals = [dict(zip(k, n, strict=True)) for k, n in zip(keys, shared, strict=True)]
        moments: dict[Any, Any] = {}
        for i, n in zip(b.shared, naturals, strict=True):
            moments |= f.blocks[i].moments(n)
        whole = Factored(f.structure, f.blocks, terms, b.other_bounds)
        full: list[Any] = [None] * len(f.blocks)
        for _ in range(_PASSES):
            for j, i in enumerate(b.shared):
                full[i] = naturals[j]
                naturals[j] = whole.updated(i, full, moments)
                moments |= f.blocks[i].moments(naturals[j])
        elbo = b.energy(moments, terms, b.other_bounds)
        elbo = elbo + sum(f.blocks[i].entropy(n) for i, n in zip(b.shared, naturals, strict=True))
        return [[n[k] for k in ks] for n, ks in zip(naturals, keys, strict=True)], elbo

    def __call__(self, shared: Any, arrays: Any) -> tuple[list[list[np.ndarray]], float]:
        with float64():
            out, elbo = self._compiled((shared, arrays), self._arguments)
        return [[np.asarray(a) for a in n] for n in out], float(elbo)


@dataclass(eq=False)
class State:
    """What the next step needs."""

    full: Factored
    factored: Factored
    programs: dict[int, tuple[BatchProgram, _Visit]]
    update: _Globals
    rng: np.random.Generator
    shared: list[list[np.ndarray]]
    batches: list[np.ndarray]
    kept: list[tuple[list[np.ndarray], float] | None]
    local: list[Any]
    step: int = 0
    elbo: float = -np.inf
    elbos: list[float] = field(default_factory=list)
    status: Status | None = None
    final: list[dict[Any, Any]] | None = None


@dataclass(frozen=True)
class MemoizedVI(Algorithm):
    """Exact updates from batches that remember their statistics.

    Args:
        batch_size: Rows of a batch; None for a tenth of them, at least 64.
        plate: Of the rows; None for the one with most of them.
        tolerance: Stop when what passes have left to gain, and what the last one gained, is less than this share of the
            exact ELBO's size.
        max_steps: Passes before giving up.
        joined: As in :class:`~lowerbound.algorithms.CoordinateAscent`.
        init_values: Where to start: of discrete local latents too.
    """

    batch_size: int | None = None
    plate: str | None = None
    tolerance: float = 1e-8
    max_steps: int = 1000
    joined: bool = True
    init_values: Mapping[str, Any] | None = None
    name = "memoized_vi"

    def __post_init__(self) -> None:
        check_positive("MemoizedVI", tolerance=self.tolerance, max_steps=self.max_steps)
        if self.batch_size is not None:
            check_positive("MemoizedVI", batch_size=self.batch_size)

    def rule(self) -> str:
        return (
            "what passes over all rows have left to gain, and what the last one gained, is less than "
            f"{self.tolerance:g} of the exact ELBO's size"
        )

    check = CoordinateAscent.check

    def started_from(self, values: Mapping[str, Any] | None) -> MemoizedVI:
        return self if not values else dataclasses.replace(self, init_values=dict(values))

    def init(self, seed: int, kernel: Any, family: Any) -> State:
        full: Factored = kernel
        factored = ascended(full)
        plate = self.plate or data_plate(factored)
        whole = Batched(factored, plate, 1)
        if whole.row_bounds:
            raise IncompatibleError(
                f"MemoizedVI: the bound of {whole.row_bounds[0][0].name} is not linear in the global moments, so a "
                "batch leaves no statistics behind. Use algorithm='stochastic_vi' or 'coordinate_ascent'."
            )
        rows = whole.rows
        size = min(self.batch_size or max(64, -(-rows // 10)), rows)
        rng = np.random.default_rng([seed, 13])
        order = rng.permutation(rows)
        batches = [np.sort(order[i : i + size]) for i in range(0, rows, size)]
        programs: dict[int, tuple[BatchProgram, _Visit]] = {}
        for n in sorted({len(r) for r in batches}, reverse=True):
            program = BatchProgram(factored, plate, n)
            programs[n] = program, _Visit(program)
        first, visit = programs[len(batches[0])]
        b = first.batched
        with float64():
            given = self.init_values or {}
            local = {n: v for n, v in given.items() if factored.index(n) in b.local}
            if local:
                naturals = [dict(block.start(rng, 1.0)) for block in factored.blocks]
                for n, value in given.items():
                    i = factored.index(n)
                    naturals[i] = about_value(factored, i, n, value, naturals[i])
            else:
                naturals = started(factored, plate, seed, given, self.joined)
            shared = [
                [np.asarray(naturals[i][k], float) for k in keys]
                for i, keys in zip(b.shared, first.shared_keys, strict=True)
            ]
        state = State(full, factored, programs, _Globals(visit), rng, shared, batches, [None] * len(batches), [])
        if local:
            self._remember(state, naturals)
        return state

    def _remember(self, state: State, naturals: list[dict[Any, Any]]) -> None:
        """Statistics of every batch at given local natural parameters, and the globals fitted to them."""
        for n, rows in enumerate(state.batches):
            program, visit = state.programs[len(rows)]
            b = program.batched
            local = []
            for i, keys in zip(b.local, program.local_keys, strict=True):
                own = []
                for k in keys:
                    array = np.asarray(naturals[i][k], float)
                    place = place_of(state.factored, k, state.factored.blocks[i].latents[0], b.plate) or 0
                    own.append(np.take(array, rows, axis=place))
                local.append(own)
            state.kept[n] = visit(local, rows)
        self._globals(state)

    def _globals(self, state: State) -> float:
        """The globals at their optima given the statistics of all rows; the exact ELBO."""
        kept = [k for k in state.kept if k is not None]
        sums = [np.sum([arrays[n] for arrays, _ in kept], axis=0) for n in range(len(kept[0][0]))]
        state.shared, elbo = state.update(state.shared, sums)
        return elbo + sum(own for _, own in kept)

    def step(self, state: State) -> tuple[State, Info]:
        """A pass over all rows."""
        before = state.elbo
        elbo = -np.inf
        for n, rows in enumerate(state.batches):
            program, visit = state.programs[len(rows)]
            with float64():
                start = program.local_start(state.rng)
            _, local, _, _ = program(state.shared, start, rows)
            state.kept[n] = visit(local, rows)
            # Not before every batch has been visited: what was contracted over all rows beforehand does not go with the
            # statistics of some.
            if all(k is not None for k in state.kept):
                elbo = self._globals(state)
        state.step += 1
        state.elbo = elbo
        state.elbos.append(elbo)
        if not np.isfinite(elbo):
            state.status = Status.NOT_FINITE
        elif max(elbo - before, remaining(state.elbos)) < self.tolerance * max(1.0, abs(elbo)):
            state.status = Status.CONVERGED
        elif state.step >= self.max_steps:
            state.status = Status.MAX_STEPS
        if state.status is not None:
            self._finish(state)
        return state, Info("memoized VI", state.step, state.elbo, 0.0, status=state.status)

    def _finish(self, state: State) -> None:
        program, _ = state.programs[len(state.batches[0])]
        state.final, state.elbo = completed(state.factored, program, state.shared, state.rng)

    def output(self, state: State) -> Any:
        if state.final is None:
            self._finish(state)
        return with_unobserved(state.full, state.final)
