"""A traced function, run on random values.

``jax.make_jaxpr`` of "latents -> parameters of the distributions" is exactly the deterministic code between them.
Here it is run again with random values (:mod:`~lowerbound.expectations.values`) in place of arrays. Functions called
inside are written out; what does not depend on a latent is computed by JAX, in one program; what nothing asks for
(validation, key splits, a Cholesky factor beside the matrix itself) is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from lowerbound.compilation import run_once
from lowerbound.expectations import operations
from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.values import as_value
from lowerbound.model.lines import line_of

#: Primitives that are a call of another function, and where it is.
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "custom_jvp_call", "custom_vjp_call")
#: Turns of a scan that are written out.
_TURNS = 64


@dataclass(eq=False)
class Node:
    """One array of the traced function.

    Attributes:
        random: Whether a latent is in it.
        shape, dtype: Of the array.
        made: How: the operation, which of its outputs, and its inputs; None for an input.
        value: Its random value, or its array, once known.
    """

    random: bool
    shape: tuple[int, ...]
    dtype: Any
    made: tuple[Any, int, tuple[Node, ...]] | None = None
    value: Any = None
    known: bool = False


@dataclass(eq=False)
class Graph:
    """The traced function as nodes, functions called inside written out where latents enter them."""

    outputs: list[Node] = field(default_factory=list)

    @staticmethod
    def of(closed: Any, inputs: Sequence[Node]) -> Graph:
        consts = [_fixed(c) for c in closed.consts]
        return Graph(_walk(closed.jaxpr, consts, list(inputs)))


def latent_node(value: Any, shape: tuple[int, ...], dtype: Any) -> Node:
    """An input that is a latent."""
    return Node(True, tuple(shape), dtype, None, value, True)


def _fixed(array: Any) -> Node:
    array = array if hasattr(array, "shape") else np.asarray(array)
    return Node(False, tuple(array.shape), array.dtype, None, array, True)


def data_node(array: Any) -> Node:
    """An input that is data."""
    return _fixed(array)


def _walk(jaxpr: Any, consts: Sequence[Node], inputs: Sequence[Node]) -> list[Node]:
    env: dict[Any, Node] = dict(zip(jaxpr.constvars, consts, strict=True))
    env |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Node:
        return _fixed(np.asarray(atom.val)) if isinstance(atom, jex.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        nodes = tuple(read(a) for a in eqn.invars)
        random = any(n.random for n in nodes)
        name = eqn.primitive.name
        if random and name in _CALLS:
            inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr") or eqn.params.get("fun_jaxpr")
            closed = inner if hasattr(inner, "consts") else jex.ClosedJaxpr(inner, ())
            out = _walk(closed.jaxpr, [_fixed(c) for c in closed.consts], nodes)
        elif random and name == "scan" and eqn.params["length"] <= _TURNS:
            out = _unrolled(eqn.params, nodes)
        else:
            out = [
                Node(random, tuple(o.aval.shape), getattr(o.aval, "dtype", None), (eqn, i, nodes))
                for i, o in enumerate(eqn.outvars)
            ]
        for var, node in zip(eqn.outvars, out, strict=True):
            env[var] = node
    return [read(a) for a in jaxpr.outvars]


def _unrolled(params: dict[str, Any], nodes: Sequence[Node]) -> list[Node]:
    """A short scan, turn by turn."""
    c, k, length, body = params["num_consts"], params["num_carry"], params["length"], params["jaxpr"]
    consts, carry, xs = list(nodes[:c]), list(nodes[c : c + k]), nodes[c + k :]
    order = range(length)[::-1] if params["reverse"] else range(length)
    rows: dict[int, list[Node]] = {}
    for i in order:
        now = [_derived(lambda a, i=i: a[i], x) for x in xs]
        out = _walk(body.jaxpr, [_fixed(a) for a in body.consts], [*consts, *carry, *now])
        carry, rows[i] = out[:k], out[k:]
    stacked = []
    for j in range(len(rows[0]) if rows else 0):
        parts = [rows[i][j] for i in range(length)]
        stacked.append(_derived(lambda *a: jax.numpy.stack(a), *parts))
    return [*carry, *stacked]


def _derived(function: Callable[..., Any], *inputs: Node) -> Node:
    """A node that a JAX function makes of others."""
    shapes = [jax.ShapeDtypeStruct(n.shape, n.dtype) for n in inputs]
    closed = jax.make_jaxpr(function)(*shapes)
    (out,) = _walk(closed.jaxpr, [_fixed(c) for c in closed.consts], list(inputs))
    return out


# -- running it --------------------------------------------------------------------------------------


def run(graph: Graph, wanted: Sequence[Node], *, traced: bool = False) -> None:
    """Give every wanted node its value: an array, a random value, or the error that it has none.

    Args:
        graph: For its nodes' sake.
        wanted: Nodes of it.
        traced: Whether the data are tracers, so that what depends on them stays in the trace.
    """
    order = _order(wanted)
    _compute([n for n in _boundary(order, wanted) if not n.known], traced)
    done: dict[int, Any] = {}
    for n in order:
        if not n.random or n.known:
            continue
        assert n.made is not None
        eqn, i, inputs = n.made
        if id(eqn) in done and done[id(eqn)][0] == tuple(map(id, inputs)):
            out = done[id(eqn)][1]
        else:
            out = _performed(eqn, inputs)
            done[id(eqn)] = (tuple(map(id, inputs)), out)
        n.value = out[i] if isinstance(out, (list, tuple)) else out
        n.known = True


def _performed(eqn: Any, inputs: Sequence[Node]) -> Any:
    for n in inputs:
        if isinstance(n.value, NotClosedForm):
            return n.value
    try:
        kinds = [n.dtype for n in inputs]
        out = operations.perform(eqn.primitive, [_lazily(n) for n in inputs], dict(eqn.params), kinds)
        if isinstance(out, operations.Composed) and out.left is not None:
            out.left.line = out.left.line or line_of(eqn)
        return out
    except NotClosedForm as e:
        e.line = e.line or line_of(eqn)
        return e


def _lazily(n: Node) -> Any:
    """The value of a node; a broadcast constant without the copies."""
    if n.known:
        return n.value
    assert n.made is not None
    eqn, _, (source,) = n.made
    n.value = operations.OPERATIONS["broadcast_in_dim"]([as_value(_lazily(source))], dict(eqn.params))
    n.known = True
    return n.value


def _is_broadcast(n: Node) -> bool:
    return n.made is not None and not n.known and n.made[0].primitive.name == "broadcast_in_dim"


def _order(wanted: Sequence[Node]) -> list[Node]:
    """The nodes behind the wanted ones, inputs before what is made of them."""
    out: list[Node] = []
    seen: set[int] = set()
    stack: list[tuple[Node, bool]] = [(n, False) for n in reversed(wanted)]
    while stack:
        n, ready = stack.pop()
        if ready:
            out.append(n)
            continue
        if id(n) in seen:
            continue
        seen.add(id(n))
        stack.append((n, True))
        if n.made is not None and not n.known and n.random:
            stack.extend((m, False) for m in n.made[2])
    return out


def _boundary(order: Sequence[Node], wanted: Sequence[Node]) -> list[Node]:
    """The constants that random operations take, behind whatever only broadcasts them."""
    out: dict[int, Node] = {}

    def need(n: Node) -> None:
        while _is_broadcast(n):
            assert n.made is not None
            (n,) = n.made[2]
        out[id(n)] = n

    for n in order:
        if n.random and n.made is not None and not n.known:
            for m in n.made[2]:
                if not m.random:
                    need(m)
    for n in wanted:
        if not n.random:
            out[id(n)] = n
    return list(out.values())


def _compute(nodes: Sequence[Node], traced: bool) -> None:
    """Compute constants: those of literals alone at once, the others in one program (or in the trace)."""
    if not nodes:
        return
    leaves: dict[int, Node] = {}
    seen: set[int] = set()
    todo = list(nodes)
    while todo:
        n = todo.pop()
        if id(n) in seen:
            continue
        seen.add(id(n))
        if n.known:
            leaves[id(n)] = n
        elif n.made is not None:
            todo.extend(n.made[2])

    def program(arrays: Sequence[Any]) -> list[Any]:
        memo = dict(zip(leaves, arrays, strict=True))
        return [_evaluated(n, memo) for n in nodes]

    arrays = [leaf.value for leaf in leaves.values()]
    if traced:
        values = program(arrays)
    else:
        values = [np.asarray(a) for a in run_once(program, arrays)]
    for n, value in zip(nodes, values, strict=True):
        n.value, n.known = value, True


def _evaluated(node: Node, memo: dict[int, Any]) -> Any:
    stack = [node]
    while stack:
        n = stack[-1]
        if id(n) in memo:
            stack.pop()
            continue
        assert n.made is not None
        eqn, _, inputs = n.made
        missing = [m for m in inputs if id(m) not in memo]
        if missing:
            stack.extend(missing)
            continue
        out = _bound(eqn, [memo[id(m)] for m in inputs])
        memo[id(n)] = out[n.made[1]] if eqn.primitive.multiple_results else out
        stack.pop()
    return memo[id(node)]


def _bound(eqn: Any, arrays: Sequence[Any]) -> Any:
    """The operation on arrays or tracers; before JAX 0.10 its functions were handed to it apart."""
    found = eqn.primitive.get_bind_params(eqn.params)
    functions, params = found if isinstance(found, tuple) else ((), found)
    return eqn.primitive.bind(*functions, *arrays, **params)
