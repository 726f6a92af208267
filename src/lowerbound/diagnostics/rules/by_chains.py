"""The verdict once short chains have been run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lowerbound.diagnostics.chains.short import MISSED, Chains
from lowerbound.diagnostics.rules.thresholds import APART, DRIFT, EFFECTIVE, GOOD_K, NEXT, SHIFT
from lowerbound.diagnostics.shift import Drift, Seen
from lowerbound.diagnostics.verdict import Verdict, VerdictStatus
from lowerbound.diagnostics.weights.importance import MANY


def judge_chains(
    verdict: Verdict,
    chains: Chains,
    q: Drift,
    reported: Drift,
    names: list[str],
    *,
    seen: tuple[Seen, Seen] | None = None,
    even: bool = False,
) -> Verdict:
    """The rules of :mod:`lowerbound.diagnostics.rules`, once short chains have been run.

    Args:
        verdict: What the weights said; not fatal.
        chains: The short chains.
        q: Shift from q's moments to the chains'.
        reported: Shift from the moments of the draws that the weights would return.
        names: Of the coordinates.
        seen: The same two shifts of what is reported on the constrained space.
        even: Whether the weights are so even that k-hat says nothing.
    """
    error = chains.error
    found = (
        f"short Hamiltonian chains: R-hat {chains.r_hat:.3f}, {chains.effective:.0f} effective draws, errors up to "
        f"{error:.2g} sd, {chains.divergent:.2%} divergent"
    )
    if chains.missed >= MISSED:
        found += f"; they have never been where {chains.missed:.0%} of the importance weight is"
    q_seen, own_seen = (None, None) if seen is None else seen
    also = own_seen if verdict.trusted else q_seen
    against, listed = (reported if verdict.trusted else q), list(names)
    if also is not None:
        against, listed = against.joined(also.drift), [*names, *also.names]
    beyond = against.beyond(DRIFT)
    moved = tuple(dict.fromkeys(listed[i] for i in np.argsort(-against.size) if beyond[i]))
    size = float(np.nan_to_num(against.size, nan=np.inf).max())
    changes: dict = {"reasons": (*verdict.reasons, found), "r_hat": chains.r_hat}
    right = bool(verdict.converged and chains.mixed and float(q.size.max()) <= SHIFT)
    right = right and (q_seen is None or not q_seen.moved(SHIFT))
    if verdict.status is VerdictStatus.CORRECTED and right and len(names) > MANY:
        # A thousand draws know a thousand means less well than q does.
        return replace(
            verdict,
            **changes,
            status=VerdictStatus.TRUSTED,
            sentence=f"q's means and sds are the posterior's to within {max(float(q.size.max()), 0.01):.2g} sd; "
            "its draws can be used.",
            parameters=(),
        )
    heavy = verdict.status is VerdictStatus.CORRECTED and verdict.pareto_k >= GOOD_K and not even
    if heavy and chains.mixed and chains.effective >= EFFECTIVE and not moved:
        # Weights without a variance know moments less well than they can say; the chains' are better, and agree.
        return replace(
            verdict,
            **changes,
            effective=chains.effective,
            sentence=f"q is {verdict.kl_gap.value:.2g} nats from the posterior; the draws returned are those of short "
            f"chains started from it, which have mixed ({chains.effective:.0f} effective) and agree with its weights.",
        )
    if verdict.trusted and not moved and chains.r_hat < APART:
        said = f"the chains move no reported mean or log sd by more than {size:.2g} (with their errors)"
        changes["reasons"] += (said,)
        return replace(verdict, **changes)
    if chains.mixed:
        changes |= {"next_step": "", "effective": chains.effective}
        if right and not verdict.trusted:
            return replace(
                verdict,
                **changes,
                status=VerdictStatus.TRUSTED,
                sentence=f"q's means and sds are the posterior's to within {max(size, 0.01):.2g} sd; "
                "its draws can be used.",
                parameters=(),
            )
        return replace(
            verdict,
            **changes,
            status=VerdictStatus.CORRECTED,
            sentence="q does not match the posterior; the draws returned are those of short chains started from it, "
            f"which have mixed ({chains.effective:.0f} effective).",
            parameters=moved or verdict.parameters,
        )
    changes["next_step"] = verdict.next_step or NEXT
    worst = names[chains.worst]
    if verdict.trusted:
        changes |= {"status": VerdictStatus.NOT_TRUSTED, "parameters": moved or (worst,)}
        why = "short chains started from its draws "
        if moved:
            why += f"leave them (by {size:.2g} sd in {moved[0]})"
        else:
            why += f"do not agree with one another (R-hat {chains.r_hat:.2f} in {worst})"
        sentence = f"q seemed to match the posterior by its weights, but {why}."
    else:
        changes["parameters"] = moved or verdict.parameters or (worst,)
        sentence = verdict.sentence
    if chains.usable:
        sentence += " The draws returned are those of short chains, which are nearer but have not mixed."
    return replace(verdict, **changes, sentence=sentence)
