"""Gradients site by site: how each latent's parameters get theirs, where q is a product of exponential families.

With q(z) = prod_b q_b(z_b; phi_b), the ELBO is E_q[log p(x, z)] + sum_b H(q_b), the entropies in closed form. What is
left to estimate is the slope of one expectation, and each block may take its own way to it:

    implicit reparameterisation    E[d log p / dz_b  dz_b / dphi_b],      dz_b / dphi_b from its distribution function
    enumeration                    E_-b[sum_k d q_b(k) / dphi_b  log p(x, z_b = k, z_-b)]
    score function                 E[(log p - baseline) d log q_b(z_b) / dphi_b]

The last two need only those factors that z_b is in: :mod:`lowerbound.model.factor_graph`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from lowerbound.errors import IncompatibleError
from lowerbound.families.drawn import Drawn
from lowerbound.model.factor_graph import FactorGraph

#: Evaluations of the factors up to which a discrete site is enumerated if nothing else is asked for.
ENUMERATED = 16


class SiteGradient(ABC):
    """An estimate of the slope of E_q[log p] in the parameters of one block.

    Attributes:
        name: In tables and messages.
        min_samples: Draws a step that it needs.
    """

    name: str
    min_samples: ClassVar[int] = 1

    @abstractmethod
    def evaluations(self, graph: FactorGraph, part: Drawn) -> int:
        """Of the factors, for one draw, beyond the one that all sites share."""


#: Which gradients there are for which kind of block; the first is taken if none is asked for.
SITES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("normal", "gamma", "inverse_gamma", "log_normal", "beta", "dirichlet", "von_mises"), ("implicit",)
    ),
    "categorical": ("enumeration", "site_score_function"),
}


def check_site(site: str, kind: str, gradient: SiteGradient, num_samples: int) -> None:
    """Raise unless a gradient is one for this kind of block.

    Raises:
        IncompatibleError: says what to use.
    """
    if gradient.name not in SITES[kind]:
        why = "its draws do not move with its parameters" if kind == "categorical" else "it has no list of values"
        raise IncompatibleError(
            f"the {gradient.name} gradient is not one for {site!r}, a {kind} block: {why}. Use "
            f"{' or '.join(SITES[kind])}."
        )
    if num_samples < gradient.min_samples:
        raise IncompatibleError(
            f"the {gradient.name} gradient of {site!r} needs at least {gradient.min_samples} draws a step (each is "
            f"compared with the others), got num_samples={num_samples}."
        )
