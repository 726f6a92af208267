"""Which site, transform, row and operation made the log density not finite, and at which step of the fit.

Only run once something has gone wrong: the model is evaluated factor by factor, then operation by operation
(:mod:`~lowerbound.diagnostics.density.blame`), outside any compiled program, which is slow.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from numpyro.distributions.distribution import validation_enabled

from lowerbound.algorithms.search import far_points
from lowerbound.diagnostics.density.blame import blame, transform_name
from lowerbound.errors import ModelError, NotFiniteError
from lowerbound.kernel import Kernel
from lowerbound.model.base import Model
from lowerbound.precision import float64


def explain(model: Model, x: np.ndarray) -> list[str]:
    """Which site is not finite at the unconstrained point ``x [p]``, one sentence each; empty if all is."""
    return _by_site(model, x)[0]


def forensics(kernel: Kernel, x: np.ndarray) -> list[str]:
    """All that can be said of the point ``x [p]``: sites that are not finite, then the operation to blame.

    Empty if the value and the gradient are finite there.
    """
    with np.errstate(all="ignore"):
        value, gradient = kernel(x[None])
    found, kinds = _by_site(kernel.model, x)
    if not np.isfinite(x).all():
        return found
    slope = bool(np.isfinite(value[0]))
    if slope and np.isfinite(gradient).all():
        return []
    if slope:
        found = [_no_gradient(kernel.model, value[0], gradient[0])]
    culprit = blame(kernel, x, gradient=slope, kinds=kinds)
    return [*found, f"first not finite: {culprit}"] if culprit is not None else found


def _by_site(model: Model, x: np.ndarray) -> tuple[list[str], tuple[str, ...]]:
    """Sentences, and the classes of the distributions that they are about."""
    found: list[str] = []
    kinds: list[str] = []
    # (NumPyro's own check of parameters would stop at the first, and with less to say.)
    with float64(), np.errstate(all="ignore"), validation_enabled(False):
        if not np.isfinite(x).all():
            where = model.sites_of(np.flatnonzero(~np.isfinite(x)))
            return [f"the point itself is not finite in site(s) {', '.join(where)}"], ()
        evaluation = model.evaluate(model.unflatten(jax.numpy.asarray(x)), model.arguments, False)
        for name, site in model.sites.items():
            value = np.asarray(evaluation.values.get(name, 0.0))
            if not np.isfinite(value).all():
                transform = transform_name(site.support)
                found.append(f"site {name!r}: {transform} onto {site.support} gives {_first(value)}")
        if not np.isfinite(np.asarray(evaluation.log_det)):
            found.append(f"the Jacobian of the transforms is {float(evaluation.log_det)}")
        for f in evaluation.factors:
            lp = np.asarray(f.log_prob)
            if not np.isfinite(lp).all():
                what = type(f.distribution).__name__ if f.distribution is not None else "log density"
                kind = "observed site" if f.observed else "site"
                if f.distribution is None:
                    found.append(f"the log density is {_first(lp)}")
                else:
                    kinds.append(what)
                    found.append(
                        f"{kind} {f.site!r} ({what}): log probability is {_first(lp)}{_parameters(f.distribution, lp)}"
                    )
    return found, tuple(kinds)


def _first(value: np.ndarray) -> str:
    bad = ~np.isfinite(value)
    if value.ndim == 0:
        return str(value)
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    return (
        f"{value[where]} in row {where[0]}"
        + (f" (index {list(where)})" if len(where) > 1 else "")
        + (f", {int(bad.sum())} of {value.size} in all" if value.size > 1 else "")
    )


def _parameters(distribution: Any, lp: np.ndarray) -> str:
    """The distribution's parameters in the first bad row."""
    bad = ~np.isfinite(lp)
    row = tuple(int(i) for i in np.argwhere(bad)[0]) if lp.ndim else ()
    out = []
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    for name in getattr(distribution, "arg_constraints", {}):
        value = getattr(distribution, name, None)
        if value is None:
            continue
        try:
            array = np.broadcast_to(np.asarray(value), lp.shape) if np.ndim(value) <= lp.ndim else None
            if array is not None:
                out.append(f"{name} = {float(array[row]) + 0.0:.6g}")  # (no -0)
        except (TypeError, ValueError):
            continue
    return f", with {', '.join(out)} there" if out else ""


def check_starts(kernel: Kernel, x: np.ndarray) -> None:
    """Refuse a model whose log density has no usable value or gradient at any of the points ``x [m, p]``,
    nor further out.

    Raises:
        NotFiniteError: not finite at every point; names the sites.
        ModelError: no gradient with respect to any site.
    """
    model = kernel.model
    value, gradient = kernel(x)
    finite = np.isfinite(value) & np.isfinite(gradient).all(1)
    if not finite.any() and usable(kernel, far_points(kernel)).any():
        return
    if not finite.any():
        reasons = forensics(kernel, x[0])
        told = "; ".join(reasons) or "no single site is to blame, only their sum"
        general = (
            "" if "Suggestion: " in told else " Check the data's scale, and priors or transforms that overflow there."
        )
        raise NotFiniteError(
            f"the log density of {model.name!r} is not finite at any of {len(x)} starting points. At the middle of "
            f"the latents' supports: {told.rstrip('.')}.{general}"
        )
    if not gradient[finite].any():
        raise ModelError(
            f"the log density of {model.name!r} has no gradient with respect to {', '.join(model.sites)}: it is zero "
            "at every starting point. Does the density use the latents, and only through differentiable functions "
            "(not rounding, comparison, or jax.lax.stop_gradient)?"
        )


def usable(kernel: Kernel, x: np.ndarray) -> np.ndarray:
    """Where ``x [m, p]`` has a finite log density and gradient, ``[m]``."""
    value, gradient = kernel(x)
    return np.isfinite(value) & np.isfinite(gradient).all(1)


def culprits(kernel: Kernel, x: np.ndarray) -> list[str]:
    """What is not finite at the first of the points ``x [m, p]`` where something is not; empty if nothing is."""
    value, gradient = kernel(x)
    bad = [*np.flatnonzero(~np.isfinite(value)), *np.flatnonzero(~np.isfinite(gradient).all(1))]
    return forensics(kernel, x[bad[0]]) if bad else []


def _no_gradient(model: Model, value: float, gradient: np.ndarray) -> str:
    bad = model.sites_of(np.flatnonzero(~np.isfinite(gradient)))
    return (
        f"the log density is {value:.6g} but its gradient is not finite in site(s) {', '.join(bad)} "
        "(a branch of jnp.where that is not taken, a square root at 0 and a norm at 0 do that)"
    )


def flat_sites(kernel: Kernel, x: np.ndarray) -> list[str]:
    """Sites in which the gradient is exactly zero at every one of the points ``x [m, p]``."""
    _, gradient = kernel(x)
    zero = ~np.nan_to_num(gradient).any(0)
    return kernel.model.sites_of(np.flatnonzero(zero))
