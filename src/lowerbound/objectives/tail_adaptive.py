"""An f-divergence whose f is chosen anew at every step, by the tail of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from lowerbound.errors import IncompatibleError
from lowerbound.objectives.base import Objective, check_draws


@dataclass(frozen=True)
class TailAdaptive(Objective):
    r"""The f-divergence with c_f(w) = P_q(W >= w)^beta, for which the weights of the draws cannot be dominated by one.

    The gradient of E_q[f(w)] is -E_q[c_f(w) dl/dz dz/dphi] with c_f(w) = w^2 f''(w); every increasing c_f is that of a
    convex f. c_f(w) = w is a mass-covering divergence whose variance may be infinite; here w is replaced by a power
    of its own tail probability, estimated by ranks, which has the same tail as w has with beta = -1 but is finite
    whatever the weights are. The value that is reported is the ELBO.

    Args:
        num_samples: Draws of q a step.
        beta: Power of the tail probability, between -1 and 0; 0 is the ELBO.

    Source: Wang, Liu & Liu (2018), "Variational inference with tail-adaptive f-divergence", algorithm 1.
    """

    num_samples: int = 32
    beta: float = -1.0
    name = "tail_adaptive"
    tendency = "mass-covering as far as the weights allow it"
    caution = "its value is the ELBO's; the divergence itself changes from step to step and has none"

    def __post_init__(self) -> None:
        check_draws("TailAdaptive", self.num_samples, 2)
        b = self.beta
        if isinstance(b, bool) or not isinstance(b, (int, float)) or not -1 <= b <= 0:
            raise IncompatibleError(f"TailAdaptive(beta={b!r}): needed: a number from -1 to 0.")

    def value(self, log_weights: Any) -> Any:
        return log_weights.mean()

    def path_weights(self, log_weights: Any) -> Any:
        tail = (log_weights[None, :] >= log_weights[:, None]).mean(1)
        weights = jnp.power(tail, self.beta)
        return weights / weights.sum()
