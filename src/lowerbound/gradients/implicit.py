"""Implicit reparameterisation (Figurnov, Mohamed & Mnih 2018), for continuous blocks of every kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowerbound.families.drawn import Drawn, Free, draw_all
from lowerbound.gradients.sites import SiteGradient
from lowerbound.model.factor_graph import FactorGraph


@dataclass(frozen=True)
class Implicit(SiteGradient):
    """Differentiate through the draw: dz/dphi = -(dF/dphi) / p(z), F the distribution function of z.

    F(z; phi) is uniform whatever phi is, so that z moves with phi as keeps it where it is. For normals that is the
    ordinary reparameterisation; for gammas (and betas and Dirichlets, which are made of them) JAX has dF/dphi, for von
    Mises distributions it is :func:`~lowerbound.families.exponential.von_mises.implicit_von_mises`.
    """

    name = "implicit"

    def evaluations(self, graph: FactorGraph, part: Drawn) -> int:
        return 0

    @staticmethod
    def draws(parts: Sequence[Drawn], parameters: Mapping[str, Free], key: Any, n: int) -> dict[str, Any]:
        """Draws of continuous sites ``[n, *shape]``, which carry their derivatives."""
        return draw_all(parts, parameters, key, n)
