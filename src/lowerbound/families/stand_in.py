"""The Gaussian that stands in for a distribution over some coordinates of the unconstrained vector."""

from __future__ import annotations

import numpy as np

from lowerbound.expectations.noise import matched_normals
from lowerbound.families.base import Block, GaussianBlock
from lowerbound.families.dense import DenseGaussian
from lowerbound.families.diagonal import DiagonalGaussian
from lowerbound.families.product import ProductBlock

#: Coordinates up to which it is dense.
_DENSE = 1000
#: Draws that moments are taken from.
_DRAWS = 8192

StandIn = DenseGaussian | DiagonalGaussian


def is_gaussian(q: Block) -> bool:
    """Whether q is a Gaussian, of whatever form."""
    return all(isinstance(b, GaussianBlock) for b in (q.blocks if isinstance(q, ProductBlock) else (q,)))


def marginal_gaussian(q: Block, coordinates: np.ndarray) -> StandIn:
    """N(m, S) with the mean and covariance of q at some coordinates: its marginal, where q is Gaussian.

    Cost: a covariance ``[d, d]``, where q is Gaussian; 8,192 draws where it is not.
    """
    if is_gaussian(q):
        mean = np.asarray(q.mean)[coordinates]
        if isinstance(q, DiagonalGaussian) or len(coordinates) > _DENSE:
            return DiagonalGaussian(mean, np.sqrt(np.asarray(q.variance())[coordinates]))
        covariance = np.asarray(q.covariance())[np.ix_(coordinates, coordinates)]  # pyright: ignore
        return DenseGaussian(mean, np.linalg.cholesky(covariance))
    noise = matched_normals(np.random.default_rng(0), _DRAWS, q.noise_dimension)
    return gaussian_of(np.asarray(q.transform(noise))[:, coordinates], np.full(_DRAWS, 1 / _DRAWS))


def gaussian_of(draws: np.ndarray, weights: np.ndarray) -> StandIn:
    """N(m, S) with the mean and covariance of weighted draws ``[n, d]``: the Gaussian of least KL(p || q)."""
    weights = weights / weights.sum()
    mean = weights @ draws
    away = draws - mean
    if draws.shape[1] > _DENSE:
        return DiagonalGaussian(mean, np.sqrt(weights @ away**2))
    return DenseGaussian(mean, np.linalg.cholesky((away * weights[:, None]).T @ away))


def widened(q: StandIn, forget: float) -> StandIn:
    """The density proportional to q^f: N(m, S / f)."""
    if isinstance(q, DiagonalGaussian):
        return DiagonalGaussian(q.location, q.scale / np.sqrt(forget))
    return DenseGaussian(q.location, q.scale_tril / np.sqrt(forget))


def gaussian_kl(a: StandIn, b: StandIn) -> float:
    """KL(a || b) in nats.

    KL = log |L_b| - log |L_a| + (|L_b^-1 L_a|_F^2 + |L_b^-1 (m_a - m_b)|^2 - d) / 2.
    """
    whitened = np.asarray(b.whiten(np.asarray(a.location)[None]))[0]
    if isinstance(a, DiagonalGaussian) and isinstance(b, DiagonalGaussian):
        spread = float(((a.scale / b.scale) ** 2).sum())
    else:
        root = np.diag(a.scale) if isinstance(a, DiagonalGaussian) else np.asarray(a.scale_tril)
        spread = float((np.asarray(b.whiten(root.T + b.location)) ** 2).sum())
    out = float(b.log_det() - a.log_det()) + 0.5 * (spread + float(whitened @ whitened) - len(whitened))
    return max(out, 0.0)
