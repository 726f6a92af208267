"""Linear response by site, on the constrained space.

The linear-response Gaussian N(mean, Cov_LR) of a site's unconstrained coordinates is carried through the transforms
draw by draw (matched draws; coordinates of other sites stay at their means). That is the delta method where the
transform is straight over the width of the Gaussian, and keeps the skewness of a scale or a probability where
it is not. Monte Carlo errors are carried along by moving the mean as other noise would have moved it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowerbound.diagnostics.response.linear_response import DENSE_RESPONSE, LinearResponse, linear_response
from lowerbound.errors import DataError, IncompatibleError, unknown_name
from lowerbound.expectations.noise import matched_normals
from lowerbound.families import Block
from lowerbound.kernel import Kernel

_DRAWS, _NUMBERS = 4096, 2**25


@dataclass(frozen=True, eq=False)
class SiteResponse:
    """Means and standard deviations by linear response, by site name, ``[*shape]`` each.

    Attributes:
        mean: Means.
        sd: Standard deviations, correlations between coordinates included.
        mean_error: Monte Carlo standard errors of the means.
        response: The same for the unconstrained coordinates, with their covariance.
    """

    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]
    mean_error: dict[str, np.ndarray]
    response: LinearResponse


def site_response(
    kernel: Kernel,
    q: Block,
    sites: Any,
    names: Sequence[str] | str | None = None,
    *,
    num_draws: int = 64,
    seed: int = 0,
) -> SiteResponse:
    """Linear response of sites, and of deterministics where all coordinates can be asked for.

    Args:
        kernel: The compiled log density.
        q: A mean-field Gaussian.
        sites: The :class:`~lowerbound.model.sites.SiteMap` of the model.
        names: Which; None for all.
        num_draws, seed: As for :func:`~lowerbound.diagnostics.response.linear_response`.

    Raises:
        UnknownNameError: a name that the model does not have.
        IncompatibleError: as ``linear_response``; a deterministic of a model of more than 2,000 dimensions.
    """
    p = q.dimension
    wanted = [names] if isinstance(names, str) else list(sites.shapes if names is None else names)
    if not wanted:
        raise DataError("linear_response of no sites; needed: a name, a list of names, or None for all.")
    for name in wanted:
        if name not in sites.shapes:
            raise unknown_name("site", name, sites.shapes)
        if name in sites.deterministics and p > DENSE_RESPONSE:
            raise IncompatibleError(
                f"linear response of the deterministic {name!r} needs all {p:,} coordinates, which is for at most "
                f"{DENSE_RESPONSE:,}. Ask for sites: {', '.join(sites.sites)}."
            )
    if any(name in sites.deterministics for name in wanted):
        index = np.arange(p)
    else:
        index = np.concatenate([np.arange(p)[sites.sites[name].slice] for name in wanted])
    response = linear_response(kernel, q, index, num_draws=num_draws, seed=seed)
    n = max(64, min(_DRAWS, _NUMBERS // p // 2 * 2))
    noise = matched_normals(np.random.default_rng([seed, 0x1C]), n, len(index))
    draws = np.tile(np.asarray(q.mean, float), (n, 1))
    draws[:, index] = response.mean + noise @ _root(response.covariance).T
    values = sites.constrain(draws)
    moved = np.tile(np.asarray(q.mean, float), (len(response.displacements), 1))
    moved[:, index] = response.mean + response.displacements
    moves = sites.constrain(moved)
    return SiteResponse(
        {k: values[k].mean(0)[()] for k in wanted},
        {k: values[k].std(0)[()] for k in wanted},
        {k: moves[k].std(0, ddof=1)[()] for k in wanted},
        response,
    )


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric root in units of the sds; eigenvalues that rounding has made negative count as zero."""
    sd = np.sqrt(np.diagonal(covariance))
    w, v = np.linalg.eigh(covariance / np.outer(sd, sd))
    return sd[:, None] * ((v * np.sqrt(np.maximum(w, 0.0))) @ v.T)
