r"""Products of functions of different elements of one latent, whose elements are independent in q.

    sum_jk c_jk E[f(x_j) g(x_k)]  =  sum_jk c_jk [j != k] E[f(x_j)] E[g(x_k)]  +  sum_jk c_jk [j = k] E[f(x_j) g(x_j)]

The horseshoe's tau lambda_j w_j in a mean has lambda_j lambda_k in its square. A term is taken apart into those that
name elements that differ everywhere, and those that name one element once. Exact, whatever q is; of a latent whose
elements are dependent in q (a dense Gaussian, a simplex, a matrix) nothing is taken apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lowerbound.expectations.atoms import Atom, NotClosedForm
from lowerbound.expectations.axes import Axis, Const, Index, index_axes, same_index, spread
from lowerbound.expectations.functions import IDENTITY, INDICATOR
from lowerbound.expectations.supports import is_number
from lowerbound.expectations.values import Term, Value, simplified

#: Places of a mask.
_PLACES = 2**24


def apart(v: Value) -> Value:
    """A value whose terms have no two functions of one latent at places that may be the same.

    Raises:
        NotClosedForm: the places are not known, or too many.
    """
    if not any(_repeated(t) for t in v.terms):
        return v
    return replace(v, terms=tuple(s for t in v.terms for s in _apart(t)))


def _repeated(t: Term) -> set[str]:
    """The latents with functions at different places of a term, that are taken apart."""
    out = set()
    for n, a in enumerate(t.atoms):
        if not is_number(a.latent.support) or a.function is INDICATOR:
            continue
        others = [b for b in t.atoms[n + 1 :] if b.latent is a.latent and not b.same_place(a)]
        if others:
            out.add(a.latent.name)
    # (x_j x_k of Gaussian x are moments of a dense block, and so is f(x_j) x_k.)
    plain = {a.latent.name for a in t.atoms if a.latent.support == "real" and a.function == IDENTITY}
    return out - plain


def _apart(t: Term) -> list[Term]:
    names = _repeated(t)
    if not names:
        return [t]
    rest = tuple(a for a in t.atoms if a.latent.name not in names)
    found = [replace(t, atoms=rest)]
    for name in sorted(names):
        own = [a for a in t.atoms if a.latent.name == name]
        found = [_with(s, masks, atoms) for s in found for masks, atoms in _partitions(own)]
    return [simplified(s) for s in found if not s.zero]


def _with(t: Term, masks: Sequence[Const], atoms: Sequence[Atom]) -> Term:
    return replace(t, constants=(*t.constants, *masks), atoms=(*t.atoms, *atoms))


def _partitions(atoms: Sequence[Atom]) -> list[tuple[list[Const], list[Atom]]]:
    """Every way in which places may be the same: masks that say so, and one atom for each place."""
    found: list[tuple[list[Const], list[Atom]]] = [([], [])]
    for b in atoms:
        longer: list[tuple[list[Const], list[Atom]]] = []
        for masks, known in found:
            apart_: list[Const] | None = [*masks]
            for n, a in enumerate(known):
                same = _same(a, b)
                if same.array.any():
                    whole = bool(same.array.all())
                    merged = replace(a, function=a.function * b.function)
                    both = [*known[:n], *([] if merged.function.trivial else [merged]), *known[n + 1 :]]
                    longer.append(([*masks, *([] if whole else [same])], both))
                    if whole:
                        apart_ = None
                        break
                    assert apart_ is not None
                    apart_.append(Const(1.0 - same.array, same.axes))
            if apart_ is not None:
                longer.append((apart_, [*known, b]))
        found = longer
    return found


def _same(a: Atom, b: Atom) -> Const:
    """1 where two atoms are at the same element, else 0."""
    axes = index_axes([*a.index, *b.index])
    out = Const(np.ones(()), ())
    for i, j in zip(a.index, b.index, strict=True):
        if same_index(i, j):
            continue
        first, second = _places(i, a), _places(j, b)
        own = tuple(x for x in axes if x in first.axes or x in second.axes)
        both = tuple(x for x in axes if x in out.axes or x in own)
        if math.prod(x.size for x in both) > _PLACES:
            raise NotClosedForm(f"a product of functions of different elements of {a.latent.name!r}, too many")
        equal = (spread(first, own) == spread(second, own)).astype(float)
        out = Const(spread(out, both) * spread(Const(equal, own), both), both)
    return out


def _places(i: Index, a: Atom) -> Const:
    if isinstance(i, Axis):
        return Const(np.arange(i.size), (i,))
    if not isinstance(i.array, (np.ndarray, np.generic)):
        raise NotClosedForm(f"a product of functions of different elements of {a.latent.name!r}, at unknown places")
    return Const(np.asarray(i.array), i.axes)
