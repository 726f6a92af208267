"""Proposals for importance sampling: Gaussians, Student-t's about them, and mixtures learned from weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, logsumexp

from lowerbound.algorithms.base import Mode, Move
from lowerbound.algorithms.quasi_newton import root
from lowerbound.expectations.noise import stratified_normals, student_scales
from lowerbound.families import (
    Block,
    DenseGaussian,
    DiagonalGaussian,
    FactoredBlock,
    FlowBlock,
    GaussianBlock,
    MixtureBlock,
    SinhArcsinhBlock,
)
from lowerbound.pareto import effective_size

#: Degrees of freedom of learned components: heavier than a Gaussian's tails, with finite fourth moments.
_DEGREES = 6.0
#: Components, at most, and points that they are fitted to.
_MOST, _POINTS = 8, 3000
#: Dimensions above which too few effective draws are not flattened until they suffice for a covariance.
_FLATTEN = 20


@dataclass(frozen=True, eq=False)
class Component:
    """A q, or the Student-t about it: of a Gaussian's mean and scatter; of a flow's noise, bent as the flow bends it.

    Args:
        block: The Gaussian, or a flow or sinh-arcsinh block.
        degrees: Degrees of freedom of the Student-t; None for the block itself.
        moves: Involutions that its draws are moved by, in order: it is the distribution of their images.
    """

    block: Block
    degrees: float | None
    moves: tuple[Move, ...] = ()

    @property
    def _bent(self) -> bool:
        """Whether q is no Gaussian: its Student-t is then that of the noise, taken where q takes it."""
        return isinstance(self.block, (FlowBlock, SinhArcsinhBlock))

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        x = self._draw(rng, n)
        for move in self.moves:
            x = move(x)[0]
        return x

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        return log_probs([self], x)[0]

    def _draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        noise = stratified_normals(rng, n, self.block.noise_dimension)
        if self.degrees is None:
            return np.asarray(self.block.transform(noise))
        scales = student_scales(rng, n, self.degrees)[:, None]
        if self._bent:
            return np.asarray(self.block.transform(noise * scales))
        z = np.asarray(self.block.transform(noise))
        mean = np.asarray(self.block.mean)
        return mean + (z - mean) * scales

    def unmoved(self, x: np.ndarray) -> np.ndarray:
        """log density of what has not been moved."""
        log_q = np.asarray(self.block.log_prob(x))
        if self.degrees is None:
            return log_q
        p, nu = x.shape[1], self.degrees
        # log q = log N(e; 0, I) - log |det dT/de|; the Student-t of the noise e = T^{-1}(x) has its own density in
        # place of the first term. Where T is affine, |e|^2 is -2 log q beyond its value at the mean.
        if self._bent:
            distance = (self.block.whiten(x) ** 2).sum(1)  # pyright: ignore[reportAttributeAccessIssue]
            normaliser = log_q + 0.5 * distance
        else:
            normaliser = float(self.block.log_prob(np.asarray(self.block.mean)[None])[0])
            distance = -2 * (log_q - normaliser)
        return (
            normaliser
            + 0.5 * p * np.log(2 * np.pi)
            + gammaln((nu + p) / 2)
            - gammaln(nu / 2)
            - 0.5 * p * np.log(nu * np.pi)
            - 0.5 * (nu + p) * np.log1p(distance / nu)
        )


def log_probs(components: Sequence[Component], x: np.ndarray) -> np.ndarray:
    """log densities of components at ``x [n, p]``: ``[components, n]``.

    With y = pi_m ... pi_1 x' it is log c(x') + log |det dx' / dy|, and an involution is its own inverse.
    """
    out: list[np.ndarray] = [np.empty(0)] * len(components)
    for moves in dict.fromkeys(c.moves for c in components):
        at, log_det = x, np.zeros(len(x))
        for move in reversed(moves):
            at, more = move(at)
            log_det = log_det + more
        for i, c in enumerate(components):
            if c.moves == moves:
                value = c.unmoved(at) + log_det
                out[i] = np.nan_to_num(value, nan=-np.inf, posinf=-np.inf, neginf=-np.inf) if moves else value
    return np.stack(out)


@dataclass(frozen=True, eq=False)
class Fold:
    """Modes that are images of one, laid on one another: what is learned of one of them is learned of all.

    Args:
        gaussians: Of the first mode, and of the others.
        moves: By which each is reached from the first; none for itself.
    """

    gaussians: tuple[GaussianBlock, ...]
    moves: tuple[tuple[Move, ...], ...]

    @staticmethod
    def of(q: Block, modes: Sequence[Mode]) -> Fold | None:
        """Of q and the other modes; None where there are none, or one that no image leads to."""
        apart = [m for m in modes if m.separate]
        if not apart or not all(m.moves for m in apart):
            return None
        own = q.components[0] if isinstance(q, MixtureBlock) else q
        if not isinstance(own, GaussianBlock):
            own = DiagonalGaussian(np.asarray(own.mean), np.sqrt(np.asarray(own.variance())))
        return Fold((own, *(m.gaussian for m in apart)), ((), *(m.moves for m in apart)))

    @property
    def each(self) -> tuple[Move, ...]:
        """The involutions of which the moves consist."""
        return tuple(dict.fromkeys(m for moves in self.moves for m in moves))

    def which(self, x: np.ndarray) -> np.ndarray:
        """The mode that each draw is of ``[n]``."""
        return np.argmax([g.log_prob(x) for g in self.gaussians], 0)

    def centred(self, x: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
        """Draws ``[n, p]`` less the mean of those of the same mode, by their weights."""
        which, out = self.which(x), np.array(x)
        for k in np.unique(which):
            some = np.flatnonzero(which == k)
            out[some] -= np.average(x[some], 0, None if weight is None else weight[some] + 1e-300)
        return out

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws ``[n, p]`` laid on the first mode, and which mode each was of."""
        which = self.which(x)
        out = np.array(x)
        for k, moves in enumerate(self.moves):
            for move in reversed(moves):
                if (which == k).any():
                    out[which == k] = move(out[which == k])[0]
        return np.where(np.isfinite(out).all(1, keepdims=True), out, x), which

    def images(self, components: Sequence[Component]) -> list[Component]:
        """Components about every mode, from those about the first: the first mode's first."""
        return [Component(c.block, c.degrees, (*c.moves, *moves)) for moves in self.moves for c in components]


