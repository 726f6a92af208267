r"""Functions of one element of a dense Gaussian block: quadrature of the element's marginal.

Given x_i, the other elements of the block are Gaussian with mean m_j + b_j (x_i - m_i), b_j = C_ij / C_ii, and
covariance C_jk - C_ij C_ik / C_ii. So with F_p = E[f(x_i) (x_i - m_i)^p], one-dimensional integrals over N(m_i, C_ii),

    E[f(x_i)]          =  F_0
    E[f(x_i) x_j]      =  m_j F_0 + b_j F_1
    E[f(x_i) x_j x_k]  =  (m_j m_k + C_jk - b_j b_k C_ii) F_0 + (m_j b_k + m_k b_j) F_1 + b_j b_k F_2

which are functions of the block's first and second moments, though no linear ones: an update is a natural-gradient step
that is shortened until the ELBO rises. The integrals are taken by the trapezoidal rule, which for smooth f converges
faster than any power of the spacing (Trefethen & Weideman 2014).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lowerbound.expectations.atoms import Atom, NotClosedForm
from lowerbound.expectations.axes import Index, index_axes
from lowerbound.expectations.factors import RandomFactor
from lowerbound.expectations.functions import IDENTITY, Function
from lowerbound.expectations.moments import (
    BoundExpectation,
    Contraction,
    Expectation,
    bound_expectation,
    contraction,
    gaussian_moment,
)
from lowerbound.expectations.structure import Moment, Structure
from lowerbound.expectations.values import Term

#: Name of such an expectation among bounds; it is one that is tight.
QUADRATURE = "quadrature"
#: Standard deviations to either side, and points: for few elements, and for more than so many.
_REACH, _POINTS, _FEW, _MANY = 8.5, 513, 65, 20_000


def factor_expectation(
    f: RandomFactor, structure: Structure
) -> tuple[tuple[Contraction, ...], tuple[BoundExpectation, ...]]:
    """E_q of one factor: terms that are products of moments, and functions of moments (bounds and quadratures).

    Raises:
        NotClosedForm: an expectation that the structure does not give; names the factor.
    """
    terms: list[Contraction] = []
    others: list[BoundExpectation] = []
    try:
        for t in f.value.terms:
            if _curved(t, structure):
                others.append(_quadrature(t, structure))
            else:
                terms.append(contraction(t, (), structure))
        others += [bound_expectation(b, w, structure) for b, w in f.bounds]
    except NotClosedForm as e:
        e.factor = e.factor or f.name
        raise
    return tuple(terms), tuple(others)


def _curved(t: Term, structure: Structure) -> list[Atom]:
    """The functions of elements of Gaussian blocks in a term."""
    return [a for a in t.atoms if a.latent.name in structure.gaussian and a.function != IDENTITY]


def _quadrature(t: Term, structure: Structure) -> BoundExpectation:
    """A term with such functions, as a function of moments."""
    functions = _curved(t, structure)
    left = list(t.atoms)
    parts: list[tuple[Function, int]] = []
    moments: list[tuple[Moment, tuple[Index, ...]]] = []
    for a in functions:
        group = structure.gaussian[a.latent.name]
        mine = [b for b in left if structure.gaussian.get(b.latent.name) is group]
        others = [b for b in mine if b is not a]
        if any(b.function != IDENTITY for b in others):
            raise NotClosedForm(f"a product of functions of different elements of {', '.join(group.latents)}")
        if len(others) > 2:
            raise NotClosedForm(f"a function of an element of {a.latent.name!r} times a product of three others")
        x = Atom(a.latent, IDENTITY, a.index)
        pairs = [(x,), (x, x), *((b,) for b in others), *((x, b) for b in others)]
        pairs += [tuple(others)] if len(others) == 2 else []
        moments += [gaussian_moment(group, p) for p in pairs]
        parts.append((a.function, len(others)))
        inside = () if t.exponent is None else (b for s in t.exponent.terms for b in s.atoms)
        if any(structure.gaussian.get(b.latent.name) is group for b in inside):
            raise NotClosedForm(f"the exponential of a Gaussian times {a.function.said(a.latent.name)}")
        left = [b for b in left if not any(b is c for c in mine)]
    axes = tuple(dict.fromkeys(b for _, index in moments for b in index_axes(index)))
    # The rest of the term, along the axes of these moments; what it sums over alone is summed there.
    rest = contraction(Term(t.constants, tuple(left), frozenset(), t.exponent), axes, structure)
    inputs = [Contraction((), ((m, i),), None, (), axes) for m, i in moments]
    elements = math.prod(a.size for a in axes)
    one = Contraction((), (), None, (), axes)
    return BoundExpectation(
        QUADRATURE,
        _function(tuple(parts), elements > _MANY),
        tuple(Expectation(axes, (p,)) for p in (rest, *inputs)),
        Expectation(axes, (one,)),
        (),
        axes,
    )


def _function(parts: Sequence[tuple[Function, int]], many: bool) -> Callable[..., Any]:
    def call(rest: Any, *moments: Any) -> Any:
        out, given = rest, list(moments)
        for f, others in parts:
            count = (2, 4, 7)[others]
            out = out * _expected(f, *given[:count], many=many)
            given = given[count:]
        return out

    return call


def _expected(f: Function, mean: Any, square: Any, *others: Any, many: bool) -> Any:
    """E[f(x)], E[f(x) y] or E[f(x) y z]; ``others`` are E[y], E[x y], or E[y], E[z], E[x y], E[x z], E[y z]."""
    variance = jnp.maximum(square - mean**2, 1e-300)
    t = np.linspace(-_REACH, _REACH, _FEW if many else _POINTS)
    w = np.exp(-0.5 * t**2) / np.exp(-0.5 * t**2).sum()
    away = jnp.sqrt(variance)[..., None] * t
    at = f(mean[..., None] + away, jnp) * w
    first = at.sum(-1)
    if not others:
        return first
    second = (at * away).sum(-1)
    if len(others) == 2:
        m, cross = others
        return m * first + (cross - m * mean) / variance * second
    m, n, mx, nx, both = others
    a, b = (mx - m * mean) / variance, (nx - n * mean) / variance
    out = (both - a * b * variance) * first + (m * b + n * a) * second
    return out + a * b * (at * away**2).sum(-1)
