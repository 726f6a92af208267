"""How a fit is run, whatever is fitted: the options that every fit has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from lowerbound.algorithms.base import Algorithm, Info
from lowerbound.errors import DataError

A = TypeVar("A", bound=Algorithm)


@dataclass(frozen=True)
class Options:
    """The options of a fit, checked; :func:`lowerbound.fit` says what each means.

    Raises:
        DataError: a number that is not whole or positive, or a callback that is no function.
    """

    seed: int = 0
    max_steps: int | None = None
    num_draws: int | None = None
    escalate: bool | None = None
    max_seconds: float | None = None
    progress: bool | None = None
    callback: Callable[[Info], object] | None = None

    def __post_init__(self) -> None:
        if not _whole(self.seed) or self.seed < 0:
            raise DataError(f"seed is {self.seed!r}; needed: a whole number, zero or more.")
        if self.max_steps is not None and (not _whole(self.max_steps) or self.max_steps < 1):
            raise DataError(f"max_steps is {self.max_steps!r}; needed: a positive whole number.")
        if self.num_draws is not None and (not _whole(self.num_draws) or self.num_draws < 64):
            raise DataError(f"num_draws is {self.num_draws!r}; needed: a whole number, at least 64.")
        if self.max_seconds is not None and not _positive(self.max_seconds):
            raise DataError(f"max_seconds is {self.max_seconds!r}; needed: a positive number of seconds.")
        if self.callback is not None and not callable(self.callback):
            raise DataError(f"callback is {self.callback!r}; needed: a function of one lowerbound.algorithms.Info.")

    def limited(self, algorithm: A) -> A:
        """An algorithm with ``max_steps``, where that was asked for and it counts steps."""
        if self.max_steps is None or not hasattr(algorithm, "max_steps"):
            return algorithm
        return dataclasses.replace(algorithm, max_steps=int(self.max_steps))  # pyright: ignore[reportArgumentType]


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and bool(value > 0)
