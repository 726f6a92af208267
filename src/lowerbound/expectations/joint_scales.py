r"""Gaussian latents that occur only together with the precision that scales them: normal-gamma and normal-Wishart.

If every term with a Gaussian latent x in it has exactly one factor u = s^p of one positive latent s, at the same place
of their plates, the log joint is linear in log s, u, u x and u x_i x_j: statistics of one exponential family over s and
x together. Of a matrix latent L and a vector mu it asks that every term with mu in it be L mu (contracted once) or
mu' L mu (contracted twice).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lowerbound.expectations.atoms import Atom, Latent
from lowerbound.expectations.axes import Axis, Index, same_index
from lowerbound.expectations.functions import IDENTITY, LOG, LOG_DET, Function
from lowerbound.expectations.values import Term


class Scaled(NamedTuple):
    """A latent that scales a Gaussian group.

    Attributes:
        scale: Its name.
        function: u as a function of it: x^p, or x for a matrix.
        group: The Gaussian group.
    """

    scale: str
    function: Function
    group: Any


def scaled_groups(
    terms: Sequence[Term],
    latents: Mapping[str, Latent],
    gaussian: Mapping[str, Any],
    functions: Mapping[str, Iterable[Function]],
    curved: Iterable[str],
) -> dict[str, Scaled]:
    """From the names of latents (the scales and the Gaussian ones) to the joint block that they share."""
    out: dict[str, Scaled] = {}
    curved = set(curved)
    for group in {id(g): g for g in gaussian.values()}.values():
        mine = [t for t in terms if any(a.latent.name in group.latents for a in t.atoms)]
        if not mine or curved & set(group.latents):
            continue
        candidates = [a.latent for a in mine[0].atoms if a.latent.support in ("positive", "matrix")]
        for latent in candidates:
            own = set(functions[latent.name])
            function = next((f for f in own if f not in (LOG, LOG_DET)), None)
            fits = _matrix if latent.support == "matrix" else _number
            rest = {LOG_DET} if latent.support == "matrix" else {LOG}
            if function is None or len(own - rest) != 1 or latent.name in curved or latent.name in out:
                continue
            if latent.support == "matrix" and function != IDENTITY:
                continue
            if latent.support == "positive" and function.exponent is None:
                continue
            if all(fits(t, latent, function, group) for t in mine):
                found = Scaled(latent.name, function, group)
                out |= dict.fromkeys((latent.name, *group.latents), found)
                break
    return out


def _scale_of(t: Term, latent: Latent, function: Function) -> Atom | None:
    own = [a for a in t.atoms if a.latent is latent]
    return own[0] if len(own) == 1 and own[0].function == function and t.exponent is None else None


def _number(t: Term, latent: Latent, function: Function, group: Any) -> bool:
    """Whether a term has one u in it, at the plates' place of every Gaussian atom."""
    scale = _scale_of(t, latent, function)
    if scale is None:
        return False
    if not latent.shape:
        return True
    if latent.shape != group.plate_shape:
        return False
    for a in t.atoms:
        if a.latent.name in group.latents:
            place = [a.index[i] for i in group.plates[a.latent.name]]
            if not all(map(same_index, place, scale.index)):
                return False
    return True


def _matrix(t: Term, latent: Latent, function: Function, group: Any) -> bool:
    """Whether a term is L mu or mu' L mu, contracted."""
    if len(group.latents) != 1:
        return False
    (name,) = group.latents
    scale = _scale_of(t, latent, function)
    if scale is None or len(group.dense[name]) > 1 or latent.shape[:-2] != group.plate_shape:
        return False
    vectors = [a for a in t.atoms if a.latent.name == name]
    last = len(vectors[0].latent.shape) - 1
    if (group.dense[name] or (last,)) != (last,) or vectors[0].latent.shape[-1] != latent.shape[-1]:
        return False
    i, j = scale.index[-2:]
    ends = [v.index[last] for v in vectors]
    if not isinstance(i, Axis) or not isinstance(j, Axis) or i is j or len(vectors) > 2:
        return False
    if len(vectors) == 2 and {id(ends[0]), id(ends[1])} != {id(i), id(j)}:
        return False
    if len(vectors) == 1 and ends[0] is not i and ends[0] is not j:
        return False
    plates = list(range(last))
    for v in vectors:
        if not all(same_index(v.index[k], scale.index[n]) for n, k in enumerate(plates)):
            return False
    others = [a for a in t.atoms if a is not scale and a not in vectors]
    for end in ends:
        inside = any(end in c.axes for c in t.constants) or any(end in a.axes for a in others)
        if inside or end not in t.summed:
            return False
    return True


def joint_moment(found: Scaled, scale: Atom, atoms: Sequence[Atom]) -> tuple[tuple[str, ...], tuple[Index, ...]]:
    """The names and the index of E[u x], E[u x y], E[L mu] or E[mu' L mu]."""
    group = found.group
    if scale.latent.support == "matrix":
        (name,) = group.latents
        i, j = scale.index[-2:]
        if len(atoms) == 2:
            return (scale.latent.name, name, name), scale.index[:-2]
        free = i if atoms[0].index[-1] is j else j
        return (scale.latent.name, name), (*scale.index[:-2], free)
    if len(atoms) == 1:
        return (scale.latent.name, atoms[0].latent.name), atoms[0].index
    order = {n: k for k, n in enumerate(group.latents)}
    a, b = sorted(atoms, key=lambda x: order[x.latent.name])
    index = [a.index[k] for k in group.plates[a.latent.name]]
    index += [a.index[k] for k in group.dense[a.latent.name]] + [b.index[k] for k in group.dense[b.latent.name]]
    return (scale.latent.name, a.latent.name, b.latent.name), tuple(index)
