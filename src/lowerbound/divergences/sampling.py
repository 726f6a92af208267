"""Draws on the host, where compiling NumPyro's sampler would cost seconds: all that is made of Gammas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpyro.distributions as dist

Sampler = Callable[[Any, np.random.Generator, tuple[int, ...]], np.ndarray]


def _dirichlet(d: Any, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    gammas = rng.gamma(np.asarray(d.concentration), size=(*shape, *d.event_shape))
    return gammas / gammas.sum(-1, keepdims=True)


#: By exact type: a subclass may have another meaning.
SAMPLERS: dict[type, Sampler] = {
    dist.Gamma: lambda d, rng, shape: rng.gamma(np.asarray(d.concentration), 1 / np.asarray(d.rate), shape),
    dist.Chi2: lambda d, rng, shape: rng.gamma(np.asarray(d.concentration), 1 / np.asarray(d.rate), shape),
    dist.Beta: lambda d, rng, shape: rng.beta(np.asarray(d.concentration1), np.asarray(d.concentration0), shape),
    dist.StudentT: lambda d, rng, shape: np.asarray(d.loc) + np.asarray(d.scale) * rng.standard_t(d.df, shape),
    dist.Poisson: lambda d, rng, shape: rng.poisson(np.asarray(d.rate), shape),
    dist.Dirichlet: _dirichlet,
}


def on_host(distribution: Any, rng: np.random.Generator, n: int) -> np.ndarray | None:
    """``n`` independent draws ``[n, *event]``, or None where NumPyro has to draw them."""
    d, transforms = distribution, []
    while isinstance(d, (dist.Independent, dist.ExpandedDistribution, dist.TransformedDistribution)):
        if isinstance(d, dist.TransformedDistribution):
            transforms = [*d.transforms, *transforms]
        d = d.base_dist
    if type(d) not in SAMPLERS or (transforms and type(distribution) is not dist.InverseGamma):
        return None
    if d.event_shape and d.event_shape != distribution.event_shape:
        return None
    shape = (n,) if d.event_shape else (n, *distribution.event_shape)
    out = SAMPLERS[type(d)](d, rng, shape)
    for transform in transforms:
        out = np.asarray(transform(out))
    return out
