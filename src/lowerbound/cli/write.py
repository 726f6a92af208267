"""What a fit gives, for other programs: JSON, and draws in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

#: What ``--draws`` writes, by suffix.
DRAWS_FORMATS = (".csv", ".npz", ".parquet")


def result(posterior: Any) -> dict[str, Any]:
    """What ``--json`` prints. A number that is not finite is null."""
    verdict, summary = posterior.verdict, posterior.summary()
    return _plain(
        {
            "lowerbound": metadata.version("lowerbound"),
            "model": posterior.model_name,
            "family": posterior.family_name,
            "algorithm": posterior.algorithm_name,
            "seed": posterior.seed,
            "status": {"name": posterior.status.name, "sentence": posterior.status.sentence},
            "verdict": {
                "status": verdict.status.name,
                "sentence": verdict.sentence,
                "reasons": verdict.reasons,
                "parameters": verdict.parameters,
                "next_step": verdict.next_step,
                "elbo": _estimate(verdict.elbo),
                "kl_gap": _estimate(verdict.kl_gap),
                "pareto_k": verdict.pareto_k,
                "converged": verdict.converged,
                "rule": verdict.rule,
                "effective": verdict.effective,
                "not_checked": verdict.not_checked,
            },
            "log_evidence": _estimate(posterior.log_evidence),
            "timings": posterior.timings,
            "counts": posterior.counts,
            "versions": posterior.versions,
            "summary": {
                str(name): dict(zip(map(str, summary.columns), row, strict=True))
                for name, row in zip(summary.index, summary.to_numpy(), strict=True)
            },
        }
    )


def ranks(calibration: Any) -> dict[str, Any]:
    """What ``calibrate --json`` prints: the tests, and the ranks that they are of."""
    c = calibration
    tested = len(c.ranks) > 0
    summary = c.summary() if tested else None
    return _plain(
        {
            "lowerbound": metadata.version("lowerbound"),
            "model": c.model_name,
            "family": c.family_name,
            "algorithm": c.algorithm_name,
            "source": c.source,
            "ok": c.ok,
            "sentence": c.sentence,
            "num_datasets": c.num_datasets,
            "num_ranked": c.num_ranked,
            "alpha": c.alpha,
            "counts": c.counts,
            "errors": c.errors,
            "miscalibrated": {"all": c.miscalibrated(), "trusted": c.miscalibrated(trusted=True)},
            "summary": {} if summary is None else summary.to_dict("index"),
            "verdicts": c.verdicts,
            "ranks": {name: c.ranks[:, i] for i, name in enumerate(c.names)},
        }
    )


def _estimate(estimate: Any) -> Any:
    return None if estimate is None else {"value": estimate.value, "se": estimate.se}


def _plain(value: Any) -> Any:
    """Only what JSON knows."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def write_draws(draws: Mapping[str, Any], path: Path) -> None:
    """One array a site (npz), or one column a parameter (csv, parquet)."""
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {n: np.asarray(a) for n, a in draws.items()}
    if path.suffix.lower() == ".npz":
        with path.open("wb") as file:  # given a name, NumPy would add a suffix of its own
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
        return
    import pandas as pd

    columns = {}
    for name, array in arrays.items():
        for index in np.ndindex(*array.shape[1:]):
            label = f"{name}[{','.join(map(str, index))}]" if index else name
            columns[label] = array[(slice(None), *index)]
    frame = pd.DataFrame(columns)
    if path.suffix.lower() == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)
