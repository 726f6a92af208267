"""Simulation-based calibration: are the posteriors of a model, as they are fitted here, the right ones?

For one data set nobody knows. Over many simulated ones everybody does: with z ~ p(z), x ~ p(x | z) and L
independent draws z_1, ..., z_L of the exact posterior p(z | x), the rank of f(z, x) among f(z_l, x) is uniform on
{0, ..., L} for every function f. A posterior that is too narrow gives a histogram of ranks like a U, one that is too
wide like an arch, one that is biased a slope. The functions here are each coordinate of each latent, the log
likelihood and the log joint: the last two depend on the data, and catch what no coordinate can (a fit that
returns the prior ranks every coordinate uniformly).

A verdict depends on the data alone, never on the z behind them, so the ranks of the *trusted* fits must be uniform too.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from lowerbound.algorithms import Algorithm, Status
from lowerbound.compilation import Lifted, compile_once, lift, of_model
from lowerbound.diagnostics.ranks.calibration import Calibration
from lowerbound.errors import DataError, IncompatibleError, ModelError, TrustWarning, unknown_name
from lowerbound.families import Family, PointMass
from lowerbound.fitting import Options, fit
from lowerbound.model.base import Model, label, total
from lowerbound.model.given import as_model
from lowerbound.model.log_density import LogDensity
from lowerbound.plan import choose
from lowerbound.posterior import Posterior
from lowerbound.precision import float64
from lowerbound.report.progress import Progress
from lowerbound.simulation import Simulator

Simulate = Callable[[np.random.Generator], tuple[Mapping[str, Any], Mapping[str, Any]]]


def calibrate(
    model: Any,
    data: Mapping[str, Any] | None = None,
    *,
    simulate: Simulate | None = None,
    num_datasets: int = 100,
    num_ranked: int = 127,
    source: str = "posterior",
    family: str | Family | None = None,
    algorithm: str | Algorithm | None = None,
    max_steps: int | None = None,
    num_draws: int | None = None,
    seed: int = 0,
    alpha: float = 0.01,
    progress: bool | None = None,
) -> Calibration:
    """Fit data simulated from the prior, and test whether the posteriors are calibrated.

    The rank of z among L draws of its posterior given x is uniform, if z ~ p(z) and x ~ p(x | z).

    Args:
        model: A NumPyro model whose priors are proper, or a :class:`~lowerbound.LogDensity`.
        data: Its arguments. What the model observes is simulated, in the shape given; the rest stays.
        simulate: Needed for a log density, and for a NumPyro model that cannot be simulated from: a function of a
            ``numpy.random.Generator`` that gives ``(latents, data)``, two dictionaries; its data replace those in
            ``data`` of the same name.
        num_datasets: n, data sets. With ten quantities, 100 find a standard deviation that is 0.6 of the right one,
            or a bias of 0.6 standard deviations, nine times of ten; errors half as large need 400.
        num_ranked: L, draws a posterior is represented by; one less than a multiple of 8.
        source: ``"posterior"`` ranks among the draws of ``posterior.sample``, repaired where the verdict is
            CORRECTED; ``"q"`` among those of the fitted family.
        family, algorithm, max_steps, num_draws: As in :func:`lowerbound.fit`.
        seed: Of the data sets and the fits. The first k data sets are the same whatever ``num_datasets`` is.
        alpha: Chance of a false alarm over all quantities together.
        progress: As in :func:`lowerbound.fit`.

    Returns:
        A :class:`Calibration`; print it. A fit that raises is counted and left out. Interrupted by Ctrl-C, what there
        is.

    Raises:
        ModelError: the model cannot be simulated from; says why.
        DataError, IncompatibleError, UnknownNameError: bad input, before any fit.

    Cost: ``num_datasets`` fits, but the density is traced and compiled once, since all data sets have one shape.

    Example:
        >>> import lowerbound as lb, numpyro, numpyro.distributions as dist
        >>> def model(y):
        ...     x = numpyro.sample("x", dist.Normal(0, 1))
        ...     numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
        >>> calibration = lb.calibrate(model, {"y": 0.0}, num_datasets=50)
        >>> calibration.ok, calibration.counts
        (True, {'TRUSTED': 50})

    Source: Talts, Betancourt, Simpson, Vehtari, Gelman (2018), Validating Bayesian inference algorithms with
    simulation-based calibration; Yao, Vehtari, Simpson, Gelman (2018), Yes, but did it work?, section 3.2, for
    ``source="q"`` (they test for asymmetry alone); Modrák et al. (2023), Simulation-based calibration checking for
    Bayesian computation: the choice of test quantities shapes sensitivity, for the log likelihood.
    """
    start = time.perf_counter()
    check_options(num_datasets, num_ranked, source, alpha)
    Options(seed, max_steps, num_draws)
    draw = _simulator(model, data, simulate)
    latents, values = draw(np.random.default_rng([seed, 0]))
    first = as_model(model, values)
    if first.discrete:
        raise IncompatibleError(
            f"{first.name!r} has discrete latents {list(first.discrete)}; ranks are of continuous ones. Write them "
            "summed out: numpyro.distributions.MixtureSameFamily."
        )
    if first.parameters:
        raise IncompatibleError(
            f"{first.name!r} has parameters ({', '.join(first.parameters)}) that every fit would learn anew, so that "
            "no posterior would be that of the draws. Put numbers in place of numpyro.param, or give them priors."
        )
    chosen_family, chosen = choose(first, family, algorithm, closed=False)
    if chosen_family is None:
        raise IncompatibleError(f"{chosen.name} is not calibrated yet: leave algorithm out, or name a family.")
    if isinstance(chosen_family, PointMass):
        raise IncompatibleError("a point mass has no spread, so a rank among its draws means nothing. Leave it out.")
    _check_latents(first, latents)
    ranks: list[np.ndarray] = []
    verdicts: list[str] = []
    errors: list[str] = []
    names: tuple[str, ...] = ()
    with Progress(enabled=progress) as display, warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)  # verdicts are counted
        try:
            for i in range(num_datasets):
                display.update(f"data set {i + 1} of {num_datasets}")
                rng = np.random.default_rng([seed, i])
                try:
                    latents, values = draw(rng)
                    bound = as_model(model, values)
                    if isinstance(draw, Simulator):  # data sets that differ in numbers alone: all is traced once
                        bound = first.on(bound)
                    posterior = fit(
                        bound,
                        family=family,
                        algorithm=algorithm,
                        seed=int(rng.integers(2**31)),
                        max_steps=max_steps,
                        num_draws=num_draws,
                        progress=False,
                    )
                    if posterior.status is Status.INTERRUPTED:
                        raise KeyboardInterrupt
                    found = _ranks(bound, posterior, latents, num_ranked, source, rng)
                except Exception as e:  # one data set's fit; the others go on
                    errors.append(f"{type(e).__name__}: {e}")
                    continue
                names = tuple(found)
                ranks.append(np.array(list(found.values())))
                verdicts.append(posterior.verdict.status.name)
        except KeyboardInterrupt:
            if not ranks:
                raise
    return Calibration(
        first.name,
        chosen_family.name,
        chosen.name,
        source,
        names,
        np.array(ranks, int).reshape(len(ranks), len(names)),
        tuple(verdicts),
        tuple(errors),
        num_datasets,
        num_ranked,
        alpha,
        time.perf_counter() - start,
    )


def _ranks(
    model: Model,
    posterior: Posterior,
    latents: Mapping[str, Any],
    n: int,
    source: str,
    rng: np.random.Generator,
) -> dict[str, int]:
    """The rank of each quantity of the truth among ``n`` draws of the posterior; ties are broken at random."""
    if source == "q":
        draws = posterior._sites.constrain(posterior.q.sample(rng, n))
    else:
        draws = posterior.sample(n, seed=int(rng.integers(2**31)))
    both = {k: np.concatenate([np.asarray(latents[k], float)[None], draws[k]]) for k in model.sites}
    columns: dict[str, np.ndarray] = {}
    for k, v in both.items():
        for index in np.ndindex(*v.shape[1:]):
            column = v[(slice(None), *index)]
            if np.ptp(column) > 0:  # the corner of a Cholesky factor is always the same number
                columns[k + label(index)] = column
    columns |= _log_probs(model, both)
    out = {}
    for k, column in columns.items():
        if np.isnan(column).any():
            raise FloatingPointError(f"{k} is not a number at the simulated value or at a draw of its posterior")
        ties = int(np.sum(column[1:] == column[0]))
        out[k] = int(np.sum(column[1:] < column[0])) + int(rng.integers(ties + 1))
    return out


def _log_probs(model: Model, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Log joint and, where the model tells it apart, log likelihood, at constrained values with draws first."""

    def log_probs(latents: Any, arguments: Any) -> dict[str, Any]:
        factors = model.evaluate(latents, arguments, True).factors
        observed = [f for f in factors if f.observed]
        out = {"log_joint": total(factors)}
        return out if len(observed) == len(factors) else {"log_likelihood": total(observed), **out}

    def build() -> tuple[Lifted, Any]:
        point = {k: jax.ShapeDtypeStruct(v.shape[1:], np.float64) for k, v in values.items()}
        rows = {k: jax.ShapeDtypeStruct(v.shape, np.float64) for k, v in values.items()}
        lifted = lift(log_probs, point, model.arguments)
        return lifted, compile_once(jax.vmap(lifted.call, in_axes=(0, None)), rows, lifted.arguments, direct=True)[0]

    with float64():
        what = ("log probs", *((k, v.shape) for k, v in values.items()))
        (lifted, program), _ = of_model(model, what, build)
        rows = {k: np.asarray(v, np.float64) for k, v in values.items()}
        return {k: np.asarray(v) for k, v in program(rows, lifted.at(model.arguments).arguments).items()}


