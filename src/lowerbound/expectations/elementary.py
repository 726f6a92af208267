"""Powers, logarithms, exponentials and other functions of random values.

Of a monomial (one term, nothing summed) they act on every atom by itself: (c tau^a)^p = c^p tau^(a p), and so for log.
The exponential of logarithms is a monomial, that of anything affine in Gaussians is kept as it is: its expectation is
that of a log-normal variable. A function of one element of one latent is a statistic of that latent, whatever the
function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import scipy.special

from lowerbound.expectations.axes import Const, library
from lowerbound.expectations.functions import IDENTITY, INDICATOR, Function
from lowerbound.expectations.tables import as_table, from_table, indicator_axes
from lowerbound.expectations.values import (
    NotClosedForm,
    Term,
    Value,
    as_value,
    constant_of,
    merged,
    product,
    simplified,
)


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
        return from_table(v.axes, atom, Const(fixed(table.array), table.axes))
    if len(v.terms) != 1:
        raise NotClosedForm(f"{name} of a sum")
    (term,) = v.terms
    indicators, k = indicator_axes(term)
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
    return any(set(t.summed) - indicator_axes(t)[1] for t in v.terms)


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
        return apply(v, "log", lambda f: None, _gated_log)
    if (complement := _complement(v)) is not None:
        return complement
    if len(v.terms) != 1:
        raise NotClosedForm("log of a sum", rewrite=_MIXTURE)
    (term,) = v.terms
    indicators, k = indicator_axes(term)
    if set(term.summed) - k:
        raise NotClosedForm("log of a sum", rewrite=_MIXTURE)
    # log (c prod a_i) = log c + sum_i log a_i, each times the indicators that are there
    out: list[Term] = []
    frame = Term((), indicators, frozenset(k))
    for c in term.constants:
        logged = _gated_log(c.array) if indicators else xp.log(c.array)
        out.append(simplified(replace(frame, constants=(Const(logged, c.axes),))))
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


def _gated_log(a: Any) -> Any:
    """log a, where a zero is the value at one k of a discrete latent: so low that k has no weight, and finite, so that
    zero times it is zero."""
    if library(a) is not np:
        return jax.numpy.log(a)
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(a), _IMPOSSIBLE)


#: The logarithm of a probability of zero.
_IMPOSSIBLE = -1e300
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
    indicators, k = indicator_axes(t)
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
        indicators, k = indicator_axes(t)
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
        if t.exponent is not None or len(t.atoms) > 1 or any(a.latent.support != "real" for a in t.atoms):
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
