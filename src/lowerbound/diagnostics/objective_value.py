"""The value of an objective at a fitted q, with its standard error, and whether to believe it.

Objectives of K draws are means over sets of K draws. Those that are expectations under the posterior (the forward KL,
the chi upper bound) are taken of all draws at once, since for finitely many they are too small, and their error is that
of a jackknife which leaves out one block of draws at a time.
"""

from __future__ import annotations

import warnings

import jax
import numpy as np

from lowerbound.diagnostics.estimate import Estimate
from lowerbound.errors import DataError, IncompatibleError, TrustWarning
from lowerbound.families import Block, FactoredBlock
from lowerbound.kernel import Kernel
from lowerbound.model.base import Model
from lowerbound.model.factor_graph import FactorGraph
from lowerbound.objectives import ELBO, Discrepancy, KernelStein, Objective, Target, Weighted, gaussian_prior
from lowerbound.objectives.pairs import pair_mean
from lowerbound.pareto import smooth
from lowerbound.precision import float64

_BLOCKS = 32
#: Draws between all pairs of which a kernel is taken.
_MOST_PAIRED = 4096
#: k-hat from which means of weights cannot be believed (Vehtari et al. 2024).
_K_HAT = 0.7


def objective_value(
    kernel: Kernel | Model, q: Block, objective: Objective, *, num_draws: int = 8192, seed: int = 0
) -> Estimate:
    """An objective at q.

    Args:
        kernel: The compiled log density; the model itself, where it has discrete latents that are not summed out.
        q: A distribution with a density.
        objective: What to estimate.
        num_draws: Draws of q; rounded up to whole sets of ``objective.num_samples``, two at least; 4,096 at most where
            it is a mean over pairs.
        seed: Of the draws.

    Returns:
        Its value in nats (of a mean over pairs: of the squared discrepancy) and the standard error.

    Raises:
        DataError: ``num_draws`` is no whole number above zero.
        IncompatibleError: the objective takes a Gaussian prior apart, and the model has none.

    Warns:
        TrustWarning: the tail of the weights is too heavy for the objective: k-hat above 0.7.

    Cost: ``num_draws`` evaluations.
    """
    if isinstance(num_draws, bool) or not isinstance(num_draws, (int, np.integer)) or num_draws < 1:
        raise DataError(f"num_draws is {num_draws!r}; needed: a whole number above zero.")
    model = kernel if isinstance(kernel, Model) else kernel.model
    prior = gaussian_prior(model) if objective.needs_prior else None
    if objective.needs_prior and prior is None:
        raise IncompatibleError(
            f"{objective.name} needs a latent with a Normal prior whose location and scale are numbers; "
            f"{model.name!r} has none."
        )
    if isinstance(objective, Discrepancy):
        if isinstance(kernel, Model):
            raise IncompatibleError(
                f"{objective.name} is on the unconstrained space, in which the discrete latents of {model.name!r} have "
                "no place, and they cannot be summed out."
            )
        return _of_pairs(kernel, q, objective, num_draws, seed)
    size = -(-num_draws // (_BLOCKS if isinstance(objective, Weighted) else objective.num_samples))
    # Two sets at least: one has no standard error.
    size = size * _BLOCKS if isinstance(objective, Weighted) else max(size, 2) * objective.num_samples
    rng = np.random.default_rng([seed, 0x0B])
    if isinstance(kernel, Model):
        assert isinstance(q, FactoredBlock)
        x, log_joint, log_q = _of_everything(model, q, rng, size)
        # Its forms have one expectation, and this one asks for no entropy.
        objective = ELBO(objective.num_samples) if isinstance(objective, ELBO) else objective
    else:
        x = q.sample(rng, size)
        log_joint, log_q = kernel(x)[0], np.asarray(q.log_prob(x))
    if isinstance(objective, Weighted):
        _believe(objective, log_joint - log_q)
    with float64():
        inner = np.asarray(objective.integrand(Target(lambda _: log_joint, prior), x, log_q))
        if isinstance(objective, Weighted):
            value = float(objective.value(inner))
            blocks = inner.reshape(_BLOCKS, -1)
            left = np.stack([np.delete(blocks, i, 0).ravel() for i in range(_BLOCKS)])
            without = np.asarray(jax.vmap(objective.value)(left))
            return Estimate(value, float(np.sqrt((_BLOCKS - 1) * without.var())))
        sets = np.asarray(jax.vmap(objective.value)(inner.reshape(-1, objective.num_samples)))
        added = float(objective.analytic(Target(lambda _: log_joint, prior), q))
    return Estimate(float(sets.mean()) + added, float(sets.std(ddof=1) / np.sqrt(len(sets))))


def _of_everything(
    model: Model, q: FactoredBlock, rng: np.random.Generator, n: int
) -> tuple[None, np.ndarray, np.ndarray]:
    """log p(x, z) and log q(z) at draws of all latents, where discrete ones are not summed out."""
    values = q.values(rng.standard_normal((n, q.noise_dimension))) | q.sample_discrete(rng, n)
    log_q = sum(np.asarray(b.log_prob(a, values)) for b, a in zip(q.blocks, q.naturals, strict=True))
    graph, arguments = FactorGraph.of(model), list(model.arguments)
    with float64():
        log_p = jax.jit(jax.vmap(lambda z: sum(f.sum() for f in graph.log_probs(z, arguments))))(values)
    return None, np.asarray(log_p), np.asarray(log_q)


def _of_pairs(kernel: Kernel, q: Block, objective: Discrepancy, num_draws: int, seed: int) -> Estimate:
    """In coordinates of q's own scale, or of the draws that the objective has; of those, as they are given."""
    n = int(np.clip(num_draws, 2, _MOST_PAIRED))
    x = q.sample(np.random.default_rng([seed, 0x0B]), n)
    own = objective.coordinates(kernel.model)
    shift, scale = (np.asarray(q.mean), np.sqrt(np.asarray(q.variance()))) if own is None else own
    placed, y = objective.placed(kernel.model, shift, scale), (x - shift) / scale
    scores = kernel(x)[1] * scale if isinstance(placed, KernelStein) else None
    found = pair_mean(lambda rows: placed.between(y, scores, rows), n)
    return Estimate(found.value, found.se)


def _believe(objective: Weighted, log_weights: np.ndarray) -> None:
    """Warn where the weights' tail says that their mean has not settled."""
    _, k_hat = smooth(objective.power * log_weights)
    if k_hat > _K_HAT:
        warnings.warn(
            f"{objective.name} cannot be believed here: k-hat of the weights to the power {objective.power:g} is "
            f"{k_hat:.2f} ({objective.caution}).",
            TrustWarning,
            stacklevel=4,
        )
