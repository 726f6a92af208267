r"""Which factors a latent is in, element by element.

    log p(x, z) = sum_f sum_n log p_f[n],      n over the batch of factor f.

A factor depends on a latent if the program says so. Along a plate that both are in, element n of the factor depends on
element n of the latent alone: that is what a plate is. The elements of factors that depend on element n of a latent are
its Markov blanket, and

    sum over them = what of log p(x, z) changes with z_n.

That is all that the score of z_n has to be multiplied with, and all that has to be evaluated anew for other values of
z_n; for a latent of one row it has none of the noise of the other rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from lowerbound.errors import ModelError
from lowerbound.model.base import Model
from lowerbound.precision import float64


@dataclass(frozen=True)
class Node:
    """One factor.

    Attributes:
        name: Of its site.
        shape: Of its log probabilities.
        plates: From plates that its elements run along to dimensions, counted from the right.
        latents: That it depends on.
    """

    name: str
    shape: tuple[int, ...]
    plates: Mapping[str, int]
    latents: frozenset[str]


@dataclass(frozen=True, eq=False)
class FactorGraph:
    """The factors of a model, and the latents that each depends on.

    Attributes:
        model: Bound to its data.
        shapes: Of all latents, the discrete ones among them.
        factors: In the order of the model.
    """

    model: Model
    shapes: Mapping[str, tuple[int, ...]]
    factors: tuple[Node, ...]

    @staticmethod
    def of(model: Model) -> FactorGraph:
        """Trace a model once; nothing is compiled."""
        shapes = {n: tuple(s.shape) for n, s in (*model.sites.items(), *model.discrete.items())}
        stand_in = {n: jax.ShapeDtypeStruct(s, np.int64 if n in model.discrete else np.float64)
                    for n, s in shapes.items()}  # fmt: skip
        data = [jax.ShapeDtypeStruct(np.shape(a), a.dtype) for a in model.arguments]
        notes: list[Any] = []

        def run(latents: Mapping[str, Any], arguments: Sequence[Any]) -> list[Any]:
            notes.clear()
            assert model.distributions is not None
            notes.extend(model.distributions(latents, arguments))
            return [jnp.asarray(f.log_prob) for f in notes]

        with float64():
            closed = jax.make_jaxpr(run)(stand_in, data)
        known: dict[int, frozenset[str]] = {}
        for n, v in zip(sorted(shapes), closed.jaxpr.invars[: len(shapes)], strict=True):  # as JAX flattens them
            known[id(v)] = frozenset((n,))
        for eqn in closed.jaxpr.eqns:
            found = _union(known, eqn.invars)
            for v in eqn.outvars:
                known[id(v)] = found
        factors = []
        for f, v in zip(notes, closed.jaxpr.outvars, strict=True):
            shape = tuple(v.aval.shape)
            plates = {n: d for n, d in f.plates if -d <= len(shape) and shape[d] == model.plate_sizes.get(n, shape[d])}
            factors.append(Node(f.site, shape, plates, _union(known, [v])))
        return FactorGraph(model, shapes, tuple(factors))

    def log_probs(self, latents: Mapping[str, Any], arguments: Sequence[Any]) -> list[Any]:
        """log p_f ``[*batch]`` of every factor, at constrained latents."""
        assert self.model.distributions is not None
        return [jnp.asarray(f.log_prob) for f in self.model.distributions(latents, arguments)]

    def touching(self, latent: str) -> list[int]:
        """Places of the factors that depend on a latent."""
        return [i for i, f in enumerate(self.factors) if latent in f.latents]

    def shared(self, latent: str, factor: int) -> dict[int, int]:
        """From axes of a latent to those dimensions of a factor (from the right) that run along the same plate."""
        f = self.factors[factor]
        axes = self.model.plate_axes.get(latent, {})
        size = self.shapes[latent]
        return {a: f.plates[n] for n, a in axes.items() if n in f.plates and f.shape[f.plates[n]] == size[a]}

    def free_axes(self, latent: str) -> tuple[int, ...]:
        """Axes of a latent along which some factor depends on several of its elements at once."""
        shape = self.shapes[latent]
        together = [set(self.shared(latent, i)) for i in self.touching(latent)]
        return tuple(a for a, n in enumerate(shape) if n > 1 and any(a not in s for s in together))

    def blanket(self, latent: str, log_probs: Mapping[int, Any]) -> Any:
        """What of log p(x, z) changes with each element of a latent, as far as these factors go: ``[*shape]``.

        Args:
            latent: Its name.
            log_probs: Of factors that depend on it, by their places.
        """
        shape = self.shapes[latent]
        total = jnp.zeros(shape)
        for i, a in log_probs.items():
            shared = self.shared(latent, i)
            dims = {d % a.ndim: axis for axis, d in shared.items()}
            kept = a.sum(tuple(j for j in range(a.ndim) if j not in dims))
            order = [dims[j] for j in sorted(dims)]  # the latent's axes, in the order of what is left
            kept = kept.transpose(np.argsort(order)) if order else kept
            total = total + kept.reshape([n if axis in shared else 1 for axis, n in enumerate(shape)])
        return total

    def spread(self, latent: str, factor: int, values: Any) -> Any:
        """An array ``[*shape]`` of a latent without free axes, so that it broadcasts with a factor's elements."""
        shared, ndim = self.shared(latent, factor), len(self.factors[factor].shape)
        order = sorted(shared, key=lambda axis: shared[axis])
        single = [axis for axis in range(values.ndim) if axis not in shared]
        shape = [1] * ndim
        for axis in order:
            shape[shared[axis] % ndim] = self.shapes[latent][axis]
        return values.transpose([*single, *order]).reshape(shape)

    def check_plates(self, before: Mapping[str, Any], log_probs: Any) -> None:
        """See that the model keeps to its plates where discrete latents are concerned.

        Args:
            before: Values of all latents.
            log_probs: :meth:`log_probs` as a function of them.

        Raises:
            ModelError: an element of a factor changes with another row of a latent in its own plate.

        Cost: one evaluation of the factors for each discrete latent and plate of it.
        """
        base = [np.asarray(a) for a in log_probs(before)]
        for name, site in self.model.discrete.items():
            for plate, axis in self.model.plate_axes.get(name, {}).items():
                half = np.random.default_rng(0).permutation(site.shape[axis]) % 2 == 1
                odd = half.reshape([-1 if a == axis else 1 for a in range(len(site.shape))])
                place = np.searchsorted(site.values, np.asarray(before[name]))
                other = site.values[(place + 1) % len(site.values)]
                moved = log_probs({**before, name: np.where(odd, other, before[name])})
                for i in self.touching(name):
                    dim = self.shared(name, i).get(axis)
                    if dim is None:
                        continue
                    still: list[Any] = [slice(None)] * base[i].ndim
                    still[dim] = ~half  # rows whose own element has not moved
                    a, b = base[i][tuple(still)], np.asarray(moved[i])[tuple(still)]
                    if not np.allclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True):
                        raise ModelError(
                            f"factor {self.factors[i].name!r} and the discrete latent {name!r} are both in the plate "
                            f"{plate!r}, but rows of the one change with other rows of the other. Rows of a plate are "
                            f"independent given what is outside of it: take {self.factors[i].name!r} out of the plate "
                            "(with .to_event(), or to a plate of its own)."
                        )


def _union(known: Mapping[int, frozenset[str]], variables: Sequence[Any]) -> frozenset[str]:
    out: frozenset[str] = frozenset()
    for v in variables:
        if not isinstance(v, jex.Literal):
            out = out | known.get(id(v), frozenset())
    return out
