r"""Amortized VI: a network that gives each row its block of q, and the model's parameters, learned together.

For rows that are independent given the parameters theta, with l_ik = log p(x_i, z_ik; theta) - log q_w(z_ik | x_i),

    L(w, theta) = log g(theta) + sum_i E[h(l_i1, ..., l_iK)] <= log p(x; theta),

h the objective (the mean for the ELBO) *row by row*. Latents g that all rows share have a Gaussian q(g) = N(m, S)
beside the rows', and

    L(w, m, S, theta) = H(q(g)) + E_q(g)[log p(g; theta) + sum_i E[h(l_i1, ..., l_iK | g)]] <= log p(x; theta),

since given g it is a bound as before: E_q(g)[log p(x, g) - log q(g)] is one on log p(x). Each row of a step has a draw
g = m + S^{1/2} e of its own, which is less noisy than one for all and has the same mean, and its mirror image beside
it: what is linear in e cancels, which is nearly all that rows say of S at random. In gradients g stands where theta
does. A step draws b of the n rows and moves along the gradient of
(n / b) times their sum: an unbiased estimate, whose cost does not depend on n. q's gradient is any of
:mod:`lowerbound.gradients`; theta's is the ordinary one.

*Rows*: each epoch goes once through the training rows in a new order; rows left over after the last whole batch wait
for the next. A tenth of the rows is held out; none where rows share latents, whose posterior is that given all rows.

*When to stop*: after each epoch the bound of the held-out rows is estimated, with the same noise every time. When it
has not risen for ``patience`` epochs, the rate is cut to a third and the fit goes on from its best epoch; after three
cuts, or at once with an optimiser of the user's, it has converged. The answer is that of the best epoch. With
``held_out=0`` the bound of up to 1,000 of the training rows takes its place. (Epochs of few steps: for ``patience``
epochs, and 200 steps.)

*The step size*, if no optimiser is given: Adam with rate 0.01. Arithmetic is in float32.

Cost: two programs are compiled, an epoch's steps and the weights of some rows' draws.

Source: Kingma & Welling (2014); Rezende, Mohamed & Wierstra (2014); several draws, Burda, Grosse & Salakhutdinov
(2016).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.algorithms.base import Algorithm, Info, Status, check_positive
from lowerbound.algorithms.row_weights import RowWeights
from lowerbound.algorithms.stochastic_steps import adam_unless, check_objective_and_gradient, check_optimizer
from lowerbound.compilation import compile_once
from lowerbound.errors import IncompatibleError
from lowerbound.gradients import Gradient, check_learns, default_gradient, surrogate_with_model
from lowerbound.objectives import ELBO, Objective, Target

_RATE, _BATCH = 0.01, 128
_CUTS = 3
_HELD_OUT = 0.1
#: Draws of each held-out row, at least, behind the bound that stops a fit.
_HELD_DRAWS = 16
#: Training rows that stop a fit where none are held out, and steps without a rise at least.
_LOOKED, _LEAST = 1000, 200


@dataclass(eq=False)
class _State:
    problem: RowWeights
    rng: np.random.Generator
    training: np.ndarray
    held: np.ndarray
    noise: np.ndarray
    shared_noise: np.ndarray
    parameters: Any
    optimizer_state: Any
    key: Any
    program: Any = None
    best: Any = None
    score: float = -np.inf
    since: int = 0
    cuts: int = 0
    epoch: int = 0
    steps: int = 0
    status: Status | None = None


@dataclass(frozen=True, eq=False)
class AmortizedVI(Algorithm):
    """Stochastic gradient ascent on a bound, some rows at a time, for ``family=lb.families.Amortized(...)``.

    Args:
        objective: What is optimised, row by row, and its number of draws of each row a step.
        gradient: An estimator of :mod:`lowerbound.gradients`; None for the first that goes with the objective.
        batch_size: Rows a step; None for 128, or all that are trained on if they are fewer.
        optimizer: Any optax optimiser, of a *loss* per row; None for Adam, its rate cut when the bound stops rising.
        held_out: Share of the rows that is not trained on, and stops the fit; 0 for none; None for a tenth, or none
            where rows share latents.
        patience: Epochs without a rise of the bound before the rate is cut, or the fit ends.
        max_steps: Steps before giving up.

    Raises:
        IncompatibleError: a gradient that is wrong for the objective, an objective that is no lower bound, numbers out
            of range.
    """

    objective: Objective = field(default_factory=lambda: ELBO(num_samples=1))
    gradient: Gradient | None = None
    batch_size: int | None = None
    optimizer: Any = None
    held_out: float | None = None
    patience: int = 10
    max_steps: int = 100_000
    name = "amortized_vi"
    learns = True

    def __post_init__(self) -> None:
        check_objective_and_gradient(self.objective, self.gradient, lambda: self.estimator)
        check_learns(self.objective, ["the network's weights, which all rows share"])
        check_positive("AmortizedVI", batch_size=self._rows(_BATCH), patience=self.patience, max_steps=self.max_steps)
        if isinstance(self.held_out, bool) or not 0 <= (self.held_out or 0) < 1:
            raise IncompatibleError(f"AmortizedVI(held_out={self.held_out!r}): needed: a share of the rows, 0 to 1.")
        check_optimizer(self.optimizer)

    @property
    def estimator(self) -> Gradient:
        """The gradient that is used."""
        return default_gradient(self.objective) if self.gradient is None else self.gradient

    def rule(self) -> str:
        whose = "of the held-out rows" if self._share else "of the training rows"
        cuts = "" if self.optimizer is not None else f", after its rate was cut {_CUTS} times"
        return f"the bound {whose} did not rise for {self.patience} epochs and {_LEAST} steps{cuts}"

    def check(self, model: Any, family: Any) -> None:
        raise IncompatibleError(
            f"amortized_vi trains a network that gives each row its block; family={family.name!r} has none. Use "
            "family=lb.families.Amortized(network, inputs=...), or leave algorithm out."
        )

    def told_of(self, shared: Sequence[str]) -> AmortizedVI:
        """The same for rows that share these latents, ``held_out`` decided.

        Raises:
            IncompatibleError: rows held out of what they share.
        """
        if shared and self.held_out:
            raise IncompatibleError(
                f"AmortizedVI(held_out={self.held_out!r}): all rows share {', '.join(shared)}, whose posterior would "
                "lack the rows held out. Needed: held_out=0, or None."
            )
        return dataclasses.replace(self, held_out=0.0 if shared else self._share)

    def check_rows(self, rows: int) -> None:
        """Raise unless there are rows for a batch and for what is held out."""
        training = rows - self._held(rows)
        if self._rows(training) > training:
            left = f" ({rows} less {rows - training} held out)" if rows > training else ""
            raise IncompatibleError(
                f"AmortizedVI(batch_size={self.batch_size}): there are {training} rows to train on{left}; needed: at "
                "most as many."
            )

    def init(self, seed: int, kernel: Any, family: Any) -> _State:
        """``kernel`` is the :class:`RowWeights` to be trained, which holds its family."""
        problem = kernel
        rng = np.random.default_rng([seed, 21])
        order = rng.permutation(problem.rows.size)
        held = self._held(problem.rows.size)
        looked = order[: held or _LOOKED]
        parameters = problem.start()
        return _State(
            problem,
            rng,
            np.sort(order[held:]),
            np.sort(looked),
            problem.noise(rng, len(looked), max(_HELD_DRAWS, self.objective.num_samples)),
            rng.standard_normal((len(looked), problem.shared)),
            parameters,
            adam_unless(self.optimizer, _RATE).init(parameters),
            jax.random.key(seed),
        )

    def step(self, state: _State) -> tuple[_State, Info]:
        """One epoch."""
        if state.program is None:
            state.program = self._compile(state)
            return state, Info("compiling the epoch", 0)
        size = self._rows(len(state.training))
        batches = len(state.training) // size
        index = state.rng.permutation(state.training)[: batches * size].reshape(batches, size)
        key = jax.random.fold_in(state.key, state.epoch)
        state.parameters, state.optimizer_state = state.program(
            state.parameters, state.optimizer_state, jnp.asarray(index, jnp.int32), key
        )
        state.epoch, state.steps = state.epoch + 1, state.steps + batches
        state.problem.evaluations += index.size * self.objective.num_samples
        block = state.problem.shared_block(state.parameters)
        drawn = block.transform(state.shared_noise)
        weights, rest = state.problem(state.parameters, None, state.held, state.noise, drawn)
        each = state.problem.rows.size * np.asarray(jax.vmap(self.objective.value)(jnp.asarray(weights))) + rest
        elbo, se = float(each.mean() + block.entropy()), float(each.std() / np.sqrt(len(each)))
        finite = all(np.isfinite(np.asarray(v)).all() for v in jax.tree_util.tree_leaves(state.parameters))
        if not finite or not np.isfinite(elbo):
            state.status = Status.NOT_FINITE
        elif elbo > state.score:
            state.best, state.score, state.since = (state.parameters, state.optimizer_state), elbo, 0
        else:
            state.since += 1
        if state.since >= self.patience and state.since * batches >= _LEAST:
            if self.optimizer is not None or state.cuts == _CUTS:
                state.status = Status.CONVERGED
            else:
                state.cuts, state.since = state.cuts + 1, 0
                state.parameters, optimizer_state = state.best
                rates = {**optimizer_state.hyperparams, "learning_rate": jnp.asarray(_RATE / 3**state.cuts)}
                state.optimizer_state = optimizer_state._replace(hyperparams=rates)
        if state.status is None and state.steps >= self.max_steps:
            state.status = Status.MAX_STEPS
        return state, Info("fitting", state.steps, elbo, se, status=state.status, detail=f"epoch {state.epoch}")

    def output(self, state: _State) -> Any:
        """The best weights, parameters of the model and of the shared latents' Gaussian so far."""
        return None if state.best is None else state.best[0]

    # -- pieces ----------------------------------------------------------------------------------

    def _rows(self, training: int) -> int:
        """Rows a step."""
        return min(_BATCH, training) if self.batch_size is None else self.batch_size

    def _held(self, rows: int) -> int:
        return max(1, round(rows * self._share)) if self._share else 0

    @property
    def _share(self) -> float:
        return _HELD_OUT if self.held_out is None else self.held_out

    def slope(self, problem: RowWeights, parameters: Any, rows: Any, keys: Any, arguments: Any, n: int) -> Any:
        """A surrogate per row for n rows, from some of them: to be differentiated.

        Args:
            problem: Rows and network.
            parameters: Weights, the model's parameters, and those of the shared latents' Gaussian.
            rows: Of each array ``[b, ...]``.
            keys: Of the noise, one for each row.
            arguments: Of the model.
            n: Rows that they stand for.
        """
        weights, learned, _ = parameters
        places, shared = problem.inputs, problem.family.shared_block(parameters[2])
        signs = [1.0, -1.0] if problem.shared else [1.0]

        def one(row: Any, key: Any, sign: Any) -> tuple[Any, Any]:
            noise = sign * jax.random.normal(key, (self.objective.num_samples, problem.rows.dimension))
            g = shared.transform(sign * jax.random.normal(jax.random.fold_in(key, 1), (problem.shared,)))

            def target(moving: Any) -> Target:
                theta, at = moving if problem.shared else (moving[0], g)
                given = problem.filled(arguments, theta)
                return Target(lambda z: jax.vmap(lambda u: problem.rows.terms(u, at, row, given)[0])(z), problem.prior)

            def build(w: Any) -> Any:
                return problem.family.block(w, [row[i] for i in places])

            # Where nothing is shared, nothing moves with it.
            moving = (learned, g) if problem.shared else (learned,)
            slope = surrogate_with_model(self.estimator, self.objective, target, build, weights, moving, noise)
            return slope.surrogate, problem.rest(row, g, problem.filled(arguments, learned))

        each = jax.vmap(jax.vmap(one, (None, None, 0)), (0, 0, None))(rows, keys, jnp.asarray(signs))
        return each[0].mean() + (each[1].mean() + shared.entropy()) / n

    def _compile(self, state: _State) -> Any:
        problem, optimizer, n = state.problem, adam_unless(self.optimizer, _RATE), len(state.training)

        def epoch(parameters: Any, optimizer_state: Any, index: Any, key: Any, rows: Any, arguments: Any) -> Any:
            def one(carry: Any, step: Any) -> Any:
                parameters, optimizer_state = carry
                batch, key = step
                keys = jax.random.split(key, len(batch))
                some = [r[batch] for r in rows]

                def loss(p: Any) -> Any:
                    surrogate = self.slope(problem, p, some, keys, arguments, n)
                    return -surrogate

                gradient = jax.grad(loss)(parameters)
                updates, optimizer_state = optimizer.update(gradient, optimizer_state, parameters)
                moved = jax.tree_util.tree_map(lambda a, u: a + u, parameters, updates)
                return (moved, optimizer_state), None

            carried, _ = jax.lax.scan(one, (parameters, optimizer_state), (index, jax.random.split(key, len(index))))
            return carried

        size = self._rows(n)
        index = jnp.zeros((n // size, size), jnp.int32)
        rows, arguments = problem.device_rows, problem.arguments
        program, _ = compile_once(epoch, state.parameters, state.optimizer_state, index, state.key, rows, arguments)
        return lambda a, b, i, k: program(a, b, i, k, rows, arguments)
