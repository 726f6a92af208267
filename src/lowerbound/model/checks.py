"""NumPyro's checks of parameters, without compiling anything.

As JAX operations outside of a trace the check of a matrix compiles two dozen programs, which is most of the time that a
model with a constant precision matrix takes to be traced. Of a matrix that is traced nothing can be said, and yet the
check of its triangle compiles as many. What the checks say is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jax.core import Tracer
from numpyro.distributions import Distribution, constraints


@contextmanager
def checks_by_numpy() -> Iterator[None]:
    """Inside, NumPyro checks the parameters that are known, and positive definite matrices among them by NumPy.

    Not for several threads at once: NumPyro's own classes are changed, and put back.
    """
    kind, base = type(constraints.positive_definite), Distribution
    own, validate = kind.__call__, base.validate_args

    def known(constraint: Any, x: Any) -> Any:
        if isinstance(x, Tracer):
            return own(constraint, x)
        return own(constraint, np.asarray(x))

    def validate_known(self: Any, strict: bool = True) -> None:
        found = self.get_args()
        constants = {n: a for n, a in found.items() if not isinstance(a, Tracer)}
        if strict or len(constants) == len(found):
            return validate(self, strict)
        self.get_args = lambda: constants
        try:
            validate(self, strict)
        finally:
            del self.get_args

    replaced = ((kind, "__call__", known, own), (base, "validate_args", validate_known, validate))
    for where, name, ours, _ in replaced:
        setattr(where, name, ours)
    try:
        yield
    finally:
        for where, name, _, theirs in replaced:
            setattr(where, name, theirs)
