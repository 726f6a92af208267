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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lowerbound.expectations.atoms import Atom, Latent, NotClosedForm, atom_at, clash, const_at, never_both
from lowerbound.expectations.axes import (
    Axis,
    Const,
    Index,
    Lookup,
    constant,
    contract,
    index_axes,
    library,
    same_index,
    spread,
)
from lowerbound.expectations.functions import IDENTITY, INDICATOR


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
    """A sum of terms over ``axes``; None is a dimension of size one, along which nothing runs.

    Where it is an elementwise function of another value, ``origin`` says of which: the sum may not tell.
    """

    axes: tuple[Axis | None, ...]
    terms: tuple[Term, ...]
    origin: Any = None

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
                constants = [const_at(c, {k: j}) for c in constants]
                rest = [atom_at(x, {k: j}) for x in atoms]
                return product(Term(tuple(constants), tuple(rest), frozenset(summed - {k}), exponent), Term(()))
            summed.discard(k)
        elif isinstance(j, Axis) and j in summed:
            names[j] = k if isinstance(k, Axis) else j
            if isinstance(k, Axis):
                summed.discard(j)
                atoms[found] = b
            else:
                return None if never_both(a, b) else clash(a)
        elif not same_index(j, k):
            return None if never_both(a, b) else clash(a)
    out = Term(tuple(constants), tuple(atoms), frozenset(summed), exponent)
    if names:
        out = out.renamed(names)
    return simplified(out)


def added(exponents: Sequence[Value]) -> Value:
    """The sum of exponents. Their axes are known by identity, wherever they stand."""
    axes = dict.fromkeys(a for e in exponents for a in e.axes if a is not None)
    return Value(tuple(axes), merged(t for e in exponents for t in e.terms))


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


def _term_at(t: Term, places: Mapping[Axis, Index]) -> Term:
    exponent = t.exponent
    if exponent is not None and any(a in places for a in _all_axes(exponent)):
        axes = index_axes([places.get(a, a) for a in exponent.axes if a is not None])
        exponent = Value(axes, tuple(_term_at(s, places) for s in exponent.terms))
    return Term(
        tuple(const_at(c, places) for c in t.constants),
        tuple(atom_at(a, places) for a in t.atoms),
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
