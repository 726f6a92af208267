r"""Conjugate models, exactly: the posterior is one block of an exponential family, and q another member of it.

With sufficient statistics t, natural parameters eta (posterior) and eta_q, moments m = E[t] and entropies H:

    log p(x) = log p(x, z) - log p(z | x)              at any one z (Chib 1995): here, the posterior's middle
    ELBO(q)  = E_q[log p(x, z)] + H(q)                 by the algebra of expectations
    KL       = H(p) - H(q) + eta . (m - m_q)           between two members of the family

The three have nothing in common but eta: the first evaluates the model's own code, the second its closed form, the
last neither. A fitted q that is made of this block brings its eta_q; of any other, that it is a member, and with which
eta_q, is read off its log density. Either way over draws of q log q(z) is eta_q . t(z) but for a constant, or the
numbers are not taken.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.algorithms.carried import matched
from lowerbound.algorithms.factored import Factored
from lowerbound.algorithms.marginal import statistics_at
from lowerbound.decomposition.approximation import Approximation
from lowerbound.decomposition.result import Decomposition
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.factors import random_factors
from lowerbound.families import FactoredBlock
from lowerbound.model.base import Model
from lowerbound.precision import float64

#: Statistics up to which q is read off its log density, by least squares.
_STATISTICS = 300
#: Nats by which log q may leave the family: rounding, and no more.
_MEMBER = 1e-9


def single_block(model: Model) -> Factored | None:
    """The exact ELBO of a model whose posterior is one block of an exponential family; None of any other."""
    if model.discrete or model.elsewhere or not model.dimension or model.dimension > _STATISTICS:
        return None
    try:
        factored = Factored.of(random_factors(model))
    except NotClosedForm:
        return None
    if len(factored.blocks) != 1 or factored.bounds or factored.curved(0):
        return None
    return factored


def of_conjugate(model: Model, factored: Factored, q: Approximation) -> Decomposition | None:
    """The three numbers of a conjugate model; None where q is not of the posterior's family.

    Args:
        model: Bound to its data.
        factored: From :func:`single_block`.
        q: Over the same latents.

    Cost: two compilations of small programs.
    """
    block = factored.blocks[0]

    def at(u: Any, arguments: Any) -> tuple[dict[str, Any], Any]:
        e = model.evaluate(model.unflatten(u), arguments, False)
        own = statistics_at(block, {n: e.values[n] for n in model.sites})
        return {str(i): jnp.ravel(own[k]) for i, k in enumerate(block.keys)}, e.log_det

    def numbers(natural_q: list[Any], arguments: Any) -> dict[str, Any]:
        mine = dict(zip(block.keys, natural_q, strict=True))
        posterior = factored.optimum(0, factored.block_moments(0, mine))
        m, m_q = block.moments(posterior), block.moments(mine)
        apart = sum((posterior[k] * (m[k] - m_q[k])).sum() for k in block.keys)
        kl = block.entropy(posterior) - block.entropy(mine) + apart
        return {"natural": [posterior[k] for k in block.keys], "kl": kl, "elbo": factored.elbo([mine])}

    with float64():
        start = block.start(np.random.default_rng(0), 0.0)
        shapes = [np.shape(start[k]) for k in block.keys]
        count = sum(int(np.prod(s, dtype=int)) for s in shapes)
        if count > _STATISTICS:
            return None
        points = q.points(q.sample(np.random.default_rng([0, 0x1D]), 4 * count + 16))
        found, log_det = jax.jit(jax.vmap(at, in_axes=(0, None)))(points.u, list(model.arguments))
        statistics = np.concatenate([np.asarray(found[str(i)]) for i in range(len(shapes))], axis=1)
        log_q = points.log_q_u - np.asarray(log_det)
        own = matched([block], q.block, block.latents) if isinstance(q.block, FactoredBlock) else None
        if own:
            natural_q = [own[0][k] for k in block.keys]
            flat = np.concatenate([np.ravel(a) for a in natural_q])
        else:
            flat = _natural(statistics, log_q)
            if flat is None:
                return None
            edges = np.cumsum([0, *(int(np.prod(s, dtype=int)) for s in shapes)])
            natural_q = [flat[a:b].reshape(s) for a, b, s in zip(edges, edges[1:], shapes, strict=False)]
        if not _is(statistics, log_q, flat):
            return None
        out = jax.jit(numbers)(natural_q, list(model.arguments))
        natural = dict(zip(block.keys, out["natural"], strict=True))
        middle = block.from_normal(natural, np.zeros((1, block.noise_dimension)))
        own = float(np.asarray(block.log_prob(natural, middle))[0])
        one = {n: np.asarray(v)[0] for n, v in middle.items()}
        joint = float(jax.jit(lambda z, a: model.log_joint(z, a))(one, list(model.arguments)))
    evidence, elbo, kl = joint - own, float(out["elbo"]), float(out["kl"])
    if not np.isfinite([evidence, elbo, kl]).all():
        return None
    return Decomposition(
        Estimate(evidence, 0.0),
        Estimate(elbo, 0.0),
        Estimate(kl, 0.0),
        "conjugate",
        (
            f"exact: log p(x, z) - log p(z | x) at one z; the posterior is {block.family}",
            "exact: E_q[log p(x, z)] in closed form, and q's entropy",
            f"exact: between two members of the {block.family} family",
        ),
    )


def _natural(statistics: np.ndarray, log_q: np.ndarray) -> np.ndarray | None:
    """The coefficients of ``statistics [n, k]`` nearest to ``log_q [n]``, a constant apart; None if not finite."""
    if not np.isfinite(log_q).all() or not np.isfinite(statistics).all():
        return None
    centre, scale = statistics.mean(0), statistics.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    # Centred, the constant drops out; a symmetric matrix has each statistic twice, and the shortest solution is the
    # symmetric one.
    design = (statistics - centre) / scale
    return np.linalg.lstsq(design, log_q - log_q.mean(), rcond=1e-13)[0] / scale


def _is(statistics: np.ndarray, log_q: np.ndarray, natural: np.ndarray) -> bool:
    """Whether ``log_q [n]`` is ``statistics [n, k] @ natural`` but for a constant."""
    if not np.isfinite(log_q).all() or not np.isfinite(statistics).all():
        return False
    target = log_q - log_q.mean()
    found = (statistics - statistics.mean(0)) @ natural
    return bool(np.abs(target - found).max() <= _MEMBER * (1 + np.abs(target).max()))
