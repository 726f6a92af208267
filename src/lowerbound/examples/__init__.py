"""Bundled examples: a model and small data, for the command line, the documentation and the tests.

    >>> from lowerbound import examples
    >>> examples.names()[0]
    'eight-schools'
    >>> example = examples.load("eight-schools")
    >>> sorted(example.data)
    ['sigma', 'y']

Each is a file in this directory with a ``title``, a NumPyro model ``model(**data)`` and a function
``data()``; nothing else is needed to add one. NumPyro is imported by :func:`load` alone.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lowerbound.errors import unknown_name


class Example(NamedTuple):
    """A model and the data to fit it to: ``lb.fit(example.model, example.data)``."""

    name: str
    title: str
    model: Callable[..., None]
    data: dict[str, Any]


def names() -> list[str]:
    """The names of the examples."""
    return list(titles())


def titles() -> dict[str, str]:
    """One line on each example, read without importing any of them."""
    out = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            match node:
                case ast.Assign(targets=[ast.Name("title")], value=ast.Constant(title)):
                    out[path.stem.replace("_", "-")] = str(title)
    return out


def load(name: str) -> Example:
    """The example of that name.

    Raises:
        UnknownNameError: there is none; the message has the nearest one.
    """
    known = names()
    name_ = str(name).replace("_", "-")
    if name_ not in known:
        raise unknown_name("example", name, known)
    module = importlib.import_module(f"{__name__}.{name_.replace('-', '_')}")
    return Example(name_, module.title, module.model, module.data())
