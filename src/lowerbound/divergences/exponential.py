r"""Closed forms: KL(p ‖ q), and log M(λ) = log ∫ p^λ q^(1-λ), between two members of one family.

For an exponential family with natural parameters η, statistics t and log partition A,

    KL(p ‖ q) = A(η_q) - A(η_p) - (η_q - η_p) · ∇A(η_p),
    log M(λ)  = A(λ η_p + (1-λ) η_q) - λ A(η_p) - (1-λ) A(η_q)

(Nielsen & Nock 2011), infinite where λ η_p + (1-λ) η_q are the natural parameters of nothing. Hellinger, χ², α and
Rényi are functions of log M. Divergences do not change under a bijection of the variable, so p and q are first
brought to the scale of q, where A is small: with means of 1e6 and standard deviations of 1, A is of 1e12.

Every function here takes arrays of parameters ``[*batch]`` or ``[*batch, k]`` and returns ``[*batch]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpyro.distributions as dist
from scipy import special

Arrays = tuple[np.ndarray, ...]


class ClosedForm(NamedTuple):
    """KL and log M of a family, from the parameters of p and q.

    Attributes:
        name: For the sentence that says how the number was found.
        parameters: Those of a distribution, or None if it is not of the family.
        kl: KL(p ‖ q).
        log_affinity: log M(λ); None where there is no closed form.
        match: Whether the two have one carrier measure (the same number of trials); None where they always have.
    """

    name: str
    parameters: Callable[[Any], Arrays | None]
    kl: Callable[[Arrays, Arrays], np.ndarray]
    log_affinity: Callable[[Arrays, Arrays, float], np.ndarray] | None
    match: Callable[[Arrays, Arrays], bool] | None = None


def of_partition(
    name: str,
    parameters: Callable[[Any], Arrays | None],
    log_partition: Callable[[Arrays], np.ndarray],
    mean: Callable[[Arrays], Arrays],
    natural: Callable[[Arrays, Arrays], tuple[Arrays, Arrays]],
    *,
    event: int = 0,
) -> ClosedForm:
    """A family from its log partition function.

    Args:
        name: Of the family.
        parameters: Of a distribution.
        log_partition: A(η), infinite outside its domain.
        mean: ∇A(η).
        natural: Of p and q, on a common scale.
        event: Trailing axes of η, over which the product with statistics sums.
    """

    def inner(a: Arrays, b: Arrays) -> Any:
        axes = tuple(range(-event, 0))
        return sum((x * y).sum(axis=axes) if axes else x * y for x, y in zip(a, b, strict=True))

    def kl(p: Arrays, q: Arrays) -> np.ndarray:
        u, v = natural(p, q)
        difference = tuple(b - a for a, b in zip(u, v, strict=True))
        return log_partition(v) - log_partition(u) - inner(difference, mean(u))

    def log_affinity(p: Arrays, q: Arrays, λ: float) -> np.ndarray:
        u, v = natural(p, q)
        middle = tuple(λ * a + (1 - λ) * b for a, b in zip(u, v, strict=True))
        return log_partition(middle) - λ * log_partition(u) - (1 - λ) * log_partition(v)

    return ClosedForm(name, parameters, kl, log_affinity)


def _array(a: Any) -> np.ndarray:
    return np.asarray(a, np.float64)


def _as_is(p: Arrays, q: Arrays) -> tuple[Arrays, Arrays]:
    return p, q


def _where(good: Any, value: Callable[[], np.ndarray]) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.where(good, value(), np.inf)


# -- Gaussians: in the coordinates where q is standard and p diagonal, both are products of d numbers --------


def gaussian_kl(shift: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """KL(N(shift, ratio) ‖ N(0, 1)), elementwise."""
    return 0.5 * (ratio - 1 - np.log(ratio) + shift**2)


def gaussian_log_affinity(shift: np.ndarray, ratio: np.ndarray, λ: float) -> np.ndarray:
    """log M(λ) of N(shift, ratio) and N(0, 1), elementwise (Gil, Alajaji & Linder 2013, table 2)."""
    v = λ + (1 - λ) * ratio
    return _where(v > 0, lambda: -0.5 * (np.log(v) - (1 - λ) * np.log(ratio)) - 0.5 * λ * (1 - λ) * shift**2 / v)


def whitened(
    mean_p: np.ndarray, covariance_p: np.ndarray, mean_q: np.ndarray, covariance_q: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shift and ratio ``[*batch, d]`` of p in coordinates where q is standard normal and p's covariance diagonal."""
    root = np.linalg.cholesky(covariance_q)
    half = np.linalg.solve(root, covariance_p)
    both = np.linalg.solve(root, np.swapaxes(half, -1, -2))
    ratio, axes = np.linalg.eigh((both + np.swapaxes(both, -1, -2)) / 2)
    shift = np.linalg.solve(root, (mean_p - mean_q)[..., None])
    return (np.swapaxes(axes, -1, -2) @ shift)[..., 0], np.maximum(ratio, np.finfo(float).tiny)


