r"""Coordinate ascent variational inference (CAVI), for any model whose expectations have a closed form.

    q_b  <-  argmax ELBO(q_b, q_rest)  proportional to  exp(E_rest[log p(x, z)])

block after block (variational message passing; Winn & Bishop 2005). Each update is the exact optimum of one block, so
that the ELBO never falls; it is exact, and has no noise. The update's natural parameters are the gradient of E_q[log p]
with respect to the block's moments (:mod:`lowerbound.algorithms.factored`).

A sweep (:mod:`lowerbound.algorithms.sweeps`) updates the discrete latents first, and reads the ELBO off right there,
where it costs nothing beyond the update. What goes from sweep to sweep is then the natural parameters of the other
blocks alone, and that sequence is extrapolated by SQUAREM (Varadhan & Roland 2008):

    x' = x_0 - 2 a r + a^2 v,   r = x_1 - x_0,   v = (x_2 - x_1) - r,   a = -|r| / |v|,

kept where the ELBO is at least that of x_2, else dropped. Several starts are run for a few sweeps, and the best to the
end. With discrete latents a start begins every component at one element of the data: elements that the components so
far explain badly, as in k-means++ (Arthur & Vassilvitskii 2007), or any; every third start is random probabilities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lowerbound.algorithms.base import Algorithm, Info, Status, check_positive
from lowerbound.algorithms.factored import Factored
from lowerbound.algorithms.remainder import remaining
from lowerbound.algorithms.starts import about_value, seeded, starts_of
from lowerbound.algorithms.sweeps import Sweeper, check_proper
from lowerbound.algorithms.unobserved import ascended, with_unobserved
from lowerbound.errors import IncompatibleError, unknown_name
from lowerbound.families.exponential import CategoricalBlock
from lowerbound.precision import float64

#: Sweeps of each start before the best goes on.
_RACE = 12
#: Components up to which starts are seeded.
_SEEDED = 60
#: Sweeps between two looks from outside.
_BATCH = 8


@dataclass(eq=False)
class State:
    """What the next step needs."""

    full: Factored
    sweeper: Sweeper
    rng: np.random.Generator
    x: list[list[Any]]
    elbo: float = -np.inf
    elbos: list[float] = field(default_factory=list)
    best: list[list[Any]] | None = None
    step: int = 0
    status: Status | None = None
    before: list[list[list[Any]]] = field(default_factory=list)
    slow: int = 0
    starts: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class CoordinateAscent(Algorithm):
    """Exact updates of one block after another.

    Args:
        tolerance: Stop when what sweeps have left to gain (:mod:`~lowerbound.algorithms.remainder`), and what the last
            one gained, is less than this share of the ELBO's size, twice in a row.
        max_steps: Sweeps before giving up.
        num_starts: Starts; None for ten with discrete latents, four where Gaussian latents multiply each other, else
            one.
        joined: Whether Gaussian sites that occur in products with each other share one block. Without, each site is
            a block of its own: mean field.
        accelerate: Whether the sequence of sweeps is extrapolated.
        init_values: Where to start: from names of latents to values; ``lb.fit(..., init=...)`` sets it.
    """

    tolerance: float = 1e-9
    max_steps: int = 5000
    num_starts: int | None = None
    joined: bool = True
    accelerate: bool = True
    init_values: Mapping[str, Any] | None = None
    name = "coordinate_ascent"

    def __post_init__(self) -> None:
        check_positive("CoordinateAscent", tolerance=self.tolerance, max_steps=self.max_steps)
        if self.num_starts is not None:
            check_positive("CoordinateAscent", num_starts=self.num_starts)

    def rule(self) -> str:
        return (
            "what sweeps over all blocks have left to gain, and what the last one gained, is less than "
            f"{self.tolerance:g} of the exact ELBO's size, twice"
        )

    def check(self, model: Any, family: Any) -> None:
        if family is not None:
            raise IncompatibleError(
                f"CoordinateAscent derives its own family from the model; it cannot fit {family.name!r}. Leave family "
                "out."
            )

    def started_from(self, values: Mapping[str, Any] | None) -> CoordinateAscent:
        """The same, started from given values of some latents."""
        return self if not values else dataclasses.replace(self, init_values=dict(values))

    # -- the three functions -------------------------------------------------------------------------

    def init(self, seed: int, kernel: Any, family: Any) -> State:
        """The best of several short runs.

        Args:
            seed: Of the starts.
            kernel: The :class:`~lowerbound.algorithms.factored.Factored` ELBO; there is no kernel here.
            family: Not used.
        """
        full: Factored = kernel
        rng = np.random.default_rng([seed, 11])
        for n in self.init_values or {}:
            if n not in full.structure.latents:
                raise unknown_name("latent in init", n, full.structure.latents)
        factored = ascended(full)
        given = {n: v for n, v in (self.init_values or {}).items() if n in factored.structure.latents}
        with float64():
            for n, v in given.items():  # wrong values are refused before anything is compiled
                block = factored.blocks[i := factored.index(n)]
                about_value(factored, i, n, v, block.start(np.random.default_rng(0), 1.0))
        sweeper = Sweeper(factored, tuple(given))
        count = self.num_starts
        if count is None:
            count = 1 if given else starts_of(factored)
        runs: list[tuple[float, list[list[Any]]]] = []
        first: list[float] = []
        status = None
        with float64():
            try:
                for i in range(count):
                    x, keep = self._start(sweeper, rng, i, given)
                    runs.append((-np.inf, _followed(sweeper, x, 1)[1] if keep else x))
                    if factored.late():
                        break
                # Successive halving: a start that is behind early may be ahead later, so the better half goes on.
                length = _RACE
                while len(runs) > 1 and not factored.late():
                    runs = sorted((_followed(sweeper, x, length) for _, x in runs), key=lambda r: -_or_worst(r[0]))
                    first = first or [e for e, _ in runs]
                    runs, length = runs[: (len(runs) + 1) // 2], 2 * length
            except KeyboardInterrupt:
                if not runs:
                    raise
                status = Status.INTERRUPTED
        return State(full, sweeper, rng, runs[0][1], starts=first, status=status)

    def _start(
        self, sweeper: Sweeper, rng: np.random.Generator, s: int, given: Mapping[str, Any]
    ) -> tuple[list[list[Any]], bool]:
        """Natural parameters to start from, and whether the first block is to be kept for one sweep."""
        f = sweeper.factored
        naturals = [dict(b.start(rng, 1.0)) for b in f.blocks]
        kept = False
        for name, value in given.items():
            i = f.index(name)
            naturals[i] = about_value(f, i, name, value, naturals[i])
            kept = kept or i == sweeper.first
        for i, natural in f.begin.items():
            naturals[i] = natural if not set(f.blocks[i].latents) & set(given) else naturals[i]
        x = [[np.asarray(n[k], float) for k in b.keys] for b, n in zip(f.blocks, naturals, strict=True)]
        first = f.blocks[sweeper.first]
        # What is known tells components apart, and labels follow from it.
        if isinstance(first, CategoricalBlock) and not given and not f.begin:
            if s % 3 < 2 and len(first.shape) == 1 and 2 <= len(first.values) <= min(_SEEDED, first.shape[0]):
                return seeded(sweeper, x, rng, spread=s % 3 == 0), False
            x[sweeper.first] = [np.log(first.probabilities(naturals[sweeper.first]))]
            kept = True
        return x, kept

    def step(self, state: State) -> tuple[State, Info]:
        """Some sweeps, with an extrapolation after every two of them."""
        with float64():
            for _ in range(_BATCH):
                ended = state.status  # an interruption among the starts: one sweep more, for an answer
                self._one(state)
                state.status = ended or state.status
                if state.status is not None or state.sweeper.factored.late():
                    break
        return state, Info("coordinate ascent", state.step, state.elbo, 0.0, status=state.status)

    def _one(self, state: State) -> None:
        sweeper = state.sweeper
        x = state.x
        after, first, elbo, proper = sweeper(x)
        state.step += 1
        gain = elbo - state.elbo
        if len(state.before) == 3 and not gain >= 0:
            # An extrapolation that lost, or left what is a distribution: back to where it was made from.
            state.x, state.before = state.before[2], []
            return
        if not np.isfinite(elbo):
            check_proper(sweeper.factored, proper, elbo)
        if len(state.before) == 3:
            state.before = []
        state.elbo, state.best = max(elbo, state.elbo) if gain >= 0 else elbo, sweeper.middle(x, first)
        state.elbos.append(state.elbo)
        small = max(gain, remaining(state.elbos)) < self.tolerance * max(1.0, abs(elbo))
        state.slow = state.slow + 1 if small else 0
        if state.slow >= 2:
            state.status = Status.CONVERGED
        elif state.step >= self.max_steps:
            state.status = Status.MAX_STEPS
        state.before.append(x)
        state.x = after
        if self.accelerate and len(state.before) == 2:
            far = self._extrapolated(sweeper, state.before[0], state.before[1], after)
            if far is not None:
                state.before.append(after)
                state.x = far
            else:
                state.before = []

    @staticmethod
    def _extrapolated(
        sweeper: Sweeper, x0: list[list[Any]], x1: list[list[Any]], x2: list[list[Any]]
    ) -> list[list[Any]] | None:
        """SQUAREM's step on all blocks but the first; None where it is no longer than a sweep."""
        others = sweeper.rest
        if not others:
            return None
        flat = [np.concatenate([np.ravel(np.asarray(a)) for i in others for a in x[i]]) for x in (x0, x1, x2)]
        # Each coordinate on its own scale: natural parameters differ by orders of magnitude.
        scale = np.maximum(np.abs(flat[2]), 1e-8)
        r, v = (flat[1] - flat[0]) / scale, (flat[2] - 2 * flat[1] + flat[0]) / scale
        size = float(np.linalg.norm(v))
        if not size > 0:
            return None
        a = -float(np.linalg.norm(r)) / size
        if a > -1.5:
            return None
        far = flat[0] + scale * (-2 * a * r + a * a * v)
        out, place = list(x2), 0
        for i in others:
            row = []
            for k in x2[i]:
                n = int(np.prod(np.shape(k)))
                row.append(far[place : place + n].reshape(np.shape(k)))
                place += n
            out[i] = row
        return out

    def output(self, state: State) -> Any:
        """Natural parameters of all blocks."""
        if state.best is None:
            return None
        blocks = state.sweeper.factored.blocks
        found = [
            {k: np.asarray(a) for k, a in zip(b.keys, n, strict=True)} for b, n in zip(blocks, state.best, strict=True)
        ]
        return with_unobserved(state.full, found)


def _followed(sweeper: Sweeper, x: list[list[Any]], sweeps: int) -> tuple[float, list[list[Any]]]:
    """The ELBO after some sweeps, and where they end; of one sweep alone the first block is kept."""
    elbo = -np.inf
    for _ in range(sweeps):
        x, _, elbo, proper = sweeper(x, keep=sweeps == 1)
        check_proper(sweeper.factored, proper, elbo)
        if sweeper.factored.late():
            break
    return elbo, x


def _or_worst(elbo: float) -> float:
    return elbo if np.isfinite(elbo) else -np.inf
