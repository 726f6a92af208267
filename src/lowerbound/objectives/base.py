"""The bound, or another divergence: what q is moved to improve.

An objective is a function of ``num_samples`` draws z_i of q. Most are functions h of the log weights

    l_i = log p(x, z_i) - log q(z_i)

alone: their mean is the ELBO, the log of the mean of their exponentials the importance-weighted bound, and so on; in
nats. Others are means over pairs of draws (:mod:`lowerbound.objectives.discrepancy`). The value of one set of draws is
random; what is optimised is its expectation. ``sense`` tells which way is better.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from lowerbound.errors import IncompatibleError
from lowerbound.objectives.prior import GaussianPrior


class Target(NamedTuple):
    """What q is to come near.

    Attributes:
        log_joint: log p(x, z) for draws ``[s, p]``: ``[s]``.
        prior: That of the latents whose prior is a Gaussian of its own, if it is known.
    """

    log_joint: Callable[[Any], Any]
    prior: GaussianPrior | None = None


class Objective(ABC):
    """A function of draws from q, in nats.

    Attributes:
        name: In tables and messages.
        num_samples: Draws of q a step.
        sense: 1 where larger is better, -1 where smaller is.
        tendency: Which way its optimum errs where the family cannot hold the posterior.
        caution: When its estimate cannot be believed.
        needs_prior: Whether it takes the prior apart from the rest of the joint.
        learns: Whether parameters of the model itself may be moved to improve it: a lower bound on log p(x).
    """

    name: str
    num_samples: int
    sense: ClassVar[int] = 1
    tendency: ClassVar[str]
    caution: ClassVar[str]
    needs_prior: ClassVar[bool] = False
    learns: ClassVar[bool] = False

    @abstractmethod
    def value(self, log_weights: Any) -> Any:
        """The objective, from ``log_weights [num_samples]``."""

    def integrand(self, target: Target, z: Any, log_q: Any) -> Any:
        """What :meth:`value` is taken of, at draws ``z [s, p]`` with their ``log_q [s]``: the log weights."""
        return target.log_joint(z) - log_q

    def analytic(self, target: Target, q: Any) -> Any:
        """What is added in closed form."""
        return 0.0

    def path_weights(self, log_weights: Any) -> Any:
        r"""Weights c_i of the doubly reparameterised gradient, sum_i c_i dl_i/dz_i dz_i/dphi.

        For any h: c_i = h_i - h_ii, its first derivative less its second. The gradient of E[h(l)] is, with phi held
        fixed in log q where stated,

            E[ sum_i h_i dl_i/dz_i dz_i/dphi ]  -  E[ sum_i h_i d/dphi log q(z_i) ],

        and the second expectation, that of a score times a function of its draw, is one of a path once more:
        E[g(z) d/dphi log q(z)] = E[dg/dz dz/dphi], here with g = h_i, whose derivative in z_i is h_ii dl_i/dz_i.
        (Tucker, Lawson, Gu & Maddison 2019, for the importance-weighted bound: c_i = w_i^2, normalised weights.)
        """
        gradient = jax.grad(self.value)
        second = jnp.diagonal(jax.jacfwd(gradient)(log_weights))
        return gradient(log_weights) - second


def check_draws(owner: str, num_samples: Any, least: int = 1) -> None:
    """A number of draws is a whole number, not too small."""
    n = num_samples
    if isinstance(n, bool) or not isinstance(n, int) or n < least:
        needed = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise IncompatibleError(f"{owner}(num_samples={n!r}): needed: {needed}.")


def log_mean_exp(x: Any) -> Any:
    """log of the mean of exponentials, over all of ``x``."""
    return jax.nn.logsumexp(x) - jnp.log(x.size)
