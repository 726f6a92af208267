"""Whether a model function can be called with the data, before it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from lowerbound.errors import ModelError


def check_arguments(model: Callable, names: list[str]) -> None:
    if not callable(model):
        raise ModelError(
            f"the model is a {type(model).__name__}; needed: a NumPyro model (a function) or a lb.LogDensity."
        )
    try:
        parameters = inspect.signature(model).parameters
    except (TypeError, ValueError):
        return
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = [n for n in known if parameters[n].default is inspect.Parameter.empty]
    missing = [n for n in required if n not in names]
    unknown = [] if anything else [n for n in names if n not in known]
    only = [n for n, p in parameters.items() if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    if only:
        raise ModelError(f"the model takes {only} by position only; data are given by name. Remove the `/`.")
    if missing or unknown:
        came = ", ".join(names) or "nothing"
        raise ModelError(
            f"the model takes ({', '.join(parameters)}); data gave {came}."
            + (f" Missing: {', '.join(missing)}." if missing else "")
            + (f" Unknown: {', '.join(unknown)}." if unknown else "")
            + " data is a dictionary from argument names to values."
        )


def left_out(model: Callable, names: list[str]) -> list[str]:
    """Arguments that default to None, as ``obs=`` values do, and were not given."""
    try:
        parameters = inspect.signature(model).parameters
    except (TypeError, ValueError):
        return []
    return [n for n, p in parameters.items() if p.default is None and n not in names]


def name_of(model: Any) -> str:
    while hasattr(model, "func"):  # functools.partial
        model = model.func
    return getattr(model, "__name__", type(model).__name__)
