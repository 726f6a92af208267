"""Which exponential family each latent gets: the one whose sufficient statistics its moments are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.functions import IDENTITY, INDICATOR, INVERSE, LOG, LOG_DET, Function
from lowerbound.expectations.joint_scales import Scaled
from lowerbound.expectations.structure import Moment, Structure
from lowerbound.expectations.supports import is_number
from lowerbound.families.exponential import (
    BetaBlock,
    CategoricalBlock,
    DirichletBlock,
    ExponentialBlock,
    JointGaussianBlock,
    LogNormalBlock,
    NormalGammaBlock,
    NormalWishartBlock,
    PowerGammaBlock,
    TabulatedBlock,
    WishartBlock,
)

_LOG = LOG
_LOG_COMPLEMENT = IDENTITY.log_complement()
_LOG_SQUARED = _LOG * _LOG
#: Elements up to which a latent is tabulated.
_TABLES = 20_000


def blocks_of(structure: Structure, needed: Iterable[Moment]) -> list[ExponentialBlock]:
    """A block for each group of latents.

    Args:
        structure: Which latents share a block, and the functions of each that occur.
        needed: The moments that the factors ask for.

    Raises:
        NotClosedForm: a latent whose statistics are those of no family.
    """
    needed = set(needed)
    out: list[ExponentialBlock] = []
    for s in structure.scales():
        out.append(_joint(structure, s, needed))
    for group in structure.groups():
        if group.latents[0] in structure.scaled:
            continue
        names = group.latents
        first = {n: Moment((n,)) for n in names}
        second: dict[tuple[str, str], Any] = {}
        for i, a in enumerate(names):
            for b in names[i:]:
                if a == b or Moment((a, b)) in needed:
                    second[a, b] = Moment((a, b))
        shapes = {n: structure.latents[n].shape for n in names}
        out.append(JointGaussianBlock(shapes, group.plates, group.dense, first, second))
    for name, functions in structure.statistics.items():
        if name in structure.scaled:
            continue
        products = sorted({m.function for m in needed if m.latents == (name,) and m.function is not None}, key=str)
        out.append(block_of(structure, name, tuple(dict.fromkeys((*functions, *products)))))
    return out


def _joint(structure: Structure, s: Scaled, needed: set[Moment]) -> ExponentialBlock:
    """The block of Gaussian latents and the precision that scales them."""
    latent, group = structure.latents[s.scale], s.group
    if latent.support == "matrix":
        (name,) = group.latents
        keys = (Moment((s.scale,), LOG_DET), Moment((s.scale,), IDENTITY))
        both = (Moment((s.scale, name), s.function), Moment((s.scale, name, name), s.function))
        return NormalWishartBlock(s.scale, name, latent.shape, *keys, *both)
    names = group.latents
    first = {n: Moment((s.scale, n), s.function) for n in names}
    second = {}
    for i, a in enumerate(names):
        for b in names[i:]:
            if a == b or Moment((s.scale, a, b), s.function) in needed:
                second[a, b] = Moment((s.scale, a, b), s.function)
    shapes = {n: structure.latents[n].shape for n in names}
    gaussian = JointGaussianBlock(shapes, group.plates, group.dense, first, second)
    power = s.function.exponent
    assert power is not None
    log, raised = Moment((s.scale,), LOG), Moment((s.scale,), s.function)
    return NormalGammaBlock(gaussian, s.scale, latent.shape, power, log, raised)


def block_of(structure: Structure, name: str, functions: tuple[Function, ...]) -> ExponentialBlock:
    """The block of one latent that is not Gaussian."""
    latent = structure.latents[name]
    shape, asked = latent.shape, set(functions)

    def key(f: Function) -> Moment:
        return Moment((name,), f)

    if latent.support == "discrete":
        assert latent.values is not None
        return CategoricalBlock(name, shape, latent.values, key(INDICATOR))
    if latent.support == "simplex":
        if asked <= {_LOG}:
            return DirichletBlock(name, shape, key(_LOG))
        raise NotClosedForm(f"{_listed(asked - {_LOG})} of {name!r}, which for a simplex no family has")
    if latent.support == "matrix" and asked:
        for own, inverse in ((IDENTITY, False), (INVERSE, True)):
            if asked <= {own, LOG_DET}:
                return WishartBlock(name, shape, key(own), key(LOG_DET), inverse=inverse)
        raise NotClosedForm(f"both {name!r} and its inverse, which no family has")
    if latent.support == "positive":
        if asked == {_LOG, _LOG_SQUARED}:
            return LogNormalBlock(name, shape, key(_LOG), key(_LOG_SQUARED))
        rest = asked - {_LOG}
        if len(rest) == 1 and (power := next(iter(rest)).exponent) is not None:
            return PowerGammaBlock(name, shape, power, key(_LOG), key(next(iter(rest))))
    if latent.support == "unit" and asked <= {_LOG, _LOG_COMPLEMENT}:
        return BetaBlock(name, shape, key(_LOG), key(_LOG_COMPLEMENT))
    if not asked:
        raise NotClosedForm(f"a flat density of {name!r}, which is not proper")
    if is_number(latent.support):
        size = 1
        for n in shape:
            size *= n
        if size > _TABLES:
            raise NotClosedForm(f"{_listed(asked)} of {name!r}, for {size:,} elements")
        return TabulatedBlock(name, shape, latent.support, {key(f): f for f in functions})
    raise NotClosedForm(f"{name!r}, on whose support no family is")


def _listed(functions: Iterable[Function]) -> str:
    return ", ".join(sorted(map(str, functions)))
