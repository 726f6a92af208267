"""Ascent of a function from many points at once, to see where it leads: by steps that double while they rise.

No more is asked of it than that a long way, straight or bent, takes few steps. It is no optimiser: where it rests is
about a maximum, in coordinates in which the function's bulk is round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_STEPS = 90
#: A step so short, in standard deviations, that a climb is at rest; a rise a step, in nats, that is none.
_SHORT, _RISE = 1e-3, 0.01

Slopes = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Climbed(NamedTuple):
    """Where the climbs ended.

    Attributes:
        e: Their last points ``[m, p]``.
        value: The function there ``[m]``.
        resting: Whether none of them rose in its last steps.
    """

    e: np.ndarray
    value: np.ndarray
    resting: bool


def climb(function: Slopes, starts: np.ndarray, *, stop: Callable[[np.ndarray, np.ndarray], bool]) -> Climbed:
    """Go up from each of some points.

    Args:
        function: Its values ``[m]`` and slopes ``[m, p]`` at points ``[m, p]``; minus infinity where it has none.
        starts: ``[m, p]``.
        stop: Whether points and values are enough to know.

    Cost: at most 91 m evaluations.
    """
    e = starts
    value, slope = function(e)
    step, far, ago = np.ones(len(e)), np.ones(len(e)), e.copy()
    gained = np.full(len(e), np.inf)
    for t in range(_STEPS):
        ahead = t % 3 == 2  # in a narrow valley the gradient goes to and fro; two steps of it go along
        if ahead:
            moved, ago = e + far[:, None] * (e - ago), e.copy()
        else:
            moved = e + (step / np.maximum(np.linalg.norm(slope, axis=1), 1e-300))[:, None] * slope
        there, new = function(moved)
        rises = there > value
        gained = np.where(rises, there - value, 0.5 * np.minimum(gained, 1.0))
        e = np.where(rises[:, None], moved, e)
        value, slope = np.where(rises, there, value), np.where(rises[:, None], new, slope)
        if ahead:
            far = np.where(rises, 2 * far, np.maximum(far / 4, 1.0))
        else:
            step = np.where(rises, 2 * step, step / 4)
        if stop(e, value):
            return Climbed(e, value, False)
        if step.max() < _SHORT:
            break
    return Climbed(e, value, bool((gained < _RISE).all()))
