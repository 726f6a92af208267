r"""What is carried over of a posterior that is no product of exponential families: a Gaussian, and what that loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.diagnostics.estimate import Estimate
from lowerbound.expectations.noise import matched_normals
from lowerbound.families.stand_in import StandIn, gaussian_of, is_gaussian, marginal_gaussian
from lowerbound.kernel import Kernel
from lowerbound.model.base import Model, bijection
from lowerbound.model.carried import prior_log_density
from lowerbound.posterior import Posterior
from lowerbound.precision import float64

#: Effective draws for each coordinate from which the moments of corrected draws are better than q's.
_ENOUGH = 20
#: Draws over which the power prior is normalised, and over which the loss is averaged.
_DRAWS, _WEIGHED = 4096, 1024


def stand_in(posterior: Posterior, names: Sequence[str], bound: Model) -> tuple[StandIn, str]:
    """The Gaussian that is carried over of some latents on the unconstrained space, and what it is in words.

    Args:
        posterior: Of the data before.
        names: Of the latents.
        bound: The model with the new data, in whose coordinates the Gaussian is.
    """
    sites = {n: s for n, s in posterior._sites.sites.items() if n in names}
    places = np.concatenate([np.arange(s.start, s.start + s.size) for s in sites.values()])
    moved = [n for n in sites if n in posterior._sites.elsewhere]
    right = posterior.corrected and posterior.effective >= _ENOUGH * len(places)
    said = "corrected draws" if right else "draws of q"
    if moved:
        # The fit was in other coordinates (non-centred, say), which mean nothing without the rest of the model.
        u = posterior.sample_unconstrained(_DRAWS, seed=posterior.seed)
        z = posterior.sample(_DRAWS, seed=posterior.seed)
        with float64():
            for n in moved:
                plain = bijection(bound.sites[n].support)._inverse(jnp.asarray(z[n]))
                u[:, sites[n].slice] = np.asarray(plain).reshape(len(u), -1)
        return gaussian_of(u[:, places], np.ones(len(u))), f"a Gaussian matched to {said}"
    if right:
        return gaussian_of(posterior._pool[:, places], posterior._pool_weights), f"a Gaussian matched to {said}"
    out = marginal_gaussian(posterior.q, places)
    return out, "the Gaussian q" if is_gaussian(posterior.q) else f"a Gaussian matched to {said}"


def log_normaliser(bound: Model, names: Sequence[str], widened: StandIn, power: float) -> float:
    """log E[p(u)^power] over the widened q, so that its product with p^power is a density."""
    draws = np.asarray(widened.transform(matched_normals(np.random.default_rng(0), _DRAWS, widened.dimension)))

    def own(x: Any) -> Any:
        params = {n: jnp.zeros(s.unconstrained_shape) for n, s in bound.sites.items()}
        start = 0
        for n in names:
            s = bound.sites[n]
            params[n] = x[start : start + s.size].reshape(s.unconstrained_shape)
            start += s.size
        return prior_log_density(bound.evaluate(params, bound.arguments, False), names)

    with float64():
        values = power * np.asarray(jax.jit(lambda rows: jax.lax.map(own, rows))(draws))
    top = values.max()
    return float(top + np.log(np.exp(values - top).mean()))


#: Of a loss that was not measured.
UNKNOWN = Estimate(float("nan"), float("nan"))


def loss_of(before: Posterior, carried: StandIn, after: Posterior, *, forget: float) -> Estimate:
    r"""What carrying a Gaussian g over in place of the posterior p did to the next one.

    With L the likelihood of the new rows, p L is what g L stands for, and their ratio is e^d, d = log p - log g. Over
    draws of the new posterior, which sit where L puts them and be it in the tail of g,

        KL(g L / Z_g || p L / Z_p) = log E[e^d] - E[d].

    Not measured where latents of rows were integrated out, where the model before is not there, or where it was in
    other coordinates.

    Cost: 1,024 evaluations of the log density before.
    """
    held = before._sites._model
    same = set(before._sites.sites) == set(after._sites.sites)
    if held is None or not same or before._sites.elsewhere or held.dimension != carried.dimension:
        return UNKNOWN
    draws = after.sample_unconstrained(_WEIGHED, seed=after.seed)
    with np.errstate(all="ignore"):
        d = Kernel(held)(draws)[0] - np.asarray(carried.log_prob(draws))
    d = forget * d
    if not np.isfinite(d).all():
        return UNKNOWN
    top = d.max()
    log_mean = float(top + np.log(np.exp(d - top).mean()))
    weights = np.exp(d - log_mean)
    n = max(min(after.effective, len(d)) if after.corrected else len(d), 1.0)
    influence = (weights - 1) - (d - d.mean())
    return Estimate(float(log_mean - d.mean()), float(influence.std() / np.sqrt(n)))
