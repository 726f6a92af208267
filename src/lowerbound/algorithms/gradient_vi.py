r"""Gradient VI, as every textbook gives it: draw, weigh, differentiate, step.

    z_i = T_phi(e_i) ~ q_phi,    l_i = log p(x, z_i) - log q_phi(z_i),    phi <- phi + step * estimate of d/dphi E[h(l)]

with h the objective (the mean of l for the ELBO) and one of several estimates of its gradient.

An explicit choice, not the default: it needs thousands of noisy steps where score regression needs ten
exact ones. It is there because it fits any family that can be sampled, and because it is what people
know. Three things are done for the user that are usually left to them.

*Where to start*: at the best end of the same searches that the default uses, in coordinates shifted and
scaled by it, so that one step size suits all of them.

*The step size*, if no optimiser is given: Adam, its rate the best of {0.1, 0.03, 0.01, 0.003} after a
race of 300 steps from the same point.

*When to stop*: the objective of the last window of steps is compared with that of the one before it. When
the gain is less than two standard errors of the difference (measured from 20 batch means of each window,
which allows for their correlation), the chosen rate is cut to a third and the windows begin again; after
three cuts, or at once with an optimiser of the user's, the fit has converged. The answer is the average
of the parameters over the last window, which has much less noise than the last iterate.

Objectives that are expectations under the posterior look their best where q is too narrow to see it, so that their
estimates can neither choose a rate nor stop a fit. There the rate is 0.03, the start as wide as the curvature
at the mode has it, and windows are compared by the parameters: they have settled when their means differ by no more
than two standard errors, in the mean square.

Parameters of the model itself (``numpyro.param``) move in the same steps: they are in the bound, and where they are is
where it is largest. See :mod:`lowerbound.gradients.of_model`.

Cost: ``num_samples`` gradients a step; one program is compiled, of 100 steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from lowerbound.algorithms.base import Algorithm, Info, Status
from lowerbound.algorithms.search import Search
from lowerbound.errors import IncompatibleError
from lowerbound.families import Block, BoundProduct, Dense, Family, Flow, Particles, PointMass, SinhArcsinh
from lowerbound.families.arrow import check_layout
from lowerbound.gradients import Gradient, check_learns, check_pair, default_gradient, surrogate_with_model
from lowerbound.kernel import Kernel, compile_once
from lowerbound.objectives import ELBO, Objective, Target, Weighted, gaussian_prior
from lowerbound.precision import float64

_CHUNK = 100
_RATES = (0.1, 0.03, 0.01, 0.003)
_RACE = 3
#: Dimensions of a dense Gaussian that can be fitted by noisy steps while the model moves.
DENSE_LEARNS = 1_000
#: Where the objective cannot choose one.
_RATE = 0.03


@dataclass(eq=False)
class _State:
    kernel: Kernel
    family: Family
    search: Search
    seed: int
    shift: np.ndarray = field(default_factory=lambda: np.empty(0))
    scale: np.ndarray = field(default_factory=lambda: np.empty(0))
    program: Any = None
    parameters: Any = None
    optimizer_state: Any = None
    average: Any = None
    averaged: int = 0
    chunk: int = 0
    steps: int = 0
    race: list[tuple[float, float, Any, Any, float]] = field(default_factory=list)
    rate: float | None = None
    cuts: int = 0
    window: list[np.ndarray] = field(default_factory=list)
    elbos: list[np.ndarray] = field(default_factory=list)
    last: np.ndarray | None = None
    length: int = 10
    elbo: float = np.nan
    elbo_se: float = np.nan
    status: Status | None = None


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
        if not isinstance(self.objective, Objective):
            raise IncompatibleError(f"objective is {self.objective!r}; needed: lb.objectives.ELBO(num_samples=...).")
        if not isinstance(self.estimator, Gradient):
            raise IncompatibleError(f"gradient is {self.gradient!r}; needed: lb.gradients.Reparameterized(), ...")
        check_pair(self.objective, self.estimator)
        if self.optimizer is not None and not (hasattr(self.optimizer, "init") and hasattr(self.optimizer, "update")):
            raise IncompatibleError(
                f"optimizer is {self.optimizer!r}; needed: an optax optimiser, such as optax.adam(0.01)."
            )

    @property
    def estimator(self) -> Gradient:
        """The gradient that is used."""
        return default_gradient(self.objective) if self.gradient is None else self.gradient

    def rule(self) -> str:
        end = "after its rate was cut three times" if self.optimizer is None else "with the given optimiser"
        what = "parameters" if isinstance(self.objective, Weighted) else "objective"
        return f"the {what} of a window of steps within two standard errors of the one before, {end}"

    def check(self, model, family: Family) -> None:
        check_layout(family)
        parts = family.families if isinstance(family, BoundProduct) else (family,)
        if isinstance(family, Particles):
            raise IncompatibleError("particles have no log q: use algorithm='svgd' for family='particles'.")
        if any(isinstance(f, PointMass) for f in parts):
            raise IncompatibleError("a point mass has no log q: use algorithm='maximum' for family='point_mass'.")
        if isinstance(family, (Flow, SinhArcsinh)):
            raise IncompatibleError(
                f"GradientVI has no start for {family.name}, which is fitted from a Gaussian: use "
                "algorithm='from_gaussian', or leave algorithm out."
            )

        check_learns(self.objective, model.parameters)
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
            for _ in range(8):
                if not state.search.done:
                    state.search.step()
            phase = "searching for a start"
        elif state.program is None:
            phase = "compiling the gradient step"
            self._start(state)
        elif state.rate is None:
            phase = "choosing the step size"
            self._run_race(state)
        else:
            phase = "fitting"
            self._advance(state)
        return state, Info(phase, state.steps, state.elbo, state.elbo_se, status=state.status)

    def output(self, state: _State) -> Block | None:
        if state.parameters is None:
            return None
        chosen = state.average if state.averaged else state.parameters
        block = state.family.from_parameters({k: np.asarray(v) for k, v in chosen[0].items()})
        return block.rescale(state.shift, state.scale)  # pyright: ignore

    def learned(self, state: _State) -> list[Any]:
        if state.parameters is None:
            return []
        return [np.asarray(v) for v in (state.average if state.averaged else state.parameters)[1]]

    # -- pieces ----------------------------------------------------------------------------------

    def _optimizer(self) -> Any:
        import optax

        return optax.inject_hyperparams(optax.adam)(learning_rate=0.01) if self.optimizer is None else self.optimizer

    def _start(self, state: _State) -> None:
        end = max(state.search.ends(), key=lambda e: e.value)
        state.shift = end.x
        variance = end.inverse if end.inverse.ndim == 1 else np.diagonal(end.inverse)
        state.scale = np.sqrt(np.clip(variance, 1e-24, 1e24))
        p = len(end.x)
        first = state.family.build(np.zeros(p), np.full(p, 1.0 if isinstance(self.objective, Weighted) else 0.25))
        with float64():
            model = state.kernel.model
            own = {k: jax.numpy.asarray(v, np.float64) for k, v in state.family.parameters(first).items()}
            parameters = own, [jax.numpy.asarray(model.arguments[i], np.float64) for i in model.parameter_places]
            opt_state = self._optimizer().init(parameters)
            opt_state = jax.tree_util.tree_map(jax.numpy.asarray, opt_state)
            state.program = self._compile(state, parameters, opt_state, first.noise_dimension)
        state.parameters, state.optimizer_state = parameters, opt_state
        if self.optimizer is not None:
            state.rate = np.nan
        elif isinstance(self.objective, Weighted):
            state.rate, state.optimizer_state = _RATE, _with_rate(opt_state, _RATE)

    def _compile(self, state: _State, parameters: Any, opt_state: Any, width: int) -> Any:
        optimizer, lifted, family = self._optimizer(), state.kernel.log_density, state.family
        shift, scale = state.shift, state.scale
        prior = gaussian_prior(state.kernel.model) if self.objective.needs_prior else None
        estimator, sense = self.estimator, self.objective.sense
        constants = len(state.kernel.arguments) - len(state.kernel.model.arguments)
        places = [constants + i for i in state.kernel.model.parameter_places]

        def chunk(parameters: Any, opt_state: Any, key: Any, shift: Any, scale: Any, arguments: Any) -> Any:
            rescaled = None if prior is None else prior.rescaled(shift, scale)

            def target(learned: Any) -> Target:
                given = list(arguments)
                for i, leaf in zip(places, learned, strict=True):
                    given[i] = leaf

                def log_joint(y: Any) -> Any:
                    return jax.vmap(lambda u: lifted.call(shift + scale * u, given))(y) + jax.numpy.log(scale).sum()

                return Target(log_joint, rescaled)

            def one(carry: Any, key: Any) -> Any:
                parameters, opt_state = carry
                noise = jax.random.normal(key, (self.objective.num_samples, width))

                def loss(both: Any) -> Any:
                    phi, learned = both
                    found = surrogate_with_model(
                        estimator, self.objective, target, family.from_parameters, phi, learned, noise
                    )
                    return -found.surrogate, (sense * found.value, found.elbo)

                (_, (value, elbo)), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
                # A step that is not finite is left out; the loop stops if there are many.
                ok = jax.numpy.isfinite(value) & jax.numpy.all(
                    jax.numpy.stack([jax.numpy.isfinite(g).all() for g in jax.tree_util.tree_leaves(gradient)])
                )
                gradient = jax.tree_util.tree_map(lambda g: jax.numpy.where(ok, g, 0.0), gradient)
                updates, new_state = optimizer.update(gradient, opt_state, parameters)
                moved = jax.tree_util.tree_map(lambda a, u: a + jax.numpy.where(ok, u, 0.0), parameters, updates)
                new_state = jax.tree_util.tree_map(lambda a, b: jax.numpy.where(ok, a, b), new_state, opt_state)
                numbers = jax.numpy.where(ok, jax.numpy.stack([value, elbo]), jax.numpy.nan)
                return (moved, new_state), (numbers, moved)

            (parameters, opt_state), (numbers, path) = jax.lax.scan(
                one, (parameters, opt_state), jax.random.split(key, _CHUNK)
            )
            mean = jax.tree_util.tree_map(lambda a: a.mean(0), path)
            return parameters, opt_state, numbers.T, mean

        key = jax.random.PRNGKey(0)
        arguments = state.kernel.arguments
        program, _ = compile_once(chunk, parameters, opt_state, key, shift, scale, arguments)
        return lambda a, b, k: program(a, b, k, shift, scale, arguments)

    def _chunk(self, state: _State, parameters: Any, opt_state: Any) -> Any:

        def call() -> Any:
            with float64():
                key = jax.random.fold_in(jax.random.PRNGKey(state.seed), state.chunk)
                return jax.block_until_ready(state.program(parameters, opt_state, key))

        out = state.kernel.waiting(call)
        state.chunk += 1
        state.steps += _CHUNK
        state.kernel.evaluations += _CHUNK * self.objective.num_samples
        return out[0], out[1], np.asarray(out[2]), out[3]

    def _run_race(self, state: _State) -> None:
        """One runner: a rate, from the common start."""
        rate = _RATES[len(state.race)]
        opt_state = _with_rate(state.optimizer_state, rate)
        parameters, values, elbos = state.parameters, np.array([np.nan]), np.array([np.nan])
        for _ in range(_RACE):
            parameters, opt_state, (values, elbos), _ = self._chunk(state, parameters, opt_state)
        score = np.nanmean(values) if np.isfinite(values).mean() > 0.9 else -np.inf
        state.race.append((float(score), rate, parameters, opt_state, float(np.nanmean(elbos))))
        if len(state.race) == len(_RATES):
            score, state.rate, parameters, opt_state, elbo = max(state.race, key=lambda r: r[0])
            if not np.isfinite(score):
                state.status = Status.NOT_FINITE
                return
            state.parameters, state.optimizer_state, state.elbo = parameters, opt_state, elbo

    def _advance(self, state: _State) -> None:
        if state.status is not None:
            return
        parameters, opt_state, (values, elbos), mean = self._chunk(state, state.parameters, state.optimizer_state)
        finite = all(np.isfinite(np.asarray(v)).all() for v in jax.tree_util.tree_leaves(parameters))
        if not finite or np.isfinite(values).mean() < 0.5:
            state.status = Status.NOT_FINITE
            return
        state.parameters, state.optimizer_state = parameters, opt_state
        w = state.averaged
        with float64():
            before = mean if w == 0 else state.average
            state.average = jax.tree_util.tree_map(lambda a, b: (w * a + b) / (w + 1), before, mean)
        state.averaged = w + 1
        if isinstance(self.objective, Weighted):
            state.window.append(np.concatenate([np.ravel(v) for v in jax.tree_util.tree_leaves(mean)])[None])
        else:
            state.window.append(np.nan_to_num(values, nan=np.nanmean(values)))
        state.elbos.append(np.nan_to_num(elbos, nan=np.nanmean(elbos)))
        if len(state.window) < state.length:
            if state.steps >= self.max_steps:
                state.status = Status.MAX_STEPS
            return
        elbo = np.concatenate(state.elbos).reshape(20, -1).mean(1)
        state.elbo, state.elbo_se = float(elbo.mean()), float(elbo.std(ddof=1) / np.sqrt(20))
        means = np.concatenate(state.window)
        means = means if means.ndim == 2 else means.reshape(20, -1).mean(1)
        if state.last is not None and _settled(means, state.last):
            if self.optimizer is not None or state.cuts == 3:
                state.status = Status.CONVERGED
                return
            state.cuts += 1
            assert state.rate is not None
            state.rate /= 3
            state.optimizer_state = _with_rate(state.optimizer_state, state.rate)
            means = None
        state.last, state.window, state.elbos = means, [], []
        if state.steps >= self.max_steps:
            state.status = Status.MAX_STEPS
            return
        state.averaged, state.average = 0, None


def _settled(now: np.ndarray, before: np.ndarray) -> bool:
    """Of batch means of two windows: no gain beyond two standard errors; of parameters ``[b, p]``, no change."""
    change = now.mean(0) - before.mean(0)
    error = np.sqrt((now.var(0, ddof=1) + before.var(0, ddof=1)) / len(now))
    if now.ndim == 1:
        return bool(change < 2 * error)
    return bool(np.mean((change / np.where(error > 0, error, 1.0)) ** 2) < 4)


def _with_rate(opt_state: Any, rate: float) -> Any:
    with float64():
        new = dict(opt_state.hyperparams)
        new["learning_rate"] = jax.numpy.asarray(rate, new["learning_rate"].dtype)
        return opt_state._replace(hyperparams=new)
