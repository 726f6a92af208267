r"""Von Mises: an angle, with statistics cos x and sin x.

    q(x) = exp(a cos x + b sin x - A) = exp(kappa cos(x - m)) / (2 pi I_0(kappa)),   -pi <= x < pi,
    (a, b) = kappa (cos m, sin m),      A = log 2 pi I_0(kappa),      E[cos x] = R(kappa) cos m,   R = I_1 / I_0,
    H = A - kappa R(kappa).

Source: Mardia & Jupp (2000), Directional Statistics, section 3.5.4.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import i0e, i1e
from scipy import special

from lowerbound.families.exponential.base import ExponentialBlock, Parameters

#: Nodes of the Gauss-Legendre rules: for an angle's own integrals, and for the slope of a draw.
_NODES = 200
_SLOPE = np.polynomial.legendre.leggauss(64)
#: Standard deviations beyond which nothing is left.
_FAR = 12.0


class VonMisesBlock(ExponentialBlock):
    """Angles in [-pi, pi), independent.

    Args:
        name, shape: Of the latent.
        cos, sin: The keys of cos x and sin x.
    """

    family = "VonMises"

    def __init__(self, name: str, shape: tuple[int, ...], cos: Hashable, sin: Hashable):
        self.latents, self.shape, self.cos, self.sin = (name,), tuple(shape), cos, sin
        self.keys = (cos, sin)

    def direction_concentration(self, natural: Parameters, xp: Any = jnp) -> tuple[Any, Any]:
        """m and kappa."""
        a, b = natural[self.cos], natural[self.sin]
        return xp.arctan2(b, a), xp.sqrt(a**2 + b**2)

    def of(self, direction: Any, concentration: Any) -> dict[Hashable, Any]:
        """Natural parameters from m and kappa."""
        return {self.cos: concentration * jnp.cos(direction), self.sin: concentration * jnp.sin(direction)}

    def natural(self, gradient: Parameters) -> dict[Hashable, Any]:
        return dict(gradient)

    def moments(self, natural: Parameters) -> dict[Hashable, Any]:
        # R(kappa) / kappa tends to 1/2, so that nothing is divided by zero.
        a, b = natural[self.cos], natural[self.sin]
        square = a**2 + b**2
        kappa = jnp.sqrt(jnp.where(square > 1e-12, square, 1e-12))
        ratio = jnp.where(square > 1e-12, _mean_length(kappa) / kappa, 0.5)
        return {self.cos: ratio * a, self.sin: ratio * b}

    def log_partition(self, natural: Parameters) -> Any:
        """A, element by element."""
        _, kappa = self.direction_concentration(natural)
        return math.log(2 * math.pi) + jnp.log(i0e(kappa)) + kappa

    def entropy(self, natural: Parameters) -> Any:
        return von_mises_entropy(self.direction_concentration(natural)[1]).sum()

    def proper(self, natural: Parameters) -> Any:
        return (jnp.isfinite(natural[self.cos]) & jnp.isfinite(natural[self.sin])).all()

    # -- on the host ---------------------------------------------------------------------------------

    def _host(self, natural: Parameters) -> tuple[np.ndarray, np.ndarray]:
        return self.direction_concentration({k: np.asarray(v, float) for k, v in natural.items()}, np)

    @property
    def noise_dimension(self) -> int:
        return math.prod(self.shape)

    def from_normal(self, natural: Parameters, noise: np.ndarray) -> dict[str, np.ndarray]:
        m, kappa = self._host(natural)
        e = noise.reshape((len(noise), *self.shape))
        return {self.latents[0]: wrapped(m + von_mises_quantile(kappa, e))}

    def log_prob(self, natural: Parameters, values: Mapping[str, Any]) -> Any:
        m, kappa = self._host(natural)
        x = np.asarray(values[self.latents[0]], float)
        out = kappa * (np.cos(x - m) - 1) - np.log(2 * math.pi * special.i0e(kappa))
        return out.reshape(len(x), -1).sum(1)

    def mean_and_variance(self, natural: Parameters) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Of the angle as a number between -pi and pi: by quadrature on both sides of where it leaps."""
        m, kappa = self._host(natural)
        m = wrapped(m)
        reach = np.minimum(math.pi, _FAR / np.sqrt(np.maximum(kappa, 1e-12)))
        leap = np.where(m > 0, np.minimum(math.pi - m, reach), np.maximum(-math.pi - m, -reach))
        node, weight = np.polynomial.legendre.leggauss(_NODES)
        mass = first = second = np.zeros_like(m)
        for low, high in ((-reach, leap), (leap, reach)):
            d = low[..., None] + 0.5 * (high - low)[..., None] * (node + 1)
            p = 0.5 * (high - low)[..., None] * weight * np.exp(kappa[..., None] * (np.cos(d) - 1))
            x = wrapped(m[..., None] + d)
            mass, first, second = mass + p.sum(-1), first + (p * x).sum(-1), second + (p * x**2).sum(-1)
        mean = first / mass
        return {self.latents[0]: (mean, second / mass - mean**2)}

    def start(self, rng: np.random.Generator, spread: float) -> dict[Hashable, Any]:
        m = spread * rng.standard_normal(self.shape)
        return {self.cos: np.cos(m), self.sin: np.sin(m)}

    def describe(self, natural: Parameters) -> dict[str, np.ndarray]:
        m, kappa = self._host(natural)
        return {"direction": m, "concentration": kappa}


