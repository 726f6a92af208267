"""Positive definite matrices among random values: their inverse and their log determinant."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from lowerbound.errors import ModelError
from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.axes import Axis, Const
from lowerbound.expectations.elementary import log
from lowerbound.expectations.functions import IDENTITY, INDICATOR, INVERSE, LOG_DET, Function
from lowerbound.expectations.values import Term, Value, array_of, as_value

_REWRITE = "use the matrix itself, or a multiple of it, as precision_matrix= or covariance_matrix="


def log_det(matrix: Value) -> Value:
    """log |M| of a constant, or of a positive multiple of one matrix latent."""
    if not matrix.random:
        array = array_of(matrix)
        if isinstance(array, np.ndarray):
            _check(array)
            return as_value(np.linalg.slogdet(array)[1])
        return as_value(jnp.linalg.slogdet(array)[1])
    term, _, scale = _multiple(matrix, "the determinant")
    atoms = []
    sign = 1.0
    for a in term.atoms:
        if a.latent.support != "matrix":
            continue
        sign = -1.0 if a.function == INVERSE else 1.0
        atoms = [replace(a, function=LOG_DET, index=a.index[:-2])]
    indicators = tuple(a for a in term.atoms if a.function is INDICATOR)
    axes = matrix.axes[:-2]
    own = Value(axes, (Term((Const(np.asarray(sign), ()),), (*indicators, *atoms), term.summed),))
    if scale is not None:
        own = own + log(scale) * float(matrix.shape[-1])
    return own


def inverse(matrix: Value) -> Value:
    """M^-1 of a constant, or of a positive multiple of one matrix latent."""
    if not matrix.random:
        array = array_of(matrix)
        if isinstance(array, np.ndarray):
            _check(array)
            return as_value(np.linalg.inv(array))
        return as_value(jnp.linalg.inv(array))
    term, place, scale = _multiple(matrix, "the inverse")
    atoms = tuple(
        replace(a, function=INVERSE if a.function == IDENTITY else IDENTITY) if a.latent.support == "matrix" else a
        for a in term.atoms
        if a.latent.support == "matrix" or a.function is INDICATOR
    )
    del place
    own = Value(matrix.axes, (Term((), atoms, term.summed),))
    if scale is not None:
        own = own * (1.0 / scale if not isinstance(scale, Value) else _reciprocal(scale)).expand(
            scale.ndim, scale.ndim + 1
        )
    return own


def _check(array: np.ndarray) -> None:
    """Refuse a constant matrix that is singular, or not positive definite.

    Raises:
        ModelError: says by how much.
    """
    values = np.linalg.eigvalsh(array)
    low, high = values[..., 0], values[..., -1]
    bad = ~(low > 1e-14 * high)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0]) if bad.ndim else ()
        raise ModelError(
            f"a precision or covariance matrix{f' (number {first})' if first else ''} has eigenvalues from "
            f"{low[first]:.3g} to {high[first]:.3g}; needed: a positive definite one. Leave out what depends on the "
            "rest, or add a small multiple of the identity."
        )


def _reciprocal(v: Value) -> Value:
    from lowerbound.expectations.elementary import reciprocal

    return reciprocal(v)


def _multiple(matrix: Value, what: str) -> tuple[Term, tuple[Axis, ...], Value | None]:
    """The one term of c M[place], and the scalar c where it is not one."""
    if len(matrix.terms) != 1:
        raise NotClosedForm(f"{what} of a sum of matrices", rewrite=_REWRITE)
    (t,) = matrix.terms
    own = [a for a in t.atoms if a.latent.support == "matrix"]
    i, j = matrix.axes[-2:]
    fine = len(own) == 1 and own[0].function in (IDENTITY, INVERSE) and t.exponent is None
    if not fine or own[0].index[-2:] not in ((i, j), (j, i)):
        raise NotClosedForm(f"{what} of a matrix that is not one latent", rewrite=_REWRITE)
    others = tuple(a for a in t.atoms if a is not own[0] and a.function is not INDICATOR)
    ends = {a.index[-1] for a in t.atoms if a.function is INDICATOR}
    touches = any(i in c.axes or j in c.axes for c in t.constants) or any(
        i in a.axes or j in a.axes for a in (*others, *(x for x in t.atoms if x.function is INDICATOR))
    )
    if touches or set(t.summed) - ends:
        raise NotClosedForm(f"{what} of a matrix that is not a multiple of one latent", rewrite=_REWRITE)
    if not others and not t.constants:
        return t, (), None
    indicators = tuple(a for a in t.atoms if a.function is INDICATOR)
    scale = Value(matrix.axes[:-2], (Term(t.constants, (*indicators, *others), t.summed),))
    return t, (), scale


__all__ = ["Function", "inverse", "log_det"]
