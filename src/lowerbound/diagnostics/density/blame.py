"""The operation to blame for a value or gradient that is not finite, in words, and what to do about it.

The :mod:`~lowerbound.diagnostics.density.tape` finds it; here it is told with its line, its row, the numbers that
went in, the sites that it depends on with their values and transforms, and a remedy that fits the break.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to
from numpyro.distributions.distribution import validation_enabled

from lowerbound.diagnostics.density.remedies import remedy
from lowerbound.diagnostics.density.tape import (
    Operation,
    Origin,
    TooLarge,
    Value,
    gated,
    inputs_of,
    origin,
    record,
    source,
)
from lowerbound.kernel import Kernel
from lowerbound.model.base import Model, is_real
from lowerbound.precision import float64

_WORDS = {
    "div": "division of {0:.4g} by {1:.4g}",
    "log": "log of {0:.4g}",
    "log1p": "log1p of {0:.4g}",
    "sqrt": "square root of {0:.4g}",
    "rsqrt": "1 / square root of {0:.4g}",
    "exp": "exp of {0:.4g}",
    "expm1": "expm1 of {0:.4g}",
    "mul": "product of {0:.4g} and {1:.4g}",
    "pow": "{0:.4g} to the power {1:.4g}",
    "cholesky": "Cholesky factor of a matrix that is not positive definite",
    "triangular_solve": "solution of a triangular system with a zero on its diagonal",
    "lu": "LU factors of a matrix",
    "eigh": "eigenvalues of a matrix",
    "lgamma": "log gamma of {0:.4g}",
    "digamma": "digamma of {0:.4g}",
    "erf_inv": "inverse erf of {0:.4g}",
    "atanh": "atanh of {0:.4g}",
    "acos": "acos of {0:.4g}",
    "asin": "asin of {0:.4g}",
    "pure_callback": "value that a callback returned",
    "io_callback": "value that a callback returned",
}


@dataclass(frozen=True)
class Blame:
    """One break.

    Attributes:
        operation: What was computed, in words: ``log of -3``.
        name: JAX's name of it; ``"constant"`` for a number written in the model.
        result: What came out.
        row: The first index of the bad element, or None for a scalar.
        turn: Which turn of which loop, or nothing.
        line: The model's line, or nothing.
        sites: Sites that it depends on.
        latents: Their values there with their transforms, in words.
        cause: What made the zero that broke it, in words, or nothing.
        suggestion: What to do.
    """

    operation: str
    name: str
    result: float
    row: int | None
    turn: str
    line: str
    sites: tuple[str, ...]
    latents: str
    cause: str
    suggestion: str

    def __str__(self) -> str:
        where = (f" in row {self.row}" if self.row is not None else "") + (f" in {self.turn}" if self.turn else "")
        of = f", where {self.latents}" if self.latents else ""
        if not of and self.name != "constant":
            of = ", which depends on no latent, only on the data"
        line = f" at {self.line}" if self.line else ""
        cause = f" ({self.cause})" if self.cause else ""
        gives = f" gives {self.result:.4g}" if self.name != "constant" else ""
        return f"the {self.operation}{cause}{gives}{where}{line}{of}. Suggestion: {self.suggestion}"


def blame(kernel: Kernel, x: np.ndarray, *, gradient: bool = False, kinds: tuple[str, ...] = ()) -> Blame | None:
    """What first was not finite at the unconstrained point ``x [p]``; None if all is, or it cannot be told.

    Args:
        kernel: Of the fit.
        x: The point.
        gradient: Look at the gradient, not the value.
        kinds: Classes of the distributions that are not finite there.

    Cost: every operation of the model once, outside any compiled program: tenths of a second to seconds.
    """
    density = kernel.log_density
    with float64(), np.errstate(all="ignore"), validation_enabled(False), warnings.catch_warnings():
        # A jaxpr of one operation has no record of where its function came from, which is what JAX asks for.
        warnings.filterwarnings("ignore", ".*missing a DebugInfo object", DeprecationWarning)
        n = len(density.jaxpr.constvars)
        arguments = [jnp.asarray(a) for a in density.arguments]
        root = Value(jnp.asarray(x, jnp.float64))
        data = [Value(a) for a in arguments[n:]]
        try:
            if gradient:
                traced = jax.make_jaxpr(jax.grad(density.call))(root.array, arguments)
                outputs = record(traced.jaxpr, traced.consts, [root, *(Value(a) for a in arguments)])
            else:
                outputs = record(density.jaxpr, arguments[:n], [root, *data])
            found = origin(outputs[0])
        except (TooLarge, jax.errors.JAXTypeError, NotImplementedError):
            # Operations are run one by one here, and some cannot be outside a program (JAX says so in one of these
            # ways). The message then names the site without the operation; there is no fault to report in that.
            return None
        if found is None or (found.operation is None and not found.path):
            return None
        return _tell(kernel.model, x, root, found, gradient, kinds)


def _tell(model: Model, x: np.ndarray, root: Value, o: Origin, gradient: bool, kinds: tuple[str, ...]) -> Blame:
    # A constant has no operation of its own: it is told with the line of the first one that takes it.
    op = o.operation or o.path[-1]
    name = op.name if o.operation is not None else "constant"
    ranges = inputs_of(op, root)
    sites = tuple(model.sites_of(np.concatenate([np.arange(a, b) for a, b in ranges]))) if ranges else ()
    maker, cause = _cause(op, o, name)
    line = (
        op.line or (maker.line if maker is not None else "") or next((p.line for p in reversed(o.path) if p.line), "")
    )
    row = o.index[0] if o.index and np.size(op.outputs[0].array) > 1 else None
    suggestion = remedy(
        name,
        o.operands,
        result=o.result,
        gradient=gradient,
        chosen=gated(o.path),
        latent=bool(sites),
        underflow=maker is not None and maker.name in ("exp", "logistic", "exp2"),
        kinds=kinds,
    )
    return Blame(
        _phrase(name, o), name, o.result, row, op.turn, line, sites, _values(model, x, sites), cause, suggestion
    )


def _phrase(name: str, o: Origin) -> str:
    if name == "constant":
        return f"constant {o.result:.4g} in the model"
    words = _WORDS.get(name)
    if words is None or ("{1" in words and len(o.operands) < 2):
        words = f"operation {name}" + (" of {0:.4g}" if o.operands and np.isfinite(o.operands[0]) else "")
    if any(f"{{{i}" in words and np.isnan(v) for i, v in enumerate(o.operands)):
        return words.split(" of ")[0]  # which element went in cannot be told
    return words.format(*o.operands)


def _cause(op: Operation, o: Origin, name: str) -> tuple[Operation | None, str]:
    """The operation that made the zero which broke another, if it made it by underflow."""
    for v, e in zip(op.inputs, o.operands, strict=False):
        if name == "constant" or e != 0 or v.operation is None:
            continue
        maker = source(v, e)
        if maker is None:
            continue
        if maker.name in ("exp", "exp2", "logistic"):
            inside = np.asarray(maker.inputs[0].array)
            made = np.asarray(maker.outputs[0].array) == 0
            return maker, f"0 is exp of {float(inside[made].flat[0]):.4g}, which underflows" + (
                f", at {maker.line}" if maker.line and op.line and maker.line != op.line else ""
            )
        return maker, ""
    return None, ""


def _values(model: Model, x: np.ndarray, sites: tuple[str, ...]) -> str:
    """``sigma = 0 (ExpTransform of -800)`` for the first few sites."""
    values: dict[str, Any] = model.evaluate(model.unflatten(jnp.asarray(x)), model.arguments, False).values
    out = []
    for name in sites[:4]:
        site = model.sites[name]
        value, inside = np.asarray(values[name]), np.asarray(x[site.slice])
        of = "" if is_real(site.support) else f" ({transform_name(site.support)} of {_range(inside)})"
        out.append(f"{name} = {_range(value)}{of}")
    return ", ".join(out) + (" and others" if len(sites) > 4 else "")


def transform_name(support: Any) -> str:
    """The transform onto a support, under what only makes its events larger."""
    transform = biject_to(support)
    while hasattr(transform, "base_transform"):
        transform = transform.base_transform
    return type(transform).__name__


def _range(a: np.ndarray) -> str:
    a = np.ravel(a)
    return f"{a[0] + 0.0:.4g}" if a.size == 1 or (a == a[0]).all() else f"{a.min():.4g} to {a.max():.4g}"
