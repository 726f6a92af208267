"""Bounds between the ELBO and the evidence: several draws at once, and Rényi's family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lowerbound.errors import IncompatibleError
from lowerbound.objectives.base import Objective, check_draws, log_mean_exp


@dataclass(frozen=True)
class ImportanceWeighted(Objective):
    """E[log (1/K) sum_i w_i], w_i = p(x, z_i) / q(z_i): the ELBO for K = 1, log p(x) in the limit.

    It never falls as K grows. Its optimum is a good *proposal*, which is wider than the posterior's best stand-in: q
    is then best used with its importance weights.

    Args:
        num_samples: K, draws of q a step.

    Source: Burda, Grosse & Salakhutdinov (2016).
    """

    num_samples: int = 16
    name = "importance_weighted"
    learns = True
    tendency = "between mode-seeking (K = 1) and mass-covering: q as a proposal, wider as K grows"
    caution = "where k-hat of the weights is above 0.7: it is still a lower bound, but far from log p(x)"

    def __post_init__(self) -> None:
        check_draws("ImportanceWeighted", self.num_samples, 2)

    def value(self, log_weights: Any) -> Any:
        return log_mean_exp(log_weights)


@dataclass(frozen=True)
class Renyi(Objective):
    r"""E[log (1/K) sum_i w_i^(1 - a)] / (1 - a): log p(x) less Rényi's divergence D_a(q || p(z | x)), from K draws.

    a -> 1 is the ELBO, a = 0 the importance-weighted bound. In expectation it is a lower bound on log p(x) for every
    order a >= 0 and every K: K = 1 is the ELBO, and from there it rises with K for a < 1, towards a limit below
    log p(x), and falls for a > 1.

    Args:
        order: a, zero or more and not 1. (Below zero its limit is an upper bound: ``ChiUpperBound``.)
        num_samples: K, draws of q a step.

    Source: Li & Turner (2016); for finite K, Daudel, Benton, Shi & Doucet (2023).
    """

    order: float = 0.5
    num_samples: int = 16
    name = "renyi"
    learns = True
    tendency = "mass-covering below order 1, mode-seeking above: at 0 the importance-weighted bound, at 1 the ELBO"
    caution = "where k-hat of the weights to the power 1 - order is above 0.7: K draws are then too few for the order"

    def __post_init__(self) -> None:
        check_draws("Renyi", self.num_samples, 2)
        a = self.order
        if isinstance(a, bool) or not isinstance(a, (int, float)) or not 0 <= a < float("inf") or a == 1:
            raise IncompatibleError(
                f"Renyi(order={a!r}): needed: a number, zero or more, and not 1. Order 1 is ELBO(); below zero it "
                "bounds from above: ChiUpperBound(order=1 - a)."
            )

    def value(self, log_weights: Any) -> Any:
        b = 1 - self.order
        return log_mean_exp(b * log_weights) / b
