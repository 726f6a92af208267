r"""Random values: what an array of a model is, as a function of its latents.

A :class:`Value` is a sum of terms, and each term is an einsum

    sum_s  c  *  prod_a  f_a(latent_a[index_a])  *  exp(affine)

of constants c, of *atoms* (a function of one element of one latent: x, x^-2, log x, the indicator z = k), and of the
exponential of another value. Sums, products and indexing of values are values again. What latents a model has in
what powers is thereby known exactly, and the expectation of a term under a q that factorises is the product of the
expectations of its atoms (:mod:`lowerbound.expectations.moments`): no product over data rows is ever expanded,
since an einsum stays one until its constants have been contracted.

An indicator is idempotent, 1[z = j] 1[z = k] = 1[z = k] 1[j = k], so that a function of ``mu[z]`` is the indicator
times the function of ``mu[k]``: discrete latents are enumerated without ever being given a value.

Summed axes are a term's own: no other value has them among its axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import scipy.special

from lowerbound.expectations.axes import (
    Axis,
    Const,
    Index,
    Lookup,
    constant,
    contract,
    gather,
    index_axes,
    library,
    same_index,
    spread,
)
from lowerbound.expectations.functions import IDENTITY, INDICATOR, Function


class NotClosedForm(Exception):
    """An expectation has no closed form here.

    Attributes:
        operation: What was asked for, in words.
        line: The line of the model it stands on, where known.
        factor: The factor of the model it belongs to.
        rewrite: What would give it one, where something would.
    """

    def __init__(self, operation: str, *, rewrite: str = ""):
        self.operation, self.rewrite = operation, rewrite
        self.line = self.factor = ""
        super().__init__(operation)

    def __str__(self) -> str:
        where = (f"factor {self.factor!r}: " if self.factor else "") + self.operation
        return where + (f" ({self.line})" if self.line else "") + (f"; {self.rewrite}" if self.rewrite else "")


@dataclass(frozen=True, eq=False)
class Latent:
    """A latent site as the algebra sees it.

    Args:
        name: Of the site.
        shape: Of its value; of a discrete site, of one value for each of its plates.
        support: ``"real"``, ``"positive"``, ``"unit"``, ``"simplex"``, ``"matrix"`` (positive definite) or
            ``"discrete"``.
        values: The values of a discrete site, else None.
    """

    name: str
    shape: tuple[int, ...]
    support: str
    values: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Atom:
    """f(latent[index]). The index of an indicator ends with the axis k of its values."""

    latent: Latent
    function: Function
    index: tuple[Index, ...]

    def same_place(self, other: Atom) -> bool:
        return self.latent is other.latent and all(map(same_index, self.index, other.index))

    def renamed(self, names: Mapping[Axis, Axis]) -> Atom:
        return replace(self, index=tuple(_renamed(i, names) for i in self.index))

    @property
    def axes(self) -> tuple[Axis, ...]:
        return index_axes(self.index)

    @property
    def place(self) -> tuple[Index, ...]:
        """The index without the axis of an indicator's values."""
        return self.index[:-1] if self.function is INDICATOR else self.index


def _renamed(i: Index, names: Mapping[Axis, Axis]) -> Index:
    if isinstance(i, Axis):
        return names.get(i, i)
    if not any(a in names for a in i.axes):
        return i
    c = Const(i.array, i.axes).renamed(names)
    return Lookup(c.array, c.axes)


