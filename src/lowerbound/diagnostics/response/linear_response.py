r"""Covariances of a mean-field fit by linear response, and the Monte Carlo error of its means.

A mean-field q has the wrong variances: those of each coordinate given the others. But its means are good, and so is
their response to a small tilt of the posterior. Tilting log p by t'x moves the optimum phi*(t), and under the exact
posterior the derivative of E[x] at t = 0 is the covariance. For q it is

    Cov_LR = dE_q[x] / dt = J (-H)^{-1} J',     H = d^2 F / dphi^2 at phi*,   J = dE_q[x] / dphi,

with F the ELBO on fixed noise, an ordinary function with an exact maximum (Giordano, Broderick & Jordan 2018;
Giordano, Ingram & Broderick 2024, section 3). It is exact for a Gaussian posterior.

*The noise.* q is first moved, by Newton steps, to the maximum of F on noise drawn here; that is where H is taken.
The maximum differs from that of the exact ELBO by (-H)^{-1} times the error of F's gradient there, so that the error
of a mean is the spread of J (-H)^{-1} g. Two spreads of g are at hand, and each errs on the side of caution where the
other is right: that of single (antithetic pairs of) draws, over their number, is the paper's, and several times too
large where stratified and whitened noise has removed most of the error; that of F's gradient on 16 new sets of
noise of the same kind is right then, but up to twice too large with fewer draws than dimensions, where phi* has
bent towards its own noise. The smaller is reported. (Measured against the means of repeated noise on logistic
regressions of 100 and 200 columns and a hierarchy of 50 groups, with 64 and 256 draws: 1.0 to 1.1 times.)

*How (-H)^{-1} is applied*: for few coordinates by conjugate gradients, for many coordinates of a diagonal q by
forming H; see :mod:`~lowerbound.diagnostics.response.curvature`.

*What can be wrong.* At the maximum of the exact ELBO, s_j^2 E[-d^2 log p / dx_j^2] = 1 (Stein). ``curvature`` is
the left side as the differences give it on this noise: it scatters about 1 with few draws, but where it is near 0,
the density has kinks (a Laplace prior), whose curvature lies in single points and is missed. Then there is no
response to report, and an error says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lowerbound.algorithms.fixed_noise import Evaluation, FixedNoise, carry, locations, pull_back
from lowerbound.algorithms.newton import ACCEPTED, Path, next_radius, steihaug
from lowerbound.diagnostics.response.curvature import by_conjugate_gradients, formed
from lowerbound.errors import DataError, IncompatibleError
from lowerbound.expectations.noise import matched_normals
from lowerbound.families import (
    Block,
    BoundProduct,
    Dense,
    DenseGaussian,
    Diagonal,
    DiagonalGaussian,
    Family,
    ProductBlock,
)
from lowerbound.kernel import Kernel

#: Dimensions up to which H can be formed, and the iterations of conjugate gradients that a side is reckoned to take.
DENSE_RESPONSE = 2000
_RECKONED = 15
#: Independent sets of noise for the error of the means.
_REPLICATES = 16
_MAX_DRAWS = 1024
#: Share of a coordinate's curvature that has to be seen. (On smooth densities 64 draws saw 0.4 to 4 times it.)
_SEEN = 0.1


@dataclass(frozen=True, eq=False)
class LinearResponse:
    """Means and covariances of some unconstrained coordinates.

    Attributes:
        coordinates: Which, ``[r]``.
        mean: Their means at the maximum of the ELBO on this noise.
        covariance: Their linear-response covariance ``[r, r]``.
        mean_error: Monte Carlo standard errors of the means ``[r]``, from the noise having been fixed.
        displacements: How the means would have moved on other noise, to first order, ``[16, r]``.
        curvature: s_j^2 E[-d^2 log p / dx_j^2] for each, about 1.
        moved: How far q was from the maximum on this noise, as sqrt(2 KL) for each 100 dimensions.
        iterations: Of conjugate gradients, for the slowest coordinate; 0 where H was formed.
        residual: The largest relative residual.
        evaluations: Log densities and gradients evaluated.
    """

    coordinates: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    mean_error: np.ndarray
    displacements: np.ndarray
    curvature: np.ndarray
    moved: float
    iterations: int
    residual: float
    evaluations: int

    @property
    def sd(self) -> np.ndarray:
        """Standard deviations ``[r]``."""
        return np.sqrt(np.diagonal(self.covariance))


def linear_response(
    kernel: Kernel, q: Block, coordinates: Any = None, *, num_draws: int = 64, seed: int = 0, form: bool | None = None
) -> LinearResponse:
    """Linear-response covariance of unconstrained coordinates under a mean-field Gaussian.

    Args:
        kernel: The compiled log density.
        q: A diagonal Gaussian, or a product of diagonal and dense ones.
        coordinates: Which coordinates ``[r]``, 0 to p - 1; None for all, up to 2,000.
        num_draws: Draws of the fixed noise, M; more where a dense block needs them.
        seed: Of the noise.
        form: True to form H (diagonal q only), False for conjugate gradients; None takes the cheaper.

    Raises:
        IncompatibleError: q is not mean-field; p is too large for all coordinates; no maximum of the ELBO near q,
            so that there is nothing to respond; kinks.
        DataError: coordinates that are not there.

    Cost: the Newton steps (some 10 to 100 M gradients), 16 M for the errors, and M p to form H, or M an
        iteration and coordinate (5 to 100 iterations).
    """
    before = kernel.evaluations
    q = _collapse(q)
    family = _family(q)
    p = q.dimension
    index = _check(coordinates, p)
    function = FixedNoise(kernel, family, q, _noise(q, num_draws, np.random.default_rng([seed, 0x1A])))
    at = _maximum(function)
    diagonal = isinstance(q, DiagonalGaussian)
    if form is None:
        form = diagonal and p <= DENSE_RESPONSE and _RECKONED * len(index) > p
    elif form and not (diagonal and p <= DENSE_RESPONSE):
        raise IncompatibleError(f"form=True needs a diagonal q of at most {DENSE_RESPONSE} dimensions; leave it out.")
    # Coordinate j of x = mean + L y responds through row j of L, in the places of the locations.
    sides = np.zeros((len(index), len(at.vector)))
    unit = np.zeros((len(index), p))
    unit[np.arange(len(index)), index] = 1.0
    sides[:, locations(family, p)] = pull_back(q, unit)
    if form:
        solved, curvature, iterations, residual = *formed(function, at, index), 0, 0.0
    else:
        solved, curvature, iterations, residual = by_conjugate_gradients(function, at, sides)
    if not (curvature > _SEEN).all():
        raise _kinks(kernel, index[curvature.argmin()], curvature.min())
    covariance = solved @ sides.T
    error, displacements = _errors(function, at, solved, np.random.default_rng([seed, 0x1B]))
    mean = carry(q, np.asarray(function.block(at.vector).mean)[None])[0]
    return LinearResponse(
        index,
        mean[index],
        0.5 * (covariance + covariance.T),
        error,
        displacements,
        curvature,
        float(np.sqrt((at.vector**2 * function.metric(at.vector)).sum() / max(1.0, p / 100))),
        iterations,
        residual,
        kernel.evaluations - before,
    )


def linear_response_gaussian(kernel: Kernel, q: Block, *, num_draws: int = 64, seed: int = 0) -> DenseGaussian:
    """The dense Gaussian with a mean-field q's means and linear-response covariance.

    Exact for a Gaussian posterior; else a better proposal than q wherever correlations are what q misses.

    Args:
        kernel, q, num_draws, seed: As for :func:`linear_response`; at most 2,000 dimensions.

    Raises:
        IncompatibleError: as :func:`linear_response`; also if the covariance is not positive definite.
    """
    response = linear_response(kernel, q, num_draws=num_draws, seed=seed)
    sd = response.sd
    try:
        root = np.linalg.cholesky(response.covariance / np.outer(sd, sd))
    except np.linalg.LinAlgError:
        raise IncompatibleError(
            "the linear-response covariance is not positive definite; take more num_draws."
        ) from None
    return DenseGaussian(response.mean, sd[:, None] * root)


# -- q ------------------------------------------------------------------------------------------------


def _collapse(q: Any) -> Any:
    """A product of diagonal Gaussians as the diagonal Gaussian that it is."""
    if isinstance(q, ProductBlock) and all(isinstance(b, DiagonalGaussian) for b in q.blocks):
        return DiagonalGaussian(np.asarray(q.mean), np.sqrt(np.asarray(q.variance())))
    return q


def _family(q: Block) -> Family:
    if isinstance(q, DiagonalGaussian):
        return Diagonal()
    if isinstance(q, DenseGaussian):
        return Dense()
    if isinstance(q, ProductBlock) and all(isinstance(b, (DiagonalGaussian, DenseGaussian)) for b in q.blocks):
        return BoundProduct(tuple(_family(b) for b in q.blocks), q.indices)
    raise IncompatibleError(
        f"linear response is for mean-field Gaussians; q is a {type(q).__name__}. Fit with family='diagonal', or with "
        "a Product of Diagonal and Dense blocks."
    )


def _noise(q: Any, num_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Matched noise; at least four draws a dimension of the widest dense block (with fewer than one, H is singular)."""
    blocks = q.blocks if isinstance(q, ProductBlock) else (q,)
    widest = max((b.dimension for b in blocks if isinstance(b, DenseGaussian)), default=0)
    if 4 * widest > _MAX_DRAWS:
        raise IncompatibleError(
            f"linear response with a dense block of {widest} dimensions needs {4 * widest} draws; at most {_MAX_DRAWS}."
        )
    return matched_normals(rng, max(8, num_draws // 2 * 2, 4 * widest), q.dimension)


def _check(coordinates: Any, p: int) -> np.ndarray:
    if coordinates is None:
        if p > DENSE_RESPONSE:
            raise IncompatibleError(
                f"linear response of all {p:,} coordinates is too much to ask. Name the sites or coordinates that are "
                f"wanted; all of them is for at most {DENSE_RESPONSE:,} dimensions."
            )
        return np.arange(p)
    index = np.atleast_1d(np.asarray(coordinates))
    if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer) or not len(index):
        raise DataError(f"coordinates are {coordinates!r}; needed: whole numbers, a list of them, or None for all.")
    if index.min() < 0 or index.max() >= p:
        raise DataError(f"coordinates go from {index.min()} to {index.max()}; there are 0 to {p - 1}.")
    return index


# -- the maximum on this noise ------------------------------------------------------------------------


def _maximum(function: FixedNoise) -> Evaluation:
    """Newton steps from q until sqrt(2 KL) of the next is below 0.001, for each 100 dimensions."""
    at = function.evaluate(function.start)
    if at is None:
        raise IncompatibleError("linear response: the log density or its gradient is not finite at draws of q.")
    p = function.kernel.dimension
    enough = 0.5e-6 * max(1.0, p / 100)
    radius, path = float(np.sqrt(p)), None
    for _ in range(100):
        if path is None:
            path = _path(function, at, radius, enough)
        step = path.step(radius)
        if step.inside and step.promise < enough:
            return at
        trial = function.evaluate(at.vector + step.direction)
        ratio = np.nan if trial is None else (trial.elbo - at.elbo) / step.promise
        # Gains below the rounding of the ELBO's sum cannot be checked; a step inside that promises them is the last.
        if trial is not None and step.inside and step.promise < 1e-12 * abs(at.elbo):
            return trial
        radius = next_radius(radius, step, ratio)
        if trial is not None and ratio > ACCEPTED:
            at, path = trial, None
        elif radius < 1e-6:
            break
    raise IncompatibleError(
        "linear response needs a maximum of the ELBO, and Newton steps from q found none on new noise: q is not the "
        "end of a converged fit, or the density has kinks. Fit with family='diagonal' until status is CONVERGED first."
    )


def _path(function: FixedNoise, at: Evaluation, radius: float, enough: float) -> Path:
    metric = function.metric(at.vector)
    return steihaug(lambda d: function.products(at, d)[0], at.gradient, metric, radius, least=0.1 * enough)


def _errors(
    function: FixedNoise, at: Evaluation, solved: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the means ``[r]``, and displacements ``[16, r]`` with that spread. See the module's docstring."""
    moves = []
    for _ in range(_REPLICATES):
        again = function.with_noise(matched_normals(rng, *function.noise.shape)).evaluate(at.vector)
        if again is not None:
            moves.append(solved @ again.gradient)
    if len(moves) < 2:
        moves = [np.full(len(solved), -np.inf), np.full(len(solved), np.inf)]
    moves = np.array(moves) - np.mean(moves, 0)
    anew = moves.std(0, ddof=1)
    pairs = function.pair_gradients(at) @ solved.T
    error = np.minimum(anew, pairs.std(0, ddof=1) / np.sqrt(len(pairs)))
    return error, moves * (error / np.where(anew > 0, anew, 1.0))


def _kinks(kernel: Kernel, coordinate: int, curvature: float) -> IncompatibleError:
    return IncompatibleError(
        f"no linear response of {kernel.model.coordinate_names()[coordinate]!r}: differences of gradients see "
        f"{max(curvature, 0.0):.2g} of the curvature by which q was fitted. The density has kinks (a Laplace prior, an "
        "absolute value, a ReLU), or is too rough for this num_draws. Use family='dense', or smooth the density."
    )
