"""VIABEL's forward KL and alpha divergence, in its own Python; one line of JSON for each request on the command line.

VIABEL imports PyStan when it is imported, and uses it for Stan models only: an empty module stands in where it is not
installed. Run by ``race.py``; needs ``viabel``, and nothing of this library.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any


def main() -> None:
    """``viabel_child.py TARGET METHOD EVALUATIONS RATE SEED``."""
    if importlib.util.find_spec("pystan") is None:
        sys.modules["pystan"] = types.ModuleType("pystan")
    import autograd.numpy as anp
    import numpy as np
    import viabel

    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from benchmarks.objectives.targets import BOUNDED, TARGETS

    name, method, evaluations, rate, seed = sys.argv[1:6]
    target = {**TARGETS, **BOUNDED}[name]
    np.random.seed(int(seed))

    def log_density(z: Any) -> Any:
        return target.log_density(z, anp)

    draws = 100
    approx = viabel.MFGaussian(target.dimension)  # its margins are what is scored
    model = viabel.Model(log_density)
    if method == "forward_kl":
        objective = viabel.DISInclusiveKL(
            approx, model, draws, temper_prior=viabel.MFGaussian(target.dimension),
            temper_prior_params=np.zeros(2 * target.dimension), use_resampling=False, ess_target=draws,
        )  # fmt: skip
    else:
        objective = viabel.AlphaDivergence(approx, model, draws, alpha=2.0)
    start = approx.init_param()
    found = viabel.RMSProp(float(rate)).optimize(max(1, int(evaluations) // draws), objective, start)
    mean, covariance = approx.mean_and_cov(found["opt_param"])
    print(json.dumps({"mean": np.asarray(mean).tolist(), "sd": np.sqrt(np.diagonal(covariance)).tolist()}))


if __name__ == "__main__":
    main()
