"""One table of posteriors. A new one is a model function, a row here, and a run of ``make_reference.py``."""

from __future__ import annotations

import inspect
import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.posteriors import hierarchical, latent, regressions, time_series

DATA = Path(__file__).parent / "data"


class Reference(NamedTuple):
    """What posteriordb's 10,000 reference draws say of each of P parameters.

    Attributes:
        parameters: Names as Stan writes them, ``theta[1]``.
        mean, sd: ``[P]``.
        quantiles: ``[P, 99]``, at probabilities 0.01, 0.02, …, 0.99.
    """

    parameters: tuple[str, ...]
    mean: np.ndarray
    sd: np.ndarray
    quantiles: np.ndarray


@dataclass(frozen=True)
class Posterior:
    """A model, the data it is conditioned on, and the reference it is compared with.

    Attributes:
        name: Ours.
        model: A NumPyro model; its arguments name the variables it takes of the data.
        dataset: posteriordb's name of the data.
        draws: posteriordb's name of the reference draws.
        sites: Sites compared, in this order.
    """

    name: str
    model: Callable[..., None]
    dataset: str
    draws: str
    sites: tuple[str, ...]

    def data(self) -> dict[str, Any]:
        """The arguments of the model: lists as float64 arrays, single numbers as they are."""
        raw = read(f"{self.dataset}.json.xz")
        wanted = inspect.signature(self.model).parameters
        return {k: np.asarray(raw[k], float) if isinstance(raw[k], list) else raw[k] for k in wanted}

    def reference(self) -> Reference:
        r = read("reference.json.xz")[self.name]
        return Reference(tuple(r["parameters"]), *(np.asarray(r[k]) for k in ("mean", "sd", "quantiles")))

    def columns(self, draws: dict[str, Any]) -> np.ndarray:
        """Draws by site, ``[n, *shape]`` each, as the ``[n, P]`` array that the reference describes."""
        flat = [np.asarray(draws[s], float) for s in self.sites]
        return np.concatenate([v.reshape(len(v), -1) for v in flat], axis=1)


@cache
def read(name: str) -> dict[str, Any]:
    return json.loads(lzma.decompress((DATA / name).read_bytes()))


def _table(*rows: Posterior) -> dict[str, Posterior]:
    return {r.name: r for r in rows}


#: By name, roughly from easy to hard. ``eight_schools_centered`` is compared with the draws of its non-centred
#: form, which is the same posterior and samples better.
REGISTRY = _table(
    Posterior("earn_height", regressions.earn_height, "earnings", "earnings-earn_height", ("beta", "sigma")),
    Posterior(
        "logearn_interaction_z",
        regressions.logearn_interaction_z,
        "earnings",
        "earnings-logearn_interaction_z",
        ("beta", "sigma"),
    ),
    Posterior(
        "kidscore_interaction",
        regressions.kidscore_interaction,
        "kidiq",
        "kidiq-kidscore_interaction",
        ("beta", "sigma"),
    ),
    Posterior("sblrc", regressions.sblrc, "sblrc", "sblrc-blr", ("beta", "sigma")),
    Posterior("diamonds", regressions.diamonds, "diamonds", "diamonds-diamonds", ("b", "Intercept", "sigma")),
    Posterior("arK", time_series.autoregression, "arK", "arK-arK", ("alpha", "beta", "sigma")),
    Posterior("garch11", time_series.garch11, "garch", "garch-garch11", ("mu", "alpha0", "alpha1", "beta1")),
    Posterior(
        "hmm_example", time_series.hmm_example, "hmm_example", "hmm_example-hmm_example", ("theta1", "theta2", "mu")
    ),
    Posterior(
        "low_dim_gauss_mix",
        latent.low_dim_gauss_mix,
        "low_dim_gauss_mix",
        "low_dim_gauss_mix-low_dim_gauss_mix",
        ("mu", "sigma", "theta"),
    ),
    Posterior("gp_pois_regr", latent.gp_pois_regr, "gp_pois_regr", "gp_pois_regr-gp_pois_regr", ("rho", "alpha", "f")),
    Posterior(
        "lotka_volterra",
        time_series.lotka_volterra,
        "hudson_lynx_hare",
        "hudson_lynx_hare-lotka_volterra",
        ("theta", "z_init", "sigma"),
    ),
    Posterior(
        "eight_schools_noncentered",
        hierarchical.eight_schools_noncentered,
        "eight_schools",
        "eight_schools-eight_schools_noncentered",
        ("theta", "mu", "tau"),
    ),
    Posterior(
        "eight_schools_centered",
        hierarchical.eight_schools_centered,
        "eight_schools",
        "eight_schools-eight_schools_noncentered",
        ("theta", "mu", "tau"),
    ),
)


def names(asked: list[str] | None = None) -> list[str]:
    """The asked names, all of them when none is; an unknown one ends the program with the known ones."""
    unknown = [n for n in asked or () if n not in REGISTRY]
    if unknown:
        raise SystemExit(f"unknown posterior {', '.join(unknown)}; known: {', '.join(REGISTRY)}")
    return list(asked or REGISTRY)
