r"""Families beyond the Gaussian: first the best Gaussian, then the family's own fit from there.

Whitened by a Gaussian N(m, L L') that is fitted already, any posterior near it looks alike, standard normal to first
order, so that what is left has one scale, one step size and one start: the identity. (For flows this is what made the
difference between good and bad in Agrawal, Sheldon & Domke 2020, who start at a Laplace approximation.)

1. :class:`~lowerbound.algorithms.ScoreRegression` with a dense Gaussian;
2. for ``sinh_arcsinh``, L-BFGS on fixed noise (:mod:`~lowerbound.algorithms.shape_ascent`); for ``flow``, Adam on path
   gradients (:mod:`~lowerbound.algorithms.flow_training`).

The first stage's other modes are handed on: q is about one of them.

Cost: that of the Gaussian, then some 30,000 gradients (sinh-arcsinh) or 250,000 (flow).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lowerbound.algorithms.base import Algorithm, Info, Mode, Status, check_positive
from lowerbound.algorithms.flow_training import FlowTraining, start_flow
from lowerbound.algorithms.score_regression import DENSE_LIMIT, ScoreRegression
from lowerbound.algorithms.shape_ascent import SHAPE_LIMIT, ShapeAscent
from lowerbound.errors import IncompatibleError
from lowerbound.families import Block, Dense, Family, Flow, SinhArcsinh
from lowerbound.kernel import Kernel


@dataclass(eq=False)
class _State:
    kernel: Kernel
    family: Family
    rng: np.random.Generator
    gaussian: Any
    fitted: Block | None = None
    own: ShapeAscent | FlowTraining | None = None
    modes: list[Mode] = field(default_factory=list)


@dataclass(frozen=True)
class FromGaussian(Algorithm):
    """A Gaussian by score regression, then sinh-arcsinh or a flow from it.

    Args:
        max_steps: Steps of the second stage before giving up: of L-BFGS, or iterations of Adam.
    """

    max_steps: int = 4000
    name = "from_gaussian"
    finds_modes = True

    def __post_init__(self) -> None:
        check_positive("FromGaussian", max_steps=self.max_steps)

    def rule(self) -> str:
        return (
            "after a Gaussian by score regression, the held-out ELBO of a flow gained less than two standard errors or "
            "0.01 nats in 250 iterations (or that of skewness and tails less than 0.01 nats in ten steps)"
        )

    def check(self, model: Any, family: Family) -> None:
        p = model.dimension
        if not isinstance(family, (Flow, SinhArcsinh)):
            raise IncompatibleError(
                f"FromGaussian fits flows and sinh-arcsinh, not {family.name}: use algorithm='score_regression' or "
                "leave algorithm out."
            )
        if isinstance(family, SinhArcsinh) and p > SHAPE_LIMIT:
            raise IncompatibleError(
                f"sinh_arcsinh is dense, with p^2 numbers, for up to {SHAPE_LIMIT} unconstrained dimensions; this "
                f"model has {p}. Use family='flow', which takes the worst coordinates, or 'dense'."
            )
        if isinstance(family, Flow):
            family.arrange(p)
            if p > 2 * DENSE_LIMIT:
                raise IncompatibleError(
                    f"a flow starts from a dense Gaussian, for up to {2 * DENSE_LIMIT} unconstrained dimensions; this "
                    f"model has {p}. Use family='diagonal' or 'low_rank'."
                )

    def init(self, seed: int, kernel: Kernel, family: Family) -> _State:
        return _State(kernel, family, np.random.default_rng([seed, 4]), ScoreRegression().init(seed, kernel, Dense()))

    def step(self, state: _State) -> tuple[_State, Info]:
        if state.own is not None:
            return state, state.own.step()
        first = ScoreRegression()
        state.gaussian, info = first.step(state.gaussian)
        state.fitted = first.output(state.gaussian)
        if info.status is None:
            return state, info
        state.modes = first.modes(state.gaussian)
        if info.status in (Status.FLAT, Status.UNBOUNDED, Status.NOT_FINITE) or state.fitted is None:
            return state, info
        self._begin(state, state.fitted)
        return state, info._replace(status=state.own.status if state.own is not None else info.status)

    def _begin(self, state: _State, fitted: Block) -> None:
        if isinstance(state.family, Flow):
            start = start_flow(state.kernel, fitted, state.rng, state.family)
            state.own = FlowTraining(state.kernel, start, state.rng, max_steps=self.max_steps)
        else:
            state.own = ShapeAscent(state.kernel, fitted, state.rng, max_steps=self.max_steps)

    def output(self, state: _State) -> Block | None:
        return state.fitted if state.own is None else state.own.block

    def modes(self, state: _State) -> list[Mode]:
        return state.modes

    def missing_modes(self, state: _State) -> float:
        return ScoreRegression().missing_modes(state.gaussian)
