"""Classifier distances: how well can draws of p and q be told apart?"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from lowerbound.divergences.draws import draws, joined
from lowerbound.divergences.estimate import Estimate
from lowerbound.errors import DataError, IncompatibleError

_HYPOTHESES = 64


def classifier(
    p: Any,
    q: Any,
    *,
    model: Any = None,
    symmetric_difference: bool = False,
    folds: int = 5,
    num_draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    r"""The H-divergence, 2 sup_H |P(h) - Q(h)|, as the proxy A-distance 2 (1 - 2 ε) (Ben-David et al. 2006).

    ε is the mean of the error rates on p and on q of a classifier that is trained to tell them apart, cross-validated.
    The distance is 0 where it cannot (below, by chance) and 2 where it always can; half of it is a lower estimate of
    total variation. With ``symmetric_difference`` it is HΔH, 2 sup |P(h ≠ h') - Q(h ≠ h')| over pairs of hypotheses
    (Ben-David et al. 2010): 64 of them are trained on random parts of one half of the draws, and the best pair is
    judged on the other, so that it is from below.

    Args:
        p: Draws ``[n, *event]``, a mapping of them by site, a NumPyro distribution, or a posterior.
        q: The same.
        model: The class H: any scikit-learn classifier; None for logistic regression of standardised draws.
        symmetric_difference: Whether pairs of hypotheses are compared.
        folds: Of the cross-validation.
        num_draws: Of each argument that is a distribution or a posterior.
        seed: Of draws, folds, and classifiers that are random.

    Returns:
        The standard error is that of held-out error rates; it is that of a classifier trained on as many draws, not of
        the best of its class.

    Raises:
        ImportError: scikit-learn is not installed.
        IncompatibleError: ``model`` is no classifier.
        DataError: too few draws for the folds.

    Cost: ``folds`` fits of the classifier; 64 with ``symmetric_difference``.
    """
    try:
        import sklearn.base  # noqa: F401
    except ImportError as e:
        raise ImportError("classifier needs scikit-learn, which is not installed: pip install scikit-learn") from e
    if model is not None and not (hasattr(model, "fit") and hasattr(model, "predict") and hasattr(model, "get_params")):
        raise IncompatibleError(
            f"model is {model!r}; needed: a scikit-learn classifier, such as KNeighborsClassifier()."
        )
    if isinstance(folds, bool) or not isinstance(folds, (int, np.integer)) or folds < 2:
        raise DataError(f"folds is {folds!r}; needed: a whole number, 2 or more.")
    x, y, note = draws(p, q, num_draws=num_draws, seed=seed, least=max(10, 2 * folds))
    points = np.concatenate([x, y])
    labels = np.concatenate([np.zeros(len(x), int), np.ones(len(y), int)])
    if symmetric_difference:
        return _pairs(points, labels, model, seed, note)
    wrong = _held_out(points, labels, model, folds, seed) != labels
    error, se = _rates(wrong[labels == 0], wrong[labels == 1])
    # 2 (1 - 2 ε) with ε = (ε_p + ε_q)/2
    return Estimate(2 - 2 * error, 2 * se, note=joined(f"held-out error {error / 2:.3f}, {folds} folds", note))


def _rates(of_p: np.ndarray, of_q: np.ndarray) -> tuple[float, float]:
    """The sum of two rates, and its standard error."""
    return float(of_p.mean() + of_q.mean()), float(np.sqrt(of_p.var(ddof=1) / len(of_p) + of_q.var(ddof=1) / len(of_q)))


def _fresh(model: Any, seed: int) -> Any:
    from sklearn.base import clone

    if model is None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), LogisticRegression())
    out: Any = clone(model)
    if "random_state" in out.get_params() and out.get_params()["random_state"] is None:
        out.set_params(random_state=seed % 2**31)
    return out


def _held_out(points: np.ndarray, labels: np.ndarray, model: Any, folds: int, seed: int) -> np.ndarray:
    from sklearn.model_selection import StratifiedKFold

    out = np.empty_like(labels)
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed % 2**31).split(points, labels):
        out[test] = _fresh(model, seed).fit(points[train], labels[train]).predict(points[test])
    return out


def _pairs(points: np.ndarray, labels: np.ndarray, model: Any, seed: int, note: str) -> Estimate:
    rng = np.random.default_rng([seed, 0x4D])
    train = np.zeros(len(labels), bool)
    for k in (0, 1):
        own = np.flatnonzero(labels == k)
        train[rng.permutation(own)[: len(own) // 2]] = True
    inside = np.flatnonzero(train)
    said = [np.zeros(len(labels), bool)]  # the constant: with it HΔH has H in it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fits of a few points may not converge, and need not
        for size in np.geomspace(points.shape[1] + 4, len(inside), _HYPOTHESES).astype(int):
            part = rng.permutation(inside)[:size]
            if len(set(labels[part])) == 2:
                said.append(_fresh(model, seed).fit(points[part], labels[part]).predict(points) == 1)
    table = np.array(said)
    a, b = table[:, train & (labels == 0)].astype(float), table[:, train & (labels == 1)].astype(float)

    def differ(z: np.ndarray) -> np.ndarray:
        rate = z.mean(1)
        return rate[:, None] + rate - 2 * z @ z.T / z.shape[1]

    gap = differ(a) - differ(b)
    i, j = np.unravel_index(np.argmax(np.abs(gap)), gap.shape)
    apart = table[i] != table[j]
    sign = 1.0 if gap[i, j] >= 0 else -1.0
    of_p, of_q = apart[~train & (labels == 0)], apart[~train & (labels == 1)]
    _, se = _rates(of_p.astype(float), of_q.astype(float))
    value = 2 * sign * float(of_p.mean() - of_q.mean())
    return Estimate(
        value, 2 * se, note=joined(f"best of {len(table)} hypotheses in pairs, judged on the other half", note)
    )
