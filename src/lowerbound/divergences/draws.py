"""The two arguments of a distance between draws: arrays, dictionaries by site, distributions, posteriors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpyro.distributions import Distribution

from lowerbound.divergences.laws import Given, check_counts, check_parameters, check_proper, described
from lowerbound.errors import DataError, IncompatibleError
from lowerbound.posterior import Posterior

#: First seed of draws that are made here: never one that a person would give to ``posterior.sample``, whose draws would
#: else be compared with themselves.
_FIRST_SEED = 0x5EED << 32


class Draws(NamedTuple):
    """Draws of p ``[n, d]`` and of q ``[m, d]``, and what to know of them."""

    x: np.ndarray
    y: np.ndarray
    note: str


def draws(p: Any, q: Any, *, num_draws: int, seed: int, least: int = 10) -> Draws:
    """Matrices of draws with the same columns.

    Args:
        p: Array ``[n, *event]``, mapping of such by site, NumPyro distribution, or posterior.
        q: The same.
        num_draws: Of each that is a distribution or posterior.
        seed: Of those; p and q have streams of their own.
        least: How many draws are needed.

    Raises:
        DataError: too few draws, or such as are not finite numbers.
        IncompatibleError: sites or shapes that are not the same.
    """
    check_counts(num_draws, seed)
    notes: list[str] = []
    a, b = _by_site("p", p, num_draws, 2 * seed, notes), _by_site("q", q, num_draws, 2 * seed + 1, notes)
    # A posterior's draws come with deterministics; its latent sites are what is compared, unless the other has these.
    for posterior, own, given, other in ((p, a, q, b), (q, b, p, a)):
        if isinstance(posterior, Posterior):
            named = isinstance(given, Mapping)
            for k in [k for k in own if k not in posterior.sites and not (named and k in other)]:
                own.pop(k)
            if named and set(own) <= set(other):
                for k in [k for k in other if k not in own]:
                    other.pop(k)
    if len(a) == len(b) == 1 and (None in a or None in b):
        name = next(iter(a))
        b = {name: next(iter(b.values()))}
    if set(a) != set(b):
        raise IncompatibleError(
            f"p is {described(p)}, with {_names(a)}, and q is {described(q)}, with {_names(b)}; needed: the same "
            "sites. Choose them: {name: draws[name] for name in (...)}."
        )
    for name in a:
        if a[name].shape[1:] != b[name].shape[1:]:
            raise IncompatibleError(
                f"{_where(name)}draws of p have shape {a[name].shape} and those of q {b[name].shape} (draws first); "
                "needed: the same but for the number of draws."
            )
    order = list(a)
    x, y = (np.concatenate([c[k].reshape(len(c[k]), -1) for k in order], 1) for c in (a, b))
    for side, z in (("p", x), ("q", y)):
        if len(z) < least:
            raise DataError(f"{side} has {len(z)} draws; needed: {least} or more.")
    return Draws(x, y, "; ".join(notes))


def _names(values: Mapping[str | None, Any]) -> str:
    return "no sites" if None in values else f"sites {sorted(map(str, values))}"


def _where(name: str | None) -> str:
    return "" if name is None else f"site {name!r}: "


def _by_site(side: str, a: Any, n: int, seed: int, notes: list[str]) -> dict[str | None, np.ndarray]:
    if isinstance(a, Posterior):
        if a.corrected:
            notes.append(f"draws of {side} are repaired ones, {a.effective:.0f} effective: se is as if all were")
        return {k: v for k, v in a.sample(n, seed=_FIRST_SEED + seed).items()}
    if isinstance(a, Distribution):
        if a.batch_shape:
            raise IncompatibleError(
                f"{side} is {type(a).__name__} with batch shape {a.batch_shape}; needed: one distribution. "
                f"For independent elements use {side}.to_event({len(a.batch_shape)})."
            )
        check_parameters(side, a)
        check_proper(side, a)
        return {None: np.asarray(Given(a).sample(n, (seed,)), np.float64)}
    if isinstance(a, Mapping):
        if not a:
            raise DataError(f"{side} is an empty mapping; needed: draws by site.")
        out: dict[str | None, np.ndarray] = {k: numbers(side, v, k) for k, v in a.items()}
        counts = {k: len(v) for k, v in out.items()}
        if len(set(counts.values())) > 1:
            raise DataError(f"{side} has a different number of draws by site: {counts}. Needed: one number.")
        return out
    return {None: numbers(side, a, None)}


def numbers(side: str, a: Any, name: str | None) -> np.ndarray:
    """Draws as an array of finite numbers ``[n, ...]``, or an error that says what came."""
    try:
        raw = np.asarray(a)
        out = None if a is None or raw.dtype.kind == "c" else raw.astype(np.float64)
    except (TypeError, ValueError):
        raw = out = None
    if raw is not None and raw.dtype.kind == "c":
        raise DataError(
            f"{_where(name)}{side} has complex numbers (shape {raw.shape}); needed: real ones. Compare real and "
            "imaginary parts as two columns."
        )
    if out is None:
        raise IncompatibleError(
            f"{_where(name)}{side} is {described(a)}; needed: draws (an array [n, ...], or a mapping of them by site), "
            "a NumPyro distribution, or a posterior of lowerbound."
        )
    if out.ndim == 0:
        raise DataError(f"{_where(name)}{side} is the number {out}; needed: draws, [n] or [n, ...].")
    if not out.size:
        raise DataError(
            f"{_where(name)}{side} has shape {out.shape}, and so no draws; needed: [n] or [n, ...] with some."
        )
    bad = ~np.isfinite(out)
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise DataError(
            f"{_where(name)}{int(bad.sum())} values of {side} are not finite, the first {out[bad][0]} in draw {row}; "
            "needed: numbers. Leave those draws out, and ask why they are there."
        )
    return out


def joined(*notes: str) -> str:
    """Notes as one."""
    return "; ".join(n for n in notes if n)
