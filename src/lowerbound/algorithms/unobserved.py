"""Ascents without what nothing depends on (:mod:`lowerbound.expectations.leaves`), and what that gets at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from lowerbound.algorithms.factored import Factored
from lowerbound.precision import float64


def ascended(factored: Factored) -> Factored:
    """The exact ELBO that an ascent climbs: without discrete latents that nothing depends on."""
    r = factored.reduced
    if r is None:
        return factored
    names = {n: i for i, b in enumerate(r.blocks) for n in b.latents}
    begin = {names[n]: v for i, v in factored.begin.items() if (n := factored.blocks[i].latents[0]) in names}
    return ascended(replace(r, late=factored.late, begin=begin))


def with_unobserved(factored: Factored, naturals: Sequence[Mapping[Any, Any]] | None) -> Any:
    """Natural parameters of all blocks, those that were left out at their optima given the others.

    Args:
        factored: With all blocks.
        naturals: Of the blocks of :func:`ascended`.
    """
    r = factored.reduced
    if r is None or naturals is None:
        return naturals
    # One after another, each given what it depends on: those that depend on it are not there yet.
    known = {b.latents: n for b, n in zip(r.blocks, with_unobserved(r, naturals), strict=True)}
    i = factored.index(factored.leaves[0])
    with float64():
        values = [known.get(b.latents) or b.start(np.random.default_rng(0), 0.0) for b in factored.blocks]
        keys = [list(b.keys) for b in factored.blocks]

        @jax.jit
        def found(arrays: Any) -> Any:
            moments = factored.moments([dict(zip(k, n, strict=True)) for k, n in zip(keys, arrays, strict=True)])
            best = factored.optimum(i, moments)
            return [best[k] for k in keys[i]]

        best = found([[np.asarray(n[k]) for k in ks] for n, ks in zip(values, keys, strict=True)])
    values[i] = {k: np.asarray(a) for k, a in zip(keys[i], best, strict=True)}
    return values
