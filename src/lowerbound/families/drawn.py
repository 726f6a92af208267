r"""Exponential-family blocks as stochastic gradients see them: free parameters, draws, entropies, traceable by JAX.

A :class:`Drawn` is one site's distribution with parameters on all of R^n, so that a gradient step never leaves the
family. Draws z = T(e; phi) are functions of the parameters:

| kind | distribution | free parameters | draw |
|---|---|---|---|
| normal | Normal(m, s) | m, log s | m + s e |
| log_normal | log x ~ Normal(m, s) | m, log s | exp(m + s e) |
| gamma | Gamma(a, b) | log(a / b), log a | g / b, g ~ Gamma(a, 1) |
| inverse_gamma | 1 / x ~ Gamma(a, b) | log(b / a), log a | b / g |
| beta | Beta(a, b) | log a, log b | g_a / (g_a + g_b) |
| dirichlet | Dirichlet(a) | log a_k | g_k / sum g |
| von_mises | VonMises(m, kappa) | m, log kappa | m + x, x ~ VonMises(0, kappa) |
| categorical | Categorical(softmax l) | l | an index; no function of l |

A gamma draw g is a function of its shape through its distribution function F(g; a), which stays what it was:
dg/da = -(dF/da) / p(g) (Figurnov, Mohamed & Mnih 2018; JAX's own derivative of its gamma sampler). That derivative is
most of what there is to compile, so the gammas of all sites are drawn by one call (:func:`draw_all`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.util import von_mises_centered
from scipy import special

from lowerbound.families.exponential import (
    BetaBlock,
    CategoricalBlock,
    DirichletBlock,
    ExponentialBlock,
    JointGaussianBlock,
    LogNormalBlock,
    PowerGammaBlock,
    VonMisesBlock,
)
from lowerbound.families.exponential.von_mises import implicit_von_mises, wrapped

#: From free parameters' names to arrays.
Free = Mapping[str, Any]
#: Draws are kept this far from the ends of their support, where densities end.
_TINY, _LAST = 1e-290, 1 - 2.0**-53


@dataclass(frozen=True, eq=False)
class Drawn:
    """One site's distribution.

    Attributes:
        name, kind, shape: Of the site.
        block: The exponential-family block.
        natural: Its natural parameters, from free ones.
        draw: ``draw(free, key, n, log_g)`` are draws ``[n, *shape]``, differentiable; of a categorical, indices of its
            values. ``log_g`` are logarithms of gamma draws, where it asks for them.
        matched: ``matched(u, variance)`` are the free parameters nearest to a normal of the unconstrained coordinates,
            on the host; None for a discrete site.
        law: ``law(free)`` is the distribution as NumPyro has it; None for a discrete site.
        gammas: ``gammas(free)`` are the shapes a of the Gamma(a, 1) draws that it asks for; None for none.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    block: ExponentialBlock
    natural: Callable[[Free], dict[Any, Any]]
    draw: Callable[[Free, Any, int, Any], Any]
    matched: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]] | None
    law: Callable[[Free], dist.Distribution] | None = None
    gammas: Callable[[Free], Any] | None = None

    @property
    def discrete(self) -> bool:
        return self.matched is None

    def entropy(self, free: Free) -> Any:
        """H(q) in nats, all elements together."""
        return self.block.entropy(self.natural(free))

    def log_prob(self, free: Free, draws: Any) -> Any:
        """log q of continuous draws ``[n, *shape]``: ``[n]``, to be differentiated by JAX."""
        assert self.law is not None
        return jnp.asarray(self.law(free).log_prob(draws)).reshape(len(draws), -1).sum(1)


def normal(name: str, shape: Sequence[int]) -> Drawn:
    axes = tuple(range(len(shape)))
    block = JointGaussianBlock(
        {name: tuple(shape)}, {name: axes}, {name: ()}, {name: f"{name}"}, {(name, name): f"{name} {name}"}
    )

    def natural(free: Free) -> dict[Any, Any]:
        precision = jnp.exp(-2 * free["log_scale"])
        return {f"{name}": free["location"] * precision, f"{name} {name}": -0.5 * precision}

    def draw(free: Free, key: Any, n: int, log_g: Any) -> Any:
        return free["location"] + jnp.exp(free["log_scale"]) * jax.random.normal(key, (n, *shape))

    def law(free: Free) -> dist.Distribution:
        return dist.Normal(free["location"], jnp.exp(free["log_scale"]), validate_args=False)

    return Drawn(name, "normal", tuple(shape), block, natural, draw, _as_normal, law)


