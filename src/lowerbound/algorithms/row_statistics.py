r"""What a batch of rows leaves behind: the statistics of its row terms.

Of row terms that are linear in the moments of global latents, a batch leaves behind its *statistics*: the einsum of its
constants and local moments, one array for each term over the indices that global latents have in it. They are additive:
statistics of batches sum to those of all rows, and E_q[log p] given them needs no rows any more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

from lowerbound.errors import IncompatibleError
from lowerbound.expectations.axes import Axis, Const, Index, Lookup, contract, gather, index_axes
from lowerbound.expectations.moments import Contraction
from lowerbound.expectations.structure import Moment


@dataclass(frozen=True, eq=False)
class Statistic:
    """What a row term leaves behind when its rows have been summed.

    Args:
        term: The term of all rows.
        axis: Of its rows.
        local: Names of local latents.
        shapes: Of the arrays of global moments.

    Attributes:
        axes: Of the array that is kept.
        moments: The global moments, over those axes.
        looked_up: Pairs of a new axis and the lookup along rows that it stands in for.
    """

    term: Contraction
    axis: Axis
    local: frozenset[str]
    shapes: Mapping[Any, tuple[int, ...]]
    axes: tuple[Axis, ...] = field(init=False)
    moments: tuple[tuple[Moment, tuple[Index, ...]], ...] = field(init=False)
    looked_up: tuple[tuple[Axis, Moment, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        moments, looked_up = [], []
        axes: dict[Axis, None] = {}
        if self.term.exponents is not None:
            raise IncompatibleError("the exponential of a Gaussian has no statistics that sum over rows.")
        for m, index in self.term.moments:
            if m.latents[-1] in self.local:
                continue
            out: list[Index] = []
            for place, i in enumerate(index):
                along = i is self.axis or (isinstance(i, Lookup) and self.axis in i.axes)
                if not along:
                    out.append(i)
                    continue
                if isinstance(i, Lookup) and i.axes != (self.axis,):
                    raise IncompatibleError("an index that depends on more than the row has no statistics.")
                new = Axis(self.shapes[m][place])
                looked_up.append((new, m, place))
                out.append(new)
            axes.update(dict.fromkeys(index_axes(out)))
            moments.append((m, tuple(out)))
        put(self, "axes", tuple(axes))
        put(self, "moments", tuple(moments))
        put(self, "looked_up", tuple(looked_up))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(a.size for a in self.axes)


def collected(s: Statistic, restricted: Contraction, rows_axis: Axis, moments: Mapping[Any, Any]) -> Any:
    """The array of a statistic over a batch.

    Args:
        s: Which.
        restricted: The term on the batch.
        rows_axis: Its axis of rows.
        moments: Of local latents.
    """
    operands = list(restricted.constants)
    lookups: list[Any] = []
    for m, index in restricted.moments:
        if m.latents[-1] in s.local:
            operands.append(gather(moments[m], index))
            continue
        for i in index:
            if i is rows_axis or (isinstance(i, Lookup) and rows_axis in i.axes):
                lookups.append(jnp.arange(rows_axis.size) if isinstance(i, Axis) else i.array)
    plain = tuple(a for a in s.axes if a not in {x for x, _, _ in s.looked_up})
    if not lookups:
        c = contract(operands, plain) if operands else Const(jnp.ones(()), ())
        if rows_axis not in {a for o in operands for a in o.axes}:
            c = Const(c.array * rows_axis.size, c.axes)
        return _filled(c, s.axes)
    c = contract(operands, (rows_axis, *plain)) if operands else Const(jnp.ones(()), ())
    whole = _filled(c, (rows_axis, *plain))
    scattered = jnp.zeros((*(x.size for x, _, _ in s.looked_up), *(a.size for a in plain)))
    scattered = scattered.at[tuple(lookups)].add(whole)
    now = (*(x for x, _, _ in s.looked_up), *plain)
    return scattered.transpose([now.index(a) for a in s.axes])


def _filled(c: Const, axes: tuple[Axis, ...]) -> Any:
    order = [c.axes.index(a) for a in axes if a in c.axes]
    array = jnp.asarray(c.array).transpose(order) if c.axes else jnp.asarray(c.array)
    array = array.reshape([a.size if a in c.axes else 1 for a in axes])
    return jnp.broadcast_to(array, [a.size for a in axes])


def from_statistics(s: Statistic, array: Any) -> Contraction:
    """The term, with its rows summed."""
    return Contraction((Const(array, s.axes),), s.moments, None, (), ())


def numbers(statistics: Sequence[Statistic]) -> int:
    """How many numbers they are."""
    return sum(math.prod(s.shape) for s in statistics)
