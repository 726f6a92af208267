"""What a verdict on the continuous latents says of the discrete ones.

A verdict weighs q's continuous part against the log density with discrete latents z summed out exactly. What is
reported of z is p(z | x, latents) over the draws of the others, which is as right as those draws are; q's own block
for z is the mean-field optimum, whose probabilities are too near to 0 and 1 wherever z depends on the others. Where
the two differ the verdict says so, since the ELBO is that of q with its own block. Where z cannot be summed out q's
own block is all there is, and nothing has checked it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lowerbound.diagnostics.verdict import Verdict
from lowerbound.labels import Labels
from lowerbound.model.base import label

#: Total variation of an element from which the difference is told, and log ratio of its sds where no value of it has
#: more than this probability.
DIFFERENT, WIDER, SURE = 0.03, 0.1, 0.95


def judge_discrete(verdict: Verdict, own: Mapping[str, Labels], reported: Mapping[str, Labels]) -> Verdict:
    """The verdict with what is to be said of discrete latents.

    Args:
        verdict: On the continuous part.
        own: q's blocks of discrete latents.
        reported: p(z | x, latents) over reported draws, of those that can be summed out.
    """
    said = [s for n in own if n in reported for s in differ(n, own[n], reported[n])]
    unseen = [n for n in own if n not in reported]
    if unseen:
        few = ", ".join(unseen)
        lacking = (
            f"the discrete latents {few}: they depend on each other given the rest, and what is reported of them is "
            "q's own block, mean field, unchecked"
        )
        return replace(verdict, reasons=(*verdict.reasons, *said), not_checked=(*verdict.not_checked, lacking))
    return replace(verdict, reasons=(*verdict.reasons, *said)) if said else verdict


def differ(name: str, own: Labels, reported: Labels) -> list[str]:
    """How far q's own block is from what is reported, in words; empty where it is not, or no more than noise is.

    The distance is the total variation of each element, half the sum of |q_k - p_k|. p has a Monte Carlo error of at
    most sqrt(p_k (1 - p_k) / draws) in each.
    """
    q, p = own.probabilities, reported.probabilities
    distance = 0.5 * np.abs(q - p).sum(-1)
    noise = 0.5 * np.sqrt(np.maximum(p * (1 - p), 0) / reported.draws).sum(-1)
    with np.errstate(all="ignore"):
        wider = np.abs(np.log(reported.sd() / own.sd())) > WIDER
        beyond = np.ravel((distance > DIFFERENT) | (wider & (p.max(-1) < SURE))) & np.ravel(distance > noise)
    if not beyond.any():
        return []
    worst = np.unravel_index(int(np.argmax(np.where(beyond, np.ravel(distance), -1))), distance.shape)
    size = f"{beyond.sum()} of the {distance.size} elements of {name}" if distance.shape else name
    sds = float(own.sd()[worst]), float(reported.sd()[worst])
    return [
        f"q's own block of {size} (mean field) differs from what is reported, p({name} | x, latents) over the draws: "
        f"by {distance[worst]:.2f} in total variation at {name}{label(tuple(int(i) for i in worst))}, sd {sds[0]:.3g} "
        f"against {sds[1]:.3g}"
    ]
