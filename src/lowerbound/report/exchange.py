"""Handing a posterior to ArviZ, old and new."""

from __future__ import annotations

from typing import Any

import numpy as np


def to_arviz(posterior: Any, n: int, seed: int) -> Any:
    """See :meth:`lowerbound.Posterior.to_arviz`."""
    try:
        import arviz
    except ImportError as e:
        raise ImportError("to_arviz needs ArviZ, which is not installed: pip install 'lowerbound[arviz]'") from e
    draws = {k: v[None] for k, v in posterior.sample(n, seed=seed).items()}
    observed = {k: np.asarray(v) for k, v in posterior.observed.items()}
    attributes = {
        "inference_library": "lowerbound",
        "inference_library_version": posterior.versions.get("lowerbound", ""),
        "verdict": posterior.verdict.status.name,
        "verdict_sentence": posterior.verdict.sentence,
        "elbo": float(posterior.elbo),
        "elbo_se": float(posterior.elbo.se),
        "pareto_k": float(posterior.pareto_k),
    }
    if int(arviz.__version__.split(".")[0]) >= 1:
        groups = {"posterior": draws} | ({"observed_data": observed} if observed else {})
        out = arviz.from_dict(groups)
        out["posterior"].attrs.update(attributes)
        return out
    out = arviz.from_dict(posterior=draws, observed_data=observed or None)
    out.posterior.attrs.update(attributes)  # pyright: ignore[reportAttributeAccessIssue]
    return out