def _simulator(model: Any, data: Mapping[str, Any] | None, simulate: Simulate | None) -> Simulate:
    if simulate is not None:
        if not callable(simulate):
            raise DataError(f"simulate is {simulate!r}; needed: a function of a numpy.random.Generator.")
        fixed = dict(data or {})

        def draw(rng: np.random.Generator) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
            made = simulate(rng)
            if not (isinstance(made, tuple) and len(made) == 2 and all(isinstance(m, Mapping) for m in made)):
                raise DataError(
                    f"simulate returned {type(made).__name__}; needed: (latents, data), two dictionaries: values of "
                    "the sites drawn from the prior, and the data drawn given them."
                )
            return made[0], {**fixed, **made[1]}

        return draw
    if isinstance(model, (LogDensity, Model)):
        what = "a log density" if isinstance(model, LogDensity) else "a lb.Model, which is bound to its data"
        raise ModelError(
            f"the model is {what}: it cannot be simulated from. Give simulate=, a function of a numpy.random.Generator "
            "that returns (latents, data): values of the sites drawn from the prior, and the data drawn given them"
            + ("." if isinstance(model, LogDensity) else "; and pass the original model.")
        )
    as_model(model, data)  # whatever a fit would refuse is refused here, in the same words
    return Simulator(model, data)


