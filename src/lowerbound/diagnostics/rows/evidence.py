"""log p(x_i) of rows by their weights, and of which rows it cannot be believed.

log (1/K) sum_k w_ik is a lower bound on average whatever q is, and far too low where q has not met the row's
posterior: a network says something of every row, also of one that is unlike all that it was fitted to. The weights then
have so heavy a tail that their mean has not settled, and k-hat says so.

Source: Vehtari, Simpson, Gelman, Yao & Gabry (2024), "Pareto smoothed importance sampling".
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from lowerbound.diagnostics.rows.checks import usable_rows
from lowerbound.diagnostics.rules.thresholds import USABLE_K
from lowerbound.errors import TrustWarning

#: Draws of a row below which its weights' tail has too few points to speak.
_FEWEST = 50
#: Rows that a warning names.
_NAMED = 6
#: k-hat from which weights have no mean, and nats that they show of a row's gap, from which q and the row's posterior
#: have next to nothing in common. (An autoencoder's rows have gaps of a nat or two, a twelfth of them such a k-hat.)
NO_MEAN, FAR = 1.0, 10.0


@dataclass(frozen=True, eq=False)
class RowEvidence:
    """log p(x_i) of rows, from below; an array of them to NumPy.

    Attributes:
        value: In nats ``[rows]``.
        se: Monte Carlo error of each, of the weights that were drawn ``[rows]``.
        pareto_k: k-hat of each row's weights ``[rows]``: above 0.7 the value is too low by an unknown amount, unless
            the weights are even; NaN of fewer than 50 draws.
        usable: Whether a row's weights can be used: even ones, or a k-hat of at most 0.7 ``[rows]``.
    """

    value: np.ndarray
    se: np.ndarray
    pareto_k: np.ndarray
    usable: np.ndarray

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.value, dtype=dtype)

    def __len__(self) -> int:
        return len(self.value)

    def __str__(self) -> str:
        bad = f", {np.sum(~self.usable)} of them with weights that cannot be used" if not self.usable.all() else ""
        return f"log p(x) of {len(self)} rows: {self.value.sum():.6g} nats in all{bad}"


def row_evidence(log_weights: np.ndarray) -> RowEvidence:
    """From ``log_weights [rows, draws]``."""
    draws = log_weights.shape[1]
    value = logsumexp(log_weights, 1) - np.log(draws)
    se = np.exp(log_weights - value[:, None]).std(1) / np.sqrt(draws)
    k, usable = _tails(log_weights)
    return RowEvidence(value, se, k, usable)


def warn_of_rows(found: RowEvidence, *, refined: bool) -> None:
    """A warning that names the rows whose weights cannot be used."""
    bad = np.flatnonzero(~found.usable)
    if len(bad):
        _warn(
            bad,
            found.pareto_k,
            f"the evidence is too low, by what nobody can tell: k-hat of their weights is above {USABLE_K:g}",
            "log_evidence",
            refined,
        )


def warn_of_bound(log_weights: np.ndarray, *, refined: bool) -> None:
    """A warning that names rows of which a bound is far too low, from ``log_weights [rows, draws]``."""
    gap = logsumexp(log_weights, 1) - np.log(log_weights.shape[1]) - log_weights.mean(1)
    if not (gap > FAR).any():
        return
    k, usable = _tails(log_weights)
    bad = np.flatnonzero(~usable & (k >= NO_MEAN) & (gap > FAR))
    if len(bad):
        what = f"the bound is far too low: q is more than {FAR:g} nats from their posterior, with a k-hat of 1 or more"
        _warn(bad, k, what, "bound", refined)


def _tails(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, draws = log_weights.shape
    if draws < _FEWEST:
        return np.full(rows, np.nan), np.ones(rows, bool)
    return usable_rows(log_weights)


def _warn(bad: np.ndarray, k: np.ndarray, what: str, call: str, refined: bool) -> None:
    worst = bad[np.argsort(-k[bad], kind="stable")]
    named = ", ".join(f"{i} ({k[i]:.2g})" for i in worst[:_NAMED]) + (" and others" if len(worst) > _NAMED else "")
    do = f"encoder.{call}(..., refined=True) takes each row's own block, as encoder.refine finds it, in their place."
    whose = "The network's blocks"
    if refined:
        do, whose = "More draws may help; else fit these rows by lb.fit without a network.", "Their own Gaussians"
    warnings.warn(
        f"Of {len(bad)} of {len(k)} rows {what}, at row {named}. {whose} do not cover what these rows say of their "
        f"latents{'' if refined else ', as of rows unlike those of the fit'}. {do}",
        TrustWarning,
        stacklevel=4,
    )
