r"""Gradient VI, as every textbook gives it: draw, weigh, differentiate, step.

    z_i = T_phi(e_i) ~ q_phi,    l_i = log p(x, z_i) - log q_phi(z_i),    phi <- phi + step * estimate of d/dphi E[h(l)]

with h the objective (the mean of l for the ELBO) and one of several estimates of its gradient.

An explicit choice, not the default: it needs thousands of noisy steps where score regression needs ten
exact ones. It is there because it fits any family that can be sampled, and because it is what people
know. Three things are done for the user that are usually left to them.

*Where to start*: at the best end of the same searches that the default uses, in coordinates shifted and
scaled by it, so that one step size suits all of them.

*The step size, and when to stop*: :mod:`lowerbound.algorithms.stochastic_ascent`. Objectives that are expectations
under the posterior look their best where q is too narrow to see it: they start as wide as the curvature at the mode
has it, as discrepancies over pairs of draws do.

Parameters of the model itself (``numpyro.param``) move in the same steps: they are in the bound, and where they are is
where it is largest. See :mod:`lowerbound.gradients.of_model`.

Cost: ``num_samples`` gradients a step; one program is compiled, of 100 steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from lowerbound.algorithms.base import Algorithm, Info, check_ascent
from lowerbound.algorithms.search import Search
from lowerbound.algorithms.stochastic_ascent import StochasticAscent, stopping
from lowerbound.algorithms.stochastic_steps import (
    CHUNK,
    adam_unless,
    check_objective_and_gradient,
    check_optimizer,
    many_steps,
)
from lowerbound.compilation import compile_once
from lowerbound.errors import IncompatibleError
from lowerbound.families import Block, Dense, Family
from lowerbound.gradients import Gradient, check_learns, default_gradient, surrogate_with_model
from lowerbound.kernel import Kernel
from lowerbound.objectives import ELBO, Discrepancy, Objective, Target, Weighted, gaussian_prior
from lowerbound.precision import float64

#: Dimensions of a dense Gaussian that can be fitted by noisy steps while the model moves.
DENSE_LEARNS = 1_000


@dataclass(eq=False)
class _State:
    kernel: Kernel
    family: Family
    search: Search
    seed: int
    shift: np.ndarray = field(default_factory=lambda: np.empty(0))
    scale: np.ndarray = field(default_factory=lambda: np.empty(0))
    ascent: StochasticAscent | None = None


@dataclass(frozen=True, eq=False)
class GradientVI(Algorithm):
    """Stochastic gradient ascent on a bound.

    Args:
        objective: What is optimised, and its number of draws a step.
        gradient: An estimator of :mod:`lowerbound.gradients`; None for the first that goes with the objective.
        optimizer: Any optax optimiser, of a *loss* as optax has it; None for Adam with a rate found by a race.
        max_steps: Steps before giving up.

    Raises:
        IncompatibleError: a gradient that is wrong for the objective or needs more draws, or something
            that is no optax optimiser.
    """

    objective: Objective = field(default_factory=ELBO)
    gradient: Gradient | None = None
    optimizer: Any = None
    max_steps: int = 50_000
    name = "gradient_vi"
    learns = True

    def __post_init__(self) -> None:
        check_objective_and_gradient(self.objective, self.gradient, lambda: self.estimator)
        check_optimizer(self.optimizer)

    @property
    def estimator(self) -> Gradient:
        """The gradient that is used."""
        return default_gradient(self.objective) if self.gradient is None else self.gradient

    def rule(self) -> str:
        return stopping(self.optimizer, "parameters" if isinstance(self.objective, Weighted) else "objective")

    def check(self, model, family: Family) -> None:
        check_ascent("GradientVI", family, model.dimension)
        check_learns(self.objective, model.parameters)
        if isinstance(self.objective, Discrepancy):
            self.objective.coordinates(model)
        if model.parameters and isinstance(family, Dense) and model.dimension > DENSE_LEARNS:
            raise IncompatibleError(
                f"family='dense' over {model.dimension:,} dimensions has a covariance of "
                f"{model.dimension * (model.dimension + 1) // 2:,} numbers, which noisy steps have to find beside the "
                f"model's parameters ({', '.join(model.parameters)}); needed: at most {DENSE_LEARNS:,} dimensions. Use "
                "family='diagonal' or 'low_rank', or lb.families.Amortized where each row has latents of its own."
            )
        if self.objective.needs_prior and gaussian_prior(model) is None:
            raise IncompatibleError(
                f"{self.objective.name} needs a latent with a Normal prior whose location and scale are numbers; "
                f"{model.name!r} has none. Use lb.objectives.ELBO(form='joint') or form='entropy'."
            )

    def init(self, seed: int, kernel: Kernel, family: Family) -> _State:
        return _State(kernel, family, Search(kernel, np.random.default_rng(seed)), seed)

    def step(self, state: _State) -> tuple[_State, Info]:
        if not state.search.done:
            state.search.advance()
            return state, Info("searching for a start", 0)
        if state.ascent is None:
            state.ascent = self._ascent(state)
            return state, Info("compiling the gradient step", 0)
        ascent = state.ascent
        phase = ascent.phase
        ascent.step()
        return state, Info(phase, ascent.steps, ascent.elbo, ascent.elbo_se, status=ascent.status)

    def output(self, state: _State) -> Block | None:
        if state.ascent is None:
            return None
        block = state.family.from_parameters({k: np.asarray(v) for k, v in state.ascent.answer[0].items()})
        return block.rescale(state.shift, state.scale)  # pyright: ignore

    def learned(self, state: _State) -> list[Any]:
        return [] if state.ascent is None else [np.asarray(v) for v in state.ascent.answer[1]]

    # -- pieces ----------------------------------------------------------------------------------

    def _ascent(self, state: _State) -> StochasticAscent:
        end = state.search.ends()[0]
        state.shift = end.x
        variance = end.inverse if end.inverse.ndim == 1 else np.diagonal(end.inverse)
        state.scale = np.sqrt(np.clip(variance, 1e-24, 1e24))
        model, optimizer = state.kernel.model, adam_unless(self.optimizer)
        own = self.objective.coordinates(model) if isinstance(self.objective, Discrepancy) else None
        state.shift, state.scale = own or (state.shift, state.scale)
        p, wide = len(end.x), isinstance(self.objective, (Weighted, Discrepancy))
        first = state.family.build(np.zeros(p), np.full(p, 1.0 if wide else 0.25))
        with float64():
            own = {k: jax.numpy.asarray(v, np.float64) for k, v in state.family.parameters(first).items()}
            parameters = own, [jax.numpy.asarray(model.arguments[i], np.float64) for i in model.parameter_places]
            opt_state = jax.tree_util.tree_map(jax.numpy.asarray, optimizer.init(parameters))
            given = state.shift, state.scale, state.kernel.arguments
            steps = many_steps(optimizer, self._loss(state, first.noise_dimension))
            program, _ = compile_once(steps, parameters, opt_state, jax.random.PRNGKey(0), *given)

        def chunk(parameters: Any, opt_state: Any, number: int) -> Any:
            def call() -> Any:
                with float64():
                    key = jax.random.fold_in(jax.random.PRNGKey(state.seed), number)
                    a, b = (jax.tree_util.tree_map(jax.numpy.asarray, t) for t in (parameters, opt_state))
                    return jax.block_until_ready(program(a, b, key, *given))

            out = state.kernel.waiting(call)
            state.kernel.evaluations += CHUNK * self.objective.num_samples
            return out[0], out[1], np.asarray(out[2]), out[3]

        starts, fixed, moves = (
            [(parameters, opt_state)],
            self.optimizer is not None,
            isinstance(self.objective, Weighted),
        )
        return StochasticAscent(chunk, starts, self.max_steps, fixed=fixed, by_parameters=moves)

    def _loss(self, state: _State, width: int) -> Any:
        """Of parameters, a key, the coordinates' shift and scale, and the kernel's arguments."""
        lifted, model = state.kernel.log_density, state.kernel.model
        prior = gaussian_prior(model) if self.objective.needs_prior else None
        constants = len(state.kernel.arguments) - len(model.arguments)
        places = [constants + i for i in model.parameter_places]
        family, objective = state.family, self.objective
        if isinstance(objective, Discrepancy):
            objective = objective.placed(model, state.shift, state.scale)

        def loss(both: Any, key: Any, shift: Any, scale: Any, arguments: Any) -> Any:
            rescaled = None if prior is None else prior.rescaled(shift, scale)

            def target(learned: Any) -> Target:
                given = list(arguments)
                for i, leaf in zip(places, learned, strict=True):
                    given[i] = leaf

                def log_joint(y: Any) -> Any:
                    return jax.vmap(lambda u: lifted.call(shift + scale * u, given))(y) + jax.numpy.log(scale).sum()

                return Target(log_joint, rescaled)

            noise = jax.random.normal(key, (objective.num_samples, width))
            phi, learned = both
            found = surrogate_with_model(self.estimator, objective, target, family.from_parameters, phi, learned, noise)
            return -found.surrogate, (objective.sense * found.value, found.elbo)

        return loss
