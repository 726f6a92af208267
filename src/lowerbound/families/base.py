"""q(z): which distributions may stand in for the posterior?

A *family* is a set of distributions over the unconstrained vector R^p, described by its settings
(``LowRank(rank=10)``); a *block* is one member of it, with numbers in it (``LowRankGaussian``). q is a
:class:`~lowerbound.families.Product` of blocks over disjoint groups of sites: independence between
blocks is the mean-field assumption, and what a block is inside is its own affair.

A block maps standard normal noise to draws, ``transform(e)``, so that an expectation under q is one
under noise that does not depend on q's parameters (the reparameterisation); with it come
``log_prob``, ``entropy`` and the first two ``moments``. Blocks hold NumPy arrays on the host and JAX
arrays inside a compiled program; the same methods serve both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np


class Block(ABC):
    """A distribution over R^d."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """d."""

    @property
    @abstractmethod
    def noise_dimension(self) -> int:
        """Number of standard normal variables behind one draw."""

    @property
    def has_density(self) -> bool:
        """Whether log q is a number: not for points."""
        return True

    @abstractmethod
    def transform(self, noise: Any) -> Any:
        """Draws ``[s, d]`` from standard normal noise ``[s, noise_dimension]``."""

    @abstractmethod
    def log_prob(self, x: Any) -> Any:
        """log q(x) in nats for ``x [s, d]``."""

    @abstractmethod
    def entropy(self) -> Any:
        """H(q) = -E_q[log q], in nats."""

    @property
    @abstractmethod
    def mean(self) -> Any:
        """E_q[x], ``[d]``."""

    @abstractmethod
    def variance(self) -> Any:
        """Marginal variances, ``[d]``."""

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """The numbers that make it up, for saving."""

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """``n`` independent draws ``[n, d]``, on the host."""
        return np.asarray(self.transform(rng.standard_normal((n, self.noise_dimension))))


class LocatedBlock(Block):
    """A distribution with its mean among its parameters, as ``location`` ``[d]``."""

    location: Any

    @property
    def dimension(self) -> int:
        return self.location.shape[-1]

    @property
    def mean(self) -> Any:
        return self.location


class GaussianBlock(LocatedBlock):
    """A Gaussian N(location, L L'), whatever the form of L."""

    @property
    def noise_dimension(self) -> int:
        return self.dimension

    @abstractmethod
    def whiten(self, x: Any) -> Any:
        """L^{-1} (x - mean) for ``x [s, d]``: standard normal under q."""

    @abstractmethod
    def log_det(self) -> Any:
        """log |det L|."""

    @abstractmethod
    def covariance(self) -> Any:
        """The covariance ``[d, d]``, whatever that costs."""

    @abstractmethod
    def natural(self, gradient: Any) -> Any:
        """The covariance times each row of ``gradient [s, d]``: the natural gradient with respect to the mean."""

    @abstractmethod
    def rescale(self, shift: np.ndarray, scale: np.ndarray) -> GaussianBlock:
        """The distribution of ``shift + scale * x``."""


class TransportedBlock(Block):
    """A smooth invertible map T of standard normal noise that is more than affine."""

    @abstractmethod
    def whiten(self, x: Any) -> Any:
        """T^{-1}(x) ``[s, d]``: standard normal under q."""

    @abstractmethod
    def pull_back(self, noise: Any, gradient: Any) -> tuple[Any, Any]:
        """log |det T'(e)| ``[s]``, and the gradient in e of f(T(e)) + log |det T'(e)| ``[s, d]``.

        Args:
            noise: e ``[s, d]``.
            gradient: grad f at T(e) ``[s, d]``.
        """


class Family(ABC):
    """A set of distributions; builds its members."""

    name: str

    def members(self, dimension: int) -> tuple[tuple[Family, np.ndarray], ...]:
        """The families of independent blocks of coordinates, each with its indices: of most, itself over all."""
        return ((self, np.arange(dimension)),)

    @abstractmethod
    def build(self, mean: np.ndarray, covariance: np.ndarray) -> Block:
        """The member nearest to N(mean, covariance); ``covariance`` is ``[d, d]`` or its diagonal ``[d]``."""

    @abstractmethod
    def parameters(self, block: Any) -> dict[str, Any]:
        """The block as real-valued parameters without constraints, for a gradient step."""

    @abstractmethod
    def elbo_gradient(self, block: Any, noise: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        """The gradient of mean log p(transform(noise)) + H(q) with respect to :meth:`parameters`.

        By hand, on the host, from the scores grad log p ``[m, d]`` at the draws: so the kernel that gives the
        scores is the only compiled program.
        """

    @abstractmethod
    def from_parameters(self, parameters: dict[str, Any]) -> Block:
        """The inverse of :meth:`parameters`; traceable by JAX."""


def check_rank(rank: object) -> int:
    """A rank is a positive integer."""
    if isinstance(rank, bool) or not isinstance(rank, (int, np.integer)) or rank < 1:
        from lowerbound.errors import IncompatibleError

        raise IncompatibleError(f"rank is {rank!r}; needed: a positive integer, for example LowRank(rank=10).")
    return int(rank)
