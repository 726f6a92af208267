"""The regression of scores on noise for a dense precision, or for blocks on its diagonal.

At a Gaussian N(mu, L L') with draws z = mu + L e, the whitened scores G = L' grad log p(z) are regressed on
the noise: their mean gb and slope -A estimate L' E_q[grad log p] and L' E_q[Hess log p] L.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from lowerbound.algorithms.pattern import AFFINE, TAU, Iterate, Pattern, Slope, allowed, clip
from lowerbound.algorithms.quasi_newton import lower, root
from lowerbound.algorithms.search import End
from lowerbound.expectations.noise import matched_normals
from lowerbound.families import Block, DenseGaussian, DiagonalGaussian, GaussianBlock, ProductBlock
from lowerbound.kernel import Kernel


@dataclass(frozen=True, eq=False)
class Blocks(Pattern):
    """Dense within each group of coordinates and zero between them; one group is the dense Gaussian.

    Args:
        groups: Coordinates of each, in ascending order.
    """

    groups: list[np.ndarray]

    @property
    def width(self) -> int:
        return sum(map(len, self.groups))

    @property
    def first_draws(self) -> int:
        return 64 * int(np.ceil(2 * self.width / 64))

    def noise(self, rng: np.random.Generator, m: int) -> np.ndarray:
        return matched_normals(rng, m, self.width)

    def localise(self, end: End) -> End:
        if end.inverse.ndim == 1 or len(self.groups) == 1:
            return end
        precision = np.linalg.pinv(end.inverse, hermitian=True)
        out = np.zeros_like(end.inverse)
        for g in self.groups:
            block = np.ix_(g, g)
            try:
                out[block] = np.linalg.inv(precision[block])
            except np.linalg.LinAlgError:  # a search that ended on a plateau knows no curvature
                out[block] = end.inverse[block]
        return replace(end, inverse=out)

    def gaussian(self, mean: np.ndarray, covariance: np.ndarray) -> DenseGaussian:
        factor = root(covariance)
        return DenseGaussian(mean, np.diag(factor) if factor.ndim == 1 else factor)

    def narrow(self, q: GaussianBlock, factor: float) -> DenseGaussian:
        q = cast(DenseGaussian, q)
        return DenseGaussian(q.location, q.scale_tril * factor)

    def pull(self, q: GaussianBlock, scores: np.ndarray) -> np.ndarray:
        return scores @ cast(DenseGaussian, q).scale_tril

    def regress(self, at: Iterate) -> Regression:
        return Regression(at, self)

    def output(self, q: GaussianBlock) -> Block:
        mean, factor = q.mean, cast(DenseGaussian, q).scale_tril
        if len(self.groups) == 1:
            return q
        if len(self.groups) == len(mean):
            return DiagonalGaussian(mean, np.diagonal(factor).copy())
        blocks = tuple(DenseGaussian(mean[g], factor[np.ix_(g, g)]) for g in self.groups)
        return ProductBlock(blocks, tuple(self.groups))


class Regression(Slope):
    """gb, A = V w V' (w clipped to [1/tau, tau]) and the residual R = G - gb + E A at an iterate."""

    def __init__(self, at: Iterate, pattern: Blocks):
        self.at, self.pattern = at, pattern
        groups = pattern.groups
        self.gradient = at.scores.mean(0)
        slope = -(at.noise.T @ at.scores) / len(at.noise)
        self.slope = 0.5 * (slope + slope.T)
        self.residual = at.scores - self.gradient + at.noise @ self.slope
        # Affine scores make gb and A exact: then nothing need be held back.
        self.affine = bool(np.linalg.norm(self.residual) <= AFFINE * np.linalg.norm(at.scores - at.scores.mean(0)))
        self.limit = 1e12 if self.affine else TAU
        w, self.v = np.linalg.eigh(self.slope)
        self.lowest = float(w[0])
        self.w = clip(w, self.limit)
        if len(groups) > 1:
            # A factorised q is narrow along correlations: small w are then no sign of a flat direction,
            # and the mean has far to go.
            self.w_mean = np.clip(w, 1e-6, self.limit)
            inner = np.concatenate([np.linalg.eigvalsh(self.slope[np.ix_(g, g)]) for g in groups])
            self.spread = clip(inner, self.limit)
        else:
            self.w_mean = self.spread = self.w
        self.widening = bool(self.spread.min() <= 1.01 / TAU)
        # A^{-1} gb, the full step of the mean in whitened coordinates
        self.move = self.v @ ((self.v.T @ self.gradient) / self.w_mean)
        self.direction = cast(DenseGaussian, at.q).scale_tril @ self.move
        self.size = float(np.sqrt((self.move**2).sum() + 0.5 * (np.log(self.spread) ** 2).sum()))
        m, r2 = len(at.noise), self.residual**2
        self.noise_cost = float(0.5 * r2.sum() / m**2 + 0.25 * ((at.noise**2).T @ r2).sum() / m**2)
        self.excess = self.noise_cost / allowed(pattern.width)
        self.near = self.size**2 < 8 * self.noise_cost

    def propose(self, kernel: Kernel, rho: float) -> Iterate | None:
        groups, q = self.pattern.groups, cast(DenseGaussian, self.at.q)
        move = rho * self.move
        norm, cap = np.linalg.norm(move), 3 * np.sqrt(len(move))
        if norm > cap and not self.affine:
            move = move * (cap / norm)
        if len(groups) == 1:
            factor = lower(q.scale_tril @ (self.v * self.w ** (-rho / 2)))
        elif len(groups) == len(move):
            scale = clip(np.diagonal(self.slope), self.limit) ** (-rho / 2)
            factor = np.diag(np.diagonal(q.scale_tril) * scale)
        else:
            factor = np.zeros_like(q.scale_tril)
            for g in groups:
                block = np.ix_(g, g)
                w, v = np.linalg.eigh(self.slope[block])
                factor[block] = lower(q.scale_tril[block] @ (v * clip(w, self.limit) ** (-rho / 2)))
        moved = DenseGaussian(q.location + q.scale_tril @ move, factor)
        return self.pattern.evaluate(kernel, moved, self.at.noise)
