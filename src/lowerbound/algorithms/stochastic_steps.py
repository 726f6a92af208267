"""Many steps of any optax optimiser as one program; what is asked of the optimiser and the objective beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lowerbound.errors import IncompatibleError
from lowerbound.gradients import Gradient, check_pair
from lowerbound.objectives import Objective
from lowerbound.precision import float64

#: Steps of one call of the compiled program.
CHUNK = 100


def check_optimizer(optimizer: Any) -> None:
    """Raise unless it is None or an optax optimiser."""
    if optimizer is not None and not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise IncompatibleError(f"optimizer is {optimizer!r}; needed: an optax optimiser, such as optax.adam(0.01).")


def check_objective(objective: Any) -> None:
    """Raise unless it is an objective."""
    if not isinstance(objective, Objective):
        raise IncompatibleError(
            f"objective is {objective!r}; needed: an object, as lb.objectives.ELBO(num_samples=4) or "
            "lb.objectives.ImportanceWeighted(8). (Short names are for lb.fit(objective=...).)"
        )


def check_objective_and_gradient(objective: Any, asked: Any, estimator: Callable[[], Gradient]) -> None:
    """Raise unless these are an objective and a gradient that goes with it.

    Args:
        objective: As given.
        asked: The gradient as given, or None.
        estimator: The one that is used, once the objective is known to be one.
    """
    check_objective(objective)
    if asked is not None and not isinstance(asked, Gradient):
        raise IncompatibleError(f"gradient is {asked!r}; needed: lb.gradients.Reparameterized(), ...")
    check_pair(objective, estimator())


def adam_unless(optimizer: Any, rate: float = 0.01) -> Any:
    """The user's optimiser; where that is None Adam, whose rate can be set."""
    import optax

    return optax.inject_hyperparams(optax.adam)(learning_rate=rate) if optimizer is None else optimizer


def with_rate(optimizer_state: Any, rate: float) -> Any:
    """The state of an optimiser whose rate was injected, with another."""
    with float64():
        new = dict(optimizer_state.hyperparams)
        new["learning_rate"] = jnp.asarray(rate, new["learning_rate"].dtype)
        return optimizer_state._replace(hyperparams=new)


def many_steps(optimizer: Any, loss: Callable[..., tuple[Any, Any]]) -> Callable[..., Any]:
    """CHUNK steps as a function of parameters, the optimiser's state, a key, and what the loss needs besides.

    It returns parameters, the state, the loss's numbers ``[2, CHUNK]`` and the mean of the parameters on the way. A
    step that is not finite is left out, and its numbers are NaN.

    Args:
        optimizer: Of a loss.
        loss: ``loss(parameters, key, *rest)`` is what is differentiated, and two numbers: the objective's value
            (larger is better) and the ELBO.
    """

    def chunk(parameters: Any, optimizer_state: Any, key: Any, *rest: Any) -> Any:
        def one(carry: Any, key: Any) -> Any:
            parameters, optimizer_state = carry
            (_, numbers), gradient = jax.value_and_grad(loss, has_aux=True)(parameters, key, *rest)
            finite = [jnp.isfinite(g).all() for g in jax.tree_util.tree_leaves(gradient)]
            ok = jnp.isfinite(numbers[0]) & jnp.stack(finite).all()
            gradient = jax.tree_util.tree_map(lambda g: jnp.where(ok, g, 0.0), gradient)
            updates, new_state = optimizer.update(gradient, optimizer_state, parameters)
            moved = jax.tree_util.tree_map(lambda a, u: a + jnp.where(ok, u, 0.0), parameters, updates)
            new_state = jax.tree_util.tree_map(lambda a, b: jnp.where(ok, a, b), new_state, optimizer_state)
            return (moved, new_state), (jnp.where(ok, jnp.stack(numbers), jnp.nan), moved)

        carried, (numbers, path) = jax.lax.scan(one, (parameters, optimizer_state), jax.random.split(key, CHUNK))
        return *carried, numbers.T, jax.tree_util.tree_map(lambda a: a.mean(0), path)

    return chunk
