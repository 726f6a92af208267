"""What a target is: a model with data, and what is known of its posterior."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpyro

STORED = Path(__file__).parent / "truth"

#: ``proper``: a proper posterior whose parameters have finite means and variances. ``no_moments``: proper, but some
#: parameter has no mean or no variance, so that no report of means and sds can be right. ``improper``: no posterior.
Kind = Literal["proper", "no_moments", "improper"]


class Moments(NamedTuple):
    """Mean and sd of every coordinate of a site, arrays of the site's shape, in the constrained space."""

    mean: np.ndarray
    sd: np.ndarray


@dataclass(frozen=True)
class Case:
    """One inference problem, ready for ``lb.fit(case.model, case.data, seed=s)``.

    Attributes:
        model: A NumPyro model or a ``lb.LogDensity``.
        data: Its data by name.
        truth: ``(mean, sd)`` of sites, deterministics and views by name, where known in closed form or by a quick
            quadrature. None: no moments exist, or they are stored (``reference``).
        reference: The same posterior written so that a sampler gets through it, for ``make_truth``, which stores the
            moments; a NumPyro model of ``data``, or a function ``rng -> {name: [chains, draws, *shape]}``.
        views: Functions of the draws by name, ``{site: [n, *shape]} -> [n, *shape]``, compared as sites are. They
            stand in for sites whose sd 4,000 exact draws would not show: log|x| for the x of a funnel.
        compared: Names compared where the truth is stored; all sites when empty.
    """

    model: Any
    data: dict[str, Any] | None = None
    truth: Mapping[str, tuple[Any, Any]] | None = None
    reference: Callable[..., Any] | None = None
    views: Mapping[str, Callable[[Mapping[str, np.ndarray]], np.ndarray]] = field(default_factory=dict)
    compared: tuple[str, ...] = ()

    def look(self, draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Draws with the views of them."""
        return dict(draws) | {k: f(draws) for k, f in self.views.items()}


@dataclass(frozen=True)
class Target:
    """A named case, built when it is asked for."""

    name: str
    kind: Kind
    theme: str
    build: Callable[[], Case]

    def truth(self, case: Case | None = None) -> dict[str, Moments]:
        """Means and sds by name; nothing where the posterior has none."""
        if self.kind != "proper":
            return {}
        case = case or self.build()
        known = case.truth if case.truth is not None else stored(self.name)
        return {k: Moments(*(np.asarray(v, float) for v in pair)) for k, pair in known.items()}


TARGETS: dict[str, Target] = {}


def target(kind: Kind = "proper", *, name: str | None = None) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
    """Register a function that builds a case, under its own name or the one given."""

    def register(build: Callable[[], Case]) -> Callable[[], Case]:
        called = name or build.__name__
        if called in TARGETS:
            raise ValueError(f"there are two targets called {called!r}; names must differ.")
        module = (build.func if isinstance(build, functools.partial) else build).__module__
        TARGETS[called] = Target(called, kind, module.rsplit(".", 1)[-1], build)
        return build

    return register


def unobserved(model: Callable[..., Any]) -> Callable[..., Any]:
    """A NumPyro model that has seen no data, whose posterior is its prior: ``lb.fit`` takes it for a forgotten
    ``obs=`` unless there is some factor."""

    @functools.wraps(model)
    def with_factor(*args: Any, **kwargs: Any) -> Any:
        numpyro.factor("nothing_seen", 0.0)
        return model(*args, **kwargs)

    return with_factor


def stored(name: str) -> dict[str, tuple[Any, Any]]:
    """Moments that ``make_truth`` wrote."""
    path = STORED / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(f"no stored truth for {name!r}; run `python -m benchmarks.trust.make_truth {name}`.")
    return {k: (v["mean"], v["sd"]) for k, v in json.loads(path.read_text())["moments"].items()}
