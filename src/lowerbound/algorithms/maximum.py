"""Maximum a posteriori: the point mass with the highest density."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lowerbound.algorithms.base import Algorithm, Info, Status, check_positive
from lowerbound.algorithms.search import Search
from lowerbound.errors import IncompatibleError
from lowerbound.families import Block, Family, Point, PointMass
from lowerbound.kernel import Kernel
from lowerbound.model.base import is_real


@dataclass(eq=False)
class _State:
    search: Search
    status: Status | None = None


@dataclass(frozen=True)
class Maximum(Algorithm):
    """The best of several lock-step quasi-Newton searches.

    Args:
        tolerance: Stop when the next step promises less than this many nats.
        max_steps: Iterations before giving up.
    """

    tolerance: float = 1e-9
    max_steps: int = 500
    name = "maximum"

    def __post_init__(self) -> None:
        check_positive("Maximum", tolerance=self.tolerance, max_steps=self.max_steps)

    def rule(self) -> str:
        return f"the next quasi-Newton step promises less than {self.tolerance:g} nats"

    def check(self, model, family: Family) -> None:
        if not isinstance(family, PointMass):
            raise IncompatibleError(
                f"Maximum finds a point; it cannot fit the family {family.name!r}. Use family='point_mass'."
            )

    def init(self, seed: int, kernel: Kernel, family: Family) -> _State:
        return _State(Search(kernel, np.random.default_rng(seed), max_steps=self.max_steps, tolerance=self.tolerance))

    def step(self, state: _State) -> tuple[_State, Info]:
        search = state.search
        if search.advance():
            best = int(np.argmax(search.value))
            state.status = Status.CONVERGED if search.converged[best] else Status.MAX_STEPS
            # Without a mode the search runs away: the density rises, and so does the distance.
            # It may come to rest where the transform of a bounded site underflows.
            far = np.abs(search.x[best])
            edge = far[_bounded(search.kernel)].max(initial=0)
            if edge > 100 or (state.status is Status.MAX_STEPS and (far.max() > 50 or edge > 15)):
                state.status = Status.UNBOUNDED
        return state, Info("maximising", search.iteration, status=state.status)

    def output(self, state: _State) -> Block | None:
        if not len(state.search.x):
            return None
        return Point(state.search.x[int(np.argmax(state.search.value))].copy())


def _bounded(kernel: Kernel) -> np.ndarray:
    """Which coordinates belong to a site whose support has an edge: there 100 is as good as infinite."""
    out = np.zeros(kernel.dimension, bool)
    for s in kernel.model.sites.values():
        out[s.slice] = not is_real(s.support)
    return out