def about(q: Block, degrees: float) -> tuple[list[Component], np.ndarray]:
    """The Student-t about q and its share; of a mixture one about each of its Gaussians, with theirs.

    About a product of exponential families it is that about the Gaussian with the same mean and covariance.
    """
    if isinstance(q, FactoredBlock):
        return [Component(q.gaussian, degrees)], np.ones(1)
    if isinstance(q, MixtureBlock):
        return [Component(c, degrees) for c in q.components], np.asarray(q.shares)
    return [Component(q, degrees)], np.ones(1)


def learn(
    x: np.ndarray, log_weights: np.ndarray, rng: np.random.Generator
) -> tuple[list[Component], np.ndarray] | None:
    """A Student-t mixture fitted to weighted draws ``x [n, p]``, and its shares; None if they are too few or far apart.

    Args:
        x: The draws.
        log_weights: Smoothed and normalised ``[n]``.
        rng: Random numbers.
    """
    p = x.shape[1]
    needed = 5 * (p + 2)
    effective = effective_size(log_weights)
    if effective < needed:
        if p > _FLATTEN:
            return None
        # Flatten the weights until they carry a covariance (tempering).
        power = 1.0
        while effective < needed and power > 0.02:
            power *= 0.7
            effective = effective_size(power * log_weights)
        log_weights = power * log_weights
    weight = np.exp(log_weights - log_weights.max())
    weight /= weight.sum()
    mean = weight @ x
    centred = x - mean
    covariance = (weight[:, None] * centred).T @ centred
    if not np.isfinite(covariance).all():
        return None
    k = int(np.clip(effective / (15 * (p + 2)), 1, _MOST))
    # Fit to a systematic resample: fewer points, with the same expectation of every average.
    edges = np.cumsum(weight)
    places = np.searchsorted(edges, (np.arange(_POINTS) + rng.uniform()) / _POINTS * edges[-1])
    chosen, times = np.unique(np.minimum(places, len(x) - 1), return_counts=True)
    try:
        blocks, shares = student_mixture(x[chosen], times / _POINTS, mean, covariance, k, effective, rng)
    except np.linalg.LinAlgError:  # draws so far apart that their scatter has no root in floating point
        return None
    return [Component(b, _DEGREES) for b in blocks], shares


def student_mixture(
    x: np.ndarray,
    weight: np.ndarray,
    mean: np.ndarray,
    covariance: np.ndarray,
    k: int,
    effective: float,
    rng: np.random.Generator,
) -> tuple[list[DenseGaussian], np.ndarray]:
    """EM for k Student-t components on weighted points (Peel & McLachlan 2000; Cappe et al. 2008).

    In coordinates whitened by the overall covariance; each component's scatter is shrunk towards the
    average one as if it had p + 2 more effective points.
    """
    p, nu = x.shape[1], _DEGREES
    factor = root(covariance + 1e-12 * np.diag(np.diagonal(covariance)))
    z = (x - mean) @ np.linalg.inv(factor).T
    centres = z[rng.choice(len(z), k, p=weight)] if k > 1 else np.zeros((1, p))
    scatter = np.repeat(np.eye(p)[None] * k ** (-2 / p), k, axis=0)
    share = np.full(k, 1 / k)
    prior = (p + 2) / effective
    for _ in range(10 if k > 1 else 3):
        chol = np.linalg.cholesky(scatter)
        log_det = np.log(np.diagonal(chol, axis1=1, axis2=2)).sum(1)
        white = np.linalg.inv(chol)
        distance = np.stack([(((z - centres[j]) @ white[j].T) ** 2).sum(1) for j in range(k)])
        logs = (np.log(share) - log_det)[:, None] - 0.5 * (nu + p) * np.log1p(distance / nu)
        resp = np.exp(logs - logsumexp(logs, axis=0)) * weight
        mass = resp.sum(1)
        share = np.clip(mass, 0.02 / k, None)
        share /= share.sum()
        u = resp * (nu + p) / (nu + distance)
        centres = (u @ z) / np.maximum(u.sum(1, keepdims=True), 1e-300)
        raw = np.stack([(u[j][:, None] * (z - centres[j])).T @ (z - centres[j]) for j in range(k)])
        pooled = raw.sum(0) / mass.sum()
        scatter = (raw + prior * pooled) / (mass + prior)[:, None, None]
        scatter += 1e-9 * np.trace(pooled) / p * np.eye(p)
    return [DenseGaussian(mean + factor @ centres[j], root(factor @ scatter[j] @ factor.T)) for j in range(k)], share
