"""Random programs: the closed form is E_q[log p], or there is none; never something else."""

from __future__ import annotations

from functools import cache

import pytest

from tests.expectations.programs import Outcome, Programs
from tests.expectations.random_programs import INSIDE, model_of

MODELS, EACH = 20, 26


@cache
def outcomes(number: int) -> dict[str, tuple[str, Outcome]]:
    """Kind and outcome of every program of one model."""
    model, kinds = model_of(number * EACH, EACH)
    programs = Programs(model, draws=2401)
    return {n: (k, programs.outcome(n)) for n, k in kinds.items()}


@pytest.mark.parametrize("number", range(MODELS))
def test_programs_are_right_or_refused(number):
    found = outcomes(number)
    wrong = [f"{n} ({k}): {o}" for n, (k, o) in found.items() if o.wrong]
    assert not wrong, "\n".join(wrong)
    refused = [f"{n} ({k}): {o}" for n, (k, o) in found.items() if k in INSIDE and o.refused is not None]
    assert not refused, "\n".join(refused)


def test_there_are_programs_of_both_kinds():
    # Of some models alone: each worker would run all of them once more.
    assert MODELS * EACH > 500
    found = [pair for number in range(3) for pair in outcomes(number).values()]
    accepted = [o for _, o in found if o.refused is None]
    wild = [o.refused is None for k, o in found if k not in INSIDE]
    assert len(accepted) > 0.7 * len(found)
    assert 0.2 < sum(wild) / len(wild) < 0.95
