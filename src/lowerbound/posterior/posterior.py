"""The answer: what a person gets from :func:`lowerbound.fit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lowerbound.algorithms.base import Status
from lowerbound.diagnostics.assessment import Correction
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.diagnostics.updates import Update
from lowerbound.diagnostics.verdict import Verdict
from lowerbound.diagnostics.weights.evidence import Evidence
from lowerbound.errors import DataError, IncompatibleError, unknown_name
from lowerbound.escalation import Trial
from lowerbound.families import Block, Point
from lowerbound.labels import Labels
from lowerbound.model.sites import SiteMap
from lowerbound.posterior.reported import Reported
from lowerbound.posterior.trace import Trace
from lowerbound.threads import host_threads

if TYPE_CHECKING:
    import pandas as pd

    from lowerbound.diagnostics.response.site_response import SiteResponse
    from lowerbound.encoder import Encoder


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
        timings: Wall seconds: ``compile`` (with tracing), ``fit``, ``check`` (what the verdict cost), ``escalation``
            (what was tried beyond, with its own compilation), ``total``.
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
    _averages: dict[str, Labels] | None = field(default=None, repr=False)
    parameters: Mapping[str, Any] = field(default_factory=dict, repr=False)
    encoder: Encoder | None = field(default=None, repr=False)
    updates: tuple[Update, ...] = ()

    @property
    def elbo(self) -> Estimate:
        return self.verdict.elbo

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the latent sites, the discrete ones last."""
        own, given = self._reported.own_labels, self._sites.responsibilities
        return (*self._sites.sites, *own, *(n for n in (given.shapes if given else ()) if n not in own))

    @property
    def corrected(self) -> bool:
        """Whether draws and moments are repaired ones: importance-weighted, or of short chains."""
        return self.source != "q"

    @cached_property
    def _reported(self) -> Reported:
        pool, weights = (self._pool, self._pool_weights) if self.corrected else (None, None)
        return Reported(
            self.q,
            self._sites,
            pool,
            weights,
            self.effective,
            self.seed,
            self._averages,
            self.verdict.without_sd,
        )

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
        _check_seed(seed)
        with host_threads():  # as any fit beside it in another thread would have it: the same bits
            return self._reported.sample(int(n), seed)

    def sample_unconstrained(self, n: int, *, seed: int = 0) -> np.ndarray:
        """Draws ``[n, p]`` on the unconstrained space."""
        _check_seed(seed)
        with host_threads():
            return self._reported.draws(n, seed)

    def mean(self) -> dict[str, np.ndarray]:
        """Posterior means by site, ``[*shape]``; of a discrete latent, of its values as numbers."""
        return self._reported.mean()

    def sd(self) -> dict[str, np.ndarray]:
        """Posterior standard deviations by site, ``[*shape]``.

        NaN where the verdict names an element in ``without_sd``: no draws can tell it, if there is one. Infinite where
        a flat posterior has none.
        """
        return self._reported.sd()

    def probabilities(self, site: str) -> np.ndarray:
        """P(z = k) of a discrete latent, ``[*shape, k]``, in the order of its values.

        The mean of p(z = k | x, latents) over reported draws of the others, as ``sample`` has it, with a standard
        error of at most sqrt(p (1 - p) / draws), where ``draws`` is 4,096, or fewer with many rows (16 at least); q's
        own block, which is mean field, only of latents that cannot be summed out.

        Raises:
            UnknownNameError: it is no discrete latent of the model.
        """
        labels = self._reported.labels
        if site not in labels:
            raise unknown_name("discrete latent", site, labels)
        return labels[site].probabilities

    def quantile(self, probability: float | list[float] | np.ndarray) -> dict[str, np.ndarray]:
        """Posterior quantiles by site, ``[*shape]`` for a number, ``[m, *shape]`` for m of them."""
        prob = np.atleast_1d(np.asarray(probability, float))
        if prob.ndim != 1 or not ((prob >= 0) & (prob <= 1)).all():
            raise DataError(f"quantile needs probabilities between 0 and 1, got {probability!r}.")
        out = self._reported.quantile(prob)
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
        return self._reported.log_prob(values)

    def summary(self, *, hdi_prob: float = 0.94) -> pd.DataFrame:
        """A table as ArviZ users know it: mean, sd, highest-density interval, Monte Carlo errors.

        Args:
            hdi_prob: Mass of the interval.

        Returns:
            A DataFrame indexed by parameter (``theta[0]``). ``ess`` is the effective number of draws
            behind the numbers; ``mcse_mean`` and ``mcse_sd`` their Monte Carlo errors, from the draws' own second
            and fourth moments and what heavy tails hold beyond the largest draw
            (:mod:`lowerbound.standard_errors`); zero where q has the number in closed form, NaN where the verdict
            names the row in ``without_sd``.
        """
        if not 0 < hdi_prob < 1:
            raise DataError(f"hdi_prob is {hdi_prob!r}; needed: between 0 and 1.")
        return self._reported.summary(hdi_prob)

    def linear_response(
        self, sites: Sequence[str] | str | None = None, *, num_draws: int = 64, seed: int = 0
    ) -> SiteResponse:
        """Means, with their Monte Carlo errors, and standard deviations by linear response, of a mean-field q.

        The variances of a mean-field q are too small wherever the posterior is correlated; those of its response
        are not: see :mod:`lowerbound.diagnostics.response.linear_response`.

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
        from lowerbound.diagnostics.response.site_response import site_response
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
            UnknownNameError, DataError: an objective's draws are not of this model's sites.

        Warns:
            TrustWarning: the weights' tail is too heavy for the estimate to be believed.
        """
        from lowerbound import registry
        from lowerbound.diagnostics.objective_value import objective_value
        from lowerbound.kernel import Kernel
        from lowerbound.objectives import Discrepancy, Objective

        wanted = registry.resolve("objective", objective, registry.OBJECTIVES, Objective)
        if isinstance(wanted, Discrepancy):
            wanted.check(self._sites.model)
        if self.encoder is not None:
            rows = max(num_draws // self.q.dimension, 16)
            return self.encoder.bound(wanted, num_draws=rows, seed=seed)
        if self.is_point:
            raise IncompatibleError("a point mass has no log q, and no bound.")
        if not self.q.has_density:
            raise IncompatibleError("particles have no log q, and no bound.")
        model = self._sites.model
        return objective_value(
            model if model.discrete else Kernel(model), self.q, wanted, num_draws=num_draws, seed=seed
        )

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
        from lowerbound.updating.update import update

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
        from lowerbound.posterior.storage import save

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


def _check_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise DataError(f"seed is {seed!r}; needed: a whole number, zero or more.")
