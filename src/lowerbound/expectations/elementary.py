"""Powers, logarithms, exponentials and other functions of random values.

Of a monomial (one term, nothing summed) they act on every atom by itself: (c tau^a)^p = c^p tau^(a p), and so for log.
The exponential of logarithms is a monomial, that of anything affine in Gaussians is kept as it is: its expectation is
that of a log-normal variable. A function of one element of one latent is a statistic of that latent, whatever the
function. Of a value with branches (``where(z == 1, s, 0.1)``) all of them act branch by branch
(:mod:`~lowerbound.expectations.branches`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import scipy.special

from lowerbound.expectations.arguments import scalar
from lowerbound.expectations.atoms import Atom, NotClosedForm
from lowerbound.expectations.axes import Const, library
from lowerbound.expectations.branches import by_branches
from lowerbound.expectations.functions import IDENTITY, INDICATOR, Function
from lowerbound.expectations.supports import is_number, probes, signed
from lowerbound.expectations.tables import IMPOSSIBLE, as_table, from_table, indicator_axes
from lowerbound.expectations.values import Term, Value, as_value, constant_of, merged, product, simplified


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


def _somehow(
    v: Value, name: str, direct: Callable[[Value], Value], each: Callable[[Value], Value], fixed: Any = None
) -> Value:
    """``direct`` of a value; where that has no place in the algebra, ``each`` of its branches.

    Args:
        v: The value.
        name: Of the function, which says all of it.
        direct, each: The function, of values.
        fixed: The function on arrays, for positive numbers; where given, it is a statistic of the one element that the
            value is a positive function of.
    """
    try:
        return direct(v)
    except NotClosedForm as e:
        if fixed is not None and positive(v) and (out := of_one_element(v, name, fixed)) is not None:
            return out
        try:
            out = by_branches(v, each)
        except NotClosedForm as inner:
            # (Of a branch that is a sum itself, no more is to be said than of the whole.)
            raise e if inner.operation == e.operation else inner from None
        if out is None:
            raise e from None
        return out


def positive(v: Value) -> bool:
    """Whether a function of one element is positive wherever that element may be, as far as probes tell."""
    found = one_element(v)
    if found is None:
        return False
    a, scale, f = found
    at = scale * np.asarray(f(probes(a.latent.support)), float)
    return bool(np.isfinite(at).all() and (at > 0).all())


def power(v: Any, exponent: float) -> Value:
    """v ** exponent, for a constant exponent."""
    return _somehow(
        as_value(v),
        f"pow[{exponent:g}]",
        lambda w: _power(w, exponent),
        lambda w: power(w, exponent),
        lambda a: a**exponent,
    )


def _power(v: Value, exponent: float) -> Value:
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
    term = next(iter(v.terms))
    if len(v.terms) == 1 and term.exponent is not None:  # (c prod a_i e^u)^p = (c prod a_i)^p e^(p u)
        base = Value(v.axes, (replace(term, exponent=None),))
        rest = power(base, exponent) if base.terms[0].atoms or base.terms[0].constants else as_value(1.0)
        return rest * exp_of(term.exponent * exponent, v)
    if _real(v) or (not whole and any(signed(a.latent.support) and a.function.exponent for a in _atoms(v))):
        raise NotClosedForm(f"the power {exponent:g} of a real latent")
    return apply(v, f"the power {exponent:g}", lambda f: f.power(exponent), lambda a: _as_float(a) ** exponent)


def _as_float(a: Any) -> Any:
    return a.astype(float) if isinstance(a, np.ndarray) and a.dtype.kind in "iub" else a


def _has_sum(v: Value) -> bool:
    return any(set(t.summed) - indicator_axes(t)[1] for t in v.terms)


def _atoms(v: Value) -> list[Atom]:
    return [a for t in v.terms for a in t.atoms]


def _real(v: Value) -> bool:
    return any(a.latent.support == "real" for a in _atoms(v))


def exp_of(exponent: Value, like: Value) -> Value:
    """exp of a value, over the axes of ``like``."""
    return Value(like.axes, (Term((), (), frozenset(), exponent),))


def log(v: Any) -> Value:
    """The logarithm of a constant, a monomial, or an exponential."""
    v = as_value(v)
    chosen = any(a.function is INDICATOR for t in v.terms for a in t.atoms)

    def each(w: Value) -> Value:
        if w.random or not chosen:
            return log(w)
        c = constant_of(w)
        return Value(w.axes, (Term((Const(_gated_log(c.array), c.axes),)),))

    return _somehow(v, "log", _log, each, lambda a: library(a).log(a))


def _log(v: Value) -> Value:
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
        if f is None or signed(a.latent.support):
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
        return np.maximum(np.log(a), IMPOSSIBLE)


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
    return _somehow(as_value(v), "exp", _exp, exp)


def _exp(v: Value) -> Value:
    xp = library(*(c.array for t in v.terms for c in t.constants))
    if not v.random or as_table(v) is not None:
        return apply(v, "exp", lambda f: None, xp.exp)
    out = as_value(1.0)
    rest: list[Term] = []
    for t in v.terms:
        scale = scalar(t.constants)
        # (An element may be looked up by discrete latents: along their values exactly one indicator is 1.)
        indicators, k = indicator_axes(t)
        own = [a for a in t.atoms if a.function is not INDICATOR]
        single = len(own) == 1 and t.summed == k and t.exponent is None and scale is not None
        plain = single and own[0].latent.support != "real"
        f = own[0].function.exp(scale) if plain and scale is not None else None
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


def lgamma(v: Any) -> Value:
    """log Gamma(v), of a constant or of a function of one element."""
    return _somehow(as_value(v), "lgamma", _lgamma, lgamma)


def _lgamma(v: Value) -> Value:
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
    found = one_element(v)
    if found is None:
        return None
    a, scale, inner = found
    f = inner.then(name, scale, elementwise)
    return Value(v.axes, (Term((), (replace(a, function=f),)),))


def one_element(v: Value) -> tuple[Atom, float, Function] | None:
    """A value that is c f(x), x one element of one latent: an atom of x, c and f; else None."""
    parts: list[tuple[float, Function]] = []
    place: Atom | None = None
    for t in v.terms:
        scale = scalar(t.constants)
        if scale is None or t.summed:
            return None
        f = Function(())
        for a in t.atoms:
            if a.function is INDICATOR or not is_number(a.latent.support):
                return None
            place, f = place or a, f * a.function
            if not place.same_place(a):
                return None
        if t.exponent is not None:
            inner = one_element(Value(v.axes, t.exponent.terms))
            if inner is None or (place is not None and not place.same_place(inner[0])):
                return None
            place = place or inner[0]
            f = f * inner[2].then("exp", inner[1], _exponential)
        parts.append((scale, f))
    if place is None:
        return None
    if len(parts) == 1:
        return place, *parts[0]
    return place, 1.0, Function.sum_of(tuple(parts))


def _exponential(x: Any) -> Any:
    return library(x).exp(x)


def function_of(v: Value, name: str, elementwise: Callable[[Any], Any]) -> Value | None:
    """Any elementwise function of a value each of whose branches is a constant or of one element; else None."""

    def each(w: Value) -> Value:
        if not w.random:
            c = constant_of(w)
            with jax.ensure_compile_time_eval():
                array = np.asarray(elementwise(c.array)) if c.known else elementwise(c.array)
            return Value(w.axes, (Term((Const(array, c.axes),)),))
        out = of_one_element(w, name, elementwise)
        if out is None:
            raise NotClosedForm(f"{name} of an expression of several elements")
        return out

    try:
        return of_one_element(v, name, elementwise) or by_branches(v, each)
    except NotClosedForm:
        return None
