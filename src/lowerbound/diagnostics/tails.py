r"""Does a parameter have an sd at all?

Where a posterior's tails fall off too slowly its variance is infinite, and whatever number a sample gives
for the sd is an accident of that sample. The sample shows it: the largest of the x^2 follow a generalised Pareto
distribution, and k-hat is its shape for that functional (Vehtari et al. 2024, section 3.2). k >= 1 is a variance
that does not exist; below 1/2 its estimate has a standard error that can be believed.

It is asked in the units that the person sees: of x for a real parameter, of exp(x) for a positive one,
whose log may be as well behaved as can be. Bounded ones have all their moments.
"""

from __future__ import annotations

import numpy as np
from numpyro.distributions import biject_to, transforms

from lowerbound.diagnostics.pareto import smooth
from lowerbound.model.base import Model, is_real

#: k-hat of a parameter's second moment from which its sd is not to be believed.
NO_SD = 0.9
#: Draws below which a tail has too few points to speak.
_FEWEST = 400


def without_sd(model: Model, draws: np.ndarray) -> np.ndarray:
    """Coordinates whose variance seems to be infinite.

    Args:
        model: For the supports.
        draws: Of the posterior, unconstrained ``[n, p]``.
    """
    if len(draws) < _FEWEST:
        return np.empty(0, int)
    found = []
    for site in model.sites.values():
        kind = _kind(site.support)
        if kind is None:
            continue
        for i in range(site.start, site.start + site.size):
            if _shape(draws[:, i], positive=kind == "positive") >= NO_SD:
                found.append(i)
    return np.array(found, int)


def _kind(support) -> str | None:
    if is_real(support):
        return "real"
    transform = biject_to(support)
    while isinstance(transform, (transforms.IndependentTransform, transforms.ComposeTransform)):
        transform = (
            transform.base_transform if isinstance(transform, transforms.IndependentTransform) else transform.parts[0]
        )
    return "positive" if isinstance(transform, transforms.ExpTransform) else None


def _shape(x: np.ndarray, *, positive: bool) -> float:
    """k-hat of the square of x about its median, or of exp(x)."""
    with np.errstate(all="ignore"):
        log_square = 2 * x if positive else 2 * np.log(np.abs(x - np.median(x)))
    return smooth(np.where(np.isfinite(log_square), log_square, -np.inf))[1]
