"""Integrals that have a closed form by rule, and those that SymPy finds in the time it is given.

A rule is exact and immediate: an expectation is linear, so that each term of an expanded log density is looked up; and
a joint density whose log is affine in the sufficient statistics of a Normal, a Gamma or a Beta has their normaliser.
SymPy's own integration is asked where no rule is found, and may take for ever: it is interrupted.
"""

# SymPy annotates its functions more narrowly than what they take and give.
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportReturnType=false

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import sympy as sp

from lowerbound.symbolic.distributions import POSITIVE, REAL, UNIT, Beta, Categorical, Distribution, Gamma, Normal

_LIMITS = {REAL: (-sp.oo, sp.oo), POSITIVE: (0, sp.oo), UNIT: (0, 1)}


def limits(support: Any) -> tuple[Any, Any]:
    return _LIMITS[support]


class _TooLong(Exception):
    pass


def within(seconds: float, f: Callable[[], Any]) -> Any:
    """``f()``, or None if it has not ended in time; not begun where it could not be interrupted (in a thread)."""
    if seconds <= 0 or threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        return None

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return f()
    except _TooLong:
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def expanded(log_density: sp.Expr, z: sp.Symbol) -> sp.Expr:
    """A log density as a sum of terms in z: products opened, logs of products and powers taken apart."""
    return sp.expand(sp.expand_log(sp.expand(log_density), force=True))


def expectation(q: Distribution, f: Callable[[Any], sp.Expr], z: sp.Symbol, seconds: float) -> sp.Expr | None:
    """E_q[f(z)] in closed form; None where none is found.

    Args:
        q: The distribution of z.
        f: From z, or each value of a discrete one, to an expression.
        z: The symbol.
        seconds: That SymPy is given for a term without a rule.
    """
    if isinstance(q.support, tuple):
        return sp.Add(*(sp.exp(q.log_density(k)) * f(k) for k in q.support))
    out = sp.Integer(0)
    for term in sp.Add.make_args(expanded(f(z), z)):
        constant, rest = term.as_independent(z, as_Add=False)
        found = q.moment(rest, z)
        if found is None:
            found = _integral(sp.exp(q.log_density(z)) * rest, z, q.support, seconds)
        if found is None:
            return None
        out = out + constant * found
    return out


def _integral(f: sp.Expr, z: sp.Symbol, support: Any, seconds: float) -> sp.Expr | None:
    found = within(seconds, lambda: sp.integrate(f, (z, *limits(support)), conds="none"))
    return None if found is None or found.has(sp.Integral) else found


def normaliser(log_joint: sp.Expr, z: sp.Symbol, support: str) -> tuple[sp.Expr, Distribution] | None:
    """log of the integral of exp(log_joint) over z, and the distribution that it normalises; None where no rule serves.

    With log_joint = c + a t(z) + b u(z):

        real, t = z, u = z^2:              c - a^2 / 4b + log(-pi / b) / 2
        positive, t = log z, u = z:        c + log Gamma(a + 1) - (a + 1) log(-b)
        unit, t = log z, u = log(1 - z):   c + log Beta(a + 1, b + 1)
    """
    statistics = {REAL: (z, z**2), POSITIVE: (sp.log(z), z), UNIT: (sp.log(z), sp.log(1 - z))}[support]
    found = {s: sp.Integer(0) for s in (sp.Integer(1), *statistics)}
    for term in sp.Add.make_args(expanded(log_joint, z)):
        constant, rest = term.as_independent(z, as_Add=False)
        if rest not in found:
            return None
        found[rest] += constant
    c, a, b = (sp.together(found[k]) if support == REAL else found[k] for k in found)
    if support == REAL:
        variance = sp.simplify(-1 / (2 * b)) if b != 0 else None
        if variance is None:
            return None
        log_z = tidy(c + sp.together(a**2 * variance / 2) + sp.log(2 * sp.pi * variance) / 2)
        return log_z, Normal(sp.factor(sp.together(a * variance)), sp.sqrt(sp.factor(variance)))
    if support == POSITIVE:
        return c + sp.loggamma(a + 1) - (a + 1) * sp.log(-b), Gamma(a + 1, -b)
    return c + sp.loggamma(a + 1) + sp.loggamma(b + 1) - sp.loggamma(a + b + 2), Beta(a + 1, b + 1)


def summed(log_joint: Callable[[int], sp.Expr], values: tuple[int, ...]) -> tuple[sp.Expr, Distribution]:
    """log sum_k exp(log_joint(k)), and the probabilities that it normalises."""
    parts = [sp.exp(log_joint(k)) for k in values]
    whole = sp.Add(*parts)
    return sp.log(whole), Categorical([p / whole for p in parts])


def tidy(e: sp.Expr) -> sp.Expr:
    """The shortest of a few ways to write it: as it is, and with logarithms put together and the rest opened or not."""
    logs: dict[sp.Expr, sp.Expr] = {}
    rest, kept = [], []
    for term in sp.Add.make_args(sp.expand(sp.expand_log(e, force=True))):
        constant, log = term.as_coeff_Mul()
        if isinstance(log, sp.log):
            # c log a + c log b = c log(ab), and the sign of c goes inside.
            size = sp.Abs(constant)
            logs[size] = logs.get(size, sp.Integer(1)) * log.args[0] ** sp.sign(constant)
        else:
            (kept if term.has(sp.log, sp.loggamma, sp.digamma) else rest).append(term)
    joined = []
    for size, inside in logs.items():
        up, down = sp.fraction(sp.factor(sp.together(inside)))
        more = len(sp.Mul.make_args(down)) > len(sp.Mul.make_args(up)) or up == 1
        joined.append(-size * sp.log(down / up) if more else size * sp.log(up / down))
    others = sp.Add(*joined, *kept)
    parts = (sp.Add(*rest), sp.factor(sp.together(sp.Add(*rest))))
    return min([e, *(p + others for p in parts)], key=sp.count_ops)
