"""Which operation made a number that is not finite: a traced function, run one operation at a time.

Every operation goes on a *tape*: what it was, which values went in, which came out, and the line of the
model it stands on. From an output that is not finite one walks back, each time to an input that is not
finite itself, until all inputs are: that operation is the origin. Walking back, not forward, because an
honest density makes infinities that never reach its value (the branch of a ``jnp.where`` that is not taken,
the start of a maximum). A zero or a negative number that broke the origin is followed back in turn to
whatever made it: an ``exp`` that underflowed.

Functions called inside (``jit``, ``custom_jvp``, ``cond``) are written out on the same tape. Of a loop only the
turn that broke is.

The lines come from JAX's private record of where each operation was written; without it they are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from lowerbound.model.lines import line_of

#: Numbers that a tape may hold, 800 MB; a model that needs more is explained by its sites alone.
LARGEST = 10**8
#: Turns of a ``while`` loop looked through.
_TURNS = 10_000


@dataclass(eq=False)
class Value:
    """One array on the tape, and the operation it came from (None for an input or a constant)."""

    array: Any
    operation: Operation | None = None

    @property
    def finite(self) -> bool:
        a = np.asarray(self.array) if not _is_key(self.array) else np.zeros(())
        return a.dtype.kind not in "fc" or bool(np.isfinite(a).all())


@dataclass(eq=False)
class Operation:
    """One primitive with what went in and what came out."""

    name: str
    params: dict[str, Any]
    inputs: list[Value]
    outputs: list[Value] = field(default_factory=list)
    line: str = ""
    turn: str = ""
    broken: Value | None = None  # of a loop: what was not finite in its first bad turn


class TooLarge(Exception):
    """The function's intermediate arrays are too many to hold."""


def record(
    jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Value], line: str = "", turn: str = ""
) -> list[Value]:
    """Run an open jaxpr one operation at a time; the values that it returns. Call inside float64 and without jit."""
    if sum(int(np.prod(getattr(v.aval, "shape", ()) or (1,))) for e in jaxpr.eqns for v in e.outvars) > LARGEST:
        raise TooLarge
    known: dict[Any, Value] = {}

    def read(v: Any) -> Value:
        return Value(v.val) if isinstance(v, jex.Literal) else known[v]

    for v, c in zip(jaxpr.constvars, constants, strict=True):
        known[v] = Value(c)
    for v, value in zip(jaxpr.invars, inputs, strict=True):
        known[v] = value
    for eqn in jaxpr.eqns:
        op = Operation(eqn.primitive.name, eqn.params, [read(v) for v in eqn.invars], turn=turn)
        op.line = line_of(eqn) or line
        inner = _inner(eqn, op)
        if inner is not None:
            body, values = inner
            outputs = record(body.jaxpr, body.consts, values, op.line, turn)
        else:
            if op.name == "scan" or op.name == "while":
                results = _bind(eqn, op.inputs)
                outputs = [Value(r, op) for r in results]
                if all(v.finite for v in op.inputs) and not all(v.finite for v in outputs):
                    op.broken = _broken_turn(eqn, op)
            else:
                outputs = [Value(r, op) for r in _bind(eqn, op.inputs)]
            op.outputs = outputs
        for v, value in zip(eqn.outvars, outputs, strict=True):
            known[v] = value
    return [read(v) for v in jaxpr.outvars]


def _bind(eqn: Any, inputs: Sequence[Value]) -> list[Any]:
    """The results of one operation, as a function of this operation alone; None for one that nothing reads."""
    given = {v: i.array for v, i in zip(eqn.invars, inputs, strict=True) if not isinstance(v, jex.Literal)}
    read = [v for v in eqn.outvars if type(v).__name__ != "DropVar"]
    alone = jex.Jaxpr([], list(given), read, [eqn])
    results = iter(jex.jaxpr_as_fun(jex.ClosedJaxpr(alone, []))(*given.values()))
    return [next(results) if type(v).__name__ != "DropVar" else np.zeros(()) for v in eqn.outvars]


