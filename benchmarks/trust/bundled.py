"""The thirteen reference posteriors of ``benchmarks/posteriors``, whose moments are those of posteriordb's draws."""

from __future__ import annotations

from functools import partial

from benchmarks.posteriors import REGISTRY, Posterior
from benchmarks.trust.target import Case, target


def reference(posterior: Posterior) -> Case:
    """Stan's ``theta[2]`` are taken together again, by site."""
    known = posterior.reference()
    truth = {}
    for site in posterior.sites:
        at = [i for i, k in enumerate(known.parameters) if k.split("[")[0] == site]
        pair = known.mean[at], known.sd[at]
        truth[site] = tuple(v[0] for v in pair) if known.parameters[at[0]] == site else pair
    return Case(posterior.model, posterior.data(), truth)


for _name, _posterior in REGISTRY.items():
    target(name=_name)(partial(reference, _posterior))
