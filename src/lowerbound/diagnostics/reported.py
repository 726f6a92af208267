r"""How far reported moments are from better ones: those of sites and deterministics, on the constrained space.

Chains and weights are compared with q on the unconstrained space, where a Gaussian is at home; but what is reported
of a positive s is the mean and the sd of s = exp(u), and two distributions whose u have the same mean and sd may
differ in those by a tenth. (The forward KL among Gaussians has the posterior's moments of u by construction, so that
there nothing on the unconstrained space could ever tell.) So each number f(u) that is not a coordinate of u itself is
compared too.

By weights, with draws x_i of r, w_i proportional to p / r and v_i to q / r:  sum w f - sum v f  and the log ratio of
the sds, on the same draws, so that where q is p there is no error; elsewhere that of the delta method,

    se^2 = sum_i (w_i (f_i - mean_w) - v_i (f_i - mean_v))^2 / sd^2.

By chains, with their states moved to the controlled mean and sd of u as they are reported: the error of their average
is that of what u and u^2, whose means are controlled, do not explain of f; and, where f has a heavy tail, what may lie
beyond the largest state (:mod:`lowerbound.standard_errors`): two samples of what has no sd differ by any factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lowerbound.diagnostics.chains.short import Chains
from lowerbound.diagnostics.shift import Drift
from lowerbound.diagnostics.weights.importance import Weighted
from lowerbound.expectations.noise import matched_normals
from lowerbound.families import Block, FactoredBlock
from lowerbound.kernel import Kernel
from lowerbound.model.base import is_real, label
from lowerbound.model.sites import SiteMap
from lowerbound.standard_errors import beyond_largest

#: Numbers that a model may report for each draw to be compared, and how many of them are, evenly spaced.
_NUMBERS, _COLUMNS = 2**16, 1000
#: Numbers held at a time, and over all draws.
_AT_ONCE, _IN_ALL = 2**22, 2**26
#: Draws of q behind its own moments.
_DRAWS = 4096
#: Relative size of an sd that is rounding.
_ROUNDING = 1e-9
#: Dimensions up to which the coordinates' share in a chain's error is taken out.
_CONTROLS = 32


class Moments(NamedTuple):
    """Means and sds of the columns ``[m]``, their errors (of the mean in sds), and whatever weight each draw had."""

    mean: np.ndarray
    sd: np.ndarray
    mean_se: np.ndarray
    log_sd_se: np.ndarray


@dataclass(frozen=True, eq=False)
class Columns:
    """What is reported, number by number.

    Attributes:
        sites: From the unconstrained space to what is reported.
        names: Of the columns: ``s``, ``w[2]``.
        picked: Of each name among sites and deterministics, its flat indices.
    """

    sites: SiteMap
    names: list[str]
    picked: dict[str, np.ndarray]

    @staticmethod
    def of(kernel: Kernel) -> Columns | None:
        """Of a model; None where it reports nothing but the coordinates, or too much."""
        model = kernel.model
        shapes = {n: s.shape for n, s in model.sites.items() if n in model.elsewhere or not is_real(s.support)}
        shapes |= model.deterministics
        counts = {n: math.prod(s) for n, s in shapes.items()}
        total = sum(counts.values())
        if not 0 < total <= _NUMBERS:
            return None
        every = -(-total // _COLUMNS)
        picked = {n: np.arange(0, c, every) for n, c in counts.items()}
        names = [n + label(tuple(map(int, np.unravel_index(i, shapes[n])))) for n in shapes for i in picked[n]]
        return Columns(SiteMap(model.sites, model.deterministics, model), names, picked)

    @property
    def _most(self) -> int:
        """Draws that are looked at."""
        return max(1024, _IN_ALL // sum(math.prod(s) for s in self.sites.shapes.values()))

    def at(self, x: np.ndarray) -> np.ndarray:
        """The columns ``[n, m]`` at draws ``x [n, p]``."""
        step = max(64, _AT_ONCE // sum(math.prod(s) for s in self.sites.shapes.values()) // 64 * 64)
        parts = []
        for i in range(0, len(x), step):
            values = self.sites.constrain(x[i : i + step])
            parts.append(
                np.concatenate([values[n].reshape(len(values[n]), -1)[:, k] for n, k in self.picked.items()], 1)
            )
        return np.concatenate(parts)

    def by_weights(self, weighted: Weighted, q: Block) -> tuple[Drift, Moments]:
        """The shift from q's moments to the weighted ones, and those."""
        every = -(-len(weighted.draws) // self._most)
        x = weighted.draws[::every]
        log_v = np.asarray(q.log_prob(x)) - (weighted.log_density - weighted.log_weights)[::every]
        with np.errstate(all="ignore"):
            w, v = (np.exp(a - a.max()) for a in (weighted.smoothed[::every], log_v))
            w, v = (np.nan_to_num(a / a.sum()) for a in (w, v))
            # A draw without weight adds nothing to a mean, and infinity to one if its scale has overflowed.
            kept = np.maximum(w, v) > 1e-9 * max(w.max(), v.max())
            f, w, v = self.at(x[kept]), w[kept] / w[kept].sum(), v[kept] / v[kept].sum()
            (mean_w, sd_w, a, b), (mean_v, sd_v, c, d) = _moments(f, w), _moments(f, v)
            shift, ratio = (mean_w - mean_v) / sd_v, np.log(sd_w / sd_v)
            mean_se, log_sd_se = np.sqrt(((a - c) ** 2).sum(0)) / sd_v, np.sqrt(((b - d) ** 2).sum(0))
            own = Moments(mean_w, sd_w, np.sqrt((a**2).sum(0)) / sd_w, np.sqrt((b**2).sum(0)))
        return _still(Drift(shift, ratio, mean_se, log_sd_se), sd_v), own

    def of_q(self, q: Block, seed: int) -> Moments:
        """q's own moments, as the posterior reports them."""
        n = min(_DRAWS, self._most) // 2 * 2
        f = self.at(np.asarray(q.transform(matched_normals(np.random.default_rng([seed, 6]), n, q.noise_dimension))))
        with np.errstate(all="ignore"):
            mean, sd, _, b = _moments(f, np.full(n, 1 / n))
            log_sd_se = np.hypot(np.sqrt((b**2).sum(0)), _beyond(f, mean, sd, n))
        if isinstance(q, FactoredBlock):
            exact, start = q.moments(), 0
            for name, k in self.picked.items():
                if name in exact:
                    m, variance = (np.ravel(np.asarray(e))[k] for e in exact[name])
                    some = slice(start, start + len(k))
                    mean[some], sd[some], log_sd_se[some] = m, np.sqrt(variance), 0.0
                start += len(k)
        return Moments(mean, sd, np.zeros(len(mean)), log_sd_se)

    def by_chains(self, chains: Chains, before: Moments) -> Drift:
        """The shift from reported moments to those of the chains."""
        x = chains.pool(min(8000, self._most))
        f, n = self.at(x), len(x)
        with np.errstate(all="ignore"):
            mean, sd, a, b = _moments(f, np.full(n, 1 / n))
            each, own = n * np.concatenate([a / sd, b], 1), 0.0
            if x.shape[1] <= _CONTROLS:
                u = (x - x.mean(0)) / x.std(0)
                basis = np.linalg.qr(np.column_stack([np.ones(n), u, u**2]))[0]
                each = each - basis @ (basis.T @ np.nan_to_num(each))
                own = np.hypot(chains.moments.mean_se.max(), chains.moments.log_sd_se.max())
            effective = max(float(np.min(chains.moments.effective)), 1.0)
            mean_se, log_sd_se = np.split(np.hypot(each.std(0) / np.sqrt(effective), own), 2)
            beyond = _beyond(f, mean, sd, effective)
            log_sd_se = np.hypot(log_sd_se, beyond)
            mean_se = np.where(np.isinf(beyond), np.inf, mean_se)
            shift, ratio = (mean - before.mean) / sd, np.log(sd / before.sd)
        found = Drift(shift, ratio, np.hypot(mean_se, before.mean_se), np.hypot(log_sd_se, before.log_sd_se))
        return _still(found, before.sd)


def _moments(f: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean and sd of each column of ``f [n, m]``, and by how much each draw moves the mean and log sd ``[n, m]``."""
    mean = w @ f
    centred = f - mean
    variance = w @ centred**2
    # What does not vary beyond rounding has no sd to be compared in.
    variance = np.where(variance > (_ROUNDING * np.abs(mean)) ** 2, variance, 0.0)
    return mean, np.sqrt(variance), w[:, None] * centred, 0.5 * w[:, None] * (centred**2 / variance - 1)


def _beyond(f: np.ndarray, mean: np.ndarray, sd: np.ndarray, effective: float) -> np.ndarray:
    """The error of the log sd of each column for what may lie beyond its largest value, of so many draws."""
    return beyond_largest((f - mean) ** 2 / len(f), effective) / (2 * np.maximum(sd, 1e-300) ** 2)


def _still(drift: Drift, sd: np.ndarray) -> Drift:
    """A number that does not vary, or that has no sd, does not move; what cannot be told has an infinite error."""
    told = np.isfinite(drift.mean) & np.isfinite(drift.log_sd) & np.isfinite(sd)
    parts = (drift.mean, drift.log_sd, drift.mean_se, drift.log_sd_se)
    mean, log_sd, mean_se, log_sd_se = (np.where(told, a, 0.0) for a in parts)
    return Drift(mean, log_sd, np.where(np.isfinite(mean_se), mean_se, np.inf), np.nan_to_num(log_sd_se, nan=np.inf))
