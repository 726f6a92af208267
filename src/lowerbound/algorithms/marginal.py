r"""Discrete latents summed out: log p(x, theta) = log sum_z p(x, theta, z), by the same algebra.

Given theta, log p(x, theta, z) is c(theta) + sum_n sum_k 1[z_n = k] l_nk(theta) wherever no term has two different
discrete elements in it. Then

    log p(x, theta) = c(theta) + sum_n log sum_k exp l_nk(theta),      p(z_n = k | x, theta) = softmax(l_n)_k,

where l is the derivative with respect to the indicators, and theta stands in for a q with all its mass at one point
(at which every augmentation bound is tight). It costs what one evaluation of every component costs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lowerbound.algorithms.factored import Factored, Sampling
from lowerbound.algorithms.sampled_terms import SampledTerm
from lowerbound.expectations.factors import random_factors
from lowerbound.expectations.functions import INDICATOR, INVERSE, LOG_DET
from lowerbound.expectations.structure import Moment
from lowerbound.families.exponential import (
    CategoricalBlock,
    ExponentialBlock,
    JointGaussianBlock,
    NormalGammaBlock,
    NormalWishartBlock,
)
from lowerbound.model.base import Evaluation, Factor, Model


def summable(factored: Factored) -> bool:
    """Whether every term has at most one discrete element in it."""
    for t in factored.terms:
        if sum(m.function is INDICATOR for m, _ in t.moments) > 1:
            return False
    return all(len(b.indicators) <= 1 for b in factored.bounds)


def at_a_point(factored: Factored, values: Mapping[str, Any]) -> dict[Any, Any]:
    """The moments of the continuous latents where all their mass is at ``values``."""
    out: dict[Any, Any] = {}
    for b in factored.blocks:
        if not isinstance(b, CategoricalBlock):
            out |= statistics_at(b, values)
    return out


def statistics_at(b: ExponentialBlock, values: Mapping[str, Any]) -> dict[Any, Any]:
    """The sufficient statistics of a block at values of its latents."""
    if isinstance(b, JointGaussianBlock):
        return _gaussian_at(b, values)
    if isinstance(b, NormalGammaBlock):
        u, g = values[b.name] ** b.power, b.gaussian
        own = _gaussian_at(g, values)
        out = {b.log: jnp.log(values[b.name]), b.raised: u}
        for n, k in g.first.items():
            out[k] = own[k] * _spread(u, g, n)
        for (m, n), k in g.second.items():
            extra = len(g.dense_shape[m]) + len(g.dense_shape[n])
            out[k] = own[k] * u.reshape((*u.shape, *(1,) * (len(g.plate_shape) - u.ndim + extra)))
        return out
    if isinstance(b, NormalWishartBlock):
        whole, mu = values[b.latents[0]], values[b.latents[1]]
        product = (whole * mu[..., None, :]).sum(-1)
        log_det = jnp.linalg.slogdet(whole)[1]
        return {b.log_det: log_det, b.whole: whole, b.product: product, b.square: (mu * product).sum(-1)}
    out = {}
    for k in b.keys:
        assert isinstance(k, Moment) and k.function is not None
        x = values[k.latents[0]]
        if k.function == LOG_DET:
            out[k] = jnp.linalg.slogdet(x)[1]
        elif k.function == INVERSE:
            out[k] = jnp.linalg.inv(x)
        else:
            out[k] = k.function(x, jnp)
    return out


def _gaussian_at(b: JointGaussianBlock, values: Mapping[str, Any]) -> dict[Any, Any]:
    """x and x_i x_j."""
    out: dict[Any, Any] = {}
    flat = {n: b._flat(n, values[n]) for n in b.latents}
    for n, k in b.first.items():
        out[k] = values[n]
    for (m, n), k in b.second.items():
        product = flat[m][..., :, None] * flat[n][..., None, :]
        out[k] = product.reshape((*b.plate_shape, *b.dense_shape[m], *b.dense_shape[n]))
    return out


def _spread(u: Any, g: JointGaussianBlock, name: str) -> Any:
    """u along the plates of a latent, in the order of its own axes."""
    shape = [1] * len(g.shapes[name])
    for axis, n in zip(g.plates[name], u.shape, strict=False):
        shape[axis] = n
    return u.reshape(shape)


def component_log_probs(factored: Factored, values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """c(theta), and l(theta) of each discrete latent ``[*shape, k]``."""
    moments = at_a_point(factored, values)
    discrete = [b for b in factored.blocks if isinstance(b, CategoricalBlock)]
    nothing = [jnp.zeros((*b.shape, len(b.values))) for b in discrete]

    def energy(indicators: Sequence[Any]) -> Any:
        own = {b.indicator: r for b, r in zip(discrete, indicators, strict=True)}
        return factored.energy({**moments, **own}, exact)

    exact = [t for t in factored.terms if not isinstance(t, SampledTerm)]
    value, slopes = jax.value_and_grad(energy)(nothing)
    value = value + sum(t.at(values) for t in factored.sampled)
    return value, {b.latents[0]: s for b, s in zip(discrete, slopes, strict=True)}


def marginal_log_joint(factored: Factored, values: Mapping[str, Any]) -> Any:
    """log p(x, theta)."""
    value, logits = component_log_probs(factored, values)
    for a in logits.values():
        value = value + jax.scipy.special.logsumexp(a, axis=-1).sum()
    return value


def marginal(model: Model, factored: Factored) -> Model:
    """The same model over its continuous latents alone.

    Parameters that the model has to learn stay arguments: the factors are then taken apart inside whatever traces the
    density, at the numbers that it is given, so that its slope along them is that of log sum_z p(x, theta, z).
    """
    if not model.discrete:
        return model
    places = model.parameter_places

    def at(arguments: Sequence[Any]) -> Factored:
        if not places:
            return factored
        given = list(model.arguments)
        for i in places:
            given[i] = arguments[i]
        moved = dataclasses.replace(model, arguments=given)
        return Factored.of(random_factors(moved), sample=Sampling(moved, 1, 0))

    def evaluate(params: Mapping[str, Any], arguments: Sequence[Any], constrained: bool) -> Evaluation:
        given = model.evaluate(params, arguments, constrained)
        values = dict(params) if constrained else given.values
        log_prob = marginal_log_joint(at(arguments), {n: jnp.asarray(values[n]) for n in model.sites})
        return given._replace(factors=[Factor("marginal", None, None, None, log_prob, True)])

    def responsibilities(values: Mapping[str, Any], arguments: Sequence[Any]) -> dict[str, Any]:
        _, logits = component_log_probs(at(arguments), {n: jnp.asarray(values[n]) for n in model.sites})
        return {n: jax.nn.softmax(a, axis=-1) for n, a in logits.items()}

    return dataclasses.replace(
        model,
        evaluate=evaluate,
        discrete={},
        movable=list,
        reparameterize=None,
        responsibilities=responsibilities,
        summed=model.discrete,
    )