@dataclass(frozen=True, eq=False)
class Term:
    """One product; ``summed`` are the axes that are its own."""

    constants: tuple[Const, ...]
    atoms: tuple[Atom, ...] = ()
    summed: frozenset[Axis] = frozenset()
    exponent: Value | None = None

    def renamed(self, names: Mapping[Axis, Axis]) -> Term:
        return Term(
            tuple(c.renamed(names) for c in self.constants),
            tuple(a.renamed(names) for a in self.atoms),
            frozenset(names.get(a, a) for a in self.summed),
            None if self.exponent is None else added((self.exponent.renamed(names),)),
        )

    def fresh(self) -> Term:
        """The same with summed axes that nothing else has."""
        return self.renamed({a: Axis(a.size) for a in self.summed}) if self.summed else self

    @property
    def random_axes(self) -> set[Axis]:
        """Axes that a latent runs along."""
        out = {a for atom in self.atoms for a in atom.axes}
        for t in () if self.exponent is None else self.exponent.terms:
            out |= (t.random_axes | {a for c in t.constants for a in c.axes}) - t.summed
        return out

    @property
    def zero(self) -> bool:
        return any(c.known and c.array.size < 10**6 and not c.array.any() for c in self.constants)


@dataclass(frozen=True, eq=False)
class Value:
    """A sum of terms over ``axes``; None is a dimension of size one, along which nothing runs."""

    axes: tuple[Axis | None, ...]
    terms: tuple[Term, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(1 if a is None else a.size for a in self.axes)

    @property
    def ndim(self) -> int:
        return len(self.axes)

    @property
    def random(self) -> bool:
        return any(t.atoms or t.exponent is not None for t in self.terms)

    @property
    def random_axes(self) -> set[Axis]:
        return {a for t in self.terms for a in t.random_axes}

    def renamed(self, names: Mapping[Axis, Axis]) -> Value:
        return Value(
            tuple(a if a is None else names.get(a, a) for a in self.axes), tuple(t.renamed(names) for t in self.terms)
        )

    # -- arithmetic, broadcasting as NumPy does ----------------------------------------------------

    def __add__(self, other: Any) -> Value:
        a, b = align(self, other)
        return Value(a.axes, merged((*a.terms, *b.terms)))

    __radd__ = __add__

    def __neg__(self) -> Value:
        return self * -1.0

    def __sub__(self, other: Any) -> Value:
        return self + -as_value(other)

    def __rsub__(self, other: Any) -> Value:
        return as_value(other) - self

    def __mul__(self, other: Any) -> Value:
        a, b = align(self, other)
        return Value(a.axes, merged(p for s in a.terms for t in b.terms if (p := product(s, t)) is not None))

    __rmul__ = __mul__

    def sum(self, *dims: int, origin: dict[Axis, Axis] | None = None) -> Value:
        """Over the given dimensions, which are dropped; ``origin`` notes which axis each summed one was."""
        dims = tuple(d % self.ndim for d in dims)
        gone = [a for d in dims if (a := self.axes[d]) is not None]
        rest = tuple(a for d, a in enumerate(self.axes) if d not in dims)
        return Value(rest, merged(_summed(t, gone, origin) for t in self.terms))

    def expand(self, *dims: int) -> Value:
        """With new dimensions of size one at the places ``dims`` of the result."""
        axes: list[Axis | None] = list(self.axes)
        for d in sorted(dims):
            axes.insert(d, None)
        return Value(tuple(axes), self.terms)

    def squeeze(self, *dims: int) -> Value:
        dims = tuple(d % self.ndim for d in dims)
        return Value(tuple(a for d, a in enumerate(self.axes) if d not in dims), self.terms)

    def transpose(self, order: Sequence[int]) -> Value:
        return Value(tuple(self.axes[d] for d in order), self.terms)

    def looked_up(self, places: Mapping[Axis, Lookup], axes: Sequence[Axis | None]) -> Value:
        """With some axes looked up; ``axes`` are those of the result."""
        plain = {a: _plain(a, i) for a, i in places.items()}
        return Value(tuple(axes), merged(_term_at(t, plain) for t in self.terms))


def _plain(axis: Axis, lookup: Lookup) -> Index:
    """An axis in place of the lookup that runs along it in order."""
    if isinstance(lookup.array, np.ndarray) and len(lookup.axes) == 1 and lookup.axes[0].size == axis.size:
        return lookup.axes[0] if np.array_equal(lookup.array, np.arange(axis.size)) else lookup
    return lookup


def as_value(x: Any) -> Value:
    """A constant as a value, one axis for each of its dimensions."""
    if isinstance(x, Value):
        return x
    array = np.asarray(x) if library(x) is np else x
    if array.dtype == bool or np.issubdtype(array.dtype, np.integer):
        array = array.astype(float)
    axes = tuple(Axis(n) if n != 1 else None for n in array.shape)
    return Value(axes, (Term((constant(array, axes),)),))


def latent_value(latent: Latent) -> Value:
    """The value of a site."""
    axes = tuple(Axis(n) if n != 1 else None for n in latent.shape)
    index: tuple[Index, ...] = tuple(Lookup(np.zeros((), int), ()) if a is None else a for a in axes)
    if latent.values is None:
        return Value(axes, (Term((), (Atom(latent, IDENTITY, index),)),))
    k = Axis(len(latent.values))
    indicator = Atom(latent, INDICATOR, (*index, k))
    return Value(axes, (Term((Const(np.asarray(latent.values, float), (k,)),), (indicator,), frozenset([k])),))


def align(a: Any, b: Any) -> tuple[Value, Value]:
    """Both over the same axes."""
    a, b = as_value(a), as_value(b)
    n = max(a.ndim, b.ndim)
    a = Value((None,) * (n - a.ndim) + a.axes, a.terms)
    b = Value((None,) * (n - b.ndim) + b.axes, b.terms)
    axes: list[Axis | None] = []
    names: dict[Axis, Axis] = {}
    # The same axis at another place (an outer product of a value with itself) is another axis.
    if any(q is not None and p is not q and q in a.axes for p, q in zip(a.axes, b.axes, strict=True)):
        b = b.renamed({q: Axis(q.size) for q in b.axes if q is not None})
    for p, q in zip(a.axes, b.axes, strict=True):
        if p is not None and q is not None:
            if p.size != q.size:
                raise NotClosedForm(f"shapes {a.shape} and {b.shape} do not broadcast")
            if p is not q:
                names[q] = p
        axes.append(p if p is not None else q)
    b = b.renamed(names) if names else b
    return Value(tuple(axes), a.terms), Value(tuple(axes), b.terms)


def merged(terms: Iterable[Term]) -> tuple[Term, ...]:
    """Without zeros, and with the terms that no latent is in added up."""
    out: list[Term] = []
    fixed: Const | None = None
    for t in terms:
        if t.zero:
            continue
        if t.atoms or t.exponent is not None or t.summed or len(t.constants) > 1:
            out.append(t)
            continue
        c = t.constants[0] if t.constants else Const(np.ones(()), ())
        if fixed is not None and set(c.axes) <= set(fixed.axes):
            fixed = Const(fixed.array + spread(c, fixed.axes), fixed.axes)
        elif fixed is not None and set(fixed.axes) <= set(c.axes):
            fixed = Const(c.array + spread(fixed, c.axes), c.axes)
        else:
            if fixed is not None:
                out.append(Term((fixed,)))
            fixed = c
    if fixed is not None and not Term((fixed,)).zero:
        out.append(Term((fixed,)))
    return tuple(out)


def product(s: Term, t: Term) -> Term | None:
    """The product of two terms over the same axes; None where it is zero."""
    t = t.fresh()
    constants, atoms, summed = list(s.constants + t.constants), list(s.atoms), set(s.summed | t.summed)
    exponents = [e for e in (s.exponent, t.exponent) if e is not None]
    exponent = added(exponents) if exponents else None
    names: dict[Axis, Axis] = {}
    for b in t.atoms:
        found = None
        for n, a in enumerate(atoms):
            if a.latent is not b.latent or (a.function is INDICATOR) != (b.function is INDICATOR):
                continue
            if all(map(same_index, a.place, b.place)):
                found = n
                break
        if found is None or (b.latent.support == "real" and b.function == IDENTITY):
            atoms.append(b)
            continue
        a = atoms[found]
        if a.function is not INDICATOR:
            atoms[found] = replace(a, function=a.function * b.function)
            if atoms[found].function.trivial:
                del atoms[found]
            continue
        j, k = a.index[-1], b.index[-1]
        if isinstance(k, Axis) and k in summed:
            if isinstance(j, Axis):
                names[k] = j
            else:  # 1[z = j] sum_k 1[z = k] c_k = 1[z = j] c_j
                constants = [_const_at(c, {k: j}) for c in constants]
                rest = [_atom_at(x, {k: j}) for x in atoms]
                return product(Term(tuple(constants), tuple(rest), frozenset(summed - {k}), exponent), Term(()))
            summed.discard(k)
        elif isinstance(j, Axis) and j in summed:
            names[j] = k if isinstance(k, Axis) else j
            if isinstance(k, Axis):
                summed.discard(j)
                atoms[found] = b
            else:
                return None if _never(a, b) else _clash(a)
        elif not same_index(j, k):
            return None if _never(a, b) else _clash(a)
    out = Term(tuple(constants), tuple(atoms), frozenset(summed), exponent)
    if names:
        out = out.renamed(names)
    return simplified(out)


def added(exponents: Sequence[Value]) -> Value:
    """The sum of exponents. Their axes are known by identity, wherever they stand."""
    axes = dict.fromkeys(a for e in exponents for a in e.axes if a is not None)
    return Value(tuple(axes), merged(t for e in exponents for t in e.terms))


def _never(a: Atom, b: Atom) -> bool:
    """Whether two indicators of one element name different values everywhere."""
    j, k = a.index[-1], b.index[-1]
    both = isinstance(j, Lookup) and isinstance(k, Lookup) and j.axes == () and k.axes == ()
    return both and int(j.array) != int(k.array)  # pyright: ignore


def _clash(a: Atom) -> None:
    raise NotClosedForm(f"two indicators of {a.latent.name!r} at values that are looked up")


def simplified(t: Term) -> Term:
    """Constants multiplied where that makes no array larger, and sums done that no latent takes part in."""
    constants = list(t.constants)
    random = t.random_axes
    own = [a for a in t.summed if a not in random]
    summed = set(t.summed)
    for axis in own:  # contract what only constants run along
        mine = [c for c in constants if axis in c.axes]
        rest = [c for c in constants if axis not in c.axes]
        summed.discard(axis)
        if not mine:
            constants = [*rest, Const(np.asarray(float(axis.size)), ())]
            continue
        axes = tuple(dict.fromkeys(a for c in mine for a in c.axes if a is not axis))
        constants = [*rest, contract(mine, axes)]
    out: list[Const] = []
    for c in sorted(constants, key=lambda c: -len(c.axes)):
        for n, o in enumerate(out):
            if set(c.axes) <= set(o.axes):
                out[n] = Const(o.array * spread(c, o.axes), o.axes)
                break
        else:
            out.append(c)
    if len(out) == 1 and out[0].known and not out[0].axes and out[0].array == 1:
        out = []
    return Term(tuple(out), t.atoms, frozenset(summed), t.exponent)


def _summed(t: Term, axes: Sequence[Axis], origin: dict[Axis, Axis] | None = None) -> Term:
    names = {a: Axis(a.size) for a in axes}
    if origin is not None:
        origin.update({new: old for old, new in names.items()})
    t = t.renamed(names)
    return simplified(replace(t, summed=t.summed | frozenset(names.values())))


def _const_at(c: Const, places: Mapping[Axis, Index]) -> Const:
    if not any(a in places for a in c.axes):
        return c
    return gather(c.array, [places.get(a, a) for a in c.axes])


def _atom_at(atom: Atom, places: Mapping[Axis, Index]) -> Atom:
    if not any(a in places for a in atom.axes):
        return atom
    return replace(atom, index=tuple(_index_at(i, places) for i in atom.index))


def _index_at(i: Index, places: Mapping[Axis, Index]) -> Index:
    if isinstance(i, Axis):
        return places.get(i, i)
    if not any(a in places for a in i.axes):
        return i
    c = _const_at(Const(i.array, i.axes), places)
    return Lookup(c.array, c.axes)


def _term_at(t: Term, places: Mapping[Axis, Index]) -> Term:
    exponent = t.exponent
    if exponent is not None and any(a in places for a in _all_axes(exponent)):
        axes = index_axes([places.get(a, a) for a in exponent.axes if a is not None])
        exponent = Value(axes, tuple(_term_at(s, places) for s in exponent.terms))
    return Term(
        tuple(_const_at(c, places) for c in t.constants),
        tuple(_atom_at(a, places) for a in t.atoms),
        t.summed,
        exponent,
    )


def _all_axes(v: Value) -> set[Axis]:
    out = {a for a in v.axes if a is not None}
    for t in v.terms:
        out |= t.random_axes | {a for c in t.constants for a in c.axes}
    return out


def constant_of(v: Value) -> Const:
    """The constant that a value without latents is, over the axes that it runs along.

    Raises:
        NotClosedForm: a latent is in it.
    """
    if v.random:
        raise NotClosedForm("a latent where a constant is needed")
    total = None
    for t in v.terms:
        c = contract(t.constants, [a for a in v.axes if a is not None]) if t.constants else Const(np.ones(()), ())
        if total is None:
            total = c
            continue
        axes = [a for a in v.axes if a is not None and (a in total.axes or a in c.axes)]
        total = Const(spread(total, axes) + spread(c, axes), tuple(axes))
    return Const(np.zeros(()), ()) if total is None else total


def array_of(v: Value) -> Any:
    """The whole array of a value without latents."""
    c = constant_of(v)
    xp = library(c.array)
    return xp.broadcast_to(spread(c, v.axes), v.shape)


# -- functions of one element ----------------------------------------------------------------------


def apply(v: Value, name: str, function: Callable[[Function], Function | None], fixed: Callable[[Any], Any]) -> Value:
    """An elementwise function of a value.

    Args:
        v: A constant, a monomial (one term whose atoms are functions of single elements), or a table (a function of
            one discrete element).
        name: In messages.
        function: What becomes of an atom's function in a monomial: f(c prod a_i) = f(c) prod f(a_i). None where
            it does not.
        fixed: The function itself, on arrays.
    """
    if not v.random:
        c = constant_of(v)
        return Value(v.axes, (Term((Const(fixed(c.array), c.axes),)),))
    if (t := as_table(v)) is not None:
        atom, table = t
        return _from_table(v.axes, atom, Const(fixed(table.array), table.axes))
    if len(v.terms) != 1:
        raise NotClosedForm(f"{name} of a sum")
    (term,) = v.terms
    indicators, k = _indicator_axes(term)
    if set(term.summed) - k:
        raise NotClosedForm(f"{name} of a sum")
    if term.exponent is not None:
        raise NotClosedForm(f"{name} of an exponential")
    atoms = []
    for a in term.atoms:
        if a.function is INDICATOR:
            continue
        f = function(a.function)
        if f is None:
            raise NotClosedForm(f"{name} of {a.latent.name!r}")
        if not f.trivial:
            atoms.append(replace(a, function=f))
    constants = tuple(Const(fixed(c.array), c.axes) for c in term.constants)
    return Value(v.axes, (simplified(Term(constants, (*indicators, *atoms), term.summed)),))


def _indicator_axes(term: Term) -> tuple[tuple[Atom, ...], set[Axis]]:
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


def _from_table(axes: tuple[Axis | None, ...], atom: Atom, table: Const) -> Value:
    k = atom.index[-1]
    return Value(axes, merged([Term((table,), (atom,), frozenset([k]))]))  # pyright: ignore[reportArgumentType]


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
    return _from_table(lead.axes, atom, table)


def power(v: Any, exponent: float) -> Value:
    """v ** exponent, for a constant exponent."""
    v = as_value(v)
    if not v.random:
        return apply(v, "a power", lambda f: f, lambda a: a**exponent)
    if exponent == 0:
        return as_value(1.0)
    whole = float(exponent).is_integer() and 0 < exponent <= 4
    if whole and (len(v.terms) > 1 or _has_sum(v) or _real(v)):
        if as_table(v) is not None:
            return apply(v, "a power", lambda f: None, lambda a: a**exponent)
        out = v
        for _ in range(int(exponent) - 1):
            out = out * v
        return out
    (term, *more) = v.terms
    if not more and term.exponent is not None:  # (c prod a_i e^u)^p = (c prod a_i)^p e^(p u)
        base = Value(v.axes, (replace(term, exponent=None),))
        rest = power(base, exponent) if base.terms[0].atoms or base.terms[0].constants else as_value(1.0)
        return rest * exp_of(term.exponent * exponent, v)
    if _real(v):
        raise NotClosedForm(f"the power {exponent:g} of a real latent")
    return apply(v, f"the power {exponent:g}", lambda f: f.power(exponent), lambda a: _as_float(a) ** exponent)


def _as_float(a: Any) -> Any:
    return a.astype(float) if isinstance(a, np.ndarray) and a.dtype.kind in "iub" else a


def _has_sum(v: Value) -> bool:
    return any(set(t.summed) - _indicator_axes(t)[1] for t in v.terms)


def _real(v: Value) -> bool:
    return any(a.latent.support == "real" for t in v.terms for a in t.atoms)


def exp_of(exponent: Value, like: Value) -> Value:
    """exp of a value, over the axes of ``like``."""
    return Value(like.axes, (Term((), (), frozenset(), exponent),))


def log(v: Any) -> Value:
    """The logarithm of a constant, a monomial, or an exponential."""
    v = as_value(v)
    xp = library(*(c.array for t in v.terms for c in t.constants))
    if not v.random:
        return apply(v, "log", lambda f: f, xp.log)
    if as_table(v) is not None:
        return apply(v, "log", lambda f: None, xp.log)
    if (complement := _complement(v)) is not None:
        return complement
    if len(v.terms) != 1:
        raise NotClosedForm("log of a sum", rewrite=_MIXTURE)
    (term,) = v.terms
    indicators, k = _indicator_axes(term)
    if set(term.summed) - k:
        raise NotClosedForm("log of a sum", rewrite=_MIXTURE)
    # log (c prod a_i) = log c + sum_i log a_i, each times the indicators that are there
    out: list[Term] = []
    frame = Term((), indicators, frozenset(k))
    for c in term.constants:
        out.append(simplified(replace(frame, constants=(Const(xp.log(c.array), c.axes),))))
    for a in term.atoms:
        if a.function is INDICATOR:
            continue
        f = a.function.log()
        if f is None or a.latent.support == "real":
            raise NotClosedForm(f"log of {a.latent.name!r}, which may be negative")
        scale, f = f
        times = (Const(np.asarray(scale), ()),)
        out.append(simplified(replace(frame, constants=times, atoms=(*indicators, replace(a, function=f)))))
    for t in () if term.exponent is None else term.exponent.terms:
        found = product(frame, t)
        if found is not None:
            out.append(found)
    return Value(v.axes, merged(out))


_MIXTURE = (
    "if it is the log of a mixture, write the component as a discrete latent: "
    "z = numpyro.sample('z', dist.Categorical(weights))"
)


def _complement(v: Value) -> Value | None:
    """log(1 - p) for p in the unit interval, and for an element of it looked up by a discrete latent."""
    if len(v.terms) != 2:
        return None
    fixed = [t for t in v.terms if not t.atoms and t.exponent is None]
    moving = [t for t in v.terms if t.atoms]
    if len(fixed) != 1 or len(moving) != 1:
        return None
    one, (t,) = constant_of(Value(v.axes, tuple(fixed))), moving
    if not one.known or not np.all(one.array == 1) or t.exponent is not None:
        return None
    indicators, k = _indicator_axes(t)
    if set(t.summed) - k or not all(c.known and np.all(c.array == -1) for c in t.constants) or len(t.constants) != 1:
        return None
    own = [a for a in t.atoms if a.function is not INDICATOR]
    if len(own) != 1 or own[0].latent.support != "unit" or own[0].function != IDENTITY:
        return None
    f = replace(own[0], function=IDENTITY.log_complement())
    return Value(v.axes, (Term((), (*indicators, f), frozenset(k)),))


def exp(v: Any) -> Value:
    """The exponential: of a constant; of logs of positive latents, a monomial; of anything affine in Gaussians."""
    v = as_value(v)
    xp = library(*(c.array for t in v.terms for c in t.constants))
    if not v.random or as_table(v) is not None:
        return apply(v, "exp", lambda f: None, xp.exp)
    out = as_value(1.0)
    rest: list[Term] = []
    for t in v.terms:
        scale = _scalar(t.constants)
        # (An element may be looked up by discrete latents: along their values exactly one indicator is 1.)
        indicators, k = _indicator_axes(t)
        own = [a for a in t.atoms if a.function is not INDICATOR]
        single = len(own) == 1 and t.summed == k and t.exponent is None and scale is not None
        f = own[0].function.exp(scale) if single and own[0].latent.support != "real" else None
        if f is not None:
            out = out * Value(v.axes, (Term((), (*indicators, replace(own[0], function=f)), t.summed),))
        elif not t.atoms and t.exponent is None:
            c = constant_of(Value(v.axes, (t,)))
            out = out * Value(v.axes, (Term((Const(xp.exp(c.array), c.axes),)),))
        else:
            rest.append(t)
    if not rest:
        return Value(v.axes, (out * Value(v.axes, (Term(()),))).terms)
    inner = Value(v.axes, tuple(rest))
    return out * exp_of(_affine(inner), v)


def _affine(v: Value) -> Value:
    """v, if it is affine in real latents, or raise."""
    for t in v.terms:
        if any(a.function is INDICATOR for a in t.atoms):
            raise NotClosedForm("exp of a sum with a discrete latent in it")
        if t.exponent is not None or len(t.atoms) > 1 or t.atoms[0].latent.support != "real":
            names = sorted({a.latent.name for a in t.atoms})
            raise NotClosedForm(f"exp of something that is not affine in a Gaussian ({', '.join(names)})")
    return v


def _scalar(constants: Sequence[Const]) -> float | None:
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


def lgamma(v: Any) -> Value:
    """log Gamma(v), of a constant or of a function of one element."""
    v = as_value(v)
    if not v.random or as_table(v) is not None:
        return apply(v, "lgamma", lambda f: None, gammaln)
    out = of_one_element(v, "lgamma", gammaln)
    if out is None:
        raise NotClosedForm("log Gamma of an expression of several elements")
    return out


def gammaln(x: Any) -> Any:
    """log Gamma, of arrays and tracers."""
    return scipy.special.gammaln(x) if library(x) is np else jax.scipy.special.gammaln(x)


def reciprocal(v: Any) -> Value:
    return power(v, -1.0)


def of_one_element(v: Value, name: str, elementwise: Callable[[Any], Any]) -> Value | None:
    """Any elementwise function of a value that itself is a function of one element of one latent; else None."""
    if not v.random or len(v.terms) != 1:
        return None
    (t,) = v.terms
    if len(t.atoms) != 1 or t.summed or t.exponent is not None:
        return None
    scale = _scalar(t.constants)
    (a,) = t.atoms
    if scale is None or a.function is INDICATOR or a.latent.support in ("simplex", "matrix"):
        return None
    f = a.function.then(name, scale, elementwise)
    return Value(v.axes, (Term((), (replace(a, function=f),)),))


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


def size_of(axes: Iterable[Axis | None]) -> int:
    return math.prod(a.size for a in axes if a is not None)
