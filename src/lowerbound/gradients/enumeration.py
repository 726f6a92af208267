"""The exact expectation over the values of a discrete latent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lowerbound.families.drawn import Drawn
from lowerbound.gradients.base import held
from lowerbound.gradients.sites import SiteGradient
from lowerbound.model.factor_graph import FactorGraph


@dataclass(frozen=True)
class Enumeration(SiteGradient):
    """sum_k q(z_n = k) log p(x, z_n = k, rest), each element by itself, given draws of the rest.

    All elements that no factor has in common take their value at once: k evaluations of the factors in all, however
    many elements there are. Factors with this discrete latent alone have their exact expectation over it, so that
    neither its own gradient nor that of the others has any noise from it.

    Source: local expectation gradients (Titsias & Lázaro-Gredilla 2015).
    """

    name = "enumeration"

    def evaluations(self, graph: FactorGraph, part: Drawn) -> int:
        """Its values, once for each of the elements that some factor has several of."""
        one_by_one = math.prod(part.shape[a] for a in graph.free_axes(part.name))
        return one_by_one * len(part.block.values)  # pyright: ignore[reportAttributeAccessIssue]

    def surrogate(self, probabilities: Any, blanket: Any) -> Any:
        """Its slope in the probabilities; its value is zero.

        Args:
            probabilities: ``[*shape, k]``.
            blanket: What of log p changes with each element, at each value: ``[s, *shape, k]``.
        """
        return ((probabilities - held(probabilities)) * held(blanket)).sum() / len(blanket)
