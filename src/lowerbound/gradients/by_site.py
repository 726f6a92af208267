r"""One estimate of the ELBO and its slope, every block by its own gradient.

Each of s draws of all latents gives the log probabilities of every factor. A factor with a latent that is enumerated
has its mean over that latent's values, weighted by q, in place of its value at the draw:

    F_f = sum_k q(z_n = k) log p_f(z_n = k, rest)   (its first such latent; of the others the gradient alone is taken)

    surrogate = 1/s sum_i sum_f F_f  +  sum_b H(q_b)  +  terms whose value is zero, for the other discrete latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.families.drawn import Drawn, Free, draw_all
from lowerbound.gradients.base import Slope, held
from lowerbound.gradients.enumeration import Enumeration
from lowerbound.gradients.implicit import Implicit
from lowerbound.gradients.site_score_function import SiteScoreFunction
from lowerbound.gradients.sites import ENUMERATED, SiteGradient
from lowerbound.model.factor_graph import FactorGraph


def default_site_gradient(graph: FactorGraph, part: Drawn) -> SiteGradient:
    """Implicit for continuous blocks; enumeration for discrete ones of few values, else the score function."""
    if not part.discrete:
        return Implicit()
    return Enumeration() if Enumeration().evaluations(graph, part) <= ENUMERATED else SiteScoreFunction()


def surrogate(
    graph: FactorGraph,
    parts: Sequence[Drawn],
    gradients: Mapping[str, SiteGradient],
    parameters: Mapping[str, Free],
    key: Any,
    num_samples: int,
    arguments: Sequence[Any],
) -> Slope:
    """The surrogate to differentiate, in the direction in which the ELBO grows, and an estimate of the ELBO.

    Args:
        graph: Of the model.
        parts: Of q, one for each site.
        gradients: By site.
        parameters: Free parameters by site.
        key: Of the draws.
        num_samples: Of them.
        arguments: Arrays of the data.
    """
    s = num_samples
    draws, labels = draw_sites(parts, parameters, key, s)
    factors = jax.vmap(lambda z: graph.log_probs(z, arguments))(draws)

    listed = [p for p in parts if isinstance(gradients[p.name], Enumeration)]
    lead: dict[int, str] = {}
    for p in listed:
        if not graph.free_axes(p.name):
            for i in graph.touching(p.name):
                lead.setdefault(i, p.name)
    extra = jnp.zeros(())
    for p in listed:
        probabilities = jax.nn.softmax(parameters[p.name]["logits"], axis=-1)
        masks, at = each_value(graph, p, draws, arguments)
        for i in (i for i, n in lead.items() if n == p.name):
            factors[i] = sum(
                graph.spread(p.name, i, probabilities[..., k]) * at[0][k][i] for k in range(len(values_of(p)))
            )
        rest = [i for i in graph.touching(p.name) if lead.get(i) != p.name]
        if rest:
            blankets = [blanket_of(graph, p.name, rest, masks, [g[k] for g in at]) for k in range(len(values_of(p)))]
            how = gradients[p.name]
            assert isinstance(how, Enumeration)
            extra = extra + how.surrogate(probabilities, jnp.stack(blankets, axis=-1))

    per_draw = jnp.stack([f.reshape(s, -1).sum(1) for f in factors]).sum(0)
    for p in parts:
        how = gradients[p.name]
        if isinstance(how, SiteScoreFunction):
            f = blanket_of(graph, p.name, graph.touching(p.name), [np.ones(p.shape, bool)], [dict(enumerate(factors))])
            log_q = at_labels(jax.nn.log_softmax(parameters[p.name]["logits"], axis=-1), labels[p.name])
            term = how.surrogate(log_q, f, per_draw)
            extra = extra + term - held(term)
    value = per_draw.mean() + sum(p.entropy(parameters[p.name]) for p in parts)
    return Slope(value + extra, held(value), held(value))


def draw_sites(
    parts: Sequence[Drawn], parameters: Mapping[str, Free], key: Any, n: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draws of every site ``[n, *shape]``, the continuous ones with their derivatives; of discrete ones also the places
    of the draws among their values."""
    first, second = jax.random.split(key)
    draws = Implicit.draws([p for p in parts if not p.discrete], parameters, first, n)
    labels = held(draw_all([p for p in parts if p.discrete], parameters, second, n))
    return draws | {p.name: values_of(p)[labels[p.name]] for p in parts if p.discrete}, labels


def blanket_of(
    graph: FactorGraph, name: str, places: Sequence[int], masks: Sequence[Any], at: Sequence[Mapping[int, Any]]
) -> Any:
    """What of log p changes with each element of a latent ``[s, *shape]``, from those of ``places`` among the factors,
    which are given once for each group of elements."""
    each = jax.vmap(lambda f: graph.blanket(name, f))
    return sum(jnp.where(m, each({i: f[i] for i in places}), 0.0) for m, f in zip(masks, at, strict=True))


def at_labels(each: Any, labels: Any) -> Any:
    """Of numbers for every value ``[*shape, k]`` (or ``[s, *shape, k]``) those at the draws ``[s, *shape]``."""
    each = jnp.broadcast_to(each, (*labels.shape, each.shape[-1]))
    return jnp.take_along_axis(each, labels[..., None], axis=-1)[..., 0]


def values_of(part: Drawn) -> Any:
    return jnp.asarray(part.block.values)  # pyright: ignore[reportAttributeAccessIssue]


def each_value(
    graph: FactorGraph, part: Drawn, draws: Mapping[str, Any], arguments: Sequence[Any]
) -> tuple[list[Any], list[list[dict[int, Any]]]]:
    """Factors at every value of a discrete latent.

    Along its free axes elements take their value one by one, along the others all at once: groups of elements.

    Returns:
        The groups, as masks ``[*shape]``, and for each group and value the factors that depend on the latent, by their
        places: ``[s, *batch]``.
    """
    touching = graph.touching(part.name)
    masks = []
    for at in np.ndindex(*(part.shape[a] for a in graph.free_axes(part.name))):
        mask = np.ones(part.shape, bool)
        for axis, i in zip(graph.free_axes(part.name), at, strict=True):
            index = np.arange(part.shape[axis]).reshape([-1 if a == axis else 1 for a in range(len(part.shape))])
            mask &= index == i
        masks.append(mask)

    def evaluate(value: Any, mask: Any) -> list[Any]:
        there = {**draws, part.name: jnp.where(mask, value, draws[part.name])}

        def some(z: Any) -> list[Any]:
            found = graph.log_probs(z, arguments)
            return [found[i] for i in touching]

        return jax.vmap(some)(there)

    stacked = jnp.asarray(np.stack(masks))
    found = jax.vmap(lambda m: jax.vmap(lambda v: evaluate(v, m))(values_of(part)))(stacked)
    at = [
        [{i: a[g, k] for i, a in zip(touching, found, strict=True)} for k in range(len(values_of(part)))]
        for g in range(len(masks))
    ]
    return masks, at
