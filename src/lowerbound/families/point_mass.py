"""A point mass: the posterior's mode, with no claim about its spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lowerbound.families.base import Family, LocatedBlock


@dataclass(frozen=True, eq=False)
class Point(LocatedBlock):
    """All mass at one point ``[d]``. Its entropy as a density is minus infinity, and so is its ELBO."""

    location: Any

    @property
    def noise_dimension(self) -> int:
        return 0

    @property
    def has_density(self) -> bool:
        return False

    def transform(self, noise: Any) -> Any:
        return np.broadcast_to(self.location, (noise.shape[0], self.dimension))

    def log_prob(self, x: Any) -> Any:
        return np.where((x == self.location).all(-1), np.inf, -np.inf)

    def entropy(self) -> float:
        return -np.inf

    def variance(self) -> Any:
        return np.zeros(self.dimension)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"location": np.asarray(self.location)}


@dataclass(frozen=True)
class PointMass(Family):
    """Point masses: maximum a posteriori. The density maximised is that of the *constrained*
    variables, as in Stan's ``optimize`` and NumPyro's ``AutoDelta``, so a mode of ``sigma`` is a mode
    of its own density, not of log sigma's."""

    name = "point_mass"

    def build(self, mean: np.ndarray, covariance: np.ndarray) -> Point:
        return Point(mean)

    def parameters(self, block: Point) -> dict[str, Any]:
        return {"location": block.location}

    def elbo_gradient(self, block: Point, noise: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        return {"location": scores.mean(0)}

    def from_parameters(self, parameters: dict[str, Any]) -> Point:
        return Point(parameters["location"])
