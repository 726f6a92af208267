"""x: the data a model is bound to, checked before anything is traced or compiled.

Arrays are *traced*: they are arguments of the compiled program. Everything else (numbers, strings,
flags) is *static*. A model that needs an array's value while it is traced (``np.diff(t)``, a Python
loop over rows) gets that data as constants instead; the program is then lifted so that they are
arguments all the same, see :mod:`lowerbound.compilation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lowerbound.errors import DataError, LowerboundError, ModelError
from lowerbound.model.base import abstract


class Data:
    """Keyword arguments of a model, split into traced arrays and static values.

    Args:
        data: A mapping from argument names to values, a DataFrame (its columns), or ``None``.
        owner: What the data are for, in messages.

    Raises:
        DataError: not a mapping, empty arrays, arrays of objects, NaN or infinite values.
    """

    def __init__(self, data: Mapping[str, Any] | None, owner: str = "model"):
        if data is None:
            data = {}
        if hasattr(data, "columns") and hasattr(data, "to_numpy"):
            data = {str(c): data[c].to_numpy() for c in data.columns}  # pyright: ignore
        if not isinstance(data, Mapping):
            raise DataError(
                f"data is a {type(data).__name__}; needed: a dictionary from the {owner}'s argument names to "
                'values, for example {"y": y}.'
            )
        if not all(isinstance(k, str) for k in data):
            raise DataError(f"data has keys {list(data)!r}; needed: strings, the {owner}'s argument names.")
        self.names = list(data)
        values = {k: _sequence(v) for k, v in data.items()}
        for name, v in values.items():
            if isinstance(v, (float, np.floating)) and np.isnan(v):
                raise DataError(f"data {name!r} is NaN; needed: a finite number.")
            if isinstance(v, (list, tuple)) and not v:
                raise DataError(f"data {name!r} is empty; needed: at least one row.")
        paths, self._tree = jax.tree_util.tree_flatten_with_path(values)
        self._leaves = [leaf for _, leaf in paths]
        self._where: list[int] = []
        self.arrays: list[np.ndarray] = []
        self.array_names: list[str] = []
        for i, (path, leaf) in enumerate(paths):
            if not _is_array(leaf):
                continue
            name = "".join(
                str(getattr(p, "key", getattr(p, "idx", p))) if j == 0 else str(p) for j, p in enumerate(path)
            )
            self._where.append(i)
            # A view: JAX remembers arrays by identity, in float32 if a program of the user's has met this one.
            self.arrays.append(check_array(name, leaf).view())
            self.array_names.append(name)
        self.traced = True

    def rebuild(self, arguments: Sequence[Any]) -> dict[str, Any]:
        """The keyword arguments, with ``arguments`` in place of the arrays."""
        return self.filled(arguments if self.traced else self.arrays)

    def filled(self, arrays: Sequence[Any]) -> dict[str, Any]:
        """The keyword arguments with ``arrays`` in place of the arrays, traced or not."""
        leaves = list(self._leaves)
        for i, a in zip(self._where, arrays, strict=True):
            leaves[i] = a
        return jax.tree_util.tree_unflatten(self._tree, leaves)

    def describe(self) -> str:
        """Names, shapes and types, for error messages."""
        items = [f"{n}: {a.dtype}{list(a.shape)}" for n, a in zip(self.array_names, self.arrays, strict=True)]
        return "{" + ", ".join(items) + "}"


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array):
        return not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufcO"


def _sequence(value: Any) -> Any:
    """A list of numbers is an array to everyone but Python; so is a column of a DataFrame."""
    if isinstance(value, Mapping):
        return {k: _sequence(v) for k, v in value.items()}
    if hasattr(value, "to_numpy") and not isinstance(value, np.ndarray):
        return value.to_numpy()
    if isinstance(value, (list, tuple)) and value and not isinstance(value[0], (str, bytes, Mapping)):
        try:
            array = np.asarray(value)
        except ValueError:
            return value
        if array.dtype.kind in "biuf" and not any(isinstance(v, (np.ndarray, jax.Array)) for v in value):
            return array
    return value


def check_array(name: str, value: Any) -> np.ndarray:
    """The array as float64, integer or boolean NumPy, or a :class:`DataError` that names it."""
    if isinstance(value, Tracer):
        raise DataError(
            f"data {name!r} is being traced by JAX. A fit searches, compiles and decides: call it outside of jax.jit, "
            "jax.vmap and jax.grad."
        )
    if np.ma.is_masked(value):
        raise DataError(
            f"data {name!r} is a masked array with {int(np.ma.count_masked(value))} masked values, which would be used "
            "all the same. Drop those rows, or pass the mask to the model: numpyro.handlers.mask(mask=...)."
        )
    array = np.asarray(value)
    if array.dtype.kind == "c":
        raise DataError(f"data {name!r} is complex ({array.dtype}); needed: real numbers.")
    if array.dtype.kind == "O":
        kinds = sorted({type(v).__name__ for v in array.ravel()[:1000]})
        raise DataError(
            f"data {name!r} is an array of objects ({', '.join(kinds)}); needed: numbers. "
            "Number categories first, for example with pandas.factorize, and give missing values a number."
        )
    if array.size == 0:
        raise DataError(f"data {name!r} is empty (shape {array.shape}); needed: at least one row.")
    if jnp.issubdtype(array.dtype, np.inexact):
        array = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64, copy=False)
        bad = ~np.isfinite(array)
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            nan = int(np.isnan(array).sum())
            what = " and ".join(f"{c} {w}" for c, w in ((nan, "NaN"), (int(bad.sum()) - nan, "infinite")) if c)
            raise DataError(
                f"data {name!r} has {what} of {array.size} values, the first in row {where[0] if where else 0}"
                + (f" (index {list(where)})" if len(where) > 1 else "")
                + ". Drop or impute them, or put any finite number there and mask the observation: "
                "numpyro.handlers.mask(mask=...)."
            )
    return array


def trace_with_data(fn: Callable[[Sequence[Any]], Any], data: Data) -> Any:
    """``jax.eval_shape`` of ``fn(arguments)``; falls back to constant data where ``fn`` needs values.

    Returns what ``fn`` returned, as shapes. Errors of the user's own code come out as
    :class:`ModelError` with the shapes of the data.
    """
    try:
        try:
            return jax.eval_shape(fn, abstract(data.arrays))
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
            data.traced = False
            return jax.eval_shape(fn, abstract(data.arrays))
    except LowerboundError:
        raise
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as e:
        raise ModelError(
            "the model needs the value of a latent variable to decide what to compute (a Python `if`, a NumPy "
            "function or a loop over it). Use jnp in place of np, and jnp.where or jax.lax.cond in place of `if`. "
            f"JAX said: {_first_line(e)}"
        ) from e
    except Exception as e:
        raise ModelError(
            f"the model raised {type(e).__name__}: {_first_line(e)}\n  It was called with data {data.describe()}."
        ) from e


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else "(no message)"
