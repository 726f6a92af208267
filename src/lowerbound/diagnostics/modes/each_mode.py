"""Short chains inside each mode, where there are several: is each of them matched?

Chains do not cross between modes that are far apart, so whether all of them agree says nothing there. Those that began
in one mode can be compared with the weighted draws of that mode all the same: a mode whose shape q and the weights
have not seen whole shows as a shift, as it does where there is one mode only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from lowerbound.algorithms.base import Mode
from lowerbound.diagnostics.chains.short import run_chains
from lowerbound.diagnostics.rules.thresholds import APART, DRIFT
from lowerbound.diagnostics.shift import drift
from lowerbound.diagnostics.weights.importance import Weighted
from lowerbound.families import Block, DiagonalGaussian, GaussianBlock, MixtureBlock
from lowerbound.kernel import Kernel
from lowerbound.pareto import effective_size

#: Modes looked into at most, the share of the mass and the effective draws from which one is.
_MOST, _SHARE, _FEWEST = 4, 0.05, 200
#: Share of the states that must still be in the mode where they began: one chain that has left is as good as R-hat.
_INSIDE = 0.999


def held(q: Block, modes: Sequence[Mode]) -> list[GaussianBlock]:
    """A Gaussian for each mode: q's own first."""
    if isinstance(q, MixtureBlock):
        return list(q.components)
    own = q if isinstance(q, GaussianBlock) else DiagonalGaussian(np.asarray(q.mean), np.sqrt(np.asarray(q.variance())))
    return [own, *(m.gaussian for m in modes if m.separate)]


def labelled(q: Block, modes: Sequence[Mode]) -> list[Block]:
    """The same, with q as it is: what a labelling of components is told by."""
    known = held(q, modes)
    return list(known) if isinstance(q, MixtureBlock) else [q, *known[1:]]


def nearest(modes: Sequence[GaussianBlock], x: np.ndarray) -> np.ndarray:
    """Which mode each point ``[n, p]`` belongs to: the one with the highest density by its marginal sds."""
    distance = []
    for m in modes:
        sd = np.sqrt(np.asarray(m.variance()))
        distance.append((((x - np.asarray(m.mean)) / sd) ** 2).sum(1) + 2 * np.log(sd).sum())
    return np.argmin(distance, axis=0)


def unlike(
    kernel: Kernel, modes: Sequence[GaussianBlock], weighted: Weighted, rng: np.random.Generator, *, budget: int
) -> list[str]:
    """What short chains say against the weighted draws of some mode, in words; empty if nothing.

    Args:
        kernel: The compiled log density.
        modes: A Gaussian for each.
        weighted: Draws of q and about it with weights.
        rng: Random numbers.
        budget: Evaluations for all modes together.
    """
    labels, names = nearest(modes, weighted.draws), kernel.model.coordinate_names()
    mass = np.bincount(labels, weights=np.exp(weighted.smoothed), minlength=len(modes))
    order = [k for k in np.argsort(-mass)[:_MOST] if mass[k] > _SHARE * mass.sum()]
    said = []
    for k in order:
        with np.errstate(all="ignore"):
            smoothed = np.where(labels == k, weighted.smoothed - np.log(mass[k]), -np.inf)
        effective = effective_size(smoothed)
        if effective < _FEWEST:
            continue
        raw = np.where(labels == k, weighted.log_weights, -np.inf)
        own = dataclasses.replace(weighted, smoothed=smoothed, log_weights=raw)
        chains = run_chains(kernel, modes[k], own, rng, budget=budget // len(order))
        if chains is None:
            continue
        states = chains.draws.reshape(-1, kernel.dimension)
        if (nearest(modes, states) == k).mean() < _INSIDE:  # they cross: this is no mode by itself
            continue
        weight = np.exp(smoothed)
        mean = weight @ weighted.draws
        shift = drift(chains, mean, np.sqrt(weight @ (weighted.draws - mean) ** 2), effective)
        moved = np.flatnonzero(shift.beyond(DRIFT))
        if len(moved):
            worst = moved[np.argmax(shift.size[moved])]
            said.append(f"chains in one of the modes move {names[worst]} by {shift.size[worst]:.2g} of its sds there")
        elif chains.r_hat >= APART:
            said.append(f"chains in one of the modes do not agree (R-hat {chains.r_hat:.2f} in {names[chains.worst]})")
    return said