def log_normal(name: str, shape: Sequence[int]) -> Drawn:
    block = LogNormalBlock(name, tuple(shape), "log", "squared")

    def natural(free: Free) -> dict[Any, Any]:
        precision = jnp.exp(-2 * free["log_scale"])
        return {"log": free["location"] * precision - 1, "squared": -0.5 * precision}

    def draw(free: Free, key: Any, n: int, log_g: Any) -> Any:
        return jnp.exp(free["location"] + jnp.exp(free["log_scale"]) * jax.random.normal(key, (n, *shape)))

    def law(free: Free) -> dist.Distribution:
        return dist.LogNormal(free["location"], jnp.exp(free["log_scale"]), validate_args=False)

    return Drawn(name, "log_normal", tuple(shape), block, natural, draw, _as_normal, law)


def _as_normal(u: np.ndarray, variance: np.ndarray) -> dict[str, np.ndarray]:
    return {"location": u, "log_scale": 0.5 * np.log(variance)}


def gamma(name: str, shape: Sequence[int], power: int = 1) -> Drawn:
    block = PowerGammaBlock(name, tuple(shape), float(power), "log", "raised")

    def parameters(free: Free) -> tuple[Any, Any]:
        a = jnp.exp(free["log_shape"])
        return a, a * jnp.exp(-power * free["log_mean"])  # the mean of x^p is exp(p log_mean)

    def natural(free: Free) -> dict[Any, Any]:
        a, b = parameters(free)
        return {"log": power * a - 1, "raised": -b}

    def draw(free: Free, key: Any, n: int, log_g: Any) -> Any:
        return jnp.clip(jnp.exp((log_g - jnp.log(parameters(free)[1])) / power), _TINY, 1 / _TINY)

    def matched(u: np.ndarray, variance: np.ndarray) -> dict[str, np.ndarray]:
        a = _inverse_trigamma(variance)  # Var[log x]; E[log x^p] = digamma(a) - log b
        return {"log_mean": u + power * (np.log(a) - special.digamma(a)), "log_shape": np.log(a)}

    kind = "gamma" if power == 1 else "inverse_gamma"

    def law(free: Free) -> dist.Distribution:
        return (dist.Gamma if power == 1 else dist.InverseGamma)(*parameters(free), validate_args=False)

    return Drawn(name, kind, tuple(shape), block, natural, draw, matched, law, lambda free: parameters(free)[0])


def inverse_gamma(name: str, shape: Sequence[int]) -> Drawn:
    return gamma(name, shape, power=-1)


def beta(name: str, shape: Sequence[int]) -> Drawn:
    block = BetaBlock(name, tuple(shape), "log", "complement")

    def natural(free: Free) -> dict[Any, Any]:
        return {"log": jnp.exp(free["log_a"]) - 1, "complement": jnp.exp(free["log_b"]) - 1}

    def draw(free: Free, key: Any, n: int, log_g: Any) -> Any:
        return jnp.clip(jax.nn.sigmoid(log_g[:, 0] - log_g[:, 1]), _TINY, _LAST)

    def matched(u: np.ndarray, variance: np.ndarray) -> dict[str, np.ndarray]:
        # Of logit x, with m = a / (a + b): variance about 1 / a + 1 / b = 1 / ((a + b) m (1 - m)).
        m = special.expit(u)
        total = 1 / (np.maximum(variance, 1e-12) * m * (1 - m))
        return {"log_a": np.log(total * m), "log_b": np.log(total * (1 - m))}

    def gammas(free: Free) -> Any:
        return jnp.exp(jnp.stack([free["log_a"], free["log_b"]]))

    def law(free: Free) -> dist.Distribution:
        return dist.Beta(jnp.exp(free["log_a"]), jnp.exp(free["log_b"]), validate_args=False)

    return Drawn(name, "beta", tuple(shape), block, natural, draw, matched, law, gammas)


