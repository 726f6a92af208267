"""Programs over latents, each a factor of one model: its closed form against Monte Carlo.

A model may have many factors whose programs have nothing to do with each other. Each is then looked at alone: the
blocks of q are those that this one factor asks for, with naturals of its own, so that one compilation of the model's
log densities serves all of its programs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.algorithms.factored import Factored
from lowerbound.expectations.atoms import NotClosedForm
from lowerbound.expectations.factors import Joint, RandomFactor, random_factors
from lowerbound.expectations.functions import IDENTITY
from lowerbound.expectations.quadrature import factor_expectation
from lowerbound.expectations.structure import all_terms
from lowerbound.expectations.supports import probes
from lowerbound.families import exponential as families
from lowerbound.model.given import as_model
from lowerbound.precision import float64
from tests.measure import z_score

LOG = IDENTITY.log()[1]
#: How narrow q is made: a wide one shows wrong moments, a narrow one anything that takes the wrong elements.
SHARPNESS = (1.0, 1e4)
#: What runs a few times: what the compiler would gain is less than what it takes.
HASTY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
#: Draws at once: large batches of small matrices are slow to factorise.
ROWS = 400


def _normal_gamma(block: families.NormalGammaBlock, rng: np.random.Generator, sharp: float) -> dict:
    """From the Gaussian's mean and precision, and shape and rate of the gamma variable."""
    natural = dict(gaussian_naturals(block.gaussian, rng, 1.0))
    eta, precision = block.gaussian.vectors(natural, np)
    inner = (np.linalg.solve(precision, eta[..., None])[..., 0] * eta).sum(-1)
    inner = inner.sum(tuple(range(len(block.shape), inner.ndim))) if block.shared else inner
    alpha, beta = sharp * rng.uniform(8.0, 12.0, block.shape), sharp * rng.uniform(6.0, 14.0, block.shape)
    natural[block.log] = block.power * (alpha + 0.5 * block.dimensions) - 1
    natural[block.raised] = -beta - 0.5 * np.asarray(inner).reshape(block.shape)
    return natural


def _normal_wishart(block: families.NormalWishartBlock, rng: np.random.Generator, sharp: float) -> dict:
    """From the Wishart's own natural parameters, k and m."""
    own = some_naturals(block.wishart, rng, sharp)
    k = sharp * rng.uniform(0.5, 2.0, block.shape[:-2])
    m = rng.standard_normal(block.shape[:-1])
    outer = 0.5 * k[..., None, None] * m[..., :, None] * m[..., None, :]
    return {
        block.log_det: own[block.log_det] + 0.5,
        block.whole: own[block.whole] - outer,
        block.product: k[..., None] * m,
        block.square: -0.5 * k,
    }


def some_naturals(block: Any, rng: np.random.Generator, sharp: float = 1.0) -> dict:
    """Natural parameters of a distribution without symmetries, narrower by ``sharp`` (of its precision)."""
    if isinstance(block, families.JointGaussianBlock):
        return gaussian_naturals(block, rng, sharp)
    if isinstance(block, families.PowerGammaBlock):
        alpha = rng.uniform(6, 9, block.shape) * sharp
        beta = alpha * np.exp(0.4 * rng.standard_normal(block.shape))
        return {block.log: block.power * alpha - 1, block.raised: -beta}
    if isinstance(block, (families.BetaBlock, families.DirichletBlock)):
        return {k: rng.uniform(2.0, 5.0, block.shape) * sharp - 1 for k in block.keys}
    if isinstance(block, families.CategoricalBlock):
        shape = (*block.shape, len(block.values))
        if sharp == 1:
            return {block.indicator: rng.standard_normal(shape)}
        # (Sure of one value: what is rare would be missing from the draws.)
        places = np.broadcast_to(np.arange(len(block.values), dtype=float), shape)
        return {block.indicator: 1000.0 * rng.permuted(places, axis=-1)}
    if isinstance(block, families.LogNormalBlock):
        m, v = 0.4 * rng.standard_normal(block.shape), rng.uniform(0.05, 0.1, block.shape) / sharp
        return {block.log: m / v - 1, block.squared: -0.5 / v}
    if isinstance(block, families.WishartBlock):
        d, plates = block.d, block.shape[:-2]
        nu = (d + 8 + rng.uniform(0, 3, plates)) * sharp
        r = np.eye(d) + 0.3 * rng.standard_normal(block.shape)
        rate = nu[..., None, None] * (r @ np.swapaxes(r, -1, -2))
        a = -0.5 * (nu + d + 1) if block.inverse else 0.5 * (nu - d - 1)
        return {block.log_det: a, block.matrix: -0.5 * rate}
    if isinstance(block, families.NormalGammaBlock):
        return _normal_gamma(block, rng, sharp)
    if isinstance(block, families.NormalWishartBlock):
        return _normal_wishart(block, rng, sharp)
    assert isinstance(block, families.TabulatedBlock)
    return tabulated_naturals(block, rng, sharp)


