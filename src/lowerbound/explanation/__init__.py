"""The plan, before anything runs: which block of q each latent gets, which update, and why."""

from lowerbound.explanation.derivation import Open
from lowerbound.explanation.explain import Choice, Explanation, explain
from lowerbound.explanation.rows import Row

__all__ = ["Choice", "Explanation", "Open", "Row", "explain"]
