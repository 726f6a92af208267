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
from lowerbound.algorithms.pattern import Iterate
from lowerbound.algorithms.search import End, Search
from lowerbound.families import GaussianBlock
from lowerbound.kernel import Kernel

#: Nats by which a mode's ELBO may be lower and it still matters: e^-12 of the mass.
_GAP = 12.0
#: ... and by which it may be lower and still be one of several alike.
_ALIKE = 3.0
#: Batches of searches from the usual starts, and modes that are searched around, at most.
_BATCHES, _AROUND = 4, 8
#: Share of modes that counts as missing where the last batch met a new one all the same.
_UNFINISHED = 0.5
#: Nats that a search for the peak itself may still promise, and sds between two peaks that are one.
_EXACT, _NEAR = 1e-3, 0.5
#: Nats by which the density dips between two points of different modes.
_DIP = 1.0
_MANY = 200


@dataclass(eq=False)
class Census:
    """Local solutions met so far, which peak of the density each is about, and how many searches ended there."""

    kernel: Kernel
    found: list[Iterate]
    hits: list[int] = field(default_factory=lambda: [0])
    peaks: list[np.ndarray | None] = field(default_factory=list)
    owner: list[int] = field(default_factory=lambda: [0])
    batches: int = 0
    grown: bool = False
    around: list[int] = field(default_factory=list)

    def take(self, ends: Sequence[End], walk: Callable[[End], Iterate | None]) -> None:
        """Count the ends of one batch of searches; ``walk`` leads from an end to a mode, or nowhere."""
        before = self._relevant()
        for end in ends:
            if not end.converged or self._seen(end.x):
                continue
            there = walk(end)
            if there is not None and not self._seen(there.q.mean):
                self._add(there, end.x)
        self.batches += 1
        self.grown = not self._relevant() <= before

    def _relevant(self) -> set[int]:
        """Peaks whose mode matters beside the best."""
        best = max(m.elbo for m in self.found)
        return {self.owner[i] for i, m in enumerate(self.found) if m.elbo > best - _GAP}

    def next_about(self) -> GaussianBlock | None:
        """A mode that has not been searched around yet; None if there is none, or many have been."""
        left = [i for i in sorted(self._relevant()) if i not in self.around]
        if not left or len(self.around) >= _AROUND:
            return None
        self.around.append(left[0])
        return self.found[left[0]].q

    def _seen(self, x: np.ndarray) -> bool:
        for i, mode in enumerate(self.found):
            if mode.holds(x) and self._connected(mode.q.mean, x):
                self.hits[i] += 1
                return True
        return False

    def _connected(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Whether the density does not dip on the way from a to b. (Not asked in many dimensions, for its cost.)"""
        if len(a) > _MANY:
            return True
        value = self.kernel(a + np.linspace(0, 1, 11)[:, None] * (b - a))[0]
        return not value[1:-1].min() < min(value[0], value[-1]) - _DIP

    def _add(self, there: Iterate, x: np.ndarray) -> None:
        if not self.peaks:
            self.peaks = [self._peak(m, m.q.mean) for m in self.found]
        peak = self._peak(there, x)
        owner = len(self.found)
        for i in sorted(set(self.owner)):
            if self._same(self.peaks[i], peak, self.found[i], there):
                owner = i
                break
        self.found.append(there)
        self.hits.append(1)
        self.peaks.append(peak)
        self.owner.append(owner)

    def _peak(self, mode: Iterate, x: np.ndarray) -> np.ndarray | None:
        """The maximum of the density uphill from x; None where it rises without end."""
        # In the mode's own metric from the first step: one along the bare gradient may be as long as to another peak.
        search = Search(
            self.kernel,
            np.random.default_rng(0),
            starts=x[None],
            about=mode.q,
            tolerance=0.01 * _EXACT,
            max_steps=300,
        )
        while not search.done:
            search.step()
        g = search.gradient[0]
        # What a Newton step in the mode's own metric still promises.
        return search.x[0] if 0.5 * g @ mode.q.natural(g[None])[0] < _EXACT else None

    def _same(self, a: np.ndarray | None, b: np.ndarray | None, of_a: Iterate, of_b: Iterate) -> bool:
        """Whether two peaks are one: next to each other in either Gaussian's sds, or with no dip between them."""
        if a is None or b is None:
            return a is b  # both without end: the same end, as far as can be told
        near = min(float((m.whiten(a - b) ** 2).sum()) for m in (of_a, of_b))
        return near < _NEAR**2 or self._connected(a, b)

    @property
    def complete(self) -> bool:
        """Whether there is a single mode, or the last batch met none that is new, or it has been long enough."""
        return len(self.found) == 1 or not self.grown or self.batches - len(self.around) >= _BATCHES

    def result(self) -> tuple[Iterate, list[Mode], float]:
        """The best, the others that matter, and the estimated share of searches that would find a new peak."""
        order = sorted(range(len(self.found)), key=lambda i: -self.found[i].elbo)
        best = self.found[order[0]]
        near = [i for i in order if self.found[i].elbo > best.elbo - _GAP]
        hits: dict[int, int] = {}
        for i in near:
            hits[self.owner[i]] = hits.get(self.owner[i], 0) + self.hits[i]
        alike = {self.owner[i] for i in near if self.found[i].elbo > best.elbo - _ALIKE}
        once = sum(hits[o] <= 1 for o in alike)
        missing = once / max(sum(hits.values()), 1) if len(hits) > 1 else 0.0
        if len(hits) > 1 and self.grown:  # it ended because there was no end to it
            missing = max(missing, _UNFINISHED)
        home = self.owner[order[0]]
        others = [
            Mode(m.q.mean, m.q.covariance(), m.elbo, self.owner[i] != home) for i in near[1:] for m in [self.found[i]]
        ]
        return best, others, missing
