r"""The step size and the end of a stochastic ascent, apart from what is climbed.

*The step size*: Adam, its rate the best of {0.1, 0.03, 0.01, 0.003} after a race of 300 steps from the same point;
where there are several starts, they are raced first, at the second rate.

*When to stop*: the ELBO of the last window of 1,000 steps is compared with that of the one before it. When the gain is
less than two standard errors of the difference (from 20 batch means of each window, which allows for their
correlation), the rate is cut to a third and the windows begin again; after three cuts it has converged. The answer is
the mean of the parameters over the last window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from lowerbound.algorithms.base import Status
from lowerbound.precision import float64

#: Steps of one call of the compiled program; calls of a race, and of a window.
CHUNK, _RACE, _WINDOW = 100, 3, 10
_RATES = (0.1, 0.03, 0.01, 0.003)
_CUTS, _BATCHES = 3, 20

#: ``chunk(parameters, optimizer_state, number)`` makes CHUNK steps: parameters, state, ELBOs and mean parameters.
Chunk = Callable[[Any, Any, int], tuple[Any, Any, np.ndarray, Any]]


@dataclass(eq=False)
class StochasticAscent:
    """Where an ascent stands.

    Args:
        chunk: What makes steps.
        starts: Parameters to start from, and the state of the optimiser at each.
        max_steps: Steps before giving up.
        fixed: Whether the optimiser has a rate of its own, which is then left alone.
    """

    chunk: Chunk
    starts: list[tuple[Any, Any]]
    max_steps: int
    fixed: bool = False
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
    _race: list[tuple[float, float, Any, Any]] = field(default_factory=list)
    _window: list[np.ndarray] = field(default_factory=list)
    _last: np.ndarray | None = None

    @property
    def phase(self) -> str:
        """What the next step is for."""
        if len(self.starts) > 1:
            return "choosing a start"
        return "choosing the step size" if self.rate is None else "fitting"

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
        elif self.rate is None and self.fixed:
            (self.parameters, self.optimizer_state), self.rate = self.starts[0], np.nan
        elif self.rate is None:
            self._run(*self.starts[0], _RATES[len(self._race)])
            if len(self._race) == len(_RATES):
                self.elbo, self.rate, self.parameters, self.optimizer_state = max(self._race, key=lambda r: r[0])
                self.status = None if np.isfinite(self.elbo) else Status.NOT_FINITE
        else:
            self._advance()

    def evaluate(self, calls: int) -> tuple[float, float]:
        """The ELBO at the answer, and its standard error, from steps of length zero."""
        at = self.answer
        state = self.optimizer_state if self.fixed else with_rate(self.optimizer_state, 0.0)
        values = np.concatenate([self._call(at, state)[2] for _ in range(calls)])
        values = values[np.isfinite(values)]
        return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))

    @property
    def answer(self) -> Any:
        """Parameters; before the ascent has begun, those of the first start."""
        if self.average is not None:
            return self.average
        return self.starts[0][0] if self.parameters is None else self.parameters

    # -- pieces ----------------------------------------------------------------------------------

    def _call(self, parameters: Any, optimizer_state: Any) -> tuple[Any, Any, np.ndarray, Any]:
        out = self.chunk(parameters, optimizer_state, self.number)
        self.number += 1
        self.steps += CHUNK
        return out

    def _run(self, parameters: Any, optimizer_state: Any, rate: float) -> None:
        if not self.fixed:
            optimizer_state = with_rate(optimizer_state, rate)
        values = np.array([np.nan])
        for _ in range(_RACE):
            parameters, optimizer_state, values, _ = self._call(parameters, optimizer_state)
        score = float(np.nanmean(values)) if np.isfinite(values).mean() > 0.9 else -np.inf
        self._race.append((score, rate, parameters, optimizer_state))

    def _advance(self) -> None:
        parameters, optimizer_state, values, mean = self._call(self.parameters, self.optimizer_state)
        finite = all(np.isfinite(np.asarray(v)).all() for v in jax.tree_util.tree_leaves(parameters))
        if not finite or np.isfinite(values).mean() < 0.5:
            self.status = Status.NOT_FINITE
            return
        self.parameters, self.optimizer_state = parameters, optimizer_state
        w = len(self._window)
        mean = jax.tree_util.tree_map(np.asarray, mean)
        self.average = (
            mean if w == 0 else jax.tree_util.tree_map(lambda a, b: (w * a + b) / (w + 1), self.average, mean)
        )
        self._window.append(np.where(np.isfinite(values), values, np.nanmean(values)))
        ended = self.steps >= self.max_steps
        if len(self._window) < _WINDOW:
            self.status = Status.MAX_STEPS if ended else None
            return
        means = np.concatenate(self._window).reshape(_BATCHES, -1).mean(1)
        self.elbo, self.elbo_se = float(means.mean()), float(means.std(ddof=1) / np.sqrt(_BATCHES))
        if self._last is not None and _settled(means, self._last):
            if self.fixed or self.cuts == _CUTS:
                self.status = Status.CONVERGED
                return
            self.cuts += 1
            assert self.rate is not None
            self.rate /= 3
            self.optimizer_state = with_rate(self.optimizer_state, self.rate)
            means = None
        self._last, self._window = means, []
        self.status = Status.MAX_STEPS if ended else None


def _settled(now: np.ndarray, before: np.ndarray) -> bool:
    error = np.sqrt((now.var(ddof=1) + before.var(ddof=1)) / len(now))
    return bool(now.mean() - before.mean() < 2 * error)


def with_rate(optimizer_state: Any, rate: float) -> Any:
    """The state of an optimiser whose rate was injected, with another."""
    with float64():
        new = dict(optimizer_state.hyperparams)
        new["learning_rate"] = jax.numpy.asarray(rate, new["learning_rate"].dtype)
        return optimizer_state._replace(hyperparams=new)
