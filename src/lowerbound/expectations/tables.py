"""Functions of one discrete element, as tables of their values.

1[z = k] is idempotent and sums to one over k, so that f(z) is sum_k 1[z = k] f(k) for any f: what the algebra of sums
and products cannot do to a discrete latent is done to the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lowerbound.expectations.atoms import Atom, NotClosedForm
from lowerbound.expectations.axes import Axis, Const, contract, same_index, spread
from lowerbound.expectations.functions import INDICATOR
from lowerbound.expectations.values import Term, Value, align, as_value, constant_of, merged


def indicator_axes(term: Term) -> tuple[tuple[Atom, ...], set[Axis]]:
    """The indicators of a term, and those summed axes that run over their values: along them exactly one is 1."""
    indicators = tuple(a for a in term.atoms if a.function is INDICATOR)
    ends = (a.index[-1] for a in indicators)
    return indicators, {k for k in ends if isinstance(k, Axis) and k in term.summed}


def as_table(v: Value) -> tuple[Atom, Const] | None:
    """A value that is a function of one discrete element: its indicator, and the function's values along k."""
    atom: Atom | None = None
    for t in v.terms:
        if t.exponent is not None or len(t.atoms) > 1:
            return None
        if not t.atoms:
            continue
        (a,) = t.atoms
        if a.function is not INDICATOR:
            return None
        k = a.index[-1]
        if t.summed != {k} or (atom is not None and not all(map(same_index, a.place, atom.place))):
            return None
        if atom is not None and a.latent is not atom.latent:
            return None
        atom = atom or a
    if atom is None:
        return None
    k = atom.index[-1]
    assert isinstance(k, Axis)
    total: Const | None = None
    for t in v.terms:
        if t.atoms:
            own = t.atoms[0].index[-1]
            assert isinstance(own, Axis)
            t = t.renamed({own: k}) if own is not k else t
        c = contract(t.constants, [a for a in (*v.axes, k) if a is not None]) if t.constants else Const(np.ones(()), ())
        if total is None:
            total = c
            continue
        axes = tuple(a for a in (*v.axes, k) if a is not None and (a in total.axes or a in c.axes))
        total = Const(spread(total, axes) + spread(c, axes), axes)
    assert total is not None
    if k not in total.axes:
        total = Const(total.array[..., None] * np.ones(k.size), (*total.axes, k))
    return atom, total


def from_table(axes: tuple[Axis | None, ...], atom: Atom, table: Const) -> Value:
    k = atom.index[-1]
    return Value(axes, merged([Term((table,), (atom,), frozenset([k]))]))  # pyright: ignore[reportArgumentType]


#: The logarithm of a probability of zero: of something that a discrete latent makes impossible.
IMPOSSIBLE = -1e300


def refuse_exclusions(t: Term) -> None:
    """Refuse a term that makes some combinations of two discrete latents impossible, but no value of either alone.

    Any q in which they are independent then has weight on what is impossible, or none on most of what is possible.

    Raises:
        NotClosedForm: the term is such a one.
    """
    ends = [a.index[-1] for a in t.atoms if a.function is INDICATOR]
    if len(ends) < 2 or not any(c.known and c.array.size and c.array.min() < 0.1 * IMPOSSIBLE for c in t.constants):
        return
    for c in t.constants:
        own = [k for k in ends if k in c.axes]
        if not c.known or len(own) < 2:
            continue
        possible = c.array > 0.1 * IMPOSSIBLE
        product = np.ones_like(possible)
        for k in own:
            others = tuple(c.axes.index(j) for j in own if j is not k)
            product &= possible.any(axis=others, keepdims=True)
        if (product != possible).any():
            names = sorted({a.latent.name for a in t.atoms if a.function is INDICATOR})
            raise NotClosedForm(
                f"combinations of {' and '.join(map(repr, names))} that are impossible, which no q has in which they "
                "are independent",
                rewrite="sum them out in the model: numpyro.factor of the logsumexp over their values",
            )


def tabulate(values: Sequence[Any], function: Callable[..., Any]) -> Value | None:
    """A function of several values that all depend on one discrete element, or on none; else None.

    (A value that looks random may turn out constant: ``z < 0``.)
    """
    parts = [as_value(v) for v in values]
    ndim = max(p.ndim for p in parts)
    tables: list[tuple[Value, tuple[Atom, Const] | None]] = []
    lead: Value | None = None
    for p in parts:
        if lead is None:
            lead = Value((None,) * (ndim - p.ndim) + p.axes, p.terms)
            p = lead
        else:
            lead, p = align(lead, p)
        tables.append((p, None))
    assert lead is not None
    # (Aligned once more, since an axis that came late is not yet among those of the first.)
    tables = [(align(Value(lead.axes, ()), p)[1], None) for p, _ in tables]
    atom: Atom | None = None
    arrays: list[Const] = []
    for p, _ in tables:
        if not p.random:
            arrays.append(constant_of(p))
            continue
        found = as_table(p)
        if found is None:
            return None
        a, c = found
        if atom is None:
            atom = a
        elif a.latent is not atom.latent or not all(map(same_index, a.place, atom.place)):
            return None
        else:
            c = c.renamed({a.index[-1]: atom.index[-1]})  # pyright: ignore
        arrays.append(c)
    if not all(c.known for c in arrays):
        return None
    k = None if atom is None else atom.index[-1]
    axes = tuple(a for a in (*lead.axes, k) if a is not None and any(a in c.axes for c in arrays))
    table = Const(np.asarray(function(*(spread(c, axes) for c in arrays)), float), axes)  # pyright: ignore
    if atom is None or k not in table.axes:
        return Value(lead.axes, (Term((table,)),))
    return from_table(lead.axes, atom, table)


def conditioned(v: Value) -> tuple[tuple[Atom, ...], Value]:
    """The discrete elements that a value depends on, and the value given them: one more axis for each.

    v = sum_k 1[z = k] v_k; returned are the indicators and v_k, whose last axes are the k.
    """
    found: list[Atom] = []
    for t in v.terms:
        for a in t.atoms:
            if a.function is INDICATOR and not any(
                a.latent is b.latent and all(map(same_index, a.place, b.place)) for b in found
            ):
                found.append(a)
    terms = []
    extra = [Axis(len(b.latent.values)) for b in found]  # pyright: ignore[reportArgumentType]
    for t in v.terms:
        for b, k in zip(found, extra, strict=True):
            for a in t.atoms:
                if a.function is INDICATOR and a.latent is b.latent and all(map(same_index, a.place, b.place)):
                    own = a.index[-1]
                    if not isinstance(own, Axis) or own not in t.summed:
                        raise NotClosedForm(f"an indicator of {a.latent.name!r} at a value that is looked up")
                    t = replace(t, atoms=tuple(x for x in t.atoms if x is not a), summed=t.summed - {own})
                    t = t.renamed({own: k})
                    break
        terms.append(t)
    held = tuple(replace(b, index=(*b.place, k)) for b, k in zip(found, extra, strict=True))
    return held, Value((*v.axes, *extra), tuple(terms))
