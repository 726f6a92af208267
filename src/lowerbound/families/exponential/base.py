r"""Exponential families: q(x) = h(x) exp(eta . t(x) - A(eta)).

A block has sufficient statistics t, and three ways to be written down: *natural* parameters eta, *moments* E[t] (the
mean parameters, dA/deta), and what a person knows it by (shape and rate, mean and covariance). Where q factorises,
E_q[log p(x, z)] is linear in the moments of each block; the coefficient of a moment is the natural parameter of the
block's optimum, q*(x) proportional to exp(E_-x[log p]):

    eta* = d E_q[log p] / d E[t],

so that the update of every block is :meth:`ExponentialBlock.natural` of a gradient. That gradient, the natural
parameters and the moments are all dictionaries with the same keys.

Blocks stand for whole arrays: every element (or event) of a latent along its plates has parameters of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

#: From the statistics of a block to an array for each.
Parameters = Mapping[Hashable, Any]


class ExponentialBlock(ABC):
    """See the module's docstring.

    Attributes:
        latents: Names of the latents in it.
        keys: Its statistics.
        times: How often its entropy counts: more than once where its rows stand for others.
    """

    family: str
    latents: tuple[str, ...]
    keys: tuple[Hashable, ...]
    times: float = 1.0

    @abstractmethod
    def natural(self, gradient: Parameters) -> dict[Hashable, Any]:
        """Natural parameters from the coefficients of the statistics."""

    @abstractmethod
    def moments(self, natural: Parameters) -> dict[Hashable, Any]:
        """E[t]."""

    @abstractmethod
    def entropy(self, natural: Parameters) -> Any:
        """H(q) in nats, all elements together, with respect to Lebesgue (or counting) measure of the latents."""

    @abstractmethod
    def proper(self, natural: Parameters) -> Any:
        """Whether these natural parameters are those of a distribution, all elements together."""

    @property
    @abstractmethod
    def noise_dimension(self) -> int:
        """Number of standard normal variables behind one draw of all elements."""

    @abstractmethod
    def from_normal(self, natural: Parameters, noise: np.ndarray) -> dict[str, np.ndarray]:
        """Draws of each latent ``[n, *shape]`` from standard normal noise ``[n, noise_dimension]``, on the host.

        Smooth and invertible for continuous latents: where q is right, so is its noise.
        """

    def sample(self, rng: np.random.Generator, natural: Parameters, n: int) -> dict[str, np.ndarray]:
        """Draws of each latent ``[n, *shape]``, on the host."""
        return self.from_normal(natural, rng.standard_normal((n, self.noise_dimension)))

    @abstractmethod
    def log_prob(self, natural: Parameters, values: Mapping[str, Any]) -> Any:
        """log q ``[n]`` at values ``[n, *shape]`` of each latent, on the host."""

    @abstractmethod
    def mean_and_variance(self, natural: Parameters) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Means and variances of each latent, on the host; infinite or nan where there are none."""

    @abstractmethod
    def start(self, rng: np.random.Generator, spread: float) -> dict[Hashable, Any]:
        """Natural parameters to begin with where nothing is known: a distribution of unit scale about a random place.

        Args:
            rng: For that place.
            spread: How far about.
        """

    def describe(self, natural: Parameters) -> dict[str, np.ndarray]:
        """The parameters a person knows it by, by name."""
        return {}


def blend(old: Parameters, new: Parameters, rate: Any) -> dict[Hashable, Any]:
    """(1 - rate) old + rate new: a natural-gradient step."""
    return {k: (1 - rate) * old[k] + rate * new[k] for k in old}
