"""Functions of one element of a latent: the sufficient statistics that a model asks for.

A :class:`Function` is a product of powers, logarithms and whatever else was applied to one element:
x^a, log x, log(1 - x), x log x, lgamma(x / 2). Two functions are the same if they were written the same way, so
that the statistics of a latent are a set. Calling one evaluates it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Part:
    """One factor of a function: ``kind`` with its parameter, to a power."""

    kind: str
    parameter: Any = None
    call: Callable[[Any], Any] | None = field(default=None, compare=False)

    def __call__(self, x: Any, xp: Any) -> Any:
        if self.call is not None:
            return self.call(x)
        if self.kind == "power":
            return x**self.parameter
        if self.kind == "log":
            return xp.log(x)
        assert self.kind == "log_complement", self.kind
        return xp.log1p(-x)


@dataclass(frozen=True)
class Function:
    """A product of parts; the empty one is the constant 1."""

    parts: tuple[Part, ...]

    def __call__(self, x: Any, xp: Any = np) -> Any:
        out = xp.ones_like(x)
        for p in self.parts:
            out = out * p(x, xp)
        return out

    @property
    def trivial(self) -> bool:
        return not self.parts

    @property
    def exponent(self) -> float | None:
        """a, where the function is x^a."""
        if len(self.parts) == 1 and self.parts[0].kind == "power" and self.parts[0].call is None:
            return self.parts[0].parameter
        return None

    @property
    def is_log(self) -> bool:
        return self.parts == (Part("log"),)

    @property
    def is_log_complement(self) -> bool:
        return self.parts == (Part("log_complement"),)

    def __mul__(self, other: Function) -> Function:
        power, parts = 0.0, []
        for p in (*self.parts, *other.parts):
            if p.kind == "power" and p.call is None:
                power += p.parameter
            else:
                parts.append(p)
        if power:
            parts.append(Part("power", power))
        if power == 1 and len(parts) == 1:
            return IDENTITY
        return Function(tuple(sorted(parts, key=lambda p: (p.kind, repr(p.parameter)))))

    def power(self, a: float) -> Function | None:
        own = self.exponent
        if own is None:
            if not (float(a).is_integer() and 0 < a <= 4):
                return None
            out = self
            for _ in range(int(a) - 1):
                out = out * self
            return out
        return IDENTITY if own * a == 1 else Function((Part("power", own * a),)) if own * a else Function(())

    def log(self) -> tuple[float, Function] | None:
        """(c, f) with log self = c f."""
        own = self.exponent
        return None if own is None else (own, Function((Part("log"),)))

    def exp(self, scale: float) -> Function | None:
        """exp(scale * self), where that is a power."""
        if self.is_log:
            return IDENTITY if scale == 1 else Function((Part("power", scale),))
        return None

    def log_complement(self) -> Function:
        return Function((Part("log_complement"),))

    def then(self, name: str, scale: float, call: Callable[[Any], Any]) -> Function:
        """call(scale * self)."""
        return Function((Part(name, (scale, self), lambda x: call(scale * self(x, _library(x)))),))

    @staticmethod
    def sum_of(parts: tuple[tuple[float, Function], ...]) -> Function:
        """sum_j c_j f_j of one element."""
        return Function((Part("sum", parts, lambda x: sum(c * f(x, _library(x)) for c, f in parts)),))

    def said(self, x: str) -> str:
        """The function of what is called ``x``, in words."""
        return " ".join(_said(p, x) for p in self.parts) or "1"

    def __str__(self) -> str:
        return self.said("x")


def _said(p: Part, x: str) -> str:
    names = {
        "log": f"log {x}",
        "log_complement": f"log(1 - {x})",
        "indicator": f"1[{x} = k]",
        "log_det": f"log |{x}|",
        "inverse": f"{x}^-1",
    }
    if p.call is None and p.kind in names:
        return names[p.kind]
    if p.call is None and p.kind == "power":
        return x if p.parameter == 1 else f"{x}^{p.parameter:g}"
    if p.kind == "sum":
        return "(" + " + ".join(f"{c:g}" + ("" if f.trivial else f" {f.said(x)}") for c, f in p.parameter) + ")"
    scale, inner = p.parameter
    return f"{p.kind}({'' if scale == 1 else f'{scale:g} '}{inner.said(x)})"


def _library(x: Any) -> Any:
    if isinstance(x, (np.ndarray, np.generic, float)):
        return np
    import jax.numpy as jnp

    return jnp


#: x itself.
IDENTITY = Function((Part("power", 1.0),))
#: Its logarithm.
LOG = Function((Part("log"),))
#: The indicator that a discrete latent has the value k.
INDICATOR = Function((Part("indicator"),))
#: Of a matrix: the logarithm of its determinant, and its inverse.
LOG_DET = Function((Part("log_det"),))
INVERSE = Function((Part("inverse"),))
