r"""Discrete models, exactly: every joint state of the latents is visited.

    log p(x) = log sum_z p(x, z)
    ELBO(q)  = sum_z q(z) log p(x, z) + sum_n H(q_n)
    KL       = sum_z q(z) log (q(z) / p(z | x)) - q(z) + p(z | x)

q is independent between elements, so that its entropy is a sum over them. The terms of the last sum are none below
zero, and to first order it does not depend on how p(z | x) was normalised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import entr, logsumexp

from lowerbound.decomposition.result import Decomposition
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.errors import DataError, IncompatibleError
from lowerbound.labels import Labels
from lowerbound.model.base import Model, total
from lowerbound.precision import float64

#: Joint states that are visited at most: seconds on one core for models with tens of factors.
STATES = 2**18
_ROWS = 1024


def states_of(model: Model) -> np.ndarray:
    """Every joint state of the discrete latents, as indices of values ``[s, elements]``.

    Raises:
        IncompatibleError: there are too many.
    """
    sizes = [len(s.values) for s in model.discrete.values() for _ in range(math.prod(s.shape))]
    count = math.prod(sizes)
    if count > STATES:
        raise IncompatibleError(
            f"{model.name!r} has {count:,} joint states of its discrete latents; at most {STATES:,} are enumerated. "
            "Give fewer rows of the data, or compare bounds with posterior.evidence."
        )
    return np.indices(sizes).reshape(len(sizes), -1).T


def enumerate_states(model: Model, labels: Mapping[str, Labels]) -> Decomposition:
    """The three numbers of a model whose latents are all discrete.

    Args:
        model: Bound to its data.
        labels: q, probabilities of every discrete latent.

    Cost: the log joint of every state, of which there are at most ``STATES``.
    """
    states = states_of(model)
    starts = np.cumsum([0, *(math.prod(s.shape) for s in model.discrete.values())])
    places = {n: slice(a, b) for n, a, b in zip(model.discrete, starts, starts[1:], strict=False)}
    distributions = model.distributions
    assert distributions is not None

    def log_joint(state: jax.Array, arguments: list) -> jax.Array:
        latents = {}
        for n, site in model.discrete.items():
            latents[n] = jnp.asarray(site.values)[state[places[n]]].reshape(site.shape)
        return total(distributions(latents, arguments))

    with float64():
        program = jax.jit(jax.vmap(log_joint, in_axes=(0, None)))
        rows = min(_ROWS, len(states))
        parts = []
        for i in range(0, len(states), rows):
            block = states[i : i + rows]
            padded = np.concatenate([block, np.repeat(block[-1:], rows - len(block), 0)])
            parts.append(np.asarray(program(padded, list(model.arguments)))[: len(block)])
    log_p = np.concatenate(parts)
    if not np.isfinite(log_p.max()):  # nan passes through max
        raise DataError(
            f"every joint state of the discrete latents of {model.name!r} has log p(x, z) = -inf, or one is not a "
            "number: the model gives these data no probability. Check the data against the supports, and the factors."
        )
    flat = {n: labels[n].probabilities.reshape(-1, len(site.values)) for n, site in model.discrete.items()}
    q = np.ones(len(states))
    for n in model.discrete:
        for element, column in zip(flat[n], states[:, places[n]].T, strict=True):
            q = q * element[column]
    entropy = float(sum(entr(p).sum() for p in flat.values()))

    evidence = float(np.asarray(logsumexp(log_p)))
    posterior = np.exp(log_p - evidence)
    held = q > 0
    impossible = held & np.isneginf(log_p)
    reasons: tuple[str, ...] = ()
    if impossible.any():
        elbo, kl = -np.inf, np.inf
        first = states[impossible.argmax()]
        where = {n: np.asarray(s.values)[first[places[n]]].reshape(s.shape).tolist() for n, s in model.discrete.items()}
        reasons = (
            f"q has probability {q[impossible].sum():.3g} on states with p(x, z) = 0, such as {where}, so that "
            "KL(q ‖ p(z | x)) is infinite",
        )
    else:
        elbo = float(q[held] @ log_p[held]) + entropy
        # log p(z | x) and not p(z | x), which is rounded to 0 where it is below e^-745.
        apart = np.log(q[held]) - (log_p[held] - evidence)
        kl = float((q[held] * apart - q[held] + posterior[held]).sum() + posterior[~held].sum())
    count = f"{len(states):,} joint states"
    return Decomposition(
        Estimate(evidence, 0.0),
        Estimate(elbo, 0.0),
        Estimate(kl, 0.0),
        "enumeration",
        (
            f"exact: the sum of p(x, z) over {count}",
            f"exact: E_q[log p(x, z)] over {count}, and the entropies of q's elements",
            f"exact: q log(q / p(z | x)) over {count}",
        ),
        reasons,
    )
