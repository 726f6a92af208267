r"""q as it is given, in the form in which expectations under it are taken.

A q may be a fitted posterior, a block over the unconstrained vector, or distributions over the sites themselves. The
last are integrated and drawn in coordinates v of their *own* support, so that q's density is smooth there even where
that support is a part of the site's; z = T_q(v), and u is the model's unconstrained vector of the same z:

    log q_v(v) = log q(z) + log |det dz/dv|,        log q_u(u) = log q(z) + log |det dz/du|.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution, biject_to, constraints

from lowerbound.errors import DataError, IncompatibleError
from lowerbound.families import Block, FactoredBlock
from lowerbound.labels import Labels
from lowerbound.model.base import Model
from lowerbound.precision import float64

#: Draws from which q's place and scale are taken; rows of a call that evaluates, and of one that draws.
_PLACE, _ROWS, _DRAWS = 2048, 256, 1024


class Points(NamedTuple):
    """Points v, and what is known there.

    Attributes:
        u: Where they are in the model's unconstrained vector ``[n, p]``.
        log_q: log q_v(v) ``[n]``, the density that weighs them.
        log_q_u: log q_u(u) ``[n]``, the density to compare with the model's.
    """

    u: np.ndarray
    log_q: np.ndarray
    log_q_u: np.ndarray


def place_of(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians ``[p]`` and scatter ``[p, p]`` of draws ``[n, p]``; tails that may have no variance are drawn in."""
    x = x[np.isfinite(x).all(1)]
    low, middle, high = np.quantile(x, [0.25, 0.5, 0.75], axis=0)
    near = np.clip(x, middle - 3 * (high - low), middle + 3 * (high - low))
    return middle, np.atleast_2d(np.cov(near.T))


