r"""Functions of a value that has branches: one expression here, another there.

``where(z == 1, s, 0.1)``, ``stack([s, t])[z]`` and ``where(i < tau, r1, r2)`` are sums in which at most some of the
terms are not zero at any one place, the indicators of discrete latents being given. Given those,

    v = sum_k 1[z = k] v_k,        f(v) = sum_k 1[z = k] f(v_k),

and v_k at place i is the sum of the terms whose constants are not zero at (i, k). Places at which the same terms are
alive are a *branch*. Over a branch b, with the mask m_b of its places,

    f(v) = sum_b sum_k 1[z = k] m_b f(v_b),        sum_b m_b = 1,

where v_b has the terms of the branch alone. A function that has no place in the algebra for a sum of terms may have one
for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from lowerbound.expectations.atoms import Atom, NotClosedForm
from lowerbound.expectations.axes import Axis, Const, contract, spread
from lowerbound.expectations.tables import conditioned
from lowerbound.expectations.values import Term, Value, constant_of, merged, product, simplified

#: Branches up to which a function is taken branch by branch, and places of a mask.
_BRANCHES, _PLACES = 16, 2**24


def by_branches(v: Value, function: Callable[[Value], Value]) -> Value | None:
    """An elementwise function of a value, branch by branch; None where the value has one branch.

    Raises:
        NotClosedForm: the function has no place in the algebra for one of the branches.
    """
    if not v.random:
        return None
    held, given = conditioned(v)
    terms = alike_added(given.terms)
    if held or len(terms) < len(v.terms):
        try:
            return _together(v, held, [(None, function(Value(given.axes, terms)))])
        except NotClosedForm:
            pass
    parts = branches(Value(given.axes, terms))
    if parts is None or len(parts) == 1:
        return None
    return _together(v, held, [(mask, function(part)) for mask, part in parts])


def _together(v: Value, held: Sequence[Atom], parts: Sequence[tuple[Const | None, Value]]) -> Value:
    """sum_b sum_k 1[z = k] m_b f_b."""
    ends = {h.index[-1] for h in held}
    frame = Term((), tuple(held))
    out: list[Term] = []
    for mask, part in parts:
        terms = part.terms
        if mask is not None and not part.random:  # (what a constant is elsewhere may be infinite)
            c = constant_of(part)
            axes = tuple(dict.fromkeys((*c.axes, *mask.axes)))
            terms = (Term((Const(np.where(spread(mask, axes) != 0, spread(c, axes), 0.0), axes),)),)
        elif mask is not None:
            terms = tuple(simplified(replace(t, constants=(*t.constants, mask))) for t in terms)
        for t in terms:
            if t.zero:
                continue
            found = product(frame, t)
            if found is not None:
                out.append(simplified(replace(found, summed=found.summed | ends)).fresh())  # pyright: ignore
    return Value(v.axes, merged(out))


def branches(v: Value) -> list[tuple[Const, Value]] | None:
    """The branches of a value, each with its mask; None where they are too many to tell apart.

    No two of its terms may be in the same atoms (:func:`alike_added`).
    """
    terms = v.terms
    alive = [_alive(t) for t in terms]
    axes = tuple(a for a in v.axes if a is not None and any(a in m.axes for m in alive))
    if len(terms) > 30 or np.prod([a.size for a in axes], dtype=float) > _PLACES:
        return None
    code = np.zeros([a.size for a in axes], np.int64)
    for n, m in enumerate(alive):
        code = code + (spread(m, axes).astype(np.int64) << n)
    found = np.unique(code)
    if len(found) > _BRANCHES:
        return None
    out = []
    for c in found:
        mask = Const((code == c).astype(float), axes)
        mine = tuple(_within(t, mask) for n, t in enumerate(terms) if (int(c) >> n) & 1)
        out.append((mask, Value(v.axes, merged(mine))))
    return out


def _alive(t: Term) -> Const:
    """Where a term is not zero for its constants alone. (Those that run along its own sums are no mask.)"""
    axes: tuple[Axis, ...] = ()
    parts = [c for c in t.constants if c.known and not set(c.axes) & t.summed and not (c.array != 0).all()]
    for c in parts:
        axes = tuple(dict.fromkeys((*axes, *c.axes)))
    out = np.ones([a.size for a in axes], bool)
    for c in parts:
        out = out & (spread(c, axes) != 0)
    return Const(out, axes)


def _within(t: Term, mask: Const) -> Term:
    """A term with constants that are, outside of a mask, one of those inside: so that no zero is left."""
    constants = []
    for c in t.constants:
        if c.known and not set(c.axes) & t.summed and set(c.axes) & set(mask.axes):
            others = tuple(n for n, a in enumerate(mask.axes) if a not in c.axes)
            inside = mask.array.max(axis=others) != 0
            held = Const(inside, tuple(a for a in mask.axes if a in c.axes))
            inside = np.broadcast_to(spread(held, c.axes), c.array.shape)
            first = c.array[inside].flat[0]
            if (c.array[inside] == first).all():
                c = Const(np.asarray(first), ())
            else:
                c = Const(np.where(inside, c.array, first), c.axes)
        constants.append(c)
    return simplified(replace(t, constants=tuple(constants)))


def alike_added(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Terms in the same atoms added up: s - m s is (1 - m) s."""
    out: list[Term] = []
    for t in terms:
        for n, o in enumerate(out):
            axes = tuple(dict.fromkeys(a for x in (o, t) for c in x.constants for a in c.axes))
            if _alike(o, t) and math.prod(a.size for a in axes) <= _PLACES:
                a, b = (contract(x.constants, axes) if x.constants else Const(np.ones(()), ()) for x in (o, t))
                out[n] = replace(o, constants=(Const(spread(a, axes) + spread(b, axes), axes),))
                break
        else:
            out.append(t)
    return tuple(t for t in out if not t.zero)


def _alike(s: Term, t: Term) -> bool:
    """Whether two terms differ in their constants alone."""
    if s.summed or t.summed or len(s.atoms) != len(t.atoms) or (s.exponent is None) != (t.exponent is None):
        return False
    rest = list(t.atoms)
    for a in s.atoms:
        found = next((n for n, b in enumerate(rest) if a.function == b.function and a.same_place(b)), None)
        if found is None:
            return False
        del rest[found]
    if s.exponent is None or t.exponent is None:
        return True
    pairs = list(zip(s.exponent.terms, t.exponent.terms, strict=False))
    same = len(s.exponent.terms) == len(t.exponent.terms)
    return same and all(_alike(p, q) and _equal(p.constants, q.constants) for p, q in pairs)


def _equal(s: Sequence[Const], t: Sequence[Const]) -> bool:
    if len(s) != len(t):
        return False
    return all(
        a.axes == b.axes and (a.array is b.array or (a.known and b.known and np.array_equal(a.array, b.array)))
        for a, b in zip(s, t, strict=True)
    )
