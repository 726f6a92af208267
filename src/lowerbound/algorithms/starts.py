"""Where coordinate ascent begins: how many starts, at values that were given, at elements of the data."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerbound.algorithms.factored import Factored
from lowerbound.algorithms.sweeps import Sweeper, check_proper
from lowerbound.errors import DataError, IncompatibleError
from lowerbound.expectations.mixtures import RESPONSIBILITIES
from lowerbound.families.exponential import CategoricalBlock

#: Starts where the ELBO may have several maxima.
_STARTS_DISCRETE, _STARTS_PRODUCTS = 10, 4
#: log of the weight that a start leaves to values other than the given one.
_SURE = -60.0


def starts_of(factored: Factored) -> int:
    """How many starts: several where the ELBO may have several maxima, one where they are known apart."""
    if factored.begin:
        return 1
    if any(isinstance(b, CategoricalBlock) for b in factored.blocks):
        return _STARTS_DISCRETE
    if any(b.name == RESPONSIBILITIES for b in factored.bounds):
        return _STARTS_DISCRETE
    return _STARTS_PRODUCTS if multiplies(factored) else 1


def multiplies(factored: Factored) -> bool:
    """Whether Gaussian latents of different blocks multiply each other, as factors and loadings do: log p is then of a
    higher degree than two in them, and has other maxima. (A level and its groups are of degree two.)"""
    gaussian = factored.structure.gaussian
    for t in factored.terms:
        inside = [id(gaussian[n]) for m, _ in t.moments for n in m.latents if n in gaussian]
        if len(inside) > 2 and len(set(inside)) > 1:
            return True
    return False


def about_value(factored: Factored, i: int, name: str, value: Any, natural: Any) -> Any:
    """Natural parameters of block i with its latent at (or closely about) a given value.

    Raises:
        DataError: the value does not fit the latent.
    """
    block = factored.blocks[i]
    latent = factored.structure.latents[name]
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise DataError(f"init[{name!r}] is {value!r}; needed: finite numbers of shape {latent.shape}.")
    if isinstance(block, CategoricalBlock):
        k = len(block.values)
        if array.shape == (*latent.shape, k) and array.dtype.kind == "f":
            if (array < 0).any() or not np.allclose(array.sum(-1), 1, atol=1e-6):
                raise DataError(f"init[{name!r}] are no probabilities: each row must be >= 0 and sum to one.")
            with np.errstate(divide="ignore"):
                return {block.indicator: np.maximum(np.log(array), _SURE)}
        if array.shape != latent.shape or array.dtype.kind not in "biu":
            raise DataError(
                f"init[{name!r}] has shape {array.shape} and type {array.dtype}; needed: whole numbers of shape "
                f"{latent.shape}, or probabilities of shape {(*latent.shape, k)}."
            )
        outside = ~np.isin(array, block.values)
        if outside.any():
            raise DataError(
                f"init[{name!r}] has {int(outside.sum())} labels outside of {block.values.tolist()}, the first "
                f"{array[outside].flat[0]}."
            )
        places = np.searchsorted(block.values, array.astype(block.values.dtype))
        return {block.indicator: np.where(np.arange(k) == places[..., None], 0.0, _SURE)}
    if array.shape != latent.shape:
        raise DataError(f"init[{name!r}] has shape {array.shape}; needed: {latent.shape}.")
    located = getattr(block, "about", None)
    if located is None:
        raise IncompatibleError(
            f"init for {name!r}: a {block.family} block cannot be started from a value; give those of another latent."
        )
    return located({name: array.astype(float)}, natural)


def seeded(sweeper: Sweeper, x: list[list[Any]], rng: np.random.Generator, *, spread: bool) -> list[list[Any]]:
    """Every component begun at one element of the data, which no other has.

    Args:
        sweeper: The compiled sweep.
        x: Natural parameters; those of the first block are replaced.
        rng: Random numbers.
        spread: Whether elements are drawn in proportion to how badly the components begun so far explain them (in nats
            below the element that they explain best: for Gaussian components this is half the squared distance). Else
            uniformly.
    """
    f = sweeper.factored
    i = sweeper.first
    block = f.blocks[i]
    assert isinstance(block, CategoricalBlock)
    n, k = block.shape[0], len(block.values)
    rows = rng.choice(n, k, replace=False)
    weights = np.full((n, k), _SURE)
    for j in range(k):
        weights[rows[j], j] = 0.0
        if not spread and j < k - 1:
            continue
        x = list(x)
        x[i] = [weights]
        x, _, _, proper = sweeper(x, keep=True)
        check_proper(f, proper, 0.0)
        if j == k - 1:
            break
        _, first, _, _ = sweeper(x)
        best = np.asarray(first[0])[:, : j + 1].max(1)
        surprise = np.where(np.isfinite(best), np.nanmax(best) - best, 0.0)
        surprise[rows[: j + 1]] = 0.0
        total = surprise.sum()
        if np.isfinite(total) and total > 0:
            rows[j + 1] = rng.choice(n, p=surprise / total)
    # All elements, each wholly to the component that explains it best, as in k-means: where a scale that all have in
    # common is still wide, one of them would else take all elements before the others have any.
    x = list(x)
    own = np.asarray(sweeper(x)[1][0])
    x[i] = [np.where(np.arange(k) == own.argmax(1)[:, None], 0.0, _SURE)]
    return sweeper(x, keep=True)[0]
