"""lowerbound: variational inference that says how far it can be trusted.

    import lowerbound as lb

    posterior = lb.fit(model, data)
    posterior.summary()
    posterior.verdict

log p(x) = ELBO(q) + KL(q || p(z | x)): choose a family for q, maximise the ELBO, and know the gap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names are found when first used: importing lowerbound starts no backend and allocates nothing.
_WHERE = {
    "fit": "lowerbound.fitting",
    "explain": "lowerbound.explanation",
    "calibrate": "lowerbound.calibration",
    "decompose": "lowerbound.decomposition",
    "load": "lowerbound.posterior.storage",
    "LogDensity": "lowerbound.model.log_density",
    "Site": "lowerbound.model.base",
    "Model": "lowerbound.model.base",
    "Posterior": "lowerbound.posterior",
    "Calibration": "lowerbound.diagnostics.ranks.calibration",
    "Decomposition": "lowerbound.decomposition",
    "Explanation": "lowerbound.explanation",
    "Estimate": "lowerbound.diagnostics.estimate",
    "Status": "lowerbound.algorithms.base",
    "Verdict": "lowerbound.diagnostics.verdict",
    "VerdictStatus": "lowerbound.diagnostics.verdict",
}
_MODULES = (
    "algorithms",
    "diagnostics",
    "divergences",
    "errors",
    "examples",
    "expectations",
    "families",
    "gradients",
    "model",
    "objectives",
    "symbolic",
)

if TYPE_CHECKING:
    from lowerbound import algorithms as algorithms
    from lowerbound import diagnostics as diagnostics
    from lowerbound import divergences as divergences
    from lowerbound import errors as errors
    from lowerbound import examples as examples
    from lowerbound import expectations as expectations
    from lowerbound import families as families
    from lowerbound import gradients as gradients
    from lowerbound import model as model
    from lowerbound import objectives as objectives
    from lowerbound import symbolic as symbolic
    from lowerbound.algorithms.base import Status as Status
    from lowerbound.calibration import calibrate as calibrate
    from lowerbound.decomposition import Decomposition as Decomposition
    from lowerbound.decomposition import decompose as decompose
    from lowerbound.diagnostics.estimate import Estimate as Estimate
    from lowerbound.diagnostics.ranks.calibration import Calibration as Calibration
    from lowerbound.diagnostics.verdict import Verdict as Verdict
    from lowerbound.diagnostics.verdict import VerdictStatus as VerdictStatus
    from lowerbound.explanation import Explanation as Explanation
    from lowerbound.explanation import explain as explain
    from lowerbound.fitting import fit as fit
    from lowerbound.model.base import Model as Model
    from lowerbound.model.base import Site as Site
    from lowerbound.model.log_density import LogDensity as LogDensity
    from lowerbound.posterior import Posterior as Posterior
    from lowerbound.posterior.storage import load as load

__all__ = ["__version__", *_WHERE, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"lowerbound.{name}")
    raise AttributeError(f"module 'lowerbound' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
