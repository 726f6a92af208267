r"""Conjugate-computation variational inference: closed forms where there are any, draws where there are none.

Every block moves along its natural gradient,

    lambda  <-  (1 - rho) lambda + rho d/dmoments E_q[log p(x, z)],

which for a block with closed forms alone is its exact optimum at rho = 1, and for one that a sampled factor depends on
is a step as if that factor were replaced by a conjugate one with the right slope (Khan & Lin 2017). The noise of the
draws is fixed (:mod:`lowerbound.algorithms.sampled_terms`), so that the ELBO on it is a function, and of several rates
the best is taken: it never falls. What more draws would say is asked by the verdict, on draws of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from lowerbound.algorithms.base import check_positive
from lowerbound.algorithms.coordinate_ascent import CoordinateAscent


@dataclass(frozen=True)
class ConjugateComputationVI(CoordinateAscent):
    """Coordinate ascent with sampled factors.

    Args:
        num_draws: Of the fixed noise, for each factor without a closed form.
    """

    tolerance: float = 1e-7
    num_draws: int = 128
    name = "conjugate_computation"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("ConjugateComputationVI", num_draws=self.num_draws)

    def rule(self) -> str:
        return (
            "what sweeps over all blocks have left to gain, and what the last one gained, is less than "
            f"{self.tolerance:g} of the size of the ELBO on fixed noise, twice"
        )
