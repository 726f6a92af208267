"""Exponential-family blocks as plain data, for files: what each is made from, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerbound.expectations.functions import Function, Part
from lowerbound.families.exponential.base import ExponentialBlock
from lowerbound.families.exponential.beta import BetaBlock
from lowerbound.families.exponential.categorical import CategoricalBlock
from lowerbound.families.exponential.dirichlet import DirichletBlock
from lowerbound.families.exponential.gaussian import JointGaussianBlock
from lowerbound.families.exponential.log_normal import LogNormalBlock
from lowerbound.families.exponential.normal_gamma import NormalGammaBlock
from lowerbound.families.exponential.normal_wishart import NormalWishartBlock
from lowerbound.families.exponential.power_gamma import PowerGammaBlock
from lowerbound.families.exponential.tabulated import TabulatedBlock
from lowerbound.families.exponential.von_mises import VonMisesBlock
from lowerbound.families.exponential.wishart import WishartBlock

#: Kinds of a function's parts that a name and a number tell whole.
_PLAIN = ("power", "log", "log_complement")


def describe(block: ExponentialBlock) -> dict[str, Any]:
    """What a block is made from, as numbers, names and lists; its keys become their places.

    Raises:
        ValueError: a statistic that only the model's own code can evaluate.
    """
    kind = next(k for k, c in _KINDS.items() if type(block) is c)
    out: dict[str, Any] = {"kind": kind, "latents": list(block.latents)}
    if isinstance(block, JointGaussianBlock):
        names = block.latents
        return out | {
            "shapes": [list(block.shapes[n]) for n in names],
            "plates": [list(block.plates[n]) for n in names],
            "dense": [list(block.dense[n]) for n in names],
            "second": [list(pair) for pair in block.second],
        }
    if isinstance(block, NormalGammaBlock):
        inner = {"name": block.name, "power": block.power, "shape": list(block.shape)}
        return out | inner | {"gaussian": describe(block.gaussian)}
    out["shape"] = list(block.shape)  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(block, PowerGammaBlock):
        out["power"] = block.power
    elif isinstance(block, CategoricalBlock):
        out["values"] = [int(v) for v in block.values]
    elif isinstance(block, WishartBlock):
        out["inverse"] = block.inverse
    elif isinstance(block, TabulatedBlock):
        out["support"] = block.support
        out["statistics"] = [_function(f) for f in block.statistics.values()]
    return out


def rebuild(d: dict[str, Any]) -> ExponentialBlock:
    """The block of :func:`describe`, its keys whole numbers in the order of its statistics."""
    names, kind = d["latents"], d["kind"]
    if kind == "gaussian":
        pairs = [tuple(p) for p in d["second"]]
        return JointGaussianBlock(
            {n: tuple(s) for n, s in zip(names, d["shapes"], strict=True)},
            {n: tuple(s) for n, s in zip(names, d["plates"], strict=True)},
            {n: tuple(s) for n, s in zip(names, d["dense"], strict=True)},
            {n: i for i, n in enumerate(names)},
            {p: len(names) + i for i, p in enumerate(pairs)},  # pyright: ignore[reportArgumentType]
        )
    name, shape = names[0], tuple(d["shape"])
    if kind == "normal_gamma":
        inner = rebuild(d["gaussian"])
        assert isinstance(inner, JointGaussianBlock)
        first = {n: 2 + k for n, k in inner.first.items()}  # pyright: ignore[reportOperatorIssue]
        second = {p: 2 + k for p, k in inner.second.items()}  # pyright: ignore[reportOperatorIssue]
        inner = JointGaussianBlock(inner.shapes, inner.plates, inner.dense, first, second)
        return NormalGammaBlock(inner, name, shape, d["power"], 0, 1)
    if kind == "normal_wishart":
        return NormalWishartBlock(name, names[1], shape, 0, 1, 2, 3)
    if kind == "power_gamma":
        return PowerGammaBlock(name, shape, d["power"], 0, 1)
    if kind == "log_normal":
        return LogNormalBlock(name, shape, 0, 1)
    if kind == "beta":
        return BetaBlock(name, shape, 0, 1)
    if kind == "dirichlet":
        return DirichletBlock(name, shape, 0)
    if kind == "von_mises":
        return VonMisesBlock(name, shape, 0, 1)
    if kind == "categorical":
        return CategoricalBlock(name, shape, np.asarray(d["values"]), 0)
    if kind == "wishart":
        return WishartBlock(name, shape, 0, 1, inverse=d["inverse"])
    functions = [Function(tuple(Part(k, a) for k, a in parts)) for parts in d["statistics"]]
    return TabulatedBlock(name, shape, d["support"], dict(enumerate(functions)))


def _function(f: Function) -> list[list[Any]]:
    if any(p.kind not in _PLAIN or p.call is not None for p in f.parts):
        raise ValueError(f"the statistic {f}")
    return [[p.kind, p.parameter] for p in f.parts]


_KINDS: dict[str, type] = {
    "gaussian": JointGaussianBlock,
    "normal_gamma": NormalGammaBlock,
    "normal_wishart": NormalWishartBlock,
    "power_gamma": PowerGammaBlock,
    "log_normal": LogNormalBlock,
    "beta": BetaBlock,
    "dirichlet": DirichletBlock,
    "categorical": CategoricalBlock,
    "von_mises": VonMisesBlock,
    "wishart": WishartBlock,
    "tabulated": TabulatedBlock,
}