def wrapped(x: Any) -> Any:
    """The angle in [-pi, pi)."""
    return (x + math.pi) % (2 * math.pi) - math.pi


def _mean_length(kappa: Any) -> Any:
    return i1e(kappa) / i0e(kappa)


def von_mises_entropy(kappa: Any) -> Any:
    """H in nats, element by element."""
    return math.log(2 * math.pi) + jnp.log(i0e(kappa)) + kappa * (1 - _mean_length(kappa))


def von_mises_quantile(kappa: np.ndarray, e: np.ndarray) -> np.ndarray:
    """The quantile of VonMises(0, kappa) at the probability Phi(e); concentrations above 1e6 are normal.

    In the lower half, by symmetry, where probabilities do not round to one: by bisection of SciPy's distribution
    function, then by Newton steps on a quadrature (SciPy's own is a normal approximation where kappa > 50).
    """
    from scipy import stats  # half a second that only angles need

    kappa = np.broadcast_to(np.asarray(kappa, float), e.shape)
    p = special.ndtr(-np.abs(e))
    inside = np.clip(kappa, 1e-12, 1e6)
    end = np.maximum(-math.pi, -_FAR / np.sqrt(inside))
    low, high = end, np.zeros(e.shape)
    for _ in range(25):
        middle = 0.5 * (low + high)
        above = stats.vonmises.cdf(middle, inside) > p
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    x = 0.5 * (low + high)
    for _ in range(3):
        half = 0.5 * (x - end)
        mass = sum(
            w * np.exp(inside * (np.cos(end + half * (t + 1)) - np.cos(x))) for t, w in zip(*_SLOPE, strict=True)
        )
        here = np.exp(inside * (np.cos(x) - 1)) / (2 * math.pi * special.i0e(inside))
        x = np.clip(x - (half * mass - p / np.maximum(here, 1e-300)), end, 0.0)  # (F - p) / F'
    x = np.where(kappa > 1e6, -np.abs(e) / np.sqrt(np.maximum(kappa, 1e-12)), x)
    return np.where(e > 0, -x, x)


# -- draws, as functions of the concentration --------------------------------------------------------


@jax.custom_jvp
def implicit_von_mises(kappa: Any, x: Any) -> Any:
    r"""x, a draw of VonMises(0, kappa), as a function of kappa.

    With F the distribution function, F(x; kappa) stays what it was (Figurnov, Mohamed & Mnih 2018, eq. 5):

        dx/dkappa = -(dF/dkappa) / p(x) = -int_0^x (cos t - R(kappa)) exp(kappa (cos t - cos x)) dt,

    since F(0) = 1/2 for every kappa; by Gauss-Legendre quadrature. (They differentiate a series for F.)
    """
    return x


@implicit_von_mises.defjvp
def _implicit_von_mises_jvp(primals: Any, tangents: Any) -> Any:
    kappa, x = primals
    node, weight = (jnp.asarray(a) for a in _SLOPE)
    t = 0.5 * x[..., None] * (node + 1)
    inside = jnp.cos(t) - _mean_length(kappa)[..., None]
    rise = jnp.exp(kappa[..., None] * (jnp.cos(t) - jnp.cos(x)[..., None]))
    slope = -0.5 * x * (weight * inside * rise).sum(-1)
    return x, slope * tangents[0] + 0 * tangents[1]