def dirichlet(name: str, shape: Sequence[int]) -> Drawn:
    block = DirichletBlock(name, tuple(shape), "log")

    def natural(free: Free) -> dict[Any, Any]:
        return {"log": jnp.exp(free["log_concentration"]) - 1}

    def draw(free: Free, key: Any, n: int, log_g: Any) -> Any:
        return jnp.clip(jax.nn.softmax(log_g, axis=-1), _TINY, _LAST)

    def matched(u: np.ndarray, variance: np.ndarray) -> dict[str, np.ndarray]:
        # By sticks: v_1 = x_1, and the variance of its logit is about 1 / (total x_1 (1 - x_1)); so for each stick,
        # of what is left. One total for all of them: the median.
        k = shape[-1]
        v = special.expit(u - np.log(k - 1.0 - np.arange(k - 1)))
        left = np.cumprod(np.concatenate([np.ones((*v.shape[:-1], 1)), 1 - v], -1), -1)
        x = np.concatenate([v, np.ones((*v.shape[:-1], 1))], -1) * left
        total = np.median(1 / (np.maximum(variance, 1e-12) * v * (1 - v) * left[..., :-1]), axis=-1, keepdims=True)
        return {"log_concentration": np.log(np.maximum(total * x, 1e-3))}

    def gammas(free: Free) -> Any:
        return jnp.exp(free["log_concentration"])

    def law(free: Free) -> dist.Distribution:
        return dist.Dirichlet(gammas(free), validate_args=False)

    return Drawn(name, "dirichlet", tuple(shape), block, natural, draw, matched, law, gammas)


def von_mises(name: str, shape: Sequence[int]) -> Drawn:
    block = VonMisesBlock(name, tuple(shape), "cos", "sin")

    def natural(free: Free) -> dict[Any, Any]:
        return block.of(free["direction"], jnp.exp(free["log_concentration"]))

    def draw(free: Free, key: Any, n: int, log_g: Any) -> Any:
        kappa = jnp.broadcast_to(jnp.exp(free["log_concentration"]), (n, *shape))
        x = von_mises_centered(key, jax.lax.stop_gradient(kappa), kappa.shape, kappa.dtype)
        return wrapped(free["direction"] + implicit_von_mises(kappa, jax.lax.stop_gradient(x)))

    def matched(u: np.ndarray, variance: np.ndarray) -> dict[str, np.ndarray]:
        s = special.expit(u)
        slope = 2 * math.pi * s * (1 - s)  # dx/du
        kappa = 1 / np.clip(variance * slope**2, 1e-12, 10.0)
        return {"direction": 2 * math.pi * s - math.pi, "log_concentration": np.log(kappa)}

    def law(free: Free) -> dist.Distribution:
        return dist.VonMises(free["direction"], jnp.exp(free["log_concentration"]), validate_args=False)

    return Drawn(name, "von_mises", tuple(shape), block, natural, draw, matched, law)


def categorical(name: str, shape: Sequence[int], values: np.ndarray) -> Drawn:
    block = CategoricalBlock(name, tuple(shape), values, "indicator")

    def draw(free: Free, key: Any, n: int, log_g: Any) -> Any:
        return jax.random.categorical(key, free["logits"], shape=(n, *shape))

    return Drawn(name, "categorical", tuple(shape), block, lambda free: {"indicator": free["logits"]}, draw, None)


def draw_all(parts: Sequence[Drawn], parameters: Mapping[str, Free], key: Any, n: int) -> dict[str, Any]:
    """Draws of every site ``[n, *shape]``, independent of each other."""
    shapes = {p.name: p.gammas(parameters[p.name]) for p in parts if p.gammas is not None}
    key, own = jax.random.split(key)
    log_g: dict[str, Any] = {}
    if shapes:
        flat = jnp.concatenate([jnp.ravel(a) for a in shapes.values()])
        drawn, start = jax.random.loggamma(own, jnp.broadcast_to(flat, (n, *flat.shape))), 0
        for name, a in shapes.items():
            log_g[name] = drawn[:, start : start + a.size].reshape((n, *a.shape))
            start += a.size
    keys = jax.random.split(key, len(parts))
    return {p.name: p.draw(parameters[p.name], k, n, log_g.get(p.name)) for p, k in zip(parts, keys, strict=True)}


def _inverse_trigamma(v: np.ndarray) -> np.ndarray:
    """a with trigamma(a) = v, by Newton's method on 1 / trigamma, which is convex (Smyth 2004, appendix)."""
    v = np.clip(v, 1e-12, 1e6)
    a = 0.5 + 1 / v
    for _ in range(20):
        t = special.polygamma(1, a)
        a = a + t * (1 - t / v) / special.polygamma(2, a)
    return a


#: Kinds for continuous sites by name, with the support that each is on.
KINDS: dict[str, tuple[str, Callable[[str, Sequence[int]], Drawn]]] = {
    "normal": ("real", normal),
    "gamma": ("positive", gamma),
    "inverse_gamma": ("positive", inverse_gamma),
    "log_normal": ("positive", log_normal),
    "beta": ("unit", beta),
    "dirichlet": ("simplex", dirichlet),
    "von_mises": ("circular", von_mises),
}