def _inner(eqn: Any, op: Operation) -> tuple[Any, list[Value]] | None:
    """The function that an operation only calls, and what it is called with."""
    p = eqn.params
    if op.name == "cond":
        index, *rest = op.inputs
        return p["branches"][int(np.clip(int(np.asarray(index.array)), 0, len(p["branches"]) - 1))], rest
    if op.name in ("scan", "while", "pallas_call", "custom_linear_solve"):
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        body = p.get(name)
        if body is not None:
            body = body if hasattr(body, "consts") else jex.ClosedJaxpr(body, [])
            if len(body.jaxpr.invars) == len(op.inputs) and len(body.jaxpr.outvars) == len(eqn.outvars):
                return body, op.inputs
    return None


def _broken_turn(eqn: Any, op: Operation) -> Value | None:
    """A value of the first turn of a loop that is not finite; None if that turn is too far out."""
    p = eqn.params
    arrays = [v.array for v in op.inputs]
    if op.name == "scan":
        c, k = p["num_consts"], p["num_carry"]
        body, consts, carry, xs = p["jaxpr"], arrays[:c], arrays[c : c + k], arrays[c + k :]
        turns = range(p["length"])[:: -1 if p["reverse"] else 1]
    else:
        a, b = p["cond_nconsts"], p["body_nconsts"]
        body, consts, carry, xs = p["body_jaxpr"], arrays[a : a + b], arrays[a + b :], []
        k, turns = len(carry), range(_TURNS)
    run = jax.jit(jex.jaxpr_as_fun(body))
    for count, i in enumerate(turns):
        now = [*consts, *carry, *(x[i] for x in xs)]
        after = run(*now)
        if not all(Value(r).finite for r in after):
            within = Operation("loop", {}, op.inputs)  # so that what the loop depends on can be followed back
            inputs = [Value(n, within) for n in now]
            inside = record(body.jaxpr, body.consts, inputs, op.line, f"turn {count} of the {op.name}")
            return next((v for v in inside if not v.finite), None)
        carry = after[:k]
    return None


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a number stopped being finite.

    Attributes:
        operation: The first operation with finite inputs and an output that is not; None for a constant.
        index: Of the bad element in its output.
        operands: Its inputs at that element, where they have one.
        result: What came out.
        path: Operations between it and the end, nearest to the end first.
    """

    operation: Operation | None
    index: tuple[int, ...]
    operands: tuple[float, ...]
    result: float
    path: tuple[Operation, ...]


def origin(value: Value) -> Origin | None:
    """Walk back from a value to the operation that first was not finite; None if the value is finite."""
    if value.finite:
        return None
    path: list[Operation] = []
    index = _first(value.array)
    while True:
        op = value.operation
        if op is None:
            asked = next((v for p in path if p.name == "select_n" and (v := _asked(p.inputs[0])) is not None), None)
            if asked is not None:
                path, value, index = [], asked, _first(asked.array)
                continue
            return Origin(None, index, (), float(np.asarray(value.array)[index]), tuple(path))
        guilty = _guilty(op, index, np.shape(value.array))
        if guilty is None and op.broken is not None:
            guilty = op.broken, _first(op.broken.array)
        if guilty is None:
            operands = tuple(_at(v.array, index, np.shape(value.array)) for v in op.inputs)
            return Origin(op, index, operands, float(np.asarray(value.array)[index]), tuple(path))
        path.append(op)
        value, index = guilty


def _asked(condition: Value, depth: int = 5) -> Value | None:
    """What was not finite in the condition of a choice: a library may test for it, and answer with a constant."""
    op = condition.operation
    if op is None or depth == 0:
        return None
    for v in op.inputs:
        if not v.finite and v.operation is not None:
            return v
    return next((a for v in op.inputs if (a := _asked(v, depth - 1)) is not None), None)


def _guilty(op: Operation, index: tuple[int, ...], shape: tuple[int, ...]) -> tuple[Value, tuple[int, ...]] | None:
    """An input that is not finite: at the same element, made before given, NaN before infinity; of a choice, its."""
    candidates = op.inputs
    if op.name == "select_n":
        which = np.asarray(op.inputs[0].array)
        candidates = [op.inputs[1 + int(which[index] if which.shape == shape else which)]]
    found = []
    for v in candidates:
        if v.finite:
            continue
        a = np.asarray(v.array)
        if a.shape == shape:
            if np.isfinite(a[index]):
                continue
            found.append((v.operation is None, not np.isnan(a[index]), v, index))
        else:
            i = _same_row(a, index) or _first(a)
            found.append((v.operation is None, not np.isnan(a[i]), v, i))
    return min(found, key=lambda f: f[:2])[2:] if found else None


#: Operations that only move numbers, or change their sign.
_MOVES = (
    "broadcast_in_dim",
    "reshape",
    "convert_element_type",
    "squeeze",
    "copy",
    "stop_gradient",
    "neg",
    "abs",
    "slice",
)


def source(value: Value, element: float) -> Operation | None:
    """The operation that made an element, behind whatever only moved it; None for an input or a constant."""
    op = value.operation
    while op is not None and op.name in (*_MOVES, "select_n"):
        holds = [v for v in op.inputs[op.name == "select_n" :] if np.any(np.abs(np.asarray(v.array)) == abs(element))]
        if not holds:
            break
        op = holds[0].operation
    return op


def gated(path: Sequence[Operation]) -> bool:
    """Whether a slope of exactly zero out of a ``jnp.where`` met, in a product, what is not finite."""
    for p in path:
        if p.name == "mul" and any(v.finite and np.any(np.asarray(v.array) == 0) and _chosen(v) for v in p.inputs):
            return True
    return False


def _chosen(value: Value, depth: int = 6) -> bool:
    op = value.operation
    if op is None or depth == 0:
        return False
    if op.name == "select_n":
        return True
    return op.name in ("mul", "div", *_MOVES) and any(_chosen(v, depth - 1) for v in op.inputs)


def inputs_of(start: Operation, root: Value) -> list[tuple[int, int]]:
    """The ranges ``[a, b)`` of the one-dimensional input ``root`` on which an operation depends."""
    seen: set[int] = set()
    ranges: set[tuple[int, int]] = set()
    todo = [start]
    while todo:
        op = todo.pop()
        if id(op) in seen:
            continue
        seen.add(id(op))
        for v in op.inputs:
            if v is root:
                if op.name == "slice":
                    ranges.add((op.params["start_indices"][0], op.params["limit_indices"][0]))
                elif op.name == "dynamic_slice":
                    a = int(np.asarray(op.inputs[1].array))
                    ranges.add((a, a + op.params["slice_sizes"][0]))
                else:
                    ranges.add((0, len(np.asarray(root.array))))
            elif v.operation is not None:
                todo.append(v.operation)
    return sorted(ranges)


def _first(array: Any) -> tuple[int, ...]:
    a = np.asarray(array)
    bad = np.argwhere(np.isnan(a))
    bad = bad if len(bad) else np.argwhere(~np.isfinite(a))
    return tuple(int(i) for i in bad[0])


def _same_row(a: np.ndarray, index: tuple[int, ...]) -> tuple[int, ...] | None:
    """An element that is not finite in the same leading row, of an array of another shape."""
    if not index or not a.ndim or index[0] >= a.shape[0]:
        return None
    rest = np.argwhere(~np.isfinite(a[index[0]]))
    return (index[0], *(int(i) for i in rest[0])) if len(rest) else None


def _at(array: Any, index: tuple[int, ...], shape: tuple[int, ...]) -> float:
    """The element that goes with ``index`` of an array of ``shape``: nan where there is no telling."""
    if _is_key(array):
        return np.nan
    a = np.asarray(array)
    if a.dtype.kind not in "fiub":
        return np.nan
    if a.size == 1:
        return float(a.reshape(()))
    return float(a[index]) if a.shape == shape else np.nan


def _is_key(array: Any) -> bool:
    return hasattr(array, "dtype") and jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
