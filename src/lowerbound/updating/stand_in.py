r"""What is carried over of a posterior that is no product of exponential families: a Gaussian, and what that loses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.diagnostics.estimate import Estimate
from lowerbound.families import DenseGaussian
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
#: Dimensions up to which a Hessian is taken for that, and Newton steps.
_NEWTON, _STEPS = 300, 30


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


def log_normaliser(bound: Model, names: Sequence[str], widened: StandIn, power: float) -> Estimate:
    r"""log Z, Z = E_g[p(u)^power] over the widened q (g), so that g p^power / Z is a density.

    About the mode of g p^power let s(u) be log p^power to second order, Z_0 = E_g[e^s] and r = g e^s / Z_0, a Gaussian.
    Then

        Z / Z_0 = 1 + E_m[(g p^power / Z_0 - r) / m],        m = (g + r) / 2,

    and the mean is over draws. Where p is Gaussian in u nothing is left of it and Z = Z_0 is exact; where it is not,
    the draws of g keep the ratio bounded and its standard error honest.

    Args:
        bound: The model with the new data.
        names: The latents whose prior p is.
        widened: g.
        power: 1 - f.

    Cost: 8,192 evaluations of the prior, and a Hessian for each of a few Newton steps in up to 300 dimensions.
    """

    def own(x: Any) -> Any:
        params = {n: jnp.zeros(s.unconstrained_shape) for n, s in bound.sites.items()}
        start = 0
        for n in names:
            s = bound.sites[n]
            params[n] = x[start : start + s.size].reshape(s.unconstrained_shape)
            start += s.size
        return prior_log_density(bound.evaluate(params, bound.arguments, False), names)

    rng = np.random.default_rng(0)
    with float64():
        near = _second_order(lambda x: power * own(x), widened)
        parts = [widened] if near is None else [widened, near[0]]
        x = np.concatenate([np.asarray(g.transform(rng.standard_normal((_DRAWS, g.dimension)))) for g in parts])
        log_p = power * np.asarray(jax.jit(lambda rows: jax.lax.map(own, rows))(x))
        log_g, log_r = (np.asarray(g.log_prob(x)) for g in (parts[0], parts[-1]))
    log_z = 0.0 if near is None else near[1]
    log_m = np.logaddexp(log_g, log_r) - np.log(2)
    terms = np.exp(log_g + log_p - log_z - log_m) - np.exp(log_r - log_m)
    # Half of the draws are of g and half of r: a mean over strata has the mean of their variances.
    strata = terms.reshape(len(parts), -1)
    ratio = 1 + float(terms.mean())
    error = float(np.sqrt(strata.var(1, ddof=1).mean() / len(terms)))
    return Estimate(log_z + float(np.log(ratio)), error / ratio)


def _second_order(log_p: Callable[[Any], Any], g: StandIn) -> tuple[DenseGaussian, float] | None:
    """The Gaussian proportional to g e^s, s being ``log_p`` to second order about the mode of their product, and log
    E_g[e^s]; None where no mode is found, or in too many dimensions."""
    d, centre = g.dimension, np.asarray(g.location)
    if d > _NEWTON:
        return None
    precision = np.linalg.inv(np.asarray(g.covariance()))
    expand = jax.jit(lambda x: (log_p(x), jax.grad(log_p)(x), jax.hessian(log_p)(x)))
    x = centre
    for _ in range(_STEPS):
        value, slope, curvature = (np.asarray(a) for a in expand(x))
        total = precision - curvature
        # The gradient of log g + log_p, and the step to where its second-order form is largest.
        slope = slope - precision @ (x - centre)
        if not np.isfinite(total).all() or not np.isfinite(slope).all() or np.linalg.eigvalsh(total)[0] <= 0:
            return None
        step = np.linalg.solve(total, slope)
        if step @ total @ step < 1e-16 * d:
            break
        x = x + step
    else:
        return None
    root = np.linalg.cholesky(np.linalg.inv(total))
    near = DenseGaussian(x, root)
    # log E_g[e^s] = log g(x) + s(x) - log r(x) at the mode, where r has its peak.
    at = x[None]
    return near, float(g.log_prob(at)[0] + value - near.log_prob(at)[0])


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