def gaussian_naturals(block: Any, rng: np.random.Generator, sharp: float = 1.0) -> dict:
    """A dense precision, with zeros where the block has no statistic."""
    mean, p = some_gaussian(block, rng, sharp)
    eta = np.einsum("...ij,...j->...i", p, mean)
    out = {k: block._back(n, eta[..., block.slices[n]]) for n, k in block.first.items()}
    for (a, b), k in block.second.items():
        g = p[..., block.slices[a], block.slices[b]] * (-0.5 if a == b else -1.0)
        out[k] = g.reshape((*block.plate_shape, *block.dense_shape[a], *block.dense_shape[b]))
    return out


def some_gaussian(block: Any, rng: np.random.Generator, sharp: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and precision ``[*plates, size (, size)]``."""
    size = block.size
    r = rng.standard_normal((*block.plate_shape, size, size))
    p = np.eye(size) * rng.uniform(1.0, 2.0, size) + 0.25 * (r + np.swapaxes(r, -1, -2)) / np.sqrt(size)
    for a in block.latents:
        for b in block.latents:
            if (a, b) not in block.second and (b, a) not in block.second:
                p[..., block.slices[a], block.slices[b]] = 0.0
    w = np.linalg.eigvalsh(p).min()
    p = (p + max(0.0, 0.3 - w) * np.eye(size)) * sharp
    return 0.8 * rng.standard_normal((*block.plate_shape, size)), p


#: Blocks of several operations, each of which JAX would compile by itself; the others' few are compiled once a shape.
LONG = (families.NormalGammaBlock, families.NormalWishartBlock, families.WishartBlock, families.TabulatedBlock)


@lru_cache(maxsize=8)
def _compiled(block: Any) -> Callable:
    def moments(values: list) -> list:
        found = block.moments(dict(zip(block.keys, values, strict=True)))
        return [found[k] for k in block.keys]

    return jax.jit(moments, compiler_options=HASTY)


def moments_of(block: Any, naturals: Mapping) -> dict:
    """As NumPy's arrays."""
    if isinstance(block, LONG):
        found = dict(zip(block.keys, _compiled(block)([naturals[k] for k in block.keys]), strict=True))
    else:
        found = block.moments(naturals)
    return {k: np.asarray(v) for k, v in found.items()}


def moments_and_draws(block: Any, rng: np.random.Generator, sharp: float, n: int) -> tuple[dict, dict]:
    """Of some q of a block. (A Gaussian's in NumPy: JAX would compile each shape that there is.)"""
    if not isinstance(block, families.JointGaussianBlock):
        naturals = some_naturals(block, rng, sharp)
        return moments_of(block, naturals), block.sample(rng, naturals, n)
    mean, p = some_gaussian(block, rng, sharp)
    covariance = np.linalg.inv(p)
    moments: dict = {k: block._back(name, mean[..., block.slices[name]]) for name, k in block.first.items()}
    for (a, b), k in block.second.items():
        s, t = block.slices[a], block.slices[b]
        second = covariance[..., s, t] + mean[..., s, None] * mean[..., None, t]
        moments[k] = second.reshape((*block.plate_shape, *block.dense_shape[a], *block.dense_shape[b]))
    noise = rng.standard_normal((n, *mean.shape))
    x = mean + np.einsum("...ij,n...j->n...i", np.linalg.cholesky(covariance), noise)
    return moments, {name: block._back(name, x[..., block.slices[name]]) for name in block.latents}


def tabulated_naturals(block: Any, rng: np.random.Generator, sharp: float = 1.0) -> dict:
    """Those of a normal, gamma or beta variable: every other statistic has weight zero."""
    out = {k: np.zeros(block.shape) for k in block.keys}
    by_function = {getattr(k, "function", k): k for k in block.keys}
    if block.support.startswith("["):  # nothing is improper between two ends
        return {k: rng.standard_normal(block.shape) * (1.0 if sharp == 1 else 20.0) for k in block.keys}
    if block.support == "real":
        v = rng.uniform(0.3, 0.6, block.shape) / sharp
        out[by_function[IDENTITY * IDENTITY]] = -0.5 / v
        out[by_function[IDENTITY]] = 0.8 * rng.standard_normal(block.shape) / v
    elif block.support == "positive":
        alpha = rng.uniform(12, 20, block.shape) * sharp
        out[by_function[LOG]] = alpha - 1
        out[by_function[IDENTITY]] = -alpha * np.exp(0.3 * rng.standard_normal(block.shape))
    else:
        out[by_function[LOG]] = rng.uniform(4, 8, block.shape) * sharp - 1
        out[by_function[IDENTITY.log_complement()]] = rng.uniform(4, 8, block.shape) * sharp - 1
    return out


@dataclass
class Outcome:
    """What came of one program: refused with a reason, or z-scores of its closed form, one for each sharpness."""

    refused: NotClosedForm | None = None
    z: tuple[float, ...] = ()
    closed: tuple[float, ...] = ()
    means: tuple[float, ...] = ()
    bound: bool = False

    @property
    def wrong(self) -> bool:
        """Beyond 5 standard errors; of a bound, above the truth by as much."""
        high = max((-z for z in self.z), default=0.0)
        low = max(self.z, default=0.0)
        return bool(not np.isfinite(self.z).all() or high > 5.0 or (low > 5.0 and not self.bound))

    def __str__(self) -> str:
        if self.refused is not None:
            return f"refused: {self.refused}"
        return f"closed form {self.closed} against {self.means}: z = {self.z}" + (" (a bound)" if self.bound else "")


class Programs:
    """The factors of a model, one by one.

    Args:
        model: A NumPyro model.
        data: Its arguments.
        draws: Of q, for each program.
        priors: Whether the latents' own factors are programs too.
    """

    def __init__(
        self, model: Callable, data: Mapping[str, Any] | None = None, *, draws: int = 3999, priors: bool = False
    ):
        self.model = as_model(model, data)
        self.joint = random_factors(self.model)
        self.draws = draws
        self.factors = {f.name: f for f in self.joint.factors}

        def each(latents: Mapping[str, Any], arguments: list) -> dict[str, Any]:
            found = self.model.distributions(latents, arguments)
            return {f.site: jnp.sum(f.log_prob) for f in found if f.observed or priors}

        # (Not for matrices.)
        self._each = jax.jit(jax.vmap(each, in_axes=(0, None)), compiler_options={} if priors else HASTY)

    def log_densities(self, latents: Mapping[str, Any]) -> dict[str, Any]:
        """Of every factor that is not a prior, at draws of all latents."""
        arguments = [jnp.asarray(a) for a in self.model.arguments]
        if self.draws % ROWS:
            return self._each(dict(latents), arguments)
        rows = [slice(i, i + ROWS) for i in range(0, self.draws, ROWS)]
        parts = [self._each({n: v[r] for n, v in latents.items()}, arguments) for r in rows]
        return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}

    def fallback(self) -> dict[str, np.ndarray]:
        """A value for each latent, for those that no block is about."""
        out = {}
        for n, latent in self.joint.latents.items():
            if latent.values is not None:
                value = np.full(latent.shape, latent.values[0], np.int64)
            elif latent.support == "simplex":
                value = np.full(latent.shape, 1 / latent.shape[-1])
            elif latent.support == "matrix":
                value = np.broadcast_to(np.eye(latent.shape[-1]), latent.shape)
            else:
                value = np.full(latent.shape, np.median(probes(latent.support)) or 0.5)
            out[n] = np.broadcast_to(value, (self.draws, *latent.shape))
        return out

    def factored(self, f: RandomFactor) -> Factored:
        """The blocks that one factor asks for; with the priors of what is tabulated, so that those are proper."""
        latents = {a.latent.name: a.latent for _, t in all_terms([f]) for a in t.atoms}
        made = Factored.of(Joint(latents, [f]))
        priors = [
            self.factors[n]
            for b in made.blocks
            if isinstance(b, families.TabulatedBlock)
            for n in b.latents
            if n in self.factors and n != f.name
        ]
        return Factored.of(Joint(latents, [f, *priors])) if priors else made

    def outcome(self, name: str, seed: int = 0) -> Outcome:
        """The closed form of one factor against Monte Carlo."""
        f = self.factors[name]
        with float64():
            try:
                if f.open is not None:
                    raise f.open
                made = self.factored(f)
            except NotClosedForm as e:
                return Outcome(e)
            exact, functions = factor_expectation(f, made.structure)
            closed, means, scores = [], [], []
            for sharp in SHARPNESS:
                rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
                values, moments = self.fallback(), {}
                for b in made.blocks:
                    found, drawn = moments_and_draws(b, rng, sharp, self.draws)
                    moments |= found
                    values |= drawn
                value = float(sum(np.asarray(p(moments).array) for p in exact))
                value += float(sum(np.asarray(b(moments)) for b in functions))
                values = {
                    n: np.asarray(v, np.int64 if self.joint.latents[n].values is not None else np.float64)
                    for n, v in values.items()
                }
                log_p = np.asarray(self.log_densities(values)[name])
                closed.append(value)
                means.append(float(log_p.mean()))
                rounding = 1e-12 * (1 + np.abs(log_p).max())  # of what cancels
                scores.append(float(z_score(log_p, value)) if not abs(log_p.mean() - value) <= rounding else 0.0)
        return Outcome(None, tuple(scores), tuple(closed), tuple(means), bool(f.bounds))
