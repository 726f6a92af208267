"""Divergences from the posterior's side: what they ask of q is an expectation under p, taken with weighted draws.

The gradient of both with respect to q's parameters is, but for a factor, that of

    E_pi[-log q],     pi ∝ p(z | x)^n q(z)^(1 - n),

with n = 1 for KL(p || q) and n the order of the chi bound. Draws of q stand in for pi with self-normalised weights
w^n: consistent as the number of draws grows, biased for any finite one. At an optimum among Gaussians q has the mean
and covariance (among diagonal ones, the mean and variances) of pi.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import jax

from lowerbound.errors import IncompatibleError
from lowerbound.objectives.base import Objective, check_draws, log_mean_exp


class Weighted(Objective):
    """An objective whose gradient is that of E_pi[-log q], pi ∝ p^n q^(1 - n)."""

    sense = -1

    @property
    @abstractmethod
    def power(self) -> float:
        """n."""


@dataclass(frozen=True)
class ForwardKL(Weighted):
    """KL(p(z | x) || q), the expectation under the posterior, by self-normalised importance sampling.

    Value: sum_i v_i l_i - log mean w, with v_i the normalised weights: an estimate of the divergence itself.

    Args:
        num_samples: Draws of q a step.

    Source: Bornschein & Bengio (2015), the wake phase; Naesseth, Lindsten & Blei (2020) on its bias.
    """

    num_samples: int = 64
    name = "forward_kl"
    tendency = "mass-covering: q has the posterior's moments, and mass where the posterior has none"
    caution = "where k-hat of the weights is above 0.7: the posterior is then seen through a few draws of q"

    def __post_init__(self) -> None:
        check_draws("ForwardKL", self.num_samples, 2)

    @property
    def power(self) -> float:
        return 1.0

    def value(self, log_weights: Any) -> Any:
        return (jax.nn.softmax(log_weights) * log_weights).sum() - log_mean_exp(log_weights)


@dataclass(frozen=True)
class ChiUpperBound(Weighted):
    r"""(1/n) log E_q[w^n] >= log p(x): the chi upper bound ("CUBO"), to be made small.

    Its distance from log p(x) is (n - 1)/n times Rényi's divergence D_n(p(z | x) || q), the chi-squared one for
    n = 2. From K draws the log of a mean lies *below* its limit: the bound is one only as far as the mean of w^n
    has settled.

    Args:
        order: n, above 1.
        num_samples: K, draws of q a step.

    Source: Dieng, Tran, Ranganath, Paisley & Blei (2017).
    """

    order: float = 2.0
    num_samples: int = 64
    name = "chi_upper_bound"
    tendency = "mass-covering, more than the forward KL: q must not be small anywhere that the posterior is not"
    caution = "where k-hat of the weights to the power n is above 0.7: the estimate is then too low, and bounds nothing"

    def __post_init__(self) -> None:
        check_draws("ChiUpperBound", self.num_samples, 2)
        n = self.order
        if isinstance(n, bool) or not isinstance(n, (int, float)) or not 1 < n < float("inf"):
            raise IncompatibleError(f"ChiUpperBound(order={n!r}): needed: a number above 1; 2 is chi-squared.")

    @property
    def power(self) -> float:
        return float(self.order)

    def value(self, log_weights: Any) -> Any:
        return log_mean_exp(self.order * log_weights) / self.order
