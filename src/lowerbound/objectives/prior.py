"""The part of the prior whose expectation under q is known: independent Gaussians with numbers for parameters.

For a latent of the model with z ~ N(m, s^2), m and s known, and any q with marginal mean mu and variance v,

    E_q[log N(z; m, s^2)] = -((mu - m)^2 + v) / (2 s^2) - log s - log(2 pi) / 2,

whatever else q is. With q's entropy it makes KL(q || prior) of these latents a closed form.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from lowerbound.model.base import Model, abstract, is_real
from lowerbound.model.by_row import RowModel
from lowerbound.model.reparameterization import depend_on_latents
from lowerbound.precision import float64

_LOG_2PI = float(np.log(2 * np.pi))


class GaussianPrior(NamedTuple):
    """Independent N(mean, sd^2) on some coordinates of the unconstrained vector.

    Attributes:
        index: Which ``[m]``.
        mean, sd: ``[m]``.
    """

    index: np.ndarray
    mean: Any
    sd: Any

    def log_prob(self, z: Any) -> Any:
        """``[s]`` at ``z [s, p]``."""
        e = (z[:, self.index] - self.mean) / self.sd
        return -(0.5 * e**2 + jnp.log(self.sd) + 0.5 * _LOG_2PI).sum(-1)

    def expected(self, q: Any) -> Any:
        """E_q[log p] of a block, in nats."""
        mean, variance = q.mean[self.index], q.variance()[self.index]
        e = ((mean - self.mean) ** 2 + variance) / self.sd**2
        return -(0.5 * e + jnp.log(self.sd) + 0.5 * _LOG_2PI).sum()

    def rescaled(self, shift: Any, scale: Any) -> GaussianPrior:
        """That of y where z = shift + scale * y; without the Jacobian, which whoever rescales the joint adds."""
        a, b = shift[self.index], scale[self.index]
        return GaussianPrior(self.index, (self.mean - a) / b, self.sd / b)


def gaussian_prior(model: Model) -> GaussianPrior | None:
    """The Gaussian priors of a model, or None if it has none (or is a log density, which does not tell)."""
    if model.distributions is None or model.elsewhere or model.discrete or model.summed:
        return None
    candidates = [n for n, s in model.sites.items() if is_real(s.support)]

    places = model.parameter_places

    def parameters(moving: Any, arguments: Any) -> dict[str, Any]:
        # What is learned moves as latents do, and leaves no prior that has numbers for parameters.
        assert model.distributions is not None
        latents, learned = moving
        arguments = list(arguments)
        for i, leaf in zip(places, learned, strict=True):
            arguments[i] = leaf
        out = {}
        for f in model.distributions(latents, arguments):
            normal = _normal(f.distribution)
            if f.site in candidates and f.scale is None and normal is not None:
                shape = model.sites[f.site].shape
                out[f.site] = [jnp.broadcast_to(a, shape) for a in (normal.loc, normal.scale)]
        return out

    with float64():
        latents = {n: jnp.zeros(s.shape) + 0.5 for n, s in model.sites.items()}
        learned = [jnp.asarray(model.arguments[i]) for i in places]
        depends = depend_on_latents(parameters, (latents, learned), abstract(model.arguments))
        names = [n for n in model.sites if depends.get(n) is False]
        if not names:
            return None
        found = parameters((latents, learned), [jnp.asarray(a) for a in model.arguments])
    index = np.concatenate([np.arange(model.sites[n].start, model.sites[n].start + model.sites[n].size) for n in names])
    mean = np.concatenate([np.ravel(found[n][0]) for n in names])
    sd = np.concatenate([np.ravel(found[n][1]) for n in names])
    return GaussianPrior(index, mean, sd)


def _normal(fn: Any) -> Any:
    """The Normal under ``expand`` and ``to_event``; None if it is another."""
    while isinstance(fn, (dist.Independent, dist.ExpandedDistribution)):
        fn = fn.base_dist
    return fn if type(fn) is dist.Normal else None


def row_prior(rows: RowModel) -> GaussianPrior | None:
    """That of one row's latents, where it is the same for all rows; None where it is not, or there is none."""
    whole = gaussian_prior(rows.model)
    if whole is None:
        return None
    p = rows.model.dimension
    places = rows.row_places
    known = np.isin(places, whole.index)
    mean, sd = np.zeros(p), np.zeros(p)
    mean[whole.index], sd[whole.index] = np.asarray(whole.mean), np.asarray(whole.sd)
    of_rows = known, mean[places], sd[places]
    if any((a != a[:1]).any() for a in of_rows) or not known[0].any():
        return None
    index = np.flatnonzero(known[0])
    return GaussianPrior(index, mean[places[0, index]], sd[places[0, index]])