class Approximation:
    """A block over the model's unconstrained vector, and probabilities of discrete latents.

    Args:
        block: None where there is no continuous latent.
        labels: Probabilities of each discrete latent that q has; those it has not are summed out of the model.
    """

    def __init__(self, block: Block | None, labels: Mapping[str, Labels]):
        self.block, self.labels = block, dict(labels)

    def points(self, v: np.ndarray) -> Points:
        assert self.block is not None
        with np.errstate(all="ignore"):
            log_q = np.asarray(self.block.log_prob(v))
        return Points(v, log_q, log_q)

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Draws of v ``[n, p]``."""
        assert self.block is not None
        return self.block.sample(rng, n)

    def place(self) -> tuple[np.ndarray, np.ndarray]:
        """Where v is ``[p]`` and its scatter ``[p, p]``, roughly."""
        return place_of(self.sample(np.random.default_rng(0), _PLACE))


class SiteDistributions(Approximation):
    """Independent distributions, one for each continuous site.

    Args:
        model: Bound to its data, over the continuous latents alone.
        distributions: By site, of the shapes of the sites.
        labels: As in :class:`Approximation`.
    """

    def __init__(self, model: Model, distributions: Mapping[str, Distribution], labels: Mapping[str, Labels]):
        super().__init__(None, labels)
        with float64():
            # Made outside, their parameters are of single precision, and so would their normalisers be.
            distributions = {n: _in_double(d) for n, d in distributions.items()}
            self.distributions = distributions
            transforms = {n: biject_to(d.support) for n, d in distributions.items()}
            shapes = {n: tuple(map(int, transforms[n].inverse_shape(model.sites[n].shape))) for n in distributions}
        edges = np.cumsum([0, *(math.prod(s) for s in shapes.values())])
        slices = {n: slice(int(a), int(b)) for n, a, b in zip(shapes, edges, edges[1:], strict=False)}
        self.dimension = int(edges[-1])

        def point(v: Any, arguments: Any) -> tuple[Any, Any, Any]:
            z, log_q, log_det = {}, jnp.zeros(()), jnp.zeros(())
            for n, d in distributions.items():
                own = v[slices[n]].reshape(shapes[n])
                z[n] = transforms[n](own)
                log_det = log_det + jnp.sum(transforms[n].log_abs_det_jacobian(own, z[n]))
                log_q = log_q + jnp.sum(d.log_prob(z[n]))
            u, to_z = model.unconstrain(z, arguments)
            return u, log_q + log_det, log_q + to_z

        def draw(key: Any) -> Any:
            keys = jax.random.split(key, len(distributions))
            parts = []
            for k, (n, d) in zip(keys, distributions.items(), strict=True):
                parts.append(jnp.ravel(transforms[n]._inverse(d.sample(k))))
            return jnp.concatenate(parts)

        self._arguments = list(model.arguments)
        self._point = jax.jit(jax.vmap(point, in_axes=(0, None)))
        self._draw = jax.jit(jax.vmap(draw))

    def points(self, v: np.ndarray) -> Points:
        with float64(), np.errstate(all="ignore"):
            parts = []
            for i in range(0, len(v), _ROWS):
                rows = v[i : i + _ROWS]
                padded = np.concatenate([rows, np.repeat(rows[-1:], _ROWS - len(rows), 0)])
                parts.append([np.asarray(a)[: len(rows)] for a in self._point(padded, self._arguments)])
        return Points(*(np.concatenate(a) for a in zip(*parts, strict=True)))

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        with float64():
            parts = []
            for _ in range(0, n, _DRAWS):  # of one size: a rejection sampler takes seconds to compile
                keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), _DRAWS)
                parts.append(np.asarray(self._draw(keys)))
        return np.concatenate(parts)[:n]


def read(model: Model, q: Any) -> Approximation:
    """q as an :class:`Approximation`.

    Args:
        model: Bound to its data.
        q: A block, a distribution, or a dictionary from sites to distributions and probabilities.

    Raises:
        DataError, IncompatibleError: it is not a q over the model's latents; says what is missing, or too much.
    """
    if isinstance(q, Block):
        labels = q.discrete if isinstance(q, FactoredBlock) else {}
        if q.dimension != model.dimension:
            raise IncompatibleError(
                f"q is over {q.dimension} unconstrained dimensions, {model.name!r} has {model.dimension} "
                f"({', '.join(model.sites) or 'no continuous latents'}). Give a block over all of them."
            )
        return Approximation(q if q.dimension else None, labels)
    known = [*model.sites, *model.discrete]
    if isinstance(q, Distribution):
        if len(known) != 1:
            raise DataError(
                f"q is one distribution, and {model.name!r} has the latents {known}. Give a dictionary with one for "
                f"each: q={{{known[0]!r}: ..., {known[1]!r}: ...}}."
            )
        q = {known[0]: q}
    if not isinstance(q, Mapping):
        raise DataError(
            f"q is a {type(q).__name__}; needed: a Posterior, a block of lowerbound.families, a NumPyro distribution, "
            "or a dictionary from sites to distributions (of discrete latents: to probabilities)."
        )
    extra = [n for n in q if n not in known]
    if extra:
        raise DataError(f"q has a site {extra[0]!r}, which {model.name!r} has not; its latents are {known}.")
    some = any(n in q for n in model.discrete)
    needed = [*model.sites, *(model.discrete if some or not model.sites else ())]
    missing = [n for n in needed if n not in q]
    if missing:
        raise DataError(
            f"q has no site {missing[0]!r}; needed: every latent of {model.name!r}, {known}"
            + (" (discrete ones may be left out, all of them)." if model.sites and model.discrete else ".")
        )
    labels = {n: _labels(model, n, q[n]) for n in model.discrete if n in q}
    distributions = {n: _checked(model, n, q[n]) for n in model.sites}
    return SiteDistributions(model, distributions, labels) if distributions else Approximation(None, labels)


def _in_double(d: Distribution) -> Distribution:
    """A distribution with its floating parameters in double precision."""

    def cast(a: Any) -> Any:
        return np.asarray(a, np.float64) if jnp.issubdtype(jnp.result_type(a), jnp.floating) else a

    return jax.tree_util.tree_map(cast, d)


def _checked(model: Model, name: str, d: Any) -> Distribution:
    site = model.sites[name]
    if not isinstance(d, Distribution):
        raise DataError(f"q[{name!r}] is a {type(d).__name__}; needed: a NumPyro distribution of shape {site.shape}.")
    if d.support is None or d.support.is_discrete:
        raise DataError(f"q[{name!r}] is {type(d).__name__}, which is discrete; the site has support {site.support}.")
    if tuple(d.shape()) != tuple(site.shape):
        raise DataError(
            f"q[{name!r}] has shape {tuple(d.shape())}; needed: {tuple(site.shape)}, that of the site. One number for "
            f"all elements is written .expand({list(site.shape)})."
        )
    return d


def _labels(model: Model, name: str, given: Any) -> Labels:
    site = model.discrete[name]
    values = np.asarray(site.values)
    wanted = (*site.shape, len(values))
    if isinstance(given, Labels):
        given = given.probabilities
    if isinstance(given, Distribution):
        if tuple(given.shape()) not in ((), tuple(site.shape)):
            raise DataError(f"q[{name!r}] has shape {tuple(given.shape())}; needed: {site.shape}, that of the site.")
        with float64():
            given = _in_double(given)
            at = values.reshape(-1, *[1] * len(site.shape)) * np.ones((1, *site.shape), values.dtype)
            given = np.moveaxis(np.exp(np.asarray(given.log_prob(at))), 0, -1)
    p = np.asarray(given)
    if p.dtype.kind not in "iuf" or p.shape != wanted:
        raise DataError(
            f"q[{name!r}] has shape {p.shape}; needed: probabilities {wanted}, the last axis over the values "
            f"{values.tolist()}."
        )
    p = p.astype(float)
    if not ((p >= 0).all() and np.allclose(p.sum(-1), 1, rtol=0, atol=1e-6)):
        raise DataError(
            f"q[{name!r}] has probabilities from {p.min():g}, with sums from {p.sum(-1).min():g} to "
            f"{p.sum(-1).max():g}; needed: none below 0, and sums of 1 over the last axis."
        )
    return Labels(values, p / p.sum(-1, keepdims=True))


def outside(model: Model, approximation: Approximation) -> str | None:
    """Why q has probability where the posterior has none, as far as the supports say it; None where they do not."""
    if not isinstance(approximation, SiteDistributions):
        return None
    for n, d in approximation.distributions.items():
        site = model.sites[n]
        if _wider(d.support, site.support):
            return (
                f"q[{n!r}] is over {_said(d.support)}, and the site over {_said(site.support)}: q has probability "
                "where the posterior has none, so that KL(q ‖ p(z | x)) is infinite"
            )
    return None


def whole(model: Model, approximation: Approximation) -> bool:
    """Whether q is over the supports of the sites, and no part of them."""
    if not isinstance(approximation, SiteDistributions):
        return True
    pairs = [(_base(d.support), _base(model.sites[n].support)) for n, d in approximation.distributions.items()]
    return all(type(a) is type(b) if _bounds(a) is None else not _wider(b, a) for a, b in pairs)


def _base(support: Any) -> Any:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _said(support: Any) -> str:
    return str(_base(support))


def _wider(own: Any, site: Any) -> bool:
    """Whether a support reaches beyond another, of those between two numbers."""
    mine, needed = _bounds(_base(own)), _bounds(_base(site))
    if mine is None or needed is None:
        return False
    (a, b), (c, d) = mine, needed
    return bool((np.asarray(a) < np.asarray(c)).any() or (np.asarray(b) > np.asarray(d)).any())


def _bounds(support: Any) -> tuple[Any, Any] | None:
    if support in (constraints.real, constraints.real_vector):
        return -np.inf, np.inf
    if support in (constraints.positive, constraints.nonnegative):
        return 0.0, np.inf
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None and high is None:
        return None
    return (-np.inf if low is None else low), (np.inf if high is None else high)