def _check_latents(model: Model, latents: Mapping[str, Any]) -> None:
    """What ``simulate`` gives must be the model's sites."""
    missing = [n for n in model.sites if n not in latents]
    if missing:
        raise DataError(f"simulate gave latents {list(latents)}; needed: every site of the model. Missing: {missing}.")
    for n, s in model.sites.items():
        if np.shape(latents[n]) != s.shape:
            raise DataError(f"simulate gave {n!r} of shape {np.shape(latents[n])}; needed: {s.shape}.")


def check_options(num_datasets: Any, num_ranked: Any, source: Any, alpha: Any) -> None:
    for name, value, least in (("num_datasets", num_datasets, 1), ("num_ranked", num_ranked, 7)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise DataError(f"{name} is {value!r}; needed: a whole number, at least {least}.")
    if (num_ranked + 1) % 8:
        raise DataError(
            f"num_ranked is {num_ranked}; needed: one less than a multiple of 8, so that bins hold as many ranks each: "
            "63, 127 or 255."
        )
    if source not in ("posterior", "q"):
        raise unknown_name("source", source, ("posterior", "q"))
    if not isinstance(alpha, (float, np.floating)) or not 0 < alpha < 1:
        raise DataError(f"alpha is {alpha!r}; needed: a number between 0 and 1.")
