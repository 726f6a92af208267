"""Sums, products and functions of single elements, as JAX names them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.axes import Axis, Const
from lowerbound.expectations.composed import CHANGE_POINT, masked, operation
from lowerbound.expectations.elementary import exp, log, power, reciprocal
from lowerbound.expectations.functions import INDICATOR
from lowerbound.expectations.supports import is_number, signed
from lowerbound.expectations.tables import as_table, from_table
from lowerbound.expectations.values import Term, Value, constant_of


@operation("add", "add_any")
def _add(x: Sequence[Value], _: Any) -> Value:
    return x[0] + x[1]


@operation("sub")
def _sub(x: Sequence[Value], _: Any) -> Value:
    return x[0] - x[1]


@operation("mul")
def _mul(x: Sequence[Value], _: Any) -> Value:
    return x[0] * x[1]


@operation("div")
def _div(x: Sequence[Value], _: Any) -> Value:
    return x[0] * reciprocal(x[1])


@operation("neg")
def _neg(x: Sequence[Value], _: Any) -> Value:
    return -x[0]


@operation("convert_element_type", "copy", "copy_p", "stop_gradient", "optimization_barrier", "reduce_precision")
def _same(x: Sequence[Value], params: Any) -> Value:
    return x[0]


@operation("integer_pow")
def _integer_pow(x: Sequence[Value], params: Any) -> Value:
    return power(x[0], float(params["y"]))


@operation("square")
def _square(x: Sequence[Value], _: Any) -> Value:
    return power(x[0], 2.0)


@operation("sqrt")
def _sqrt(x: Sequence[Value], _: Any) -> Value:
    return power(x[0], 0.5)


@operation("rsqrt")
def _rsqrt(x: Sequence[Value], _: Any) -> Value:
    return power(x[0], -0.5)


@operation("pow")
def _pow(x: Sequence[Value], _: Any) -> Value:
    base, exponent = x
    if exponent.random:
        return exp(exponent * log(base))
    c = constant_of(exponent)
    if not c.known or not np.all(c.array == c.array.flat[0]):
        return exp(exponent * log(base))
    return power(base, float(c.array.flat[0]))


@operation("exp")
def _exp(x: Sequence[Value], _: Any) -> Value:
    return exp(x[0])


@operation("exp2")
def _exp2(x: Sequence[Value], _: Any) -> Value:
    return exp(x[0] * math.log(2))


@operation("log")
def _log(x: Sequence[Value], _: Any) -> Value:
    return log(x[0])


@operation("log1p")
def _log1p(x: Sequence[Value], _: Any) -> Value:
    return log(x[0] + 1.0)


@operation("abs")
def _abs(x: Sequence[Value], _: Any) -> Value:
    if len(x[0].terms) == 1:
        (t,) = x[0].terms
        fixed = all(c.known and (c.array >= 0).all() for c in t.constants)
        if fixed and all(_positive(a) for a in t.atoms):
            return x[0]
    raise NotClosedForm("abs")


def _positive(a: Any) -> bool:
    """Whether an atom is never negative: an indicator, or a power (not the logarithm) of what never is."""
    support = a.latent.support
    never = support == "simplex" or (is_number(support) and not signed(support))
    power = never and a.function.exponent is not None
    return power or a.function is INDICATOR


@operation("select_n")
def _select(x: Sequence[Any], _: Any) -> Value:
    if len(x) != 3:
        raise NotClosedForm("a choice of more than two")
    which, no, yes = x
    which = which.expand(*range(yes.ndim - which.ndim))  # one truth may choose between whole arrays
    if which.random:
        if as_table(which) is None:
            raise NotClosedForm("a choice that depends on a continuous latent", rewrite=CHANGE_POINT)
        return which * yes + _complement(which) * no
    c = constant_of(which)
    if not c.known:
        c = Const(c.array.astype(float), c.axes)
        here = Value(which.axes, (Term((c,)),))
        return here * yes + (1.0 - here) * no
    if c.array.all():
        return Value(tuple(_first(a, b) for a, b in zip(yes.axes, which.axes, strict=True)), yes.terms)
    if not c.array.any():
        return Value(tuple(_first(a, b) for a, b in zip(no.axes, which.axes, strict=True)), no.terms)
    return masked(yes, which) + masked(no, 1.0 - which)


def _complement(which: Value) -> Value:
    """1 - z as sum_k 1[z = k] (1 - k): a term for each choice, and none for both."""
    found = as_table(which)
    assert found is not None
    atom, table = found
    return from_table(which.axes, atom, Const(1.0 - table.array, table.axes))


def _first(a: Axis | None, b: Axis | None) -> Axis | None:
    return a if a is not None else b


ELEMENTWISE = {
    *("add", "add_any", "sub", "mul", "div", "neg", "convert_element_type", "integer_pow", "square", "sqrt", "rsqrt"),
    *("pow", "exp", "exp2", "log", "log1p", "abs", "select_n", "expm1", "logistic", "erf", "erfc", "erf_inv", "tanh"),
    *("sin", "cos", "tan", "atan", "asin", "acos", "sinh", "cosh", "asinh", "acosh", "atanh", "lgamma", "digamma"),
    *("max", "min", "sign", "floor", "ceil", "round", "clamp", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not"),
    *("is_finite", "rem", "cbrt", "copy", "copy_p", "stop_gradient", "log_softmax", "atan2", "nextafter", "xor"),
}
