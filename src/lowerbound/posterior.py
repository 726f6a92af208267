"""The answer: what a person gets from :func:`lowerbound.fit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowerbound.algorithms.base import Status
from lowerbound.diagnostics.assessment import Correction
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.evidence import Evidence
from lowerbound.diagnostics.updates import Update
from lowerbound.diagnostics.verdict import Verdict
from lowerbound.errors import DataError, IncompatibleError, unknown_name
from lowerbound.escalation import Trial
from lowerbound.expectations.noise import matched_normals
from lowerbound.families import Block, FactoredBlock, Point
from lowerbound.labels import Labels
from lowerbound.model.base import label
from lowerbound.sites import SiteMap
from lowerbound.weighted import narrowest_interval, weighted_quantile

if TYPE_CHECKING:
    import pandas as pd

    from lowerbound.diagnostics.site_response import SiteResponse
    from lowerbound.encoder import Encoder

_MOMENT_DRAWS = 8192
_MAX_NUMBERS = 2**26


class Trace(NamedTuple):
    """What happened, step by step.

    Attributes:
        phase: Name of the phase of each step.
        elbo: ELBO after each step, in nats (``nan`` before there is a q).
        elbo_se: Its standard error.
        seconds: Wall time since the start of the fit.
    """

    phase: tuple[str, ...]
    elbo: np.ndarray
    elbo_se: np.ndarray
    seconds: np.ndarray

    def __len__(self) -> int:
        return len(self.phase)


@dataclass(frozen=True, eq=False)
class Posterior:
    """An approximate posterior that says how far it can be trusted.

    Made by :func:`lowerbound.fit` or :func:`lowerbound.load`. Sites come back by name, in the constrained
    space, with the model's deterministics.

    Attributes:
        q: The fitted approximation on the unconstrained space.
        status: How the fit ended.
        verdict: How far to trust it.
        elbo: The evidence lower bound in nats, all constants kept.
        log_evidence: Importance-weighted estimate of log p(x), in nats.
        evidence: log p(x) between a lower and, where one is honest, an upper bound.
        pareto_k: k-hat of the importance weights.
        log_weights: log p(x, z) - log r(z) of the weighted draws ``[n]``, unnormalised.
        trace: ELBO by step.
        timings: Wall seconds: ``compile`` (with tracing), ``fit``, ``check`` (what the verdict cost), ``escalation`` (what was tried
            beyond, with its own compilation), ``total``.
        counts: ``steps``, and ``evaluations`` of the log density and its gradient.
        seed: The seed of the fit.
        versions: Of the libraries that made it.
        source: What ``sample`` and the moments report: ``"q"``, ``"importance"`` or ``"chains"``.
        effective: Effective number of repaired draws, where ``source`` is not ``"q"``.
        trials: What escalation tried, why, and what was gained.
        parameters: What the model itself has learned (``numpyro.param``), by name: point estimates.
        encoder: Of an amortized q: what answers other rows. None for any other.
        corrections: What was done to the draws that are returned, in order; empty where they are q's.
        updates: What each :meth:`update` was, in order.
    """

    q: Block
    status: Status
    verdict: Verdict
    log_evidence: Estimate
    evidence: Evidence
    pareto_k: float
    log_weights: np.ndarray
    trace: Trace
    timings: dict[str, float]
    counts: dict[str, int]
    seed: int
    versions: dict[str, str]
    model_name: str
    family_name: str
    algorithm_name: str
    observed: Mapping[str, np.ndarray] = field(repr=False)
    source: str
    effective: float
    corrections: tuple[Correction, ...]
    trials: tuple[Trial, ...]
    _sites: SiteMap = field(repr=False)
    _pool: np.ndarray = field(repr=False)
    _pool_weights: np.ndarray = field(repr=False)
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)
    parameters: Mapping[str, Any] = field(default_factory=dict, repr=False)
    encoder: Encoder | None = field(default=None, repr=False)
    updates: tuple[Update, ...] = ()

    @property
    def elbo(self) -> Estimate:
        return self.verdict.elbo

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the latent sites, the discrete ones last."""
        own, given = self._own_labels, self._sites.responsibilities
        return (*self._sites.sites, *own, *(n for n in (given.shapes if given else ()) if n not in own))

    @property
    def _own_labels(self) -> dict[str, Labels]:
        """Of discrete latents that are blocks of q."""
        return self.q.discrete if isinstance(self.q, FactoredBlock) else {}

    @property
    def corrected(self) -> bool:
        """Whether draws and moments are repaired ones: importance-weighted, or of short chains."""
        return self.source != "q"

    def sample(self, n: int = 1000, *, seed: int = 0) -> dict[str, np.ndarray]:
        """Draws by site name, ``[n, *shape]``, with deterministics.

        Where :attr:`source` is ``"q"`` they are independent draws of q; else they are resampled from
        the repaired draws (systematic resampling, in random order). Discrete latents are drawn given the others of
        the same draw, from p(z | x, latents); from their own block of q where they cannot be summed out.

        Args:
            n: Number of draws.
            seed: The same seed gives the same bits.

        Warns:
            TrustWarning: the posterior is from a file that holds the probabilities of discrete latents alone, the
                model's data being too large for it: they are drawn without regard to the others.
        """
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
            raise DataError(f"sample needs a positive number of draws, got {n!r}.")
        x = self.sample_unconstrained(int(n), seed=seed)
        out = self._sites.constrain(x) if self._sites.dimension else {}
        rng = np.random.default_rng([seed, 0x5A4E])
        if (given := self._sites.responsibilities) is not None:
            return out | given.draw(rng, x)
        if isinstance(self.q, FactoredBlock) and self._own_labels:
            out |= self.q.sample_discrete(rng, int(n))
        return out

    def sample_unconstrained(self, n: int, *, seed: int = 0) -> np.ndarray:
        """Draws ``[n, p]`` on the unconstrained space."""
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise DataError(f"seed is {seed!r}; needed: a whole number, zero or more.")
        rng = np.random.default_rng([seed, 0x5A4D])
        if not self.corrected:
            return self.q.sample(rng, n)
        # Systematic resampling: each draw appears floor or ceil of n times its weight. The order of the
        # pool is shuffled first, so that the rounding is independent of where a draw came from.
        order = rng.permutation(len(self._pool_weights))
        edges = np.cumsum(self._pool_weights[order])
        places = np.searchsorted(edges, (np.arange(n) + rng.uniform()) / n * edges[-1], side="right")
        return self._pool[rng.permutation(order[np.minimum(places, len(order) - 1)])]

    def _moments(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Constrained draws and their weights, the basis of every reported number."""
        if "moments" not in self._cache:
            if self.corrected:
                draws, weights = self._pool, self._pool_weights
            else:
                p = self.q.noise_dimension
                n = 2 if p == 0 else max(64, min(_MOMENT_DRAWS, _MAX_NUMBERS // max(p, 1) // 64 * 64))
                noise = matched_normals(np.random.default_rng([self.seed, 1]), n, p) if p else np.zeros((n, 0))
                draws = np.asarray(self.q.transform(noise))
                weights = np.full(len(draws), 1 / len(draws))
            self._cache["moments"] = (self._sites.constrain(draws) if self._sites.dimension else {}), weights
        return self._cache["moments"]

    def mean(self) -> dict[str, np.ndarray]:
        """Posterior means by site, ``[*shape]``; of a discrete latent, of its values as numbers."""
        values, w = self._moments()
        out = {k: np.tensordot(w, v, 1)[()] for k, v in values.items()}
        out |= {k: m[()] for k, (m, _) in self._exact().items()}
        return out | {k: labels.mean()[()] for k, labels in self._labels().items()}

    def _exact(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Means and variances of latents that have a closed form, where reported draws are q's."""
        if self.corrected or not isinstance(self.q, FactoredBlock):
            return {}
        return {k: v for k, v in self.q.moments().items() if k in self._sites.sites}

    def sd(self) -> dict[str, np.ndarray]:
        """Posterior standard deviations by site, ``[*shape]``."""
        values, w = self._moments()
        out = {}
        for k, v in values.items():
            with np.errstate(all="ignore"):  # a flat posterior has no sd, and its draws overflow
                centred = v - np.tensordot(w, v, 1)
                spread = np.sqrt(np.tensordot(w, centred**2, 1))
            out[k] = np.where(np.isnan(spread), np.inf, spread)[()]
        with np.errstate(invalid="ignore"):
            out |= {k: np.sqrt(v)[()] for k, (_, v) in self._exact().items()}
        return out | {k: labels.sd()[()] for k, labels in self._labels().items()}

    def probabilities(self, site: str) -> np.ndarray:
        """P(z = k) of a discrete latent, ``[*shape, k]``, in the order of its values.

        The mean of p(z = k | x, latents) over reported draws of the others, as ``sample`` has it, with a standard
        error of at most sqrt(p (1 - p) / draws), where ``draws`` is 4,096, or fewer with many rows (16 at least); q's
        own block, which is mean field, only of latents that cannot be summed out.

        Raises:
            UnknownNameError: it is no discrete latent of the model.
        """
        labels = self._labels()
        if site not in labels:
            raise unknown_name("discrete latent", site, labels)
        return labels[site].probabilities

    def _labels(self) -> dict[str, Labels]:
        """Of every discrete latent: summed out and averaged over reported draws of the others, else q's own."""
        return {**self._own_labels, **self._responsibilities()}

    def _responsibilities(self) -> dict[str, Labels]:
        """Of latents that were summed out, over reported draws of the others."""
        if "responsibilities" not in self._cache:
            given = self._sites.responsibilities
            self._cache["responsibilities"] = {} if given is None else given.average(self._spread(given.draws))
        return self._cache["responsibilities"]

    def _spread(self, n: int) -> np.ndarray:
        """Reported draws of the others, ``n`` of them, as evenly as they come; one where all of them are the same."""
        p = self.q.noise_dimension
        if self.corrected:
            return self.sample_unconstrained(n, seed=self.seed)
        if p == 0:
            return self.sample_unconstrained(1, seed=self.seed)
        return np.asarray(self.q.transform(matched_normals(np.random.default_rng([self.seed, 2]), n, p)))

    def quantile(self, probability: float | list[float] | np.ndarray) -> dict[str, np.ndarray]:
        """Posterior quantiles by site, ``[*shape]`` for a number, ``[m, *shape]`` for m of them."""
        prob = np.atleast_1d(np.asarray(probability, float))
        if prob.ndim != 1 or not ((prob >= 0) & (prob <= 1)).all():
            raise DataError(f"quantile needs probabilities between 0 and 1, got {probability!r}.")
        values, w = self._moments()
        out = {k: weighted_quantile(v, w, prob) for k, v in values.items()}
        out |= {k: labels.quantile(prob) for k, labels in self._labels().items()}
        return {k: v[0] for k, v in out.items()} if np.ndim(probability) == 0 else out

    def log_prob(self, values: Mapping[str, Any]) -> np.ndarray:
        """log q(z) in nats at constrained sites.

        Args:
            values: Every latent site by name: ``[n, *shape]``, or ``[*shape]`` for one point. Discrete latents may be
                left out, all of them: q is then that of the others alone.

        Returns:
            ``[n]``, or a number for one point. The density is with respect to the constrained
            variables where they have full dimension; for a simplex or a correlation matrix with
            respect to the coordinates of the transform. Discrete latents that can be summed out have their
            log p(z | x, latents), as in ``sample``; others that of their own block.

        Raises:
            IncompatibleError: discrete latents of a posterior from a file that holds their probabilities alone.
        """
        labels = {n: s.probabilities.shape[:-1] for n, s in self._labels().items() if n in values}
        missing = [n for n in self._labels() if n not in values] if labels else []
        if missing:
            raise DataError(
                f"log_prob needs every discrete latent or none; {missing[0]!r} is missing, {[*labels]} given."
            )
        shapes = {**{n: s.shape for n, s in self._sites.sites.items()}, **labels}
        drawn = [
            len(np.asarray(values[k])) for k, s in shapes.items() if k in values and np.ndim(values[k]) == len(s) + 1
        ]
        single, n = not drawn, drawn[0] if drawn else 1
        given = {k: _labels_at(k, values[k], shape, n) for k, shape in labels.items()}
        values = {k: v for k, v in values.items() if k not in labels}
        x, log_det = self._sites.unconstrain(values, n)
        # Outside the support the transform has no inverse, and q no density.
        inside = np.isfinite(x).all(1) & np.isfinite(log_det)
        with np.errstate(all="ignore"):
            out = np.where(inside, np.asarray(self.q.log_prob(x)) - log_det, -np.inf)
        summed = self._responsibilities()
        out = out + sum(own.log_prob(given[k]) for k, own in self._own_labels.items() if k in given and k not in summed)
        if rest := {k: v[inside] for k, v in given.items() if k in summed}:
            assert self._sites.responsibilities is not None
            out[inside] += self._sites.responsibilities.log_prob(x[inside], rest)
        return out[0] if single else out

    def summary(self, *, hdi_prob: float = 0.94) -> pd.DataFrame:
        """A table as ArviZ users know it: mean, sd, highest-density interval, Monte Carlo errors.

        Args:
            hdi_prob: Mass of the interval.

        Returns:
            A DataFrame indexed by parameter (``theta[0]``). ``ess`` is the effective number of draws
            behind the numbers; ``mcse_mean`` and ``mcse_sd`` their Monte Carlo errors.
        """
        import pandas as pd

        if not 0 < hdi_prob < 1:
            raise DataError(f"hdi_prob is {hdi_prob!r}; needed: between 0 and 1.")
        values, w = self._moments()
        mean, sd = self.mean(), self.sd()
        low, high = f"hdi_{100 * (1 - hdi_prob) / 2:g}%", f"hdi_{100 * (1 + hdi_prob) / 2:g}%"
        ess = min(self.effective, float(1 / (w**2).sum())) if self.corrected else float(len(w))
        rows, index = [], []
        for name, v in values.items():
            flat = v.reshape(len(v), -1)
            m, s = np.ravel(mean[name]), np.ravel(sd[name])
            lower, upper = narrowest_interval(flat, w, hdi_prob)
            for j, i in enumerate(np.ndindex(*v.shape[1:])):
                index.append(name + label(i))
                rows.append((m[j], s[j], lower[j], upper[j], s[j] / np.sqrt(ess), s[j] / np.sqrt(2 * ess), ess))
        for name, labels in self._labels().items():
            lower, upper = (np.ravel(e) for e in labels.interval(hdi_prob))
            m, s = np.ravel(mean[name]), np.ravel(sd[name])
            index.extend(name + label(i) for i in np.ndindex(*labels.probabilities.shape[:-1]))
            n = min(ess, labels.draws) if self.corrected else labels.draws
            rows.extend(zip(m, s, lower, upper, s / np.sqrt(n), s / np.sqrt(2 * n), [n] * len(m), strict=True))
        return pd.DataFrame(rows, index=index, columns=["mean", "sd", low, high, "mcse_mean", "mcse_sd", "ess"])

    def linear_response(
        self, sites: Sequence[str] | str | None = None, *, num_draws: int = 64, seed: int = 0
    ) -> SiteResponse:
        """Means, with their Monte Carlo errors, and standard deviations by linear response, of a mean-field q.

        The variances of a mean-field q are too small wherever the posterior is correlated; those of its response
        are not: see :mod:`lowerbound.diagnostics.linear_response`.

        Args:
            sites: Names of sites (or deterministics); None for all, up to 2,000 dimensions.
            num_draws: Draws of the noise on which q is fitted again.
            seed: Of that noise.

        Returns:
            ``mean``, ``sd`` and ``mean_error`` by site, and the unconstrained covariance as ``response.covariance``.

        Raises:
            IncompatibleError: q is not a mean-field Gaussian, or the posterior was loaded from a file, which does
                not hold the model.
        """
        from lowerbound.diagnostics.site_response import site_response
        from lowerbound.kernel import Kernel

        return site_response(Kernel(self._sites.model), self.q, self._sites, sites, num_draws=num_draws, seed=seed)

    def bound(self, objective: Any = "elbo", *, num_draws: int = 8192, seed: int = 0) -> Estimate:
        """Another bound or divergence at q, in nats, with its standard error.

        Args:
            objective: An object of :mod:`lowerbound.objectives` or its short name: ``"importance_weighted"``,
                ``"chi_upper_bound"``, ``"forward_kl"``, ...
            num_draws: Draws of q.
            seed: Of the draws.

        Raises:
            IncompatibleError: q has no density, or the posterior was loaded from a file, which does not hold the model.

        Warns:
            TrustWarning: the weights' tail is too heavy for the estimate to be believed.
        """
        from lowerbound import registry
        from lowerbound.diagnostics.objective_value import objective_value
        from lowerbound.kernel import Kernel
        from lowerbound.objectives import Objective

        wanted = registry.resolve("objective", objective, registry.OBJECTIVES, Objective)
        if self.encoder is not None:
            rows = max(num_draws // self.q.dimension, 16)
            return self.encoder.bound(wanted, num_draws=rows, seed=seed)
        if self.is_point:
            raise IncompatibleError("a point mass has no log q, and no bound.")
        if not self.q.has_density:
            raise IncompatibleError("particles have no log q, and no bound.")
        return objective_value(Kernel(self._sites.model), self.q, wanted, num_draws=num_draws, seed=seed)

    def update(
        self,
        new_data: Mapping[str, Any],
        *,
        forget: float = 1.0,
        model: Any = None,
        local: Sequence[str] | None = None,
        family: Any = None,
        algorithm: Any = None,
        seed: int = 0,
        max_steps: int | None = None,
        num_draws: int | None = None,
        escalate: bool | None = None,
        max_seconds: float | None = None,
        progress: bool | None = None,
        callback: Callable[[Any], object] | None = None,
    ) -> Posterior:
        """The posterior with new data, this one in the place of the prior: see :mod:`lowerbound.updating`.

        Exact in conjugate models (natural parameters add), else by projection onto a Gaussian. Latents that belong to
        rows are new ones; those that all rows share are carried over.

        Args:
            new_data: The new rows alone, with the names that the data had before.
            forget: The forgetting factor f above 0 and up to 1: the next prior is prior^(1-f) q^f.
            model: The model, where this posterior is from a file.
            local: Latents that belong to rows; None finds them by giving the model every row twice.
            family, algorithm, seed, max_steps, num_draws, escalate, max_seconds, progress, callback: Of the fit, as
                :func:`lowerbound.fit` has them.

        Returns:
            A posterior whose :attr:`updates` has one record more, and whose verdict is relative to this one. Its
            ``elbo``, ``log_evidence`` and ``evidence`` are those of the new rows given all before.

        Raises:
            DataError: other names, no rows, what is not finite, or a ``forget`` outside of (0, 1].
            IncompatibleError: other latents or shapes, a latent whose shape changes without a plate, a factor that is
                no prior and does not depend on the data, a log density, or a posterior from a file without its model.

        Cost: that of a fit of the new rows; in all the rows are read once.
        """
        from lowerbound.updating import update

        return update(
            self,
            new_data,
            forget=forget,
            model=model,
            local=local,
            family=family,
            algorithm=algorithm,
            seed=seed,
            max_steps=max_steps,
            num_draws=num_draws,
            escalate=escalate,
            max_seconds=max_seconds,
            progress=progress,
            callback=callback,
        )

    def to_arviz(self, n: int = 4000, *, seed: int = 0) -> Any:
        """An ArviZ object with one chain of draws, the observed data, and the verdict as attributes.

        ``InferenceData`` with ArviZ 0.x, an xarray ``DataTree`` with ArviZ 1.x.

        Raises:
            ImportError: ArviZ is not installed.
        """
        from lowerbound.report.exchange import to_arviz

        return to_arviz(self, n, seed)

    def save(self, path: Any) -> None:
        """Write to a file that :func:`lowerbound.load` reads, in any process, without the model."""
        from lowerbound.storage import save

        save(self, path)

    def __repr__(self) -> str:
        size = f"{len(self.sites)} sites, {self.q.dimension} dimensions"
        verdict = self.verdict.status.name
        return f"<Posterior of {self.model_name}: {size}, {self.family_name} family, ELBO {self.elbo}, {verdict}>"

    def __getitem__(self, name: str) -> Any:
        raise IncompatibleError(
            f"posterior[{name!r}] is not defined. Use posterior.sample(n)[{name!r}] or posterior.mean()[{name!r}]."
        )

    @property
    def is_point(self) -> bool:
        """Whether q is a single point."""
        return isinstance(self.q, Point)


def _labels_at(name: str, given: Any, shape: tuple[int, ...], n: int) -> np.ndarray:
    """Values of a discrete latent, draws first, checked."""
    z = np.asarray(given)
    if z.dtype.kind not in "iufb" or z.shape not in ((n, *shape), shape):
        raise DataError(
            f"site {name!r} has shape {z.shape} and type {z.dtype}; needed: numbers of shape {(n, *shape)} (draws "
            f"first) or {shape}."
        )
    return np.broadcast_to(z, (n, *shape))
