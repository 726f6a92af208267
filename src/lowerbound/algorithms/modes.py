"""How many modes are there? Counted from where searches end.

Ends that no known mode holds are walked from; what they lead to is kept as a mode. Modes that a single
search met are counted too: many of them mean that there are more that none met (Good & Turing 1953), and
then no weighting over those found can be right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lowerbound.algorithms.base import Mode
from lowerbound.algorithms.regression import Iterate
from lowerbound.algorithms.search import End
from lowerbound.kernel import Kernel

#: Nats by which a mode's ELBO may be lower and it still matters: e^-12 of the mass.
_GAP = 12.0
#: ... and by which it may be lower and still be one of several alike.
_ALIKE = 3.0
#: Batches of searches, at most.
_BATCHES = 4
#: Nats by which the density dips between two points of different modes.
_DIP = 1.0


@dataclass(eq=False)
class Census:
    """Modes met so far, and how many searches ended in each."""

    kernel: Kernel
    found: list[Iterate]
    hits: list[int] = field(default_factory=lambda: [0])
    batches: int = 0
    grown: bool = False

    def take(self, ends: Sequence[End], walk: Callable[[End], Iterate | None]) -> None:
        """Count the ends of one batch of searches; ``walk`` leads from an end to a mode, or nowhere."""
        before = len(self.found)
        for end in ends:
            if not end.converged or self._seen(end.x):
                continue
            there = walk(end)
            if there is not None and not self._seen(there.mean):
                self.found.append(there)
                self.hits.append(1)
        self.batches += 1
        self.grown = len(self.found) > before

    def _seen(self, x: np.ndarray) -> bool:
        for i, mode in enumerate(self.found):
            if mode.holds(x) and self._connected(mode.mean, x):
                self.hits[i] += 1
                return True
        return False

    def _connected(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Whether the density does not dip on the way from a to b."""
        value = self.kernel(a + np.linspace(0, 1, 11)[:, None] * (b - a))[0]
        return not value[1:-1].min() < min(value[0], value[-1]) - _DIP

    @property
    def complete(self) -> bool:
        """Whether there is a single mode, or the last batch met none that is new, or it has been long enough."""
        return len(self.found) == 1 or not self.grown or self.batches >= _BATCHES

    def result(self) -> tuple[Iterate, list[Mode], float]:
        """The best mode, the others that matter, and the estimated share of searches that would find a new one."""
        order = sorted(range(len(self.found)), key=lambda i: -self.found[i].elbo)
        best = self.found[order[0]]
        near = [i for i in order if self.found[i].elbo > best.elbo - _GAP]
        others = [self.found[i] for i in near[1:]]
        once = sum(self.hits[i] <= 1 for i in near if self.found[i].elbo > best.elbo - _ALIKE)
        missing = once / max(sum(self.hits[i] for i in near), 1) if others else 0.0
        return best, [Mode(o.mean, o.factor @ o.factor.T, o.elbo) for o in others], missing
