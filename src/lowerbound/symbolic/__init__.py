"""The identity written out for small models: symbols in, LaTeX out, every line checked with numbers.

Needs SymPy, which is not installed with lowerbound: ``pip install 'lowerbound[symbolic]'``.
"""

from __future__ import annotations

try:
    import sympy as _sympy  # noqa: F401  (asked for here, so that its absence is said in one place)
except ImportError as e:
    raise ImportError("lowerbound.symbolic needs SymPy: pip install 'lowerbound[symbolic]'") from e

from lowerbound.symbolic.derivation import Checked, Derivation, Line
from lowerbound.symbolic.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Distribution,
    Exponential,
    Gamma,
    Normal,
    Poisson,
)
from lowerbound.symbolic.model import Model

__all__ = [
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "Checked",
    "Derivation",
    "Distribution",
    "Exponential",
    "Gamma",
    "Line",
    "Model",
    "Normal",
    "Poisson",
]
