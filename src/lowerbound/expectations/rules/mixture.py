r"""Mixtures whose labels are summed out: NumPyro's ``MixtureSameFamily`` and ``MixtureGeneral``, and any logsumexp.

    E[log sum_k pi_k p_k(x)]  >=  log sum_k exp(E[log pi_k] + E[log p_k(x)])

with the best responsibilities (:mod:`~lowerbound.expectations.mixtures`): what mean field gives with a label for each
element, at the optimum of q(label).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpyro.distributions as dist

from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.axes import Axis
from lowerbound.expectations.composed import MIXTURE, value_of
from lowerbound.expectations.mixtures import RESPONSIBILITIES, Lower, weighted_log_sum
from lowerbound.expectations.rearranging import taken
from lowerbound.expectations.rules.base import MAKERS, Bound, Entry, LogProb, Parameters, rule_for
from lowerbound.expectations.rules.categorical import log_probabilities, normaliser
from lowerbound.expectations.values import Value, as_value


def log_prob_of(x: Any) -> LogProb:
    """A log density that the model computes itself: a value, and logarithms of sums."""
    if not isinstance(x, Lower):
        return LogProb(value_of(x))
    bounds = tuple(
        Bound(RESPONSIBILITIES, (*parts, weight), weighted_log_sum, inside=x.summed) for parts, weight in x.sums
    )
    return LogProb(x.value, bounds)


class _Component:
    """One distribution, or one for each component along its last batch dimension."""

    def __init__(self, d: Any, prefix: str):
        self.prefix, self.outer = prefix, d
        while isinstance(d, (dist.Independent, dist.ExpandedDistribution)):
            d = d.base_dist
        self.entry, self.base = rule_for(d), d
        self.inner = self.outer.event_dim - d.event_dim
        self.shape = (*self.outer.batch_shape, *self.outer.event_shape[: self.inner])

    def parameters(self) -> dict[str, Any]:
        assert self.entry is not None
        return {self.prefix + n: a for n, a in self.entry.parameters(self.base).items()}

    def log_prob(self, p: Parameters, x: Value) -> Value:
        """Over the batch."""
        assert self.entry is not None
        own = {n.removeprefix(self.prefix): a for n, a in p.all.items() if n.startswith(self.prefix)}
        value, bounds = self.entry.rule(Parameters(own), x)
        if bounds:
            raise NotClosedForm(f"a mixture of components with a bound ({bounds[0].name})", rewrite=MIXTURE)
        shape = np.broadcast_shapes(value.shape, self.shape)
        axes = (None,) * (len(shape) - value.ndim) + value.axes
        axes = tuple(a if a is not None else (Axis(n) if n != 1 else None) for a, n in zip(axes, shape, strict=True))
        value = Value(axes, value.terms)
        return value.sum(*range(value.ndim - self.inner, value.ndim)) if self.inner else value


def _made(mixing: Any, components: Sequence[_Component], event_dim: int, together: bool) -> Entry | None:
    if any(c.entry is None for c in components):
        return None

    def parameters(_: Any) -> dict[str, Any]:
        key = "logits" if "logits" in mixing.__dict__ else "probs"
        out = {f"mixing {key}": getattr(mixing, key)}
        for c in components:
            out |= c.parameters()
        return out

    def rule(p: Parameters, x: Any) -> LogProb:
        x = value_of(x)
        own = Parameters({n.removeprefix("mixing "): a for n, a in p.all.items() if n.startswith("mixing ")})
        if normaliser(own, as_value(1.0)):
            raise NotClosedForm("mixing weights that are a softmax of random logits", rewrite=MIXTURE)
        weights = log_probabilities(own)
        number = mixing.probs.shape[-1]
        if together:
            (c,) = components
            inner = c.log_prob(p, x.expand(x.ndim - event_dim))
            each = [_at(inner, k) for k in range(number)]
        else:
            each = [c.log_prob(p, x) for c in components]
        parts = tuple(_at(weights, k) + e for k, e in enumerate(each))
        return LogProb(value_of(0.0), (Bound(RESPONSIBILITIES, (*parts, as_value(1.0)), weighted_log_sum),))

    return Entry(rule, parameters)


def _at(v: Value, k: int) -> Value:
    """One place along the last dimension."""
    return taken(v, v.ndim - 1, np.array([k])).squeeze(v.ndim - 1) if v.shape[-1] > 1 else v.squeeze(v.ndim - 1)


def _same_family(d: Any) -> Entry | None:
    return _made(d.mixing_distribution, [_Component(d.component_distribution, "0 ")], d.event_dim, True)


def _general(d: Any) -> Entry | None:
    parts = [_Component(c, f"{k} ") for k, c in enumerate(d.component_distributions)]
    return _made(d.mixing_distribution, parts, d.event_dim, False)


MAKERS[dist.MixtureSameFamily] = _same_family
MAKERS[dist.MixtureGeneral] = _general
