"""The independent elements of a product distribution, one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpyro.distributions import Distribution, ExpandedDistribution, Independent

from lowerbound.divergences.laws import Given, Law
from lowerbound.precision import float64

#: Products of more elements than this are sampled as a whole.
MOST = 64


def elements(p: Law, q: Law) -> list[tuple[Law, Law]] | None:
    """Pairs of elements, if both are products of distributions of single numbers with ordinary parameters; or None."""
    a, b = _split(p), _split(q)
    return None if a is None or b is None else list(zip(a, b, strict=True))


def _split(law: Law) -> list[Law] | None:
    d: Any = law.distribution if isinstance(law, Given) else None
    if not isinstance(d, Independent):
        return None
    shape = d.event_shape
    if int(np.prod(shape)) > MOST:
        return None
    while isinstance(d, (Independent, ExpandedDistribution)):
        d = d.base_dist
    names = [k for k in d.arg_constraints if k in d.__dict__]
    if d.event_shape or not names or not isinstance(d, Distribution):
        return None
    with float64():
        try:
            values = {k: np.broadcast_to(np.asarray(getattr(d, k)), shape) for k in names}
            made = [type(d)(**{k: v[i] for k, v in values.items()}) for i in np.ndindex(*shape)]
        except (TypeError, ValueError):  # its parameters are not what it is made from
            return None
    return [Given(one) for one in made]
