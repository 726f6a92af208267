"""Every example in a docstring runs and gives what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import lowerbound

MODULES = sorted(
    m.name for m in pkgutil.walk_packages(lowerbound.__path__, "lowerbound.") if m.name != "lowerbound.__main__"
)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in finder.find(module, module.__name__):
        if test.examples:
            runner.run(test)
    assert runner.failures == 0, f"{runner.failures} example(s) of {name} failed; see the captured output"
