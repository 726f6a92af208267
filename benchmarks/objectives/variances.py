"""The variance, and the bias, of every gradient estimator for every objective, at the best Gaussian of a bent target.

For each pair: the trace of the covariance of the estimate over that of the reparameterised one, and how many standard
errors its mean is from that one's, over 1,600,000 draws in sets of eight. Pairs that are refused are measured too.

Run: python -m benchmarks.objectives.variances
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound import families, gradients, objectives
from lowerbound.precision import float64

SETS, DRAWS = 200_000, 8
GRADIENTS = (
    gradients.Reparameterized(),
    gradients.StickingTheLanding(),
    gradients.DoublyReparameterized(),
    gradients.ScoreFunction(),
)
OBJECTIVES = (
    objectives.ELBO(DRAWS),
    objectives.ELBO(DRAWS, form="entropy"),
    objectives.ImportanceWeighted(DRAWS),
    objectives.Renyi(0.5, DRAWS),
    objectives.Renyi(2.0, DRAWS),
)


def target(z: Any) -> Any:
    """Log density of two latents, bent and skewed."""
    a, b = z[:, 0], z[:, 1]
    return -0.5 * (a - 0.4) ** 2 - 0.5 * (b - jnp.sin(1.5 * a)) ** 2 - 0.3 * jnp.exp(0.5 * a)


def best_gaussian(family: families.Dense) -> dict[str, Any]:
    """Parameters of the Gaussian with the highest ELBO, by gradient ascent on fixed noise."""
    noise = jnp.asarray(np.random.default_rng(0).standard_normal((4096, 2)))
    noise = jnp.concatenate([noise, -noise])
    start = families.DenseGaussian(np.zeros(2), 0.8 * np.eye(2))
    parameters = {k: jnp.asarray(v) for k, v in family.parameters(start).items()}

    @jax.jit
    def step(phi: Any) -> Any:
        def loss(phi: Any) -> Any:
            q: Any = family.from_parameters(phi)
            return -(target(q.transform(noise)).mean() + q.entropy())

        return jax.tree_util.tree_map(lambda a, g: a - 0.2 * g, phi, jax.grad(loss)(phi))

    for _ in range(300):
        parameters = step(parameters)
    return parameters


def rows(gradient: Any, objective: Any, family: Any, parameters: Any, seed: int) -> np.ndarray:
    """One estimate of the gradient in each row."""

    def one(key: Any) -> Any:
        noise = jax.random.normal(key, (DRAWS, 2))

        def surrogate(phi: Any) -> Any:
            return gradient.surrogate(
                objective, objectives.Target(target), family.from_parameters, phi, noise
            ).surrogate

        return jnp.concatenate([jnp.ravel(v) for v in jax.tree_util.tree_leaves(jax.grad(surrogate)(parameters))])

    return np.asarray(
        jax.jit(lambda k: jax.lax.map(one, k, batch_size=1000))(jax.random.split(jax.random.PRNGKey(seed), SETS))
    )


def main() -> None:
    """Print the table."""
    with float64():
        family = families.Dense()
        parameters = best_gaussian(family)
        print("| objective | " + " | ".join(f"`{g.name}`" for g in GRADIENTS) + " |")
        print("|---|" + "---|" * len(GRADIENTS))
        for i, objective in enumerate(OBJECTIVES):
            label = f"`{objective.name}`" + (f", order {objective.order:g}" if hasattr(objective, "order") else "")
            cells, first = [], None
            for j, gradient in enumerate(GRADIENTS):
                g = rows(gradient, objective, family, parameters, 100 * i + j)
                first = g if first is None else first
                error = np.sqrt((g.var(0) + first.var(0)) / SETS)
                z = np.abs((g.mean(0) - first.mean(0)) / np.where(error > 0, error, 1.0)).max()
                share = g.var(0).sum() / first.var(0).sum()
                allowed = gradient.name in gradients.COMPATIBLE[objective.name]
                cells.append(
                    f"{share:.2f}" if j == 0 else f"{share:.2f}, z = {z:.1f}" + ("" if allowed else " (refused)")
                )
            print(f"| {label} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
