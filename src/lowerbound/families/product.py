"""Products of blocks over disjoint groups of sites: mean field between them, anything within."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowerbound.errors import IncompatibleError, unknown_name
from lowerbound.families.arrow import Arrow
from lowerbound.families.base import Block, Family
from lowerbound.families.flow import Flow
from lowerbound.families.linalg import namespace
from lowerbound.families.particles import Particles
from lowerbound.families.point_mass import PointMass
from lowerbound.families.sinh_arcsinh import SinhArcsinh
from lowerbound.model.base import Model


@dataclass(frozen=True, eq=False)
class ProductBlock(Block):
    """q(x) = prod_j q_j(x[index_j]).

    Args:
        blocks: The factors.
        indices: Coordinates of each; together they are all of ``0..p-1``, each once.
    """

    blocks: tuple[Block, ...]
    indices: tuple[np.ndarray, ...]

    @property
    def dimension(self) -> int:
        return sum(b.dimension for b in self.blocks)

    @property
    def noise_dimension(self) -> int:
        return sum(b.noise_dimension for b in self.blocks)

    def _assemble(self, parts: Sequence[Any]) -> Any:
        order = np.argsort(np.concatenate(self.indices))
        return namespace(*parts).concatenate(parts, -1)[..., order]

    @property
    def mean(self) -> Any:
        return self._assemble([b.mean for b in self.blocks])

    def transform(self, noise: Any) -> Any:
        cuts = np.cumsum([b.noise_dimension for b in self.blocks])
        pieces = [noise[..., c - b.noise_dimension : c] for c, b in zip(cuts, self.blocks, strict=True)]
        return self._assemble([b.transform(e) for b, e in zip(self.blocks, pieces, strict=True)])

    def log_prob(self, x: Any) -> Any:
        return sum(b.log_prob(x[..., i]) for b, i in zip(self.blocks, self.indices, strict=True))

    def entropy(self) -> Any:
        return sum(b.entropy() for b in self.blocks)

    def variance(self) -> Any:
        return self._assemble([b.variance() for b in self.blocks])

    def covariance(self) -> np.ndarray:
        out = np.zeros((self.dimension, self.dimension))
        for b, i in zip(self.blocks, self.indices, strict=True):
            out[np.ix_(i, i)] = b.covariance() if hasattr(b, "covariance") else np.diag(b.variance())  # pyright: ignore
        return out

    def rescale(self, shift: np.ndarray, scale: np.ndarray) -> ProductBlock:
        parts = tuple(b.rescale(shift[i], scale[i]) for b, i in zip(self.blocks, self.indices, strict=True))  # pyright: ignore
        return ProductBlock(parts, self.indices)

    def arrays(self) -> dict[str, np.ndarray]:
        out = {f"index{j}": i for j, i in enumerate(self.indices)}
        for j, b in enumerate(self.blocks):
            out |= {f"block{j}.{k}": v for k, v in b.arrays().items()}
        return out


@dataclass(frozen=True, eq=False)
class Product(Family):
    """A family for each group of sites, independent between groups.

    Args:
        blocks: From a site name, a tuple of names, or ``...`` (all other sites) to a family.

    Example:
        >>> import lowerbound as lb
        >>> q = lb.families.Product({("mu", "tau"): lb.families.Dense(), ...: lb.families.Diagonal()})
    """

    blocks: Mapping[Any, Family]
    name = "product"

    def __post_init__(self) -> None:
        if not isinstance(self.blocks, Mapping) or not self.blocks:
            raise IncompatibleError(
                "Product needs a dictionary from sites to families, for example "
                'Product({"mu": Dense(), ("a", "b"): Diagonal()}).'
            )
        for key, family in self.blocks.items():
            if key is not ... and not isinstance(key, (str, tuple, list)):
                raise IncompatibleError(
                    f"Product: {key!r} is no site name; needed: a name, a tuple of names, or `...`."
                )
            if not isinstance(family, Family) or isinstance(
                family, (Arrow, Product, Particles, PointMass, Flow, SinhArcsinh)
            ):
                raise IncompatibleError(
                    f"Product: {key!r} is given {family!r}; needed: Dense(), Diagonal() or LowRank(). "
                    "(A point mass has no density, so neither has a product with one; arrows, flows and "
                    "sinh-arcsinh are fitted to all sites together.)"
                )

    def bind(self, model: Model) -> BoundProduct:
        """Resolve site names to coordinates.

        Raises:
            UnknownNameError: a site that the model does not have.
            IncompatibleError: a site in two blocks, or in none.
        """
        groups: list[tuple[Family, list[str]]] = []
        seen: dict[str, object] = {}
        for key, family in self.blocks.items():
            if key is ...:
                continue
            names = [key] if isinstance(key, str) else list(key)
            for n in names:
                if n not in model.sites:
                    raise unknown_name("site", n, model.sites)
                if n in seen:
                    raise IncompatibleError(f"Product: site {n!r} is in two blocks, {seen[n]!r} and {key!r}.")
                seen[n] = key
            groups.append((family, names))
        rest = [n for n in model.sites if n not in seen]
        if rest and ... not in self.blocks:
            raise IncompatibleError(
                f"Product: sites {rest} are in no block. Add them, or a block for `...` (the rest)."
            )
        if rest:
            groups.append((self.blocks[...], rest))
        coordinates = [
            np.concatenate([np.arange(model.sites[n].start, model.sites[n].slice.stop) for n in names])
            for _, names in groups
        ]
        return BoundProduct(tuple(f for f, _ in groups), tuple(coordinates))

    def build(self, mean: np.ndarray, covariance: np.ndarray) -> ProductBlock:
        raise self._unbound()

    def parameters(self, block: Any) -> dict[str, Any]:
        raise self._unbound()

    def elbo_gradient(self, block: Any, noise: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        raise self._unbound()

    def from_parameters(self, parameters: dict[str, Any]) -> ProductBlock:
        raise self._unbound()

    @staticmethod
    def _unbound() -> IncompatibleError:
        return IncompatibleError(
            "Product names sites, and has no dimension until it meets a model: call .bind(model) first."
        )


@dataclass(frozen=True, eq=False)
class BoundProduct(Family):
    """A :class:`Product` whose sites have been resolved to coordinates."""

    families: tuple[Family, ...]
    indices: tuple[np.ndarray, ...]
    name = "product"

    def members(self, dimension: int) -> tuple[tuple[Family, np.ndarray], ...]:
        return tuple(zip(self.families, self.indices, strict=True))

    def build(self, mean: np.ndarray, covariance: np.ndarray) -> ProductBlock:
        if covariance.ndim == 1:
            parts = [f.build(mean[i], covariance[i]) for f, i in zip(self.families, self.indices, strict=True)]
        else:
            # As for the diagonal family: each block keeps its own block of the precision.
            precision = np.linalg.inv(covariance)
            parts = [
                f.build(mean[i], np.linalg.inv(precision[np.ix_(i, i)]))
                for f, i in zip(self.families, self.indices, strict=True)
            ]
        return ProductBlock(tuple(parts), self.indices)

    def parameters(self, block: ProductBlock) -> dict[str, Any]:
        parts = [f.parameters(b) for f, b in zip(self.families, block.blocks, strict=True)]
        return {f"{j}.{k}": v for j, part in enumerate(parts) for k, v in part.items()}

    def elbo_gradient(self, block: ProductBlock, noise: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        out, start = {}, 0
        for j, (f, b, i) in enumerate(zip(self.families, block.blocks, self.indices, strict=True)):
            part = f.elbo_gradient(b, noise[:, start : start + b.noise_dimension], scores[:, i])
            start += b.noise_dimension
            out |= {f"{j}.{k}": v for k, v in part.items()}
        return out

    def from_parameters(self, parameters: dict[str, Any]) -> ProductBlock:
        blocks = []
        for j, f in enumerate(self.families):
            prefix = f"{j}."
            mine = {k.removeprefix(prefix): v for k, v in parameters.items() if k.startswith(prefix)}
            blocks.append(f.from_parameters(mine))
        return ProductBlock(tuple(blocks), self.indices)
