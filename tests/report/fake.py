"""A posterior with nothing behind it: what the report reads, and no more."""

from __future__ import annotations

from enum import Enum
from types import SimpleNamespace
from typing import Any

import pandas as pd


class VerdictStatus(Enum):
    TRUSTED = 1
    CORRECTED = 2
    NOT_TRUSTED = 3


def estimate(value: float, se: float) -> SimpleNamespace:
    return SimpleNamespace(value=value, se=se)


def posterior(status: str = "TRUSTED", rows: list | None = None, **verdict: Any) -> SimpleNamespace:
    rows = rows or [
        ("mu", 4.4142, 3.3141, -1.81, 10.62),
        ("theta[0]", 24_123.4567, 1_210.123, 21_900.0, 26_400.0),
        ("eps", 0.0012345, 0.0000123, 0.00121, 0.00126),
    ]
    summary = pd.DataFrame(
        [r[1:] for r in rows], index=[r[0] for r in rows], columns=["mean", "sd", "hdi_3%", "hdi_97%"]
    )
    defaults = {
        "status": VerdictStatus[status],
        "sentence": "q is close to the posterior.",
        "reasons": ("Pareto k is 0.31, below 0.7.",),
        "next_step": "",
        "elbo": estimate(-31.4159, 0.012),
        "kl_gap": estimate(0.01, 0.004),
        "pareto_k": 0.31,
        "converged": True,
        "rule": "",
        "not_checked": ("modes that no start found",),
    }
    return SimpleNamespace(
        summary=lambda: summary,
        verdict=SimpleNamespace(**{**defaults, **verdict}),
        status=SimpleNamespace(name="CONVERGED", sentence="converged: the stopping rule was met"),
        timings={"compile": 0.91, "fit": 0.2},
        model_name="eight_schools",
        family_name="dense",
        algorithm_name="score_regression",
    )
