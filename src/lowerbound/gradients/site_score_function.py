"""The score function of one discrete latent, element by element (black-box VI; Ranganath, Gerrish & Blei 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lowerbound.families.drawn import Drawn
from lowerbound.gradients.base import held
from lowerbound.gradients.sites import SiteGradient
from lowerbound.model.factor_graph import FactorGraph


@dataclass(frozen=True)
class SiteScoreFunction(SiteGradient):
    """sum_i sum_n (f_in - mean of the other draws' f_jn) d log q(z_in) / dphi / s.

    Args:
        rao_blackwell: Whether f_in is what of log p changes with element n, its Markov blanket, in place of the whole
            of log p: the rest does not depend on z_n, so that its product with the score of z_n is zero on average and
            nothing but noise.

    Each element has a leave-one-out baseline of its own (Kool, van Hoof & Welling 2019), as
    :class:`~lowerbound.gradients.ScoreFunction` has for all of q.
    """

    rao_blackwell: bool = True
    name = "site_score_function"
    min_samples = 2

    def evaluations(self, graph: FactorGraph, part: Drawn) -> int:
        return 0

    def surrogate(self, log_q: Any, blanket: Any, total: Any) -> Any:
        """Its slope in the parameters; its value is of no use.

        Args:
            log_q: Of each draw's elements ``[s, *shape]``.
            blanket: What of log p changes with each of them ``[s, *shape]``.
            total: log p ``[s]``.
        """
        f = blanket if self.rao_blackwell else total.reshape((len(total), *(1,) * (log_q.ndim - 1)))
        return (held(f - f.mean(0)) * log_q).sum() / (len(log_q) - 1)
