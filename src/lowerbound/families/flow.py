r"""A normalizing flow in the coordinates that a Gaussian has whitened.

    x = m + L v,     v = (f(e_S), e_rest),     e ~ N(0, I),

with f the coupling layers of :mod:`~lowerbound.families.coupling` and the coordinates in an order in which the
chosen ones, S, come first. L is lower triangular, so x_S = m_S + L_SS f(e_S) and x_rest given x_S is Gaussian, as
it was: a flow on the worst coordinates of a large posterior, and the Gaussian's own conditional for the others. With
f the identity q is N(m, L L').

log q follows exactly from the inverse of f. Entropy, mean and covariance have no closed form: they are averages over
16,384 draws of fixed stratified noise, computed once for a block. (Everything that
judges a fit uses log q at draws, not these.)

Cost: O(d^2 + k width layers) a draw or density.

Source: Dinh, Sohl-Dickstein & Bengio (2017), Density estimation using Real NVP; for variational inference after
whitening, Agrawal, Sheldon & Domke (2020). They start at a Laplace approximation; here it is the best Gaussian.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from lowerbound.errors import IncompatibleError
from lowerbound.expectations.noise import matched_normals
from lowerbound.families.base import Family, GaussianBlock, TransportedBlock
from lowerbound.families.coupling import WEIGHTS, Couplings
from lowerbound.families.linalg import LOG_2PI, namespace, solve_lower, standard_normal_log_prob

#: Draws behind the entropy and the moments.
MOMENT_DRAWS = 16_384
#: The architecture that measured best: see :mod:`~lowerbound.families.coupling`.
LAYERS, WIDTH = 8, 32


@dataclass(frozen=True, eq=False)
class FlowBlock(TransportedBlock):
    """Coupling layers on k of d whitened coordinates.

    Args:
        location: m ``[d]``.
        scale_tril: L ``[d, d]``, lower triangular, rows in the order of ``order``.
        order: A permutation ``[d]``; the first k coordinates are those of the flow.
        hidden_weight, hidden_bias, output_weight, output_bias: Of each layer's network, layers stacked.
    """

    location: Any
    scale_tril: Any
    order: np.ndarray
    hidden_weight: Any
    hidden_bias: Any
    output_weight: Any
    output_bias: Any

    @property
    def weights(self) -> tuple[Any, ...]:
        return tuple(getattr(self, n) for n in WEIGHTS)

    @property
    def couplings(self) -> Couplings:
        layers, out = self.output_bias.shape
        kept = self.hidden_weight.shape[2]
        return Couplings(kept + out // 2, layers, self.hidden_weight.shape[1])

    @property
    def dimension(self) -> int:
        return self.location.shape[-1]

    @property
    def noise_dimension(self) -> int:
        return self.dimension

    @property
    def _back(self) -> np.ndarray:
        return np.argsort(np.asarray(self.order))

    def _forward(self, noise: Any) -> tuple[Any, Any]:
        """v and log |det f'|, for noise in the block's own order."""
        k = self.couplings.dimension
        xp = namespace(noise, *self.weights)
        run = self.couplings.transform if xp is np else self.couplings.forward
        u, log_det = run(self.weights, noise[:, :k])
        return xp.concatenate([u, noise[:, k:]], -1), log_det

    def transform(self, noise: Any) -> Any:
        v, _ = self._forward(noise)
        return self.location + (v @ self.scale_tril.T)[..., self._back]

    def _inverse(self, x: Any) -> tuple[Any, Any]:
        """The noise behind x, and log |det| of the inverse flow."""
        k = self.couplings.dimension
        xp = namespace(x, *self.weights, self.scale_tril)
        v = solve_lower(self.scale_tril, (x - self.location)[..., np.asarray(self.order)].T).T
        run = self.couplings.invert if xp is np else self.couplings.inverse
        e, log_det = run(self.weights, v[:, :k])
        return xp.concatenate([e, v[:, k:]], -1), log_det

    def whiten(self, x: Any) -> Any:
        """The noise that :meth:`transform` takes to ``x [s, d]``: standard normal under q."""
        return self._inverse(x)[0]

    def log_prob(self, x: Any) -> Any:
        noise, log_det = self._inverse(x)
        return standard_normal_log_prob(noise) + log_det - self._log_det()

    def pull_back(self, noise: Any, gradient: Any) -> tuple[Any, Any]:
        k = self.couplings.dimension
        _, log_det = self._forward(noise)
        slopes = gradient[:, np.asarray(self.order)] @ self.scale_tril
        first = self.couplings.pull_noise(self.weights, noise[:, :k], slopes[:, :k])
        return log_det + self._log_det(), np.concatenate([first, slopes[:, k:]], -1)

    def _log_det(self) -> Any:
        xp = namespace(self.scale_tril)
        return xp.log(xp.abs(xp.diagonal(self.scale_tril))).sum()

    @cached_property
    def _flow_moments(self) -> tuple[Any, Any, Any]:
        """Mean ``[k]`` and covariance ``[k, k]`` of f(e), and E[log |det f'(e)|]."""
        noise = moment_noise(self.couplings.dimension)
        xp = namespace(*self.weights)
        if xp is np:
            u, log_det = self.couplings.transform(self.weights, noise)
        else:
            u, log_det = self.couplings.forward(self.weights, xp.asarray(noise, self.hidden_bias.dtype))
        mean = u.mean(0)
        centred = u - mean
        return mean, centred.T @ centred / len(noise), log_det.mean()

    def entropy(self) -> Any:
        # H(q) = H(N(m, L L')) + E[log |det f'(e)|].
        return self._log_det() + 0.5 * self.dimension * (1 + LOG_2PI) + self._flow_moments[2]

    @property
    def mean(self) -> Any:
        shift = self.scale_tril[:, : self.couplings.dimension] @ self._flow_moments[0]
        return self.location + shift[self._back]

    def covariance(self) -> Any:
        # cov(v) is block diagonal: that of the flow, and the identity.
        k = self.couplings.dimension
        flow, rest = self.scale_tril[:, :k], self.scale_tril[:, k:]
        ordered = flow @ self._flow_moments[1] @ flow.T + rest @ rest.T
        return ordered[self._back][:, self._back]

    def variance(self) -> Any:
        k = self.couplings.dimension
        flow, rest = self.scale_tril[:, :k], self.scale_tril[:, k:]
        return ((flow @ self._flow_moments[1] * flow).sum(1) + (rest**2).sum(1))[self._back]

    def rescale(self, shift: np.ndarray, scale: np.ndarray) -> FlowBlock:
        """The distribution of ``shift + scale * x``."""
        rows = np.asarray(scale)[np.asarray(self.order)][:, None] * self.scale_tril
        return FlowBlock(shift + scale * self.location, rows, self.order, *self.weights)

    def arrays(self) -> dict[str, np.ndarray]:
        names = ("location", "scale_tril", "order", *WEIGHTS)
        return {n: np.asarray(getattr(self, n)) for n in names}


@dataclass(frozen=True)
class Flow(Family):
    """Coupling layers after a Gaussian.

    Args:
        coordinates: Indices of unconstrained coordinates that the flow moves, at least two; the others stay
            Gaussian given these. None for all of them up to 200 dimensions, and above for the 32 whose scores
            are least linear.
        layers: Coupling layers.
        width: Hidden units of each layer's network.

    Raises:
        IncompatibleError: fewer than two coordinates, one of them twice, or sizes that are no positive integers.
    """

    coordinates: Sequence[int] | None = None
    layers: int = field(default=LAYERS, kw_only=True)
    width: int = field(default=WIDTH, kw_only=True)
    name = "flow"

    def __post_init__(self) -> None:
        for what, value in (("layers", self.layers), ("width", self.width)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise IncompatibleError(f"Flow({what}={value!r}): needed: a positive integer.")
        if self.coordinates is None:
            return
        chosen = np.asarray(self.coordinates)
        if chosen.ndim != 1 or len(chosen) < 2 or not np.issubdtype(chosen.dtype, np.integer):
            raise IncompatibleError(
                f"Flow(coordinates={self.coordinates!r}): needed: at least two indices of unconstrained coordinates."
            )
        if len(np.unique(chosen)) < len(chosen) or chosen.min() < 0:
            raise IncompatibleError(
                f"Flow(coordinates={self.coordinates!r}): needed: each index once, counted from zero."
            )
        object.__setattr__(self, "coordinates", tuple(int(c) for c in chosen))

    def start(self, gaussian: GaussianBlock, rng: np.random.Generator) -> FlowBlock:
        """The Gaussian as a block whose flow is the identity."""
        return self._identity(np.asarray(gaussian.mean), np.asarray(gaussian.covariance()), rng)

    def build(self, mean: np.ndarray, covariance: np.ndarray) -> FlowBlock:
        full = np.diag(covariance) if covariance.ndim == 1 else covariance
        return self._identity(mean, full, np.random.default_rng(0))

    def couplings(self, d: int) -> Couplings:
        """The architecture for d dimensions."""
        return Couplings(d if self.coordinates is None else len(self.coordinates), self.layers, self.width)

    def _identity(self, mean: np.ndarray, covariance: np.ndarray, rng: np.random.Generator) -> FlowBlock:
        order = self.arrange(len(mean))
        factor = np.linalg.cholesky(covariance[np.ix_(order, order)])
        return FlowBlock(mean, factor, order, *self.couplings(len(mean)).identity(rng))

    def arrange(self, d: int) -> np.ndarray:
        """The coordinates of the flow, then the others."""
        if d < 2:
            raise IncompatibleError(
                "Flow needs at least two coordinates, of which one is moved given another; this posterior has one. "
                "Use family='sinh_arcsinh'."
            )
        first = np.asarray(self.coordinates if self.coordinates is not None else range(d), int)
        if first.max() >= d:
            raise IncompatibleError(f"Flow(coordinates=...): index {first.max()}, but there are {d} dimensions.")
        return np.concatenate([first, np.setdiff1d(np.arange(d), first)])

    def parameters(self, block: FlowBlock) -> dict[str, Any]:
        return {
            "location": block.location,
            "lower": np.tril(block.scale_tril, -1),
            "log_diagonal": np.log(np.diagonal(block.scale_tril)),
        } | dict(zip(WEIGHTS, block.weights, strict=True))

    def elbo_gradient(self, block: FlowBlock, noise: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        n, couplings = len(noise), block.couplings
        k, ordered = couplings.dimension, scores[:, block.order]
        v, _ = block._forward(noise)
        slope = ordered.T @ v / n
        # Through f: the scores at v_S for the draws, and the log determinant of the entropy's own noise.
        fixed = moment_noise(k)
        pulled = couplings.gradient(
            block.weights,
            np.concatenate([noise[:, :k], fixed]),
            np.concatenate([ordered @ block.scale_tril[:, :k] / n, np.zeros_like(fixed)]),
            np.concatenate([np.zeros(n), np.full(len(fixed), 1 / len(fixed))]),
        )
        return {
            "location": scores.mean(0),
            "lower": np.tril(slope, -1),
            "log_diagonal": np.diagonal(slope) * np.diagonal(block.scale_tril) + 1,
        } | dict(zip(WEIGHTS, pulled, strict=True))

    def from_parameters(self, parameters: dict[str, Any]) -> FlowBlock:
        xp = namespace(*parameters.values())
        scale = xp.tril(parameters["lower"], -1) + xp.diag(xp.exp(parameters["log_diagonal"]))
        order = self.arrange(parameters["location"].shape[0])
        return FlowBlock(parameters["location"], scale, order, *(parameters[n] for n in WEIGHTS))


@lru_cache(maxsize=4)
def moment_noise(k: int) -> np.ndarray:
    """The fixed noise of the moments ``[n, k]``, with first and second moments exact: so are the identity's."""
    return matched_normals(np.random.default_rng(0), MOMENT_DRAWS, k)
