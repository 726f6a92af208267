r"""What an elementwise function is a function of: the same value, however it is written.

``softplus(x)`` computes with x, with x - 0 and with -|x|; ``1 / (1 + exp(-x))`` with -x and 1 + exp(-x). All of them
are functions of x. Two values are recognised as functions of one argument t where each is

    c t + d        or        c exp(t) + d,        c and d numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lowerbound.expectations.axes import Axis, Const, Lookup, same_index
from lowerbound.expectations.values import Term, Value


class Argument(NamedTuple):
    """A value as a function of another.

    Attributes:
        inner: The other.
        call: The function.
        name: It in words, ``·`` standing for the other.
    """

    inner: Value
    call: Callable[[Any], Any]
    name: str


def argument(v: Value) -> Argument:
    """A value as a function of its innermost argument: of u, where it is c exp(u) + d; else of itself."""
    found = _number_and_rest(v)
    if found is not None:
        d, rest = found
        if len(rest) == 1 and not rest[0].atoms and not rest[0].summed and rest[0].exponent is not None:
            c = scalar(rest[0].constants)
            if c is not None:
                return Argument(
                    Value(v.axes, rest[0].exponent.terms), lambda t: c * jnp.exp(t) + d, f"{c!r} exp · + {d!r}"
                )
    return Argument(v, lambda t: t, "·")


def in_terms_of(v: Value, other: Value) -> Argument | None:
    """A value as c t + d or c exp(t) + d of another value t; None where it is neither."""
    if v is other:
        return Argument(other, lambda t: t, "·")
    for found in (Argument(v, lambda t: t, "·"), argument(v)):
        line = _affine(found.inner, other)
        if line is not None:
            return _of_line(found, other, *line)
    return None


def _of_line(found: Argument, other: Value, c: float, d: float) -> Argument:
    """A function of c t + d as one of t."""
    name = found.name if (c, d) == (1.0, 0.0) else found.name.replace("·", f"({c!r} · + {d!r})")
    return Argument(other, lambda t: found.call(c * t + d), name)


def scalar(constants: Sequence[Const]) -> float | None:
    """The constants' product, where it is one known number."""
    out = 1.0
    for c in constants:
        if not c.known or not c.array.size:
            return None
        first = float(c.array.flat[0])
        if not np.all(c.array == first):
            return None
        out *= first
    return out


def _number_and_rest(v: Value) -> tuple[float, list[Term]] | None:
    """A value as d and the terms with latents in them; None where what is added is no number."""
    d, rest = 0.0, []
    for t in v.terms:
        if t.atoms or t.exponent is not None:
            rest.append(t)
            continue
        c = None if t.summed else scalar(t.constants)
        if c is None:
            return None
        d += c
    return d, rest


def _affine(v: Value, other: Value) -> tuple[float, float] | None:
    """(c, d) with v = c other + d."""
    if len(v.axes) != len(other.axes) or any(a is not b for a, b in zip(v.axes, other.axes, strict=True)):
        return None
    mine, its = _number_and_rest(v), _number_and_rest(other)
    if mine is None or its is None or len(mine[1]) != len(its[1]) or not mine[1]:
        return None
    c: float | None = None
    rest = list(its[1])
    for t in mine[1]:
        for n, o in enumerate(rest):
            ratio = _ratio(t, o)
            if ratio is not None and (c is None or abs(ratio - c) <= 1e-14 * abs(c)):
                c = ratio if c is None else c
                del rest[n]
                break
        else:
            return None
    assert c is not None
    return c, mine[0] - c * its[0]


def _ratio(t: Term, o: Term) -> float | None:
    """c with t = c o, whatever the names of their summed axes."""
    same = len(t.atoms) == len(o.atoms) and len(t.constants) == len(o.constants) and len(t.summed) == len(o.summed)
    if not same or t.exponent is not None or o.exponent is not None:
        return None
    names: dict[Axis, Axis] = {}
    for a, b in zip(t.atoms, o.atoms, strict=True):
        if a.latent is not b.latent or a.function != b.function:
            return None
        for i, j in zip(a.index, b.index, strict=True):
            if isinstance(i, Axis) and isinstance(j, Axis):
                if (i in t.summed) != (j in o.summed) or (i not in t.summed and i is not j):
                    return None
                if i in t.summed and names.setdefault(i, j) is not j:
                    return None
            elif isinstance(i, Lookup) and isinstance(j, Lookup):
                axes = tuple(names.get(x, x) for x in i.axes)
                if not same_index(Lookup(i.array, axes), j):
                    return None
            else:
                return None
    if len(names) != len(t.summed) or len(set(names.values())) != len(names):
        return None
    out = 1.0
    for p, q in zip(t.constants, o.constants, strict=True):
        ratio = _quotient(Const(p.array, tuple(names.get(x, x) for x in p.axes)), q)
        if ratio is None:
            return None
        out *= ratio
    return out


def _quotient(p: Const, q: Const) -> float | None:
    """c with p = c q."""
    if p.axes != q.axes or p.array.shape != q.array.shape:
        return None
    if p.array is q.array:
        return 1.0
    if not (p.known and q.known and p.array.size):
        return None
    at = int(np.argmax(np.abs(q.array)))
    if not np.isfinite(q.array).all() or q.array.flat[at] == 0:
        return None
    c = float(p.array.flat[at] / q.array.flat[at])
    close = np.abs(p.array - c * q.array) <= 1e-15 * abs(c) * np.abs(q.array)
    return c if c and close.all() else None
