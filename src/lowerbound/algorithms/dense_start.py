"""The dense Gaussian that algorithms of other divergences start from, and the modes that were met on the way.

One :class:`~lowerbound.algorithms.ScoreRegression` to its end, its census of modes among it. An algorithm that begins
so (:class:`FromDenseStart`) knows of other modes already; for any other, :func:`other_modes` takes the same census
afterwards.

Cost: that of the default fit, once.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from lowerbound.algorithms.base import Algorithm, Info, Mode, Status
from lowerbound.algorithms.score_regression import ScoreRegression
from lowerbound.families import Block, Dense, DenseGaussian
from lowerbound.kernel import Kernel

#: Ends after which there is no Gaussian to start from.
_NOWHERE = (Status.FLAT, Status.UNBOUNDED, Status.NOT_FINITE)


class DenseStart:
    """The dense fit, step by step.

    Attributes:
        gaussian: It; None until it is there.
        status: How it ended; None until then.
        missing: Estimated share of searches that would end in a mode not met so far.
    """

    def __init__(self, seed: int, kernel: Kernel):
        self.gaussian: DenseGaussian | None = None
        self.status: Status | None = None
        self.missing = 0.0
        self._found: list[Mode] = []
        self._algorithm = ScoreRegression()
        self._state = self._algorithm.init(seed, kernel, Dense())

    def step(self) -> Info:
        """One step; a status only where nothing can start from its end."""
        self._state, info = self._algorithm.step(self._state)
        phase = "fitting a start" if info.phase == "fitting" else info.phase
        self.status = info.status
        if info.status is not None and info.status not in _NOWHERE:
            fitted = self.fitted()
            assert isinstance(fitted, DenseGaussian)
            self.gaussian = fitted
            if info.status is Status.CONVERGED:
                best = Mode(np.asarray(fitted.mean), fitted.covariance(), info.elbo, False)
                self._found = [best, *self._algorithm.modes(self._state)]
                self.missing = self._algorithm.missing_modes(self._state)
        # Its ELBO is of another q than the answer: it has no place in the trace.
        return Info(phase, info.step, status=info.status if self.gaussian is None else None)

    def fitted(self) -> Block | None:
        """The Gaussian so far."""
        return self._algorithm.output(self._state)

    def modes(self, q: Block | None) -> list[Mode]:
        """Modes that q is not about, best first; none where the density has a single peak, however q lies about it."""
        if q is None or not any(m.separate for m in self._found):
            return []
        mean, sd = np.asarray(q.mean), np.sqrt(np.asarray(q.variance()))
        own = int(np.argmin([(((m.mean - mean) / sd) ** 2).sum() for m in self._found]))
        return [m._replace(separate=True) for i, m in enumerate(self._found) if i != own]


class FromDenseStart(Algorithm):
    """What moves on from the dense Gaussian. Its state has the :class:`DenseStart` as ``start``."""

    finds_modes = True

    @abstractmethod
    def begin(self, state: Any, gaussian: DenseGaussian) -> None:
        """Set the state up, once the Gaussian is there."""

    @abstractmethod
    def move(self, state: Any) -> Info:
        """One step of its own."""

    @abstractmethod
    def answer(self, state: Any) -> Block:
        """q, once it has begun."""

    @abstractmethod
    def unmoved(self, state: Any, fitted: Block) -> Block:
        """The answer before that: the Gaussian so far, as a member of the family."""

    def step(self, state: Any) -> tuple[Any, Info]:
        if state.start.gaussian is not None:
            return state, self.move(state)
        info = state.start.step()
        if state.start.gaussian is not None:
            self.begin(state, state.start.gaussian)
        return state, info

    def output(self, state: Any) -> Block | None:
        if state.start.gaussian is not None:
            return self.answer(state)
        fitted = state.start.fitted()
        return None if fitted is None else self.unmoved(state, fitted)

    def modes(self, state: Any) -> list[Mode]:
        return state.start.modes(self.output(state))

    def missing_modes(self, state: Any) -> float:
        return state.start.missing


def other_modes(kernel: Kernel, q: Block, seed: int) -> tuple[list[Mode], float]:
    """Modes that a dense fit of the same density meets and q does not hold, and the share of modes missing.

    For a q of an algorithm that knows of its own mode only. A point mass has no extent, and so no others.

    Cost: that of the default fit.
    """
    if q.noise_dimension == 0:
        return [], 0.0
    start = DenseStart(seed, kernel)
    while start.status is None:
        start.step()
    return start.modes(q), start.missing
