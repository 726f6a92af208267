r"""How much an ascent that slows down has left to gain.

Where gains shrink by a constant factor, G' = r G over windows of as many steps, what is left after the last of them is

    G' (r + r^2 + ...) = G' r / (1 - r) = G'^2 / (G - G'),

and without end where they do not shrink (Aitken's extrapolation). The last gain alone says nothing of it: at r = 0.999
a thousand times as much is left. An extrapolated sequence (SQUAREM) gains in jumps, so that a window is one part in 32
of the steps so far: short where all is over in a few steps, and dozens of steps where the ascent is slow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

#: One part of the steps so far that a window is; its least length; and a gain, relative to the bound, that is rounding.
_PART, _LEAST, _ROUNDING = 32, 2, 1e-12


def remaining(bounds: Sequence[float]) -> float:
    """The gain that is left, in nats.

    Args:
        bounds: After each step so far.

    Returns:
        Zero where the last window gained nothing beyond rounding; infinity where gains do not shrink, or are too few
        to tell.
    """
    k = len(bounds) - 1
    w = max(_LEAST, k // _PART)
    if k >= w and bounds[k] - bounds[k - w] <= _ROUNDING * abs(bounds[k]):
        return 0.0
    if k < 2 * w:
        return math.inf
    last, before = bounds[k] - bounds[k - w], bounds[k - w] - bounds[k - 2 * w]
    return last**2 / (before - last) if last < before else math.inf
