r"""The ELBO on fixed noise, as a deterministic function of q's parameters: value, gradient, Hessian products.

With noise e_1..e_M, and phi the real-valued parameters of the family (``Family.parameters``),

    F(phi) = mean_m log p(x, T_phi(e_m)) + H(q_phi).

It is written in coordinates y in which a base Gaussian is standard, x = mean + L y, so that phi = 0
is the base and every parameter is of order one. The gradient comes from the scores at the draws
(``Family.elbo_gradient``), a product with the Hessian from the difference of two gradients: the kernel is the
only compiled program.

*The step of the difference.* With y' = phi + h d, max |d| = 1, the error is h times a third derivative of order
one (in these coordinates) from the truncation, and eps max|x / scale| / h from the rounding of x: their sum is
least at h = sqrt(eps max(1, max|x / scale|)). With ten times that the error is some 1e-7, of which conjugate
gradients notice nothing, and one gradient a draw is enough: central differences would cost two.

Cost: M gradients and O(Mp), both for a value with its gradient and for a product.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lowerbound.families import BoundProduct, DenseGaussian, DiagonalGaussian, Family, ProductBlock
from lowerbound.kernel import Kernel

_STEP = 1.5e-7
_LONGEST = 1e-2
#: Numbers in the draws of all directions that are differenced at once.
_AT_ONCE = 2**22


class Evaluation(NamedTuple):
    """F at phi.

    Attributes:
        vector: phi ``[P]``.
        elbo: F(phi), in nats.
        elbo_se: The standard error it would have if the noise were drawn anew.
        gradient: dF / dphi ``[P]``.
    """

    vector: np.ndarray
    elbo: float
    elbo_se: float
    gradient: np.ndarray


class FixedNoise:
    """F for one family, one base and one set of noise.

    Args:
        kernel: The compiled log density.
        family: Diagonal, Dense, LowRank or a bound product of them.
        base: The Gaussian that is standard in the coordinates y: diagonal, dense or a product of these.
        noise: ``[M, noise_dimension]``.

    Attributes:
        start: phi of the base, or of the family's member nearest to it.
        layout: Names and shapes of phi's parts, in order.
    """

    def __init__(self, kernel: Kernel, family: Family, base: Any, noise: np.ndarray):
        self.kernel, self.family, self.base, self.noise = kernel, family, base, noise
        p = kernel.dimension
        parameters = family.parameters(family.build(np.zeros(p), np.ones(p)))
        self.layout = [(k, np.shape(v)) for k, v in parameters.items()]
        self.start = np.concatenate([np.ravel(v) for v in parameters.values()])
        self._log_det = log_det(base)
        self._spread = np.sqrt(np.asarray(base.variance()))

    def with_noise(self, noise: np.ndarray) -> FixedNoise:
        """The same function on other noise."""
        return FixedNoise(self.kernel, self.family, self.base, noise)

    def block(self, vector: np.ndarray) -> Any:
        """q in the coordinates y."""
        parameters, at = {}, 0
        for k, shape in self.layout:
            size = int(np.prod(shape))
            parameters[k] = vector[at : at + size].reshape(shape)
            at += size
        return self.family.from_parameters(parameters)

    def evaluate(self, vector: np.ndarray) -> Evaluation | None:
        """Value and gradient; None if either is not finite."""
        with np.errstate(all="ignore"):
            block = self.block(vector)
            if not np.isfinite(np.asarray(block.variance())).all():
                return None
            y = np.asarray(block.transform(self.noise))
            x = carry(self.base, y)
            if not np.isfinite(x).all():
                return None
            value, score = self.kernel(x)
            if not (np.isfinite(value).all() and np.isfinite(score).all()):
                return None
            try:
                log_q = np.asarray(block.log_prob(y))
            except np.linalg.LinAlgError:  # a factor so long that I + W'W is no longer definite
                return None
            elbo = float(value.mean() + block.entropy() + self._log_det)
            se = float((value - log_q).std() / np.sqrt(len(value)))
            gradient = self._gradient(block, score)
        if not (np.isfinite(elbo) and np.isfinite(gradient).all()):
            return None
        return Evaluation(vector, elbo, se, gradient)

    def products(self, at: Evaluation, directions: np.ndarray) -> np.ndarray:
        """The Hessian of F at ``at`` times each row of ``directions [r, P]``: M gradients a row."""
        directions = np.atleast_2d(directions)
        out = np.zeros_like(directions)
        block = self.block(at.vector)
        step = difference_step(carry(self.base, np.asarray(block.mean)[None])[0], self._spread)
        rows = np.flatnonzero(np.abs(directions).max(1) > 0)
        m, p = len(self.noise), self.kernel.dimension
        chunk = max(1, _AT_ONCE // (m * p))
        with np.errstate(all="ignore"):
            for k in range(0, len(rows), chunk):
                part = rows[k : k + chunk]
                h = step / np.abs(directions[part]).max(1)
                blocks = [self.block(at.vector + hi * directions[i]) for i, hi in zip(part, h, strict=True)]
                x = np.concatenate([carry(self.base, b.transform(self.noise)) for b in blocks])
                _, score = self.kernel(x)
                for j, i in enumerate(part):
                    moved = self._gradient(blocks[j], score[j * m : (j + 1) * m])
                    out[i] = (moved - at.gradient) / h[j]
        return out

    def pair_gradients(self, at: Evaluation) -> np.ndarray:
        """The gradients ``[M / 2, P]`` that each antithetic pair (draws m and m + M / 2) would give alone."""
        block = self.block(at.vector)
        _, score = self.kernel(carry(self.base, block.transform(self.noise)))
        half = len(self.noise) // 2
        return np.stack([self._gradient(block, score[i::half], self.noise[i::half]) for i in range(half)])

    def metric(self, vector: np.ndarray) -> np.ndarray:
        """The diagonal of q's Fisher information ``[P]``: minus the Hessian's, if p were of q's form."""
        return information(self.family, self.block(vector))

    def _gradient(self, block: Any, score: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        parts = self.family.elbo_gradient(block, self.noise if noise is None else noise, pull_back(self.base, score))
        return np.concatenate([np.ravel(parts[k]) for k, _ in self.layout])


def difference_step(location: np.ndarray, scale: np.ndarray) -> float:
    """The step of a forward difference of gradients in units of ``scale``, from the rounding of the location."""
    return float(min(_LONGEST, _STEP * np.sqrt(max(1.0, np.abs(location / scale).max()))))


def information(family: Family, block: Any) -> np.ndarray:
    """Fisher information of each parameter in phi: 1 / variance of a location, 2 of the log of a scale, 1 of a loading.

    (Of a loading it is 1 where the other loadings of its row are small against its scale, and the scale is one.)
    """
    if isinstance(family, BoundProduct):
        return np.concatenate([information(f, b) for f, b in zip(family.families, block.blocks, strict=True)])
    out = []
    for name, value in family.parameters(block).items():
        if name == "location":
            out.append(1 / np.asarray(block.variance()))
        else:
            out.append(np.full(np.size(value), 2.0 if name.startswith("log_") else 1.0))
    return np.concatenate(out)


def locations(family: Family, dimension: int) -> np.ndarray:
    """Where in phi the location of each coordinate stands, ``[p]``."""
    out, at = np.empty(dimension, int), 0
    for f, index in family.members(dimension):
        n = len(index)
        for name, value in f.parameters(f.build(np.zeros(n), np.ones(n))).items():
            if name == "location":
                out[index] = at + np.arange(n)
            at += np.size(value)
    return out


def carry(base: Any, y: np.ndarray) -> np.ndarray:
    """x = mean + L y for each row of ``y [s, p]``, coordinate by coordinate (a product takes noise block by block)."""
    y = np.asarray(y)
    return np.asarray(base.transform(y[:, np.concatenate(base.indices)] if isinstance(base, ProductBlock) else y))


def pull_back(base: Any, score: np.ndarray) -> np.ndarray:
    """The scores in y of :func:`carry`: L' grad log p for each row of ``score [s, p]``."""
    if isinstance(base, DiagonalGaussian):
        return score * base.scale
    if isinstance(base, DenseGaussian):
        return score @ base.scale_tril
    parts = [pull_back(b, score[:, i]) for b, i in zip(base.blocks, base.indices, strict=True)]
    return np.concatenate(parts, 1)[:, np.argsort(np.concatenate(base.indices))]


def log_det(base: Any) -> float:
    """log |det L| of :func:`carry`."""
    if isinstance(base, ProductBlock):
        return float(sum(log_det(b) for b in base.blocks))
    return float(base.log_det())
