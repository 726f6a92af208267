"""The thirteen reference posteriors: models, data, and what is known of the answer."""

from benchmarks.posteriors.registry import REGISTRY, Posterior, names

__all__ = ["REGISTRY", "Posterior", "names"]
