r"""A bound of several draws and its slope, every block of a product of exponential families by its own gradient.

With l_i = log p(x, z_i) - sum_b log q_b(z_ib) and h(l_1, ..., l_s) the objective, of derivatives h_i and h_ii, a change
of phi_b moves the draws and log q. For the three kinds of :mod:`lowerbound.gradients.sites`,

    implicit         sum_i (h_i - h_ii) dl_i/dz_ib dz_ib/dphi,                    phi held fixed in log q
    score function   sum_in (F_i(l) - F_i(l without z_in)) d log q(z_in)/dphi,    F_i = h - h_i
    enumeration      sum_in sum_k F_i(l with z_in = k) d q(z_in = k)/dphi

The first is the doubly reparameterised gradient, given the discrete draws: its integration by parts is in z_ib alone,
and implicit derivatives obey it as others do. In the second and third -h_i is what phi does inside log q itself:
E[-h_i d log q(z_in)/dphi], by the score or summed over k.

"l without z_in" has to be free of z_in and near l. With f_in what of l_i changes with z_in (its Markov blanket less its
own log q), l_i - f_in is free of it, and so is the mean of the other draws' f_jn: in place of l_i stands
l_i - f_in + mean_(j != i) f_jn. For h the mean that is the leave-one-out baseline of the ELBO's score, element by
element; where f_in is the whole of l_i it is VIMCO (Mnih & Rezende 2016). "l with z_in = k" is
l_i + f_in(k) - f_in: the factors at every value are evaluated once, whatever the number of draws and rows.

Sources: Tucker, Lawson, Gu & Maddison (2019); Mnih & Rezende (2016); Titsias & Lázaro-Gredilla (2015). That elements
have baselines of their own, and that each is summed over by itself inside a bound, is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.families.drawn import Drawn, Free
from lowerbound.gradients.base import Slope, held
from lowerbound.gradients.by_site import at_labels, blanket_of, draw_sites, each_value, values_of
from lowerbound.gradients.enumeration import Enumeration
from lowerbound.gradients.site_score_function import SiteScoreFunction
from lowerbound.gradients.sites import SiteGradient
from lowerbound.model.factor_graph import FactorGraph
from lowerbound.objectives.base import Objective


def bound_surrogate(
    objective: Objective,
    graph: FactorGraph,
    parts: Sequence[Drawn],
    gradients: Mapping[str, SiteGradient],
    parameters: Mapping[str, Free],
    key: Any,
    arguments: Sequence[Any],
) -> Slope:
    """The surrogate to differentiate, in the direction in which the objective gets better, its value and the ELBO's.

    Args:
        objective: A function of the log weights alone.
        graph: Of the model.
        parts: Of q, one for each site.
        gradients: By site.
        parameters: Free parameters by site.
        key: Of the draws.
        arguments: Arrays of the data.
    """
    s = objective.num_samples
    draws, labels = draw_sites(parts, parameters, key, s)
    factors = jax.vmap(lambda z: graph.log_probs(z, arguments))(draws)
    log_weights = jnp.stack([f.reshape(s, -1).sum(1) for f in factors]).sum(0)
    log_q: dict[str, Any] = {}  # of discrete latents, at every value
    for p in parts:
        if p.discrete:
            log_q[p.name] = jax.nn.log_softmax(parameters[p.name]["logits"], axis=-1)
            own = held(at_labels(log_q[p.name], labels[p.name]))
        else:
            own = p.log_prob(held(parameters[p.name]), draws[p.name])
        log_weights = log_weights - own.reshape(s, -1).sum(1)
    at = held(log_weights)
    surrogate = (held(objective.path_weights(at)) * log_weights).sum()
    for p in parts:
        if not p.discrete:
            continue
        places = graph.touching(p.name)
        drawn = blanket_of(graph, p.name, places, [np.ones(p.shape, bool)], [dict(enumerate(factors))])
        own = at_labels(log_q[p.name], labels[p.name])
        f = held(drawn - own)  # [s, *shape]
        whole = at.reshape(s, *[1] * len(p.shape))
        how = gradients[p.name]
        if isinstance(how, SiteScoreFunction):
            f = f if how.rao_blackwell else jnp.broadcast_to(whole, f.shape)
            without = whole - f + (f.sum(0) - f) / (s - 1)
            here = _weights(objective, at, whole)
            term = (held(here - _weights(objective, at, without)) * own).sum()
        else:
            assert isinstance(how, Enumeration)
            masks, groups = each_value(graph, p, draws, arguments)
            count = range(len(values_of(p)))
            blankets = [blanket_of(graph, p.name, places, masks, [g[k] for g in groups]) for k in count]
            each = held(jnp.stack(blankets, axis=-1) - log_q[p.name])  # [s, *shape, k]
            weights = _weights(objective, at, (whole - f)[..., None] + each)
            term = (held(weights) * jnp.exp(log_q[p.name])).sum()
        surrogate = surrogate + term - held(term)
    value = objective.value(at)
    return Slope(objective.sense * surrogate, value, at.mean())


def _weights(objective: Objective, log_weights: Any, instead: Any) -> Any:
    """F_i = h - h_i at the log weights ``[s]``, each number of ``instead [s, *rest]`` by itself in place of l_i."""

    def one(i: Any, a: Any) -> Any:
        value, slope = jax.value_and_grad(objective.value)(log_weights.at[i].set(a))
        return value - slope[i]

    flat = instead.reshape(len(instead), -1)
    found = jax.vmap(lambda i, row: jax.vmap(lambda a: one(i, a))(row))(jnp.arange(len(flat)), flat)
    return found.reshape(instead.shape)
