"""What happened during a fit, step by step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Trace(NamedTuple):
    """The steps of a fit.

    Attributes:
        phase: Name of the phase of each step.
        elbo: ELBO after each step, in nats (``nan`` before there is a q).
        elbo_se: Its standard error.
        seconds: Wall time since the start of the fit.
    """

    phase: tuple[str, ...]
    elbo: np.ndarray
    elbo_se: np.ndarray
    seconds: np.ndarray

    def __len__(self) -> int:
        return len(self.phase)
