"""Random programs: the closed form is E_q[log p], or there is none; never something else."""

from __future__ import annotations

import pytest

from tests.expectations.programs import Outcome, Programs
from tests.expectations.random_programs import INSIDE, model_of

MODELS, EACH = 20, 26
#: Models tried by default; the others with the slow tests.
DEFAULT = 3
#: Models whose programs are counted by kind.
COUNTED = 2


def outcomes(number: int) -> dict[str, tuple[str, Outcome]]:
    """Kind and outcome of every program of one model."""
    model, kinds = model_of(number * EACH, EACH)
    programs = Programs(model, draws=2401)
    return {n: (k, programs.outcome(n)) for n, k in kinds.items()}


def known(o: Outcome) -> bool:
    """Refused for the one thing that those inside may ask for by chance."""
    return o.refused is not None and o.refused.operation == "the exponential of a Gaussian times that Gaussian"


def check(found: dict[str, tuple[str, Outcome]]) -> None:
    wrong = [f"{n} ({k}): {o}" for n, (k, o) in found.items() if o.wrong]
    assert not wrong, "\n".join(wrong)
    refused = [
        f"{n} ({k}): {o}" for n, (k, o) in found.items() if k in INSIDE and o.refused is not None and not known(o)
    ]
    assert not refused, "\n".join(refused)


@pytest.mark.parametrize(
    "number",
    [n if n < DEFAULT else pytest.param(n, marks=pytest.mark.slow) for n in range(COUNTED, MODELS)],
)
def test_programs_are_right_or_refused(number):
    check(outcomes(number))


@pytest.mark.slow
def test_there_are_programs_of_both_kinds():
    """The first few models, which are as right as the others."""
    assert MODELS * EACH > 500
    found = []
    for number in range(COUNTED):
        programs = outcomes(number)
        check(programs)
        found += programs.values()
    accepted = [o for _, o in found if o.refused is None]
    wild = [o.refused is None for k, o in found if k not in INSIDE]
    assert len(accepted) > 0.7 * len(found)
    assert 0.2 < sum(wild) / len(wild) < 0.95
