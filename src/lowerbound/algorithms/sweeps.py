r"""A sweep over all blocks, compiled.

Three programs, with the moments of every block but the first as arguments between them (XLA would otherwise compute a
digamma once more for every element that looks it up):

* *first*: the first block's optimum, and the ELBO right there;
* *others*: the other blocks, one after another, given the moments of the first;
* *moments*: those of natural parameters that come from outside, and whether they are proper.

With a discrete block first the ELBO costs nothing beyond the update: E_q[log p] of the terms that the block is in is
its probabilities times their coefficients, which are its natural parameters eta, and with its entropy that is
sum log sum_k exp(eta_k).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.algorithms.factored import Factored, Naturals
from lowerbound.algorithms.sampled_terms import natural_key
from lowerbound.compilation import Lifted, compile_once, lift
from lowerbound.errors import ModelError
from lowerbound.families.exponential import CategoricalBlock
from lowerbound.precision import float64


class Position(list):
    """Natural parameters of every block, as lists in the order of its keys; with the moments of all but the first."""

    moments: list[list[Any]] | None = None
    proper: Any = None


@dataclass(eq=False)
class Sweeper:
    """Sweeps over the blocks of a model.

    Args:
        factored: The exact ELBO.
        last: Latents whose blocks are updated after all others: those started from given values.

    Attributes:
        order: Blocks in the order of their updates: discrete ones, those with most elements in plates, the others.
        sweeps: Made so far.
    """

    factored: Factored
    last: Sequence[str] = ()
    order: list[int] = field(init=False)
    sweeps: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        f = self.factored = self.factored.with_alike()
        given = [i for i, b in enumerate(f.blocks) if set(b.latents) & set(self.last)]
        discrete = [i for i, b in enumerate(f.blocks) if isinstance(b, CategoricalBlock)]
        local = [i for i in _local(f) if i not in discrete]
        rest = [i for i in range(len(f.blocks)) if i not in discrete and i not in local]
        order = [*discrete, *local, *rest]
        # A block that was given comes last, unless it is the one that a sweep can begin by keeping.
        kept = order[0]
        late = [i for i in order if i in given and i != kept]
        self.order = [i for i in order if i not in late] + late
        self.first, self.rest = self.order[0], self.order[1:]
        with float64():
            start = [b.start(np.random.default_rng(0), 0.0) for b in f.blocks]
            shapes = [_shapes(b.keys, n) for b, n in zip(f.blocks, start, strict=True)]
            mine, others = shapes[self.first], [shapes[i] for i in self.rest]
            own = jax.eval_shape(lambda x: self._moments_of([self.first], [x])[0], mine)
            self._own_shapes = [s.shape for s in own]
            self._to_moments = _Compiled(self._run_moments, (others,))
            theirs = self._to_moments.lifted.shapes[0]
            self._to_first = _Compiled(self._run_first, (mine, others, theirs))
            self._to_others = _Compiled(self._run_others, (mine, own, others, theirs))
            self._to_first.compile()
            if self.rest:
                self._to_others.compile()

    # -- programs ------------------------------------------------------------------------------------

    def _moments_of(self, indices: Sequence[int], naturals: Sequence[Any]) -> list[list[Any]]:
        blocks = [self.factored.blocks[i] for i in indices]
        found = [b.moments(dict(zip(b.keys, n, strict=True))) for b, n in zip(blocks, naturals, strict=True)]
        return [[m[k] for k in b.keys] for b, m in zip(blocks, found, strict=True)]

    def _gathered(self, indices: Sequence[int], naturals: Sequence[Any], moments: Sequence[Any]) -> dict[Any, Any]:
        """The moments of some blocks by key, with natural parameters where sampled terms ask for them."""
        out: dict[Any, Any] = {}
        for i, n, m in zip(indices, naturals, moments, strict=True):
            b = self.factored.blocks[i]
            out |= dict(zip(b.keys, m, strict=True))
            if self.factored.sampled:
                out[natural_key(b)] = dict(zip(b.keys, n, strict=True))
        return out

    def _by_block(self, mine: Any, others: Sequence[Any]) -> Naturals:
        out: list[Any] = [None] * len(self.factored.blocks)
        for i, n in zip(self.order, (mine, *others), strict=True):
            out[i] = dict(zip(self.factored.blocks[i].keys, n, strict=True))
        return out

    def _run_first(self, mine: Any, others: Any, theirs: Any) -> Any:
        f, i = self.factored, self.first
        block = f.blocks[i]
        naturals = self._by_block(mine, others)
        moments = self._gathered(self.rest, others, theirs)
        needed = f.curved(i) or f.touching(i)[1]
        before = self._moments_of([i], [mine])[0] if needed else [jnp.zeros(s) for s in self._own_shapes]
        moments |= self._gathered([i], [mine], [before])
        best = f.updated(i, naturals, moments)
        naturals[i] = best
        moments |= f.block_moments(i, best)
        terms, bounds = f.touching(i)
        entropy = sum((f.blocks[j].entropy(naturals[j]) for j in self.rest), jnp.zeros(()))
        if bounds or f.curved(i) or block.times != 1:
            elbo = f.energy(moments) + entropy + block.entropy(best)
        else:
            near = set(map(id, terms))
            elbo = f.energy(moments, [t for t in f.terms if id(t) not in near], f.bounds) + entropy
            if isinstance(block, CategoricalBlock):
                elbo = elbo + jax.scipy.special.logsumexp(best[block.indicator], axis=-1).sum()
            else:
                elbo = elbo + sum((best[k] * moments[k]).sum() for k in block.keys) + block.entropy(best)
        # (Where there are others, they say of all blocks whether they are proper.)
        proper = jnp.asarray(True) if self.rest else block.proper(best)
        return [best[k] for k in block.keys], [moments[k] for k in block.keys], elbo, proper[None]

    def _run_others(self, mine: Any, own: Any, others: Any, theirs: Any) -> Any:
        f = self.factored
        naturals = self._by_block(mine, others)
        moments = self._gathered(self.rest, others, theirs) | self._gathered([self.first], [mine], [own])
        for j in self.rest:
            naturals[j] = f.updated(j, naturals, moments)
            moments |= f.block_moments(j, naturals[j])
        blocks = [(j, f.blocks[j]) for j in self.rest]
        proper = jnp.stack([f.blocks[i].proper(naturals[i]) for i in self.order])
        return (
            [[naturals[j][k] for k in b.keys] for j, b in blocks],
            [[moments[k] for k in b.keys] for _, b in blocks],
            proper,
        )

    def _run_moments(self, others: Any) -> Any:
        blocks = [self.factored.blocks[j] for j in self.rest]
        proper = [b.proper(dict(zip(b.keys, n, strict=True))) for b, n in zip(blocks, others, strict=True)]
        return self._moments_of(self.rest, others), jnp.stack([jnp.asarray(True), *proper])

    # -- a sweep -------------------------------------------------------------------------------------

    def __call__(self, x: Sequence[Any], *, keep: bool = False) -> tuple[Position, list[Any], float, np.ndarray]:
        """One sweep from natural parameters ``x``; ``keep`` leaves the first block as it is.

        What is kept of a discrete block are log weights, which need not sum to one: elements without any take no
        part.

        Returns:
            The next natural parameters; the first block's, updated; the ELBO of ``x`` with that in place (minus
            infinity where the first block was kept, nan where ``x`` is no distribution); and which blocks are proper
            after the sweep.
        """
        self.sweeps += 1
        others = [x[j] for j in self.rest]
        theirs = getattr(x, "moments", None)
        sound = True
        if theirs is None:
            theirs, proper = self._to_moments(others)
            sound = bool(np.asarray(proper).all())
        block = self.factored.blocks[self.first]
        if keep:
            mine, elbo = x[self.first], -np.inf
            own = [np.exp(np.asarray(a)) for a in mine]
            with float64():
                given = [jnp.asarray(a) for a in mine]
                if not isinstance(block, CategoricalBlock):
                    own = self._moments_of([self.first], [given])[0]
                if not self.rest:
                    proper = [block.proper(dict(zip(block.keys, given, strict=True)))]
        else:
            mine, own, elbo, proper = self._to_first(x[self.first], others, theirs)
            elbo = float(elbo) if sound else np.nan
        if self.rest:
            others, theirs, proper = self._to_others(mine, own, others, theirs)
        after = Position([None] * len(self.order))
        for i, n in zip(self.order, (mine, *others), strict=True):
            after[i] = n
        after.moments = theirs
        by_block = np.empty(len(self.order), bool)
        by_block[self.order] = np.asarray(proper)
        return after, list(mine), elbo, by_block

    def middle(self, x: Sequence[Any], first: list[Any]) -> list[Any]:
        """x with its first block replaced: what the ELBO of a sweep belongs to."""
        out = list(x)
        out[self.first] = first
        return out


def _local(f: Factored) -> list[int]:
    """Blocks of latents in plates, those of the plate with most rows alone: nothing else is as many."""
    most, found = 0, []
    for i, b in enumerate(f.blocks):
        for n in b.latents:
            for axis in f.plate_axes.get(n, {}).values():
                rows = f.structure.latents[n].shape[axis]
                if rows > most:
                    most, found = rows, [i]
                elif rows == most and i not in found:
                    found.append(i)
    return found


def _shapes(keys: Sequence[Any], natural: Any) -> list[Any]:
    return [jax.ShapeDtypeStruct(np.shape(natural[k]), np.float64) for k in keys]


class _Compiled:
    """A function whose constants have become arguments, compiled once."""

    def __init__(self, function: Callable[..., Any], shapes: tuple[Any, ...]):
        self._function, self._shapes, self._program = function, shapes, None

    @cached_property
    def lifted(self) -> Lifted:
        """The function traced."""
        with float64():
            return lift(lambda x, _: self._function(*x), self._shapes, [])

    def compile(self) -> Any:
        if self._program is None:
            self._arguments = jax.device_put(self.lifted.arguments)
            program = self.lifted.call
            self._program, _ = compile_once(lambda x, a: program(x, a), self._shapes, self._arguments, direct=True)
        return self._program

    def __call__(self, *arguments: Any) -> Any:
        with float64():
            return self.compile()(arguments, self._arguments)


def check_proper(factored: Factored, proper: Any, elbo: float) -> None:
    """Refuse to go on with what is no distribution.

    Raises:
        ModelError: a block's optimum has no finite normaliser, or the ELBO is not finite.
    """
    bad = [b for b, ok in zip(factored.blocks, np.asarray(proper), strict=True) if not ok]
    if bad:
        names = ", ".join(repr(n) for b in bad for n in b.latents)
        raise ModelError(
            f"coordinate ascent: given the rest, the optimum of {names} ({bad[0].family}) is no distribution: its "
            "density does not integrate to a finite number. Give it a proper prior; check that precision matrices are "
            "positive definite and that data lie in their support."
        )
    if np.isnan(elbo) or elbo == np.inf:
        raise ModelError(
            f"coordinate ascent: the ELBO is {elbo}. Check the data for values that the model gives no density to, "
            "and the priors' parameters."
        )
