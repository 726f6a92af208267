"""MODEL and --data: what the command line names, found and read, or an error of one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lowerbound.errors import LowerboundError


class InputError(LowerboundError):
    """Something on the command line, or a file it names, cannot be used."""


def model_and_data(target: str, data: str | None, note: Callable[[str], None]) -> tuple[Any, dict[str, Any] | None]:
    if target.endswith(".py") or ".py:" in target:
        if data:
            check_file(data)  # before the model's imports, which take a second
        model = _import_model(target)
        return model, (_read_data(data, model, note) if data else None)
    from lowerbound.errors import unknown_name
    from lowerbound.examples import load, names

    if target.replace("_", "-") not in names():
        if Path(target).exists() or "/" in target or ":" in target:
            raise InputError(
                f"MODEL is {target}; needed: FILE.py:NAME, a Python file and the model in it, "
                "or the name of a bundled example (lowerbound examples)."
            )
        raise unknown_name("example", target, names())
    example = load(target)
    return example.model, (_read_data(data, example.model, note) if data else example.data)


def check_file(path: str) -> None:
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}.")


def _import_model(target: str) -> Any:
    """The object NAME of FILE.py. The file may import its neighbours."""
    import importlib.util

    file, _, name = target.rpartition(":") if not target.endswith(".py") else (target, "", "")
    path, name = Path(file).resolve(), name or "model"
    check_file(str(path))
    import lowerbound  # noqa: F401  (before the file's directory can shadow anything)

    module_name = path.stem if path.stem.isidentifier() and path.stem not in sys.modules else "_lowerbound_model"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    directory = str(path.parent)
    sys.path.insert(0, directory)
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # also SystemExit: a script that calls sys.exit() is no model file
        line = _line_in(e, path)
        raise InputError(f"importing {path.name} failed{line}: {type(e).__name__}: {e}") from e
    finally:
        sys.path.remove(directory)
        sys.path.append(directory)  # for imports inside the model, where it can shadow nothing
    try:
        return getattr(module, name)
    except AttributeError:
        own = [
            n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", None) == module_name
        ]  # what the file defines, not what it imports
        has = f" It has: {', '.join(own)}." if own else ""
        raise InputError(f"{path.name} has no {name!r}.{has} Say which: {path.name}:NAME.") from None


def _line_in(error: BaseException, path: Path) -> str:
    """Where in the file it failed, for a message without a traceback."""
    if isinstance(error, SyntaxError):
        return ""  # its message has the line
    line, tb = None, error.__traceback__
    while tb is not None:
        if tb.tb_frame.f_code.co_filename == str(path):
            line = tb.tb_lineno
        tb = tb.tb_next
    return f" at line {line}" if line else ""


def _read_data(path: str, model: Any, note: Callable[[str], None]) -> dict[str, Any]:
    """The file as the model's keyword arguments; those that the model does not take are left out, and named."""
    check_file(path)
    try:
        values = _read(Path(path))
    except InputError:
        raise
    except Exception as e:  # each parser has errors of its own
        raise InputError(f"cannot read {path}: {type(e).__name__}: {str(e).strip()}") from e
    taken = _arguments(model)
    if taken is None:
        kept = values
    else:
        kept = {k: v for k, v in values.items() if k in taken}
        left_out = [k for k in values if k not in taken]
        if not kept:
            raise InputError(
                f"{path} has {', '.join(map(repr, values)) or 'nothing'}, and the model takes {', '.join(taken)}: "
                "no name is in both. Rename the columns to the model's arguments."
            )
        if left_out:
            note(f"left out of {path}, since the model does not take them: {', '.join(left_out)}")
    for name, value in kept.items():
        if hasattr(value, "dtype") and value.dtype.kind not in "biufc":
            first = value.ravel()[0] if value.size else ""
            raise InputError(
                f"{name!r} in {path} is not numeric (the first value is {str(first)!r}); needed: numbers. "
                "Turn categories into integers 0, 1, 2, ..."
            )
    return kept


def _read(path: Path) -> dict[str, Any]:
    import numpy as np

    suffix = path.suffix.lower()
    if suffix in (".csv", ".parquet"):
        import pandas as pd

        frame = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
        return {str(c): np.asarray(frame[c].to_numpy()) for c in frame.columns}
    if suffix == ".json":
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise InputError(
                f"{path} holds a {type(values).__name__}; needed: an object from argument names to values."
            )
        return {k: _array(k, v, path) for k, v in values.items()}
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            # A 0-d array was a number when it was saved, and numbers stay static.
            return {k: arrays[k] if arrays[k].ndim else arrays[k].item() for k in arrays.files}
    raise InputError(f"--data {path} has no known format; needed: a .csv, .parquet, .json or .npz file.")


def _array(name: str, value: Any, path: Path) -> Any:
    """Lists become arrays, within objects too; everything else stays as it is."""
    import numpy as np

    if isinstance(value, dict):
        return {k: _array(f"{name}.{k}", v, path) for k, v in value.items()}
    if not isinstance(value, list):
        return value
    if value and all(isinstance(v, str) for v in value):
        return value
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(
            f"{name!r} in {path} is a list of lists of different lengths; needed: a rectangular array."
        ) from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name!r} in {path} has values that are not numbers; needed: numbers alone (no null).")
    return array


def _arguments(model: Any) -> list[str] | None:
    """Names that the model takes; ``None`` where it takes any, or says nothing."""
    import inspect

    sites = getattr(model, "sites", ())
    try:
        parameters = inspect.signature(getattr(model, "fn", model)).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if sites and not set(sites) <= set(names):
        names = names[1:]  # LogDensity of one dictionary of latents, then the data
        if len(names) == 1:
            return None  # which may come whole
    return [n for n in names if n not in sites]
