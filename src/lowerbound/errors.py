"""Every error a person can meet, and the habit they share.

A message says what came (name, value, shape), what was needed, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LowerboundError(Exception):
    """Base of everything this library raises on purpose."""


class ModelError(LowerboundError, ValueError):
    """The model cannot be used as it stands."""


class DataError(LowerboundError, ValueError):
    """The data cannot be used as they stand."""


class NotFiniteError(LowerboundError, FloatingPointError):
    """The log density or its gradient is not finite anywhere a fit could start."""


class RandomDensityError(ModelError):
    """The log density is not the same function at every call."""


class GradientError(ModelError):
    """The gradient of the log density is not that of its value."""


class NotRespondingError(LowerboundError, TimeoutError):
    """A call that has not returned within the time allowed."""


class IncompatibleError(LowerboundError, ValueError):
    """Two parts that are wrong together, or a part that does not fit the model."""


class UnknownNameError(LowerboundError, ValueError):
    """A short name that no registry knows."""


class FileFormatError(LowerboundError, ValueError):
    """A file that is not a saved posterior, or one from a newer version."""


class DerivationError(LowerboundError, ArithmeticError):
    """A line of a derivation whose two sides differ."""


class TrustWarning(UserWarning):
    """Given with a posterior whose verdict is NOT_TRUSTED."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that is not in a registry, with the nearest known one."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UnknownNameError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")
