r"""The step size and the end of a stochastic ascent, apart from what is climbed.

*The step size*: Adam, its rate the best of {0.1, 0.03, 0.01, 0.003} after a race of 300 steps from the same point;
where there are several starts, they are raced first, at the second rate.

*When to stop*: the objective of the last window of 1,000 steps is compared with that of the one before it. When the
gain is less than two standard errors of the difference (from 20 batch means of each window, which allows for their
correlation), the rate is cut to a third and the windows begin again; after three cuts it has converged. The answer is
the mean of the parameters over the last window, which has much less noise than the last iterate.

Objectives whose estimates look their best where q is too narrow to see the posterior can neither choose a rate nor stop
a fit. There the rate is 0.03, and windows are compared by the parameters: they have settled when their means differ by
no more than two standard errors, in the mean square.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from lowerbound.algorithms.base import Status
from lowerbound.algorithms.stochastic_steps import CHUNK, with_rate

#: Calls of the program in a race, and in a window.
_RACE, _WINDOW = 3, 10
_RATES = (0.1, 0.03, 0.01, 0.003)
_CUTS, _BATCHES = 3, 20

#: ``chunk(parameters, optimizer_state, number)`` makes CHUNK steps: parameters, state, ``[2, CHUNK]`` values of the
#: objective (larger is better) and of the ELBO, and mean parameters.
Chunk = Callable[[Any, Any, int], tuple[Any, Any, np.ndarray, Any]]


@dataclass(eq=False)
class StochasticAscent:
    """Where an ascent stands.

    Args:
        chunk: What makes steps.
        starts: Parameters to start from, and the state of the optimiser at each.
        max_steps: Steps before giving up.
        fixed: Whether the optimiser has a rate of its own, which is then left alone.
        by_parameters: Whether parameters are compared in place of the objective.
    """

    chunk: Chunk
    starts: list[tuple[Any, Any]]
    max_steps: int
    fixed: bool = False
    by_parameters: bool = False
    number: int = 0
    steps: int = 0
    rate: float | None = None
    cuts: int = 0
    parameters: Any = None
    optimizer_state: Any = None
    average: Any = None
    elbo: float = np.nan
    elbo_se: float = np.nan
    status: Status | None = None
    _race: list[tuple[float, float, Any, Any, float]] = field(default_factory=list)
    _window: list[np.ndarray] = field(default_factory=list)
    _elbos: list[np.ndarray] = field(default_factory=list)
    _last: np.ndarray | None = None

    @property
    def phase(self) -> str:
        """What the next step is for."""
        if len(self.starts) > 1:
            return "choosing a start"
        return "choosing the step size" if self.rate is None and not self._given else "fitting"

    def step(self) -> None:
        """One runner of a race, or one call of the program."""
        if self.status is not None:
            return
        if len(self.starts) > 1:
            self._run(*self.starts[len(self._race)], _RATES[1])
            if len(self._race) == len(self.starts):
                best = int(np.argmax([r[0] for r in self._race]))
                self.starts, found = [self.starts[best]], self._race[best][0]
                self._race = []
                self.status = None if np.isfinite(found) else Status.NOT_FINITE
            return
        if self.rate is None and self._given:
            self.parameters, self.optimizer_state = self.starts[0]
            self.rate = np.nan if self.fixed else _RATES[1]
            if not self.fixed:
                self.optimizer_state = with_rate(self.optimizer_state, self.rate)
        if self.rate is None:
            self._run(*self.starts[0], _RATES[len(self._race)])
            if len(self._race) == len(_RATES):
                found, self.rate, self.parameters, self.optimizer_state, self.elbo = max(self._race, key=lambda r: r[0])
                self.status = None if np.isfinite(found) else Status.NOT_FINITE
        else:
            self._advance()

    def evaluate(self, calls: int) -> tuple[float, float]:
        """The ELBO at the answer, and its standard error, from steps of length zero."""
        at = self.answer
        state = self.optimizer_state if self.fixed else with_rate(self.optimizer_state, 0.0)
        values = np.concatenate([self._call(at, state)[2][1] for _ in range(calls)])
        values = values[np.isfinite(values)]
        return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))

    @property
    def answer(self) -> Any:
        """Parameters; before the ascent has begun, those of the first start."""
        if self.average is not None:
            return self.average
        return self.starts[0][0] if self.parameters is None else self.parameters

    # -- pieces ----------------------------------------------------------------------------------

    @property
    def _given(self) -> bool:
        """Whether there is no rate to be raced for."""
        return self.fixed or self.by_parameters

    def _call(self, parameters: Any, optimizer_state: Any) -> tuple[Any, Any, np.ndarray, Any]:
        out = self.chunk(parameters, optimizer_state, self.number)
        self.number += 1
        self.steps += CHUNK
        return out

    def _run(self, parameters: Any, optimizer_state: Any, rate: float) -> None:
        if not self.fixed:
            optimizer_state = with_rate(optimizer_state, rate)
        values = np.full((2, 1), np.nan)
        for _ in range(_RACE):
            parameters, optimizer_state, values, _ = self._call(parameters, optimizer_state)
        finite = np.isfinite(values[0]).mean() > 0.9
        score, elbo = (float(v) for v in np.nanmean(values, axis=1)) if finite else (-np.inf, np.nan)
        self._race.append((score, rate, parameters, optimizer_state, elbo))

    def _advance(self) -> None:
        parameters, optimizer_state, values, mean = self._call(self.parameters, self.optimizer_state)
        finite = all(np.isfinite(np.asarray(v)).all() for v in jax.tree_util.tree_leaves(parameters))
        if not finite or np.isfinite(values[0]).mean() < 0.5:
            self.status = Status.NOT_FINITE
            return
        self.parameters, self.optimizer_state = parameters, optimizer_state
        w = len(self._window)
        mean = jax.tree_util.tree_map(np.asarray, mean)
        self.average = (
            mean if w == 0 else jax.tree_util.tree_map(lambda a, b: (w * a + b) / (w + 1), self.average, mean)
        )
        value, elbo = (np.where(np.isfinite(v), v, np.nanmean(v)) for v in values)
        flat = [np.ravel(v) for v in jax.tree_util.tree_leaves(mean)]
        self._window.append(np.concatenate(flat)[None] if self.by_parameters else value)
        self._elbos.append(elbo)
        ended = self.steps >= self.max_steps
        if len(self._window) < _WINDOW:
            self.status = Status.MAX_STEPS if ended else None
            return
        elbos = np.concatenate(self._elbos).reshape(_BATCHES, -1).mean(1)
        self.elbo, self.elbo_se = float(elbos.mean()), float(elbos.std(ddof=1) / np.sqrt(_BATCHES))
        means = np.concatenate(self._window)
        means = means if self.by_parameters else means.reshape(_BATCHES, -1).mean(1)
        if self._last is not None and _settled(means, self._last):
            if self.fixed or self.cuts == _CUTS:
                self.status = Status.CONVERGED
                return
            self.cuts += 1
            assert self.rate is not None
            self.rate /= 3
            self.optimizer_state = with_rate(self.optimizer_state, self.rate)
            means = None
        self._last, self._window, self._elbos = means, [], []
        self.status = Status.MAX_STEPS if ended else None


def _settled(now: np.ndarray, before: np.ndarray) -> bool:
    """Of batch means of two windows: no gain beyond two standard errors; of parameters ``[b, p]``, no change."""
    change = now.mean(0) - before.mean(0)
    error = np.sqrt((now.var(0, ddof=1) + before.var(0, ddof=1)) / len(now))
    if now.ndim == 1:
        return bool(change < 2 * error)
    return bool(np.mean((change / np.where(error > 0, error, 1.0)) ** 2) < 4)


def stopping(optimizer: Any, what: str) -> str:
    """The rule, in words.

    Args:
        optimizer: The user's, or None.
        what: Is compared.
    """
    end = "after its rate was cut three times" if optimizer is None else "with the given optimiser"
    return f"the {what} of a window of 1,000 steps within two standard errors of the one before, {end}"
