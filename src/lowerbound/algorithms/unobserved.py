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
    return replace(r, late=factored.late, begin=begin)


def with_unobserved(factored: Factored, naturals: Sequence[Mapping[Any, Any]] | None) -> Any:
    """Natural parameters of all blocks, those that were left out at their optima given the others.

    Args:
        factored: With all blocks.
        naturals: Of the blocks of :func:`ascended`.
    """
    r = factored.reduced
    if r is None or naturals is None:
        return naturals
    known = {b.latents: n for b, n in zip(r.blocks, naturals, strict=True)}
    with float64():
        values = [
            {k: np.asarray(a) for k, a in known.get(b.latents, b.start(np.random.default_rng(0), 0.0)).items()}
            for b in factored.blocks
        ]
        order = [factored.index(n) for n in reversed(factored.leaves)]
        keys = [list(b.keys) for b in factored.blocks]

        @jax.jit
        def found(arrays: Any) -> Any:
            own = [dict(zip(k, n, strict=True)) for k, n in zip(keys, arrays, strict=True)]
            moments = factored.moments(own)
            for i in order:
                own[i] = factored.optimum(i, moments)
                moments |= factored.block_moments(i, own[i])
            return [[own[i][k] for k in keys[i]] for i in order]

        best = found([[n[k] for k in ks] for n, ks in zip(values, keys, strict=True)])
    for i, n in zip(order, best, strict=True):
        values[i] = {k: np.asarray(a) for k, a in zip(keys[i], n, strict=True)}
    return values