def _univariate(p: Arrays, q: Arrays) -> tuple[np.ndarray, np.ndarray]:
    return (p[0] - q[0]) / q[1], (p[1] / q[1]) ** 2


NORMAL = ClosedForm(
    "two Gaussians",
    lambda d: (_array(d.loc), _array(d.scale)) if type(d) is dist.Normal else None,
    lambda p, q: gaussian_kl(*_univariate(p, q)),
    lambda p, q, λ: gaussian_log_affinity(*_univariate(p, q), λ),
)
HALF_NORMAL = ClosedForm(
    "two half-normals",
    lambda d: (np.zeros(()), _array(d.scale)) if isinstance(d, dist.HalfNormal) else None,
    NORMAL.kl,
    NORMAL.log_affinity,
)


def _multivariate(d: Any) -> Arrays | None:
    if isinstance(d, (dist.MultivariateNormal, dist.LowRankMultivariateNormal)):
        return _array(d.loc), _array(d.covariance_matrix)
    return None


MULTIVARIATE_NORMAL = ClosedForm(
    "two Gaussians",
    _multivariate,
    lambda p, q: gaussian_kl(*whitened(*p, *q)).sum(-1),
    lambda p, q, λ: gaussian_log_affinity(*whitened(*p, *q), λ).sum(-1),
)

# -- Gamma, Beta, Dirichlet, Poisson, geometric, von Mises: from A alone --------------------------------------


def _gamma(d: Any) -> Arrays | None:
    if isinstance(d, dist.Exponential):
        return np.ones(()), _array(d.rate)
    return (_array(d.concentration), _array(d.rate)) if isinstance(d, dist.Gamma) else None


GAMMA = of_partition(
    "two Gammas",
    _gamma,
    lambda η: _where((η[0] > 0) & (η[1] < 0), lambda: special.gammaln(η[0]) - η[0] * np.log(-η[1])),
    lambda η: (special.digamma(η[0]) - np.log(-η[1]), -η[0] / η[1]),
    lambda p, q: ((p[0], -p[1] / q[1]), (q[0], -np.ones_like(q[1]))),
)
BETA = of_partition(
    "two Betas",
    lambda d: (_array(d.concentration1), _array(d.concentration0)) if isinstance(d, dist.Beta) else None,
    lambda η: _where((η[0] > 0) & (η[1] > 0), lambda: special.betaln(η[0], η[1])),
    lambda η: tuple(special.digamma(a) - special.digamma(η[0] + η[1]) for a in η),
    _as_is,
)
DIRICHLET = of_partition(
    "two Dirichlets",
    lambda d: (_array(d.concentration),) if isinstance(d, dist.Dirichlet) else None,
    lambda η: _where((η[0] > 0).all(-1), lambda: special.gammaln(η[0]).sum(-1) - special.gammaln(η[0].sum(-1))),
    lambda η: (special.digamma(η[0]) - special.digamma(η[0].sum(-1, keepdims=True)),),
    _as_is,
    event=1,
)
POISSON = of_partition(
    "two Poissons",
    lambda d: (_array(d.rate),) if isinstance(d, dist.Poisson) and (_array(d.rate) > 0).all() else None,
    lambda η: np.exp(η[0]),
    lambda η: (np.exp(η[0]),),
    lambda p, q: ((np.log(p[0]),), (np.log(q[0]),)),
)


def _geometric(d: Any) -> Arrays | None:
    p = _array(d.probs) if isinstance(d, (dist.GeometricProbs, dist.GeometricLogits)) else None
    return (p,) if p is not None and ((p > 0) & (p < 1)).all() else None


GEOMETRIC = of_partition(
    "two geometrics",
    _geometric,
    lambda η: _where(η[0] < 0, lambda: -np.log(-np.expm1(η[0]))),
    lambda η: (np.exp(η[0]) / -np.expm1(η[0]),),
    lambda p, q: ((np.log1p(-p[0]),), (np.log1p(-q[0]),)),
)


def _von_mises(d: Any) -> Arrays | None:
    if not isinstance(d, dist.VonMises):
        return None
    loc, κ = np.broadcast_arrays(_array(d.loc), _array(d.concentration))
    return (np.stack([κ * np.cos(loc), κ * np.sin(loc)], -1),)


def _von_mises_mean(η: Arrays) -> Arrays:
    κ = np.linalg.norm(η[0], axis=-1, keepdims=True)
    # I1(κ)/I0(κ) times the unit vector; its limit at κ = 0 is η/2.
    return (η[0] * np.where(κ > 1e-8, special.i1e(κ) / (special.i0e(κ) * np.maximum(κ, 1e-300)), 0.5),)


