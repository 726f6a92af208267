r"""What a posterior reports: draws, moments, quantiles and densities of every site, on the constrained space.

Draws are q's own, or, where those were repaired, a pool of weighted ones. Discrete latents that can be summed out are
reported as p(z | x, latents) at those draws, so that they are as right as the draws are; others from their own block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lowerbound.errors import DataError
from lowerbound.expectations.noise import matched_normals
from lowerbound.families import Block, FactoredBlock
from lowerbound.labels import Labels
from lowerbound.model.base import label
from lowerbound.model.sites import SiteMap
from lowerbound.standard_errors import standard_errors
from lowerbound.weighted import narrowest_interval, weighted_quantile

if TYPE_CHECKING:
    import pandas as pd

#: Draws of q behind its moments, and numbers in all of them at most.
_DRAWS, _NUMBERS = 8192, 2**26


@dataclass(frozen=True, eq=False)
class Reported:
    """The numbers of a posterior.

    Args:
        q: The approximation.
        sites: From the unconstrained space to what is reported.
        pool, weights: Repaired draws ``[n, p]`` and their weights; None where draws are q's own.
        effective: Effective number of those.
        seed: Of the fit.
        averages: Of discrete latents that were summed out, where they are known already.
        without_sd: Names (``x``, ``w[2]``) of numbers whose sd no draws can tell, if there is one.
    """

    q: Block
    sites: SiteMap
    pool: np.ndarray | None
    weights: np.ndarray | None
    effective: float
    seed: int
    averages: dict[str, Labels] | None = None
    without_sd: tuple[str, ...] = ()

    # -- draws -----------------------------------------------------------------------------------------

    def draws(self, n: int, seed: int) -> np.ndarray:
        """Draws ``[n, p]`` on the unconstrained space."""
        rng = np.random.default_rng([seed, 0x5A4D])
        if self.pool is None or self.weights is None:
            return self.q.sample(rng, n)
        # Systematic resampling: each draw appears floor or ceil of n times its weight. The order of the
        # pool is shuffled first, so that the rounding is independent of where a draw came from.
        order = rng.permutation(len(self.weights))
        edges = np.cumsum(self.weights[order])
        places = np.searchsorted(edges, (np.arange(n) + rng.uniform()) / n * edges[-1], side="right")
        return self.pool[rng.permutation(order[np.minimum(places, len(order) - 1)])]

    def sample(self, n: int, seed: int) -> dict[str, np.ndarray]:
        """Draws by site ``[n, *shape]``, discrete latents jointly with the others of the same draw."""
        x = self.draws(n, seed)
        out = self.sites.constrain(x) if self.sites.dimension else {}
        rng = np.random.default_rng([seed, 0x5A4E])
        if (given := self.sites.responsibilities) is not None:
            return out | given.draw(rng, x)
        if isinstance(self.q, FactoredBlock) and self.q.discrete:
            out |= self.q.sample_discrete(rng, n)
        return out

    @cached_property
    def weighted(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Constrained draws by site and their weights, the basis of every number."""
        draws, weights = self.pool, self.weights
        if draws is None or weights is None:
            p = self.q.noise_dimension
            n = 2 if p == 0 else max(64, min(_DRAWS, _NUMBERS // max(p, 1) // 64 * 64))
            noise = matched_normals(np.random.default_rng([self.seed, 1]), n, p) if p else np.zeros((n, 0))
            draws = np.asarray(self.q.transform(noise))
            weights = np.full(len(draws), 1 / len(draws))
        return (self.sites.constrain(draws) if self.sites.dimension else {}), weights

    # -- discrete latents --------------------------------------------------------------------------------

    @property
    def own_labels(self) -> dict[str, Labels]:
        """Of discrete latents that are blocks of q."""
        return self.q.discrete if isinstance(self.q, FactoredBlock) else {}

    @cached_property
    def summed(self) -> dict[str, Labels]:
        """Of latents that were summed out, averaged over draws of the others."""
        given = self.sites.responsibilities
        if self.averages is not None or given is None:
            return self.averages or {}
        return given.average(self._spread(given.draws))

    @property
    def labels(self) -> dict[str, Labels]:
        """Of every discrete latent: summed out where they can be, else q's own."""
        return {**self.own_labels, **self.summed}

    def _spread(self, n: int) -> np.ndarray:
        """Draws of the others, ``n`` of them, as evenly as they come; one where all of them are the same."""
        p = self.q.noise_dimension
        if self.pool is not None:
            return self.draws(n, self.seed)
        if p == 0:
            return self.draws(1, self.seed)
        return np.asarray(self.q.transform(matched_normals(np.random.default_rng([self.seed, 2]), n, p)))

    # -- numbers -----------------------------------------------------------------------------------------

    @property
    def _exact(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Means and variances of latents that have a closed form, where draws are q's."""
        if self.pool is not None or not isinstance(self.q, FactoredBlock):
            return {}
        return {k: v for k, v in self.q.moments().items() if k in self.sites.sites}

    def mean(self) -> dict[str, np.ndarray]:
        """Means by site ``[*shape]``."""
        values, w = self.weighted
        out = {k: np.tensordot(w, v, 1)[()] for k, v in values.items()}
        out |= {k: m[()] for k, (m, _) in self._exact.items()}
        return out | {k: labels.mean()[()] for k, labels in self.labels.items()}

    def sd(self) -> dict[str, np.ndarray]:
        """Standard deviations by site ``[*shape]``: see :meth:`Posterior.sd`."""
        values, w = self.weighted
        out = {}
        for k, v in values.items():
            with np.errstate(all="ignore"):  # the draws of a flat posterior overflow
                centred = v - np.tensordot(w, v, 1)
                spread = np.sqrt(np.tensordot(w, centred**2, 1))
            out[k] = np.where(np.isnan(spread), np.inf, spread)[()]
        with np.errstate(invalid="ignore"):
            out |= {k: np.sqrt(v)[()] for k, (_, v) in self._exact.items()}
        out = {k: np.where(self._untold(k, np.shape(v)), np.nan, v)[()] for k, v in out.items()}
        return out | {k: labels.sd()[()] for k, labels in self.labels.items()}

    def _untold(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Which elements have no sd that can be told."""
        if not self.without_sd:
            return np.zeros(shape, bool)
        named = frozenset(self.without_sd)
        return np.array([name + label(i) in named for i in np.ndindex(*shape)]).reshape(shape)

    def quantile(self, probability: np.ndarray) -> dict[str, np.ndarray]:
        """Quantiles by site ``[m, *shape]``."""
        values, w = self.weighted
        out = {k: weighted_quantile(v, w, probability) for k, v in values.items()}
        return out | {k: labels.quantile(probability) for k, labels in self.labels.items()}

    def log_prob(self, values: Mapping[str, Any]) -> np.ndarray:
        """log q(z) at constrained sites, ``[n]`` or a number: see :meth:`Posterior.log_prob`."""
        labels = {n: s.probabilities.shape[:-1] for n, s in self.labels.items() if n in values}
        missing = [n for n in self.labels if n not in values] if labels else []
        if missing:
            raise DataError(
                f"log_prob needs every discrete latent or none; {missing[0]!r} is missing, {[*labels]} given."
            )
        shapes = {**{n: s.shape for n, s in self.sites.sites.items()}, **labels}
        drawn = [
            len(np.asarray(values[k])) for k, s in shapes.items() if k in values and np.ndim(values[k]) == len(s) + 1
        ]
        single, n = not drawn, drawn[0] if drawn else 1
        given = {k: _labels_at(k, values[k], shape, n) for k, shape in labels.items()}
        values = {k: v for k, v in values.items() if k not in labels}
        x, log_det = self.sites.unconstrain(values, n)
        # Outside the support the transform has no inverse, and q no density.
        inside = np.isfinite(x).all(1) & np.isfinite(log_det)
        with np.errstate(all="ignore"):
            out = np.where(inside, np.asarray(self.q.log_prob(x)) - log_det, -np.inf)
        own = {k: s for k, s in self.own_labels.items() if k in given and k not in self.summed}
        out = out + sum(s.log_prob(given[k]) for k, s in own.items())
        if rest := {k: v[inside] for k, v in given.items() if k in self.summed}:
            assert self.sites.responsibilities is not None
            out[inside] += self.sites.responsibilities.log_prob(x[inside], rest)
        return out[0] if single else out

    def summary(self, hdi_prob: float) -> pd.DataFrame:
        """The table of :meth:`Posterior.summary`."""
        import pandas as pd

        values, w = self.weighted
        mean, sd = self.mean(), self.sd()
        low, high = f"hdi_{100 * (1 - hdi_prob) / 2:g}%", f"hdi_{100 * (1 + hdi_prob) / 2:g}%"
        corrected = self.pool is not None
        ess = min(self.effective, float(1 / (w**2).sum())) if corrected else float(len(w))
        exact = self._exact
        rows, index = [], []
        for name, v in values.items():
            flat = v.reshape(len(v), -1)
            m, s = np.ravel(mean[name]), np.ravel(sd[name])
            lower, upper = narrowest_interval(flat, w, hdi_prob)
            if name in exact:
                mean_se = sd_se = np.zeros(len(m))
            else:
                mean_se, sd_se = standard_errors(flat, w, effective=ess)
            told = ~np.ravel(self._untold(name, v.shape[1:]))
            mean_se, sd_se = np.where(told, mean_se, np.nan), np.where(told, sd_se, np.nan)
            index.extend(name + label(i) for i in np.ndindex(*v.shape[1:]))
            rows.extend(zip(m, s, lower, upper, mean_se, sd_se, [ess] * len(m), strict=True))
        for name, labels in self.labels.items():
            lower, upper = (np.ravel(e) for e in labels.interval(hdi_prob))
            m, s = np.ravel(mean[name]), np.ravel(sd[name])
            index.extend(name + label(i) for i in np.ndindex(*labels.probabilities.shape[:-1]))
            n = min(ess, labels.draws) if corrected else labels.draws
            sd_se = np.ravel(labels.sd_spread()) / np.sqrt(n)
            rows.extend(zip(m, s, lower, upper, s / np.sqrt(n), sd_se, [n] * len(m), strict=True))
        return pd.DataFrame(rows, index=index, columns=["mean", "sd", low, high, "mcse_mean", "mcse_sd", "ess"])


def _labels_at(name: str, given: Any, shape: tuple[int, ...], n: int) -> np.ndarray:
    """Values of a discrete latent, draws first, checked."""
    z = np.asarray(given)
    if z.dtype.kind not in "iufb" or z.shape not in ((n, *shape), shape):
        raise DataError(
            f"site {name!r} has shape {z.shape} and type {z.dtype}; needed: numbers of shape {(n, *shape)} (draws "
            f"first) or {shape}."
        )
    return np.broadcast_to(z, (n, *shape))
