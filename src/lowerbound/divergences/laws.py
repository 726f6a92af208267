"""The two arguments of an f-divergence: distributions with a density, on a common space.

A NumPyro distribution stands for itself, a posterior for its fitted q. Divergences between two posteriors of one model
are taken on the unconstrained space where both have the same coordinates (a bijection changes no f-divergence), and
over named sites otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import (
    Delta,
    Distribution,
    ExpandedDistribution,
    ImproperUniform,
    Independent,
    MaskedDistribution,
    TransformedDistribution,
    Unit,
)
from numpyro.distributions.constraints import is_dependent

from lowerbound.divergences.sampling import on_host
from lowerbound.errors import DataError, IncompatibleError
from lowerbound.families import Block, GaussianBlock
from lowerbound.posterior import Posterior
from lowerbound.precision import float64

#: Points per call of a compiled density, so that one program serves any number of them.
_ROWS = 4096


class Law(ABC):
    """A distribution with draws and a density. Points are an array ``[n, *event]``, or one by site."""

    label: str

    @abstractmethod
    def sample(self, n: int, seed: tuple[int, ...]) -> Any:
        """``n`` independent draws."""

    @abstractmethod
    def log_prob(self, points: Any) -> np.ndarray:
        """Log density ``[n]``, minus infinity outside the support."""


class Given(Law):
    """A NumPyro distribution, in float64 whatever its parameters came in."""

    def __init__(self, distribution: Distribution):
        self.label = described(distribution)
        with float64():
            self.distribution = _in_float64(distribution)

    def sample(self, n: int, seed: tuple[int, ...]) -> np.ndarray:
        with float64():
            rng = np.random.default_rng(seed)
            if (found := on_host(self.distribution, rng, n)) is not None:
                return found
            key = jax.random.PRNGKey(int(rng.integers(2**31)))
            return np.asarray(_draw(self.distribution, key, n))

    def log_prob(self, points: np.ndarray) -> np.ndarray:
        out = np.empty(len(points))
        with float64():
            for i in range(0, len(points), _ROWS):
                block = points[i : i + _ROWS]
                pad = np.broadcast_to(block[:1], (_ROWS - len(block), *block.shape[1:]))
                out[i : i + len(block)] = np.asarray(_density(self.distribution, np.concatenate([block, pad])))[
                    : len(block)
                ]
        return out


class Fitted(Law):
    """q of a posterior, over its sites by name; or, with ``site``, over the only one."""

    def __init__(self, posterior: Posterior, site: str | None = None):
        self.label, self._posterior, self._site = described(posterior), posterior, site

    def sample(self, n: int, seed: tuple[int, ...]) -> Any:
        x = self._posterior.q.sample(np.random.default_rng(seed), n)
        values = self._posterior._sites.constrain(x)
        if self._site is not None:
            return values[self._site]
        return {k: values[k] for k in self._posterior._sites.sites}

    def log_prob(self, points: Any) -> np.ndarray:
        return self._posterior.log_prob(points if self._site is None else {self._site: points})


class Unconstrained(Law):
    """q of a posterior on the unconstrained space."""

    def __init__(self, posterior: Posterior):
        self.label, self.block = described(posterior), posterior.q

    def sample(self, n: int, seed: tuple[int, ...]) -> np.ndarray:
        return self.block.sample(np.random.default_rng(seed), n)

    def log_prob(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(self.block.log_prob(points))

    @property
    def gaussian(self) -> GaussianBlock | None:
        """The block, if it is a Gaussian."""
        block: Block = self.block
        return block if isinstance(block, GaussianBlock) else None


@partial(jax.jit, static_argnums=2)
def _draw(distribution: Distribution, key: Any, n: int) -> Any:
    return distribution.sample(key, (n,))


@jax.jit
def _density(distribution: Any, x: Any) -> Any:
    value = distribution.log_prob(x)
    return jnp.where(distribution.support(x) & ~jnp.isnan(value), value, -jnp.inf)


def _in_float64(d: Distribution) -> Any:
    """The same distribution, made again where it can be: what it computed from its parameters is then float64 too."""
    wide = jax.tree_util.tree_map(_wide, d)
    try:
        made = type(d)(**{k: np.asarray(v) for k, v in wide.get_args().items()})
    except (TypeError, ValueError, AttributeError):  # not made from its parameters alone
        return wide
    shapes = [[np.shape(a) for a in jax.tree_util.tree_leaves(x)] for x in (made, wide)]
    return made if shapes[0] == shapes[1] else wide


def _wide(leaf: Any) -> Any:
    a = np.asarray(leaf)
    return a.astype(np.float64) if a.dtype.kind == "f" else leaf


def described(a: Any) -> str:
    """What came, for a message."""
    if isinstance(a, Distribution):
        shape = f" with event shape {a.event_shape}" if a.event_shape else ""
        return f"{type(a).__name__}{shape}"
    if isinstance(a, Posterior):
        return f"the posterior of {a.model_name}"
    if isinstance(a, Mapping):
        return f"draws of {sorted(map(str, a))}"
    if isinstance(a, (np.ndarray, jax.Array)):
        return f"an array of shape {a.shape}"
    return f"{type(a).__name__} {a!r}"[:80]


def laws(p: Any, q: Any, *, what: str) -> tuple[Law, Law]:
    """Both arguments, on a common space.

    Args:
        p: Distribution or posterior.
        q: Distribution or posterior.
        what: Name of the divergence, for messages.

    Raises:
        IncompatibleError: draws, a point mass, a batch of distributions, or two that live on different spaces.
    """
    for side, a in (("p", p), ("q", q)):
        _check(side, a, what)
    if isinstance(p, Posterior) and isinstance(q, Posterior):
        return _posteriors(p, q)
    if isinstance(p, Posterior):
        return Fitted(p, _only_site(p, q)), Given(q)
    if isinstance(q, Posterior):
        return Given(p), Fitted(q, _only_site(q, p))
    if tuple(p.event_shape) != tuple(q.event_shape):
        raise IncompatibleError(
            f"{what} of {described(p)} and {described(q)}: event shapes {p.event_shape} and {q.event_shape}. "
            "Needed: two distributions of one shape."
        )
    return Given(p), Given(q)


def _check(side: str, a: Any, what: str) -> None:
    if isinstance(a, Posterior):
        if not a.q.has_density:
            raise IncompatibleError(
                f"{side} is made of points ({a.family_name} family of {a.model_name}): it has no density, and {what} "
                "needs one. Use wasserstein, energy or mmd, or fit a family with a density."
            )
        if a.sites != tuple(a._sites.sites):
            discrete = [s for s in a.sites if s not in a._sites.sites]
            raise IncompatibleError(
                f"{side}, {described(a)}, has discrete latents {discrete}; {what} is for continuous ones. Compare "
                "draws by mmd, energy or wasserstein, or `probabilities` of the discrete ones as Categorical."
            )
        return
    if not isinstance(a, Distribution):
        raise IncompatibleError(
            f"{side} is {described(a)}; {what} needs a density, of a NumPyro distribution or a posterior of "
            "lowerbound. Between draws use mmd, energy, wasserstein or classifier."
        )
    if a.batch_shape:
        raise IncompatibleError(
            f"{side} is {type(a).__name__} with batch shape {a.batch_shape}; {what} is of one distribution. For "
            f"independent elements use {side}.to_event({len(a.batch_shape)}); for one of them, make it alone."
        )
    if isinstance(a, (Delta, MaskedDistribution)):
        raise IncompatibleError(
            f"{side} is {type(a).__name__}, which has no density; {what} needs one. Use wasserstein, energy or mmd."
        )
    check_proper(side, a)
    check_parameters(side, a)


def check_proper(side: str, distribution: Distribution) -> None:
    """Raise of what NumPyro has as a distribution, and is none.

    Raises:
        IncompatibleError: it has no draws, and no density that integrates to one.
    """
    d: Any = distribution
    while isinstance(d, (Independent, ExpandedDistribution, TransformedDistribution)):
        d = d.base_dist
    if isinstance(d, (ImproperUniform, Unit)):
        raise IncompatibleError(
            f"{side} is {type(distribution).__name__}, which is improper: it has no draws, and its density does not "
            "integrate to one. Needed: a proper distribution, such as a wide Normal."
        )


def check_parameters(side: str, distribution: Distribution) -> None:
    """NumPyro checks parameters only if it is asked to; a negative scale would pass for its square.

    Raises:
        DataError: a parameter is outside of its domain, or not a number.
    """
    d: Any = distribution
    while isinstance(d, (Independent, ExpandedDistribution, TransformedDistribution)):
        d = d.base_dist
    for name, constraint in d.arg_constraints.items():
        if name not in d.__dict__ or constraint.event_dim or is_dependent(constraint):
            continue
        value = np.asarray(d.__dict__[name])
        good = np.broadcast_to(np.asarray(constraint(value)), value.shape)
        if not good.all():
            raise DataError(
                f"{side}, {type(distribution).__name__}, has the parameter {name} = {value[~good].ravel()[0]}; "
                f"needed: {constraint}."
            )


def _only_site(posterior: Posterior, other: Distribution) -> str:
    sites = posterior._sites.sites
    if len(sites) != 1:
        raise IncompatibleError(
            f"{described(posterior)} has the sites {list(sites)}, and {described(other)} is a distribution of one. "
            "Compare it with a posterior of the same sites, or compare draws of one site by mmd, energy or wasserstein."
        )
    [(name, site)] = sites.items()
    if tuple(site.shape) != tuple(other.event_shape):
        raise IncompatibleError(
            f"site {name!r} has shape {tuple(site.shape)}, and {described(other)} event shape {other.event_shape}; "
            "needed: one shape."
        )
    return name


def _posteriors(p: Posterior, q: Posterior) -> tuple[Law, Law]:
    a, b = p._sites.sites, q._sites.sites
    shapes = {k: tuple(s.shape) for k, s in a.items()}, {k: tuple(s.shape) for k, s in b.items()}
    if shapes[0] != shapes[1]:
        raise IncompatibleError(
            f"{described(p)} has sites {shapes[0]}, and {described(q)} {shapes[1]}; needed: the same names and shapes."
        )
    # The same coordinates? Asked of the maps themselves: supports and reparameterisations both decide it.
    if p.q.dimension == q.q.dimension:
        x = p.q.sample(np.random.default_rng(0), 8)
        values = p._sites.constrain(x)
        back, _ = q._sites.unconstrain({k: values[k] for k in a}, len(x))
        if np.allclose(back, x, rtol=1e-6, atol=1e-6):
            return Unconstrained(p), Unconstrained(q)
    return Fitted(p), Fitted(q)


def check_counts(num_draws: Any, seed: Any, *, least: int = 2) -> None:
    """Numbers of draws and seeds are whole numbers.

    Raises:
        DataError: they are not, or there are too few.
    """
    if isinstance(num_draws, bool) or not isinstance(num_draws, (int, np.integer)) or num_draws < least:
        raise DataError(f"num_draws is {num_draws!r}; needed: a whole number, {least} or more.")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise DataError(f"seed is {seed!r}; needed: a whole number, zero or more.")