def _von_mises_partition(η: Arrays) -> np.ndarray:
    κ = np.linalg.norm(η[0], axis=-1)
    return np.log(special.i0e(κ)) + κ


VON_MISES = of_partition("two von Mises", _von_mises, _von_mises_partition, _von_mises_mean, _as_is, event=1)

# -- counts of categories, Wishart, Laplace: directly ----------------------------------------------------------


def _categorical(d: Any) -> Arrays | None:
    """Trials and probabilities ``[*batch, k]``."""
    if isinstance(d, (dist.BernoulliProbs, dist.BernoulliLogits, dist.BinomialProbs, dist.BinomialLogits)):
        yes = _array(d.probs)
        trials = _array(getattr(d, "total_count", 1.0))
        return trials, np.stack([1 - yes, yes], -1)
    if isinstance(d, (dist.CategoricalProbs, dist.CategoricalLogits)):
        return np.ones(()), _array(d.probs)
    if isinstance(d, (dist.MultinomialProbs, dist.MultinomialLogits)):
        return _array(d.total_count), _array(d.probs)
    return None


def _normalised(a: np.ndarray) -> np.ndarray:
    return a / a.sum(-1, keepdims=True)


def _categorical_kl(p: Arrays, q: Arrays) -> np.ndarray:
    return p[0] * special.rel_entr(_normalised(p[1]), _normalised(q[1])).sum(-1)


def _categorical_affinity(p: Arrays, q: Arrays, λ: float) -> np.ndarray:
    with np.errstate(all="ignore"):
        a, b = _normalised(p[1]), _normalised(q[1])
        terms = np.where(a == b, a, np.where(a == 0, 0.0 if λ > 0 else np.inf, a**λ * b ** (1 - λ)))
        return p[0] * np.log(terms.sum(-1))


CATEGORICAL = ClosedForm(
    "two sets of probabilities",
    _categorical,
    _categorical_kl,
    _categorical_affinity,
    lambda p, q: bool(np.all(p[0] == q[0]) and p[1].shape[-1] == q[1].shape[-1]),
)


def _wishart(d: Any) -> Arrays | None:
    if not isinstance(d, dist.Wishart):
        return None
    return _array(d.concentration), _array(d.scale_matrix)


def _wishart_ratio(p: Arrays, q: Arrays) -> np.ndarray:
    zero = np.zeros(p[1].shape[-1])
    return whitened(zero, p[1], zero, q[1])[1]


def _multigammaln(a: np.ndarray, d: int) -> np.ndarray:
    return special.gammaln(a[..., None] - 0.5 * np.arange(d)).sum(-1)


def _wishart_kl(p: Arrays, q: Arrays) -> np.ndarray:
    ratio = _wishart_ratio(p, q)
    n, m, d = p[0], q[0], ratio.shape[-1]
    expected = special.digamma(n[..., None] / 2 - 0.5 * np.arange(d)).sum(-1)
    constants = _multigammaln(m / 2, d) - _multigammaln(n / 2, d)
    return 0.5 * (n * (ratio.sum(-1) - d) - m * np.log(ratio).sum(-1) + (n - m) * expected) + constants


def _wishart_affinity(p: Arrays, q: Arrays, λ: float) -> np.ndarray:
    ratio = _wishart_ratio(p, q)
    d = ratio.shape[-1]

    def partition(n: np.ndarray, precision: np.ndarray) -> np.ndarray:
        good = (n > d - 1) & (precision > 0).all(-1)
        return _where(good, lambda: n * d / 2 * np.log(2) - n / 2 * np.log(precision).sum(-1) + _multigammaln(n / 2, d))

    n = λ * p[0] + (1 - λ) * q[0]
    one = np.ones_like(ratio)
    return partition(n, λ / ratio + (1 - λ)) - λ * partition(p[0], 1 / ratio) - (1 - λ) * partition(q[0], one)


WISHART = ClosedForm("two Wisharts", _wishart, _wishart_kl, _wishart_affinity)


def _laplace_kl(p: Arrays, q: Arrays) -> np.ndarray:
    distance = np.abs(p[0] - q[0])
    return np.log(q[1] / p[1]) + distance / q[1] + p[1] / q[1] * np.exp(-distance / p[1]) - 1


LAPLACE = ClosedForm(
    "two Laplaces",
    lambda d: (_array(d.loc), _array(d.scale)) if isinstance(d, dist.Laplace) else None,
    _laplace_kl,
    None,
)

FORMS = (
    NORMAL,
    MULTIVARIATE_NORMAL,
    HALF_NORMAL,
    GAMMA,
    BETA,
    DIRICHLET,
    POISSON,
    GEOMETRIC,
    VON_MISES,
    CATEGORICAL,
    WISHART,
    LAPLACE,
)
