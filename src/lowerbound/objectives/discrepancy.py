r"""Distances of q from the posterior that are means over pairs of draws, with no log q in them.

    D^2(q) = E u(Y, Y'),        Y, Y' ~ q independent,

estimated by the mean over all pairs of ``num_samples`` draws. The estimate is unbiased, so that it may be negative, and
so is its derivative through the draws. ``KernelStein`` needs the score of the posterior; ``MMD`` needs draws of it.

*Coordinates.* Kernels are not invariant: what is near depends on units. Both are taken where the posterior has about
unit scale coordinate by coordinate, by the curvature at the best mode (``KernelStein``) or by the draws (``MMD``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.errors import DataError, IncompatibleError, unknown_name
from lowerbound.model.base import Model
from lowerbound.model.sites import SiteMap
from lowerbound.objectives.base import Objective, Target, check_draws
from lowerbound.objectives.pairs import multiquadric, stein_kernel, usual_width

#: Draws of the target, at least; and those that are compared with all at a time.
_LEAST, _ROWS = 10, 1024


class Discrepancy(Objective):
    """A mean over pairs of draws of q."""

    sense = -1

    def value(self, log_weights: Any) -> Any:
        """The mean over pairs, from the matrix of their terms ``[s, s]``."""
        s = len(log_weights)
        return (log_weights.sum() - jnp.trace(log_weights)) / (s * (s - 1))

    @abstractmethod
    def between(self, z: Any, scores: Any, rows: slice) -> Any:
        """The terms of some draws with all, ``[r, s]``, of draws ``z [s, p]`` with the posterior's scores there."""

    def check(self, model: Model) -> None:
        """Refuse a model that what the distance is from does not go with; nothing is compiled."""

    def coordinates(self, model: Model) -> tuple[np.ndarray, np.ndarray] | None:
        """Shift and scale of the coordinates in which q is to be fitted; None for those of the curvature."""
        return None

    def placed(self, model: Model, shift: np.ndarray, scale: np.ndarray) -> Discrepancy:
        """The same in the coordinates y, z = shift + scale y."""
        return self


@dataclass(frozen=True)
class KernelStein(Discrepancy):
    r"""The squared kernel Stein discrepancy of q's draws, with the inverse multiquadric kernel.

    u(x, y) = s(x)'s(y) k + s(x)' grad_y k + s(y)' grad_x k + trace(grad_x grad_y' k), s the score of the posterior:
    neither its constant nor log q is needed. By Stein's identity for q it is also

        KSD^2 = E[(s - grad log q)(x)' k(x, y) (s - grad log q)(y)],

    zero where q is the posterior. It follows scores where q is, and does not see a mode that q has no draws in.

    Args:
        num_samples: Draws of q a step.
        bandwidth: h, in the coordinates' scale; None for the median distance of standard normal draws.

    Cost: ``num_samples`` gradients and products of the Hessian with a vector a step, and its square of kernels.

    Source: Liu, Lee & Jordan (2016); as an objective, Fisher, Nolan, Graham, Prangle & Oates (2021).
    """

    num_samples: int = 32
    bandwidth: float | None = None
    name = "kernel_stein"
    tendency = "mode-seeking, more than the ELBO: q lies where its own score is right, its variances smaller still"
    caution = "where modes are apart: it is small for a q about one of them"

    def __post_init__(self) -> None:
        check_draws("KernelStein", self.num_samples, 2)
        _check_bandwidth("KernelStein", self.bandwidth)

    def integrand(self, target: Target, z: Any, log_q: Any) -> Any:
        scores = jax.grad(lambda y: target.log_joint(y).sum())(z)
        return self.between(z, scores, slice(None))

    def between(self, z: Any, scores: Any, rows: slice) -> Any:
        return stein_kernel(z[rows], scores[rows], z, scores, self.bandwidth or usual_width(z.shape[1]))


@dataclass(frozen=True, eq=False)
class MMD(Discrepancy):
    r"""The squared maximum mean discrepancy between q and given draws of the posterior, from chains or another fit.

    E k(Y, Y') - 2 E k(Y, X) + E k(X, X'), k the inverse multiquadric kernel and X the given draws: many draws are
    compressed into a family. The density of the posterior has no part in it; whatever the draws lack, q lacks.

    (Without draws it has no honest form: draws of q with importance weights see the posterior where q is, so that
    the narrower q, the nearer it seems. ``ForwardKL`` says what can be said with weights.)

    Args:
        draws: From names of sites to draws ``[n, *shape]``, as ``posterior.sample(n)`` gives them (those of
            deterministics and of discrete latents are left aside), or unconstrained vectors ``[n, p]``.
        num_samples: Draws of q a step.
        bandwidth: h, in standard deviations of the draws; None for the median distance of standard normal draws.

    Cost: ``num_samples * n`` kernels a step. (The density is evaluated too, for the ELBO that is shown.)

    Source: Gretton, Borgwardt, Rasch, Schölkopf & Smola (2012); as an objective, Dziugaite, Roy & Ghahramani (2015).
    """

    draws: Any = field(repr=False)
    num_samples: int = 32
    bandwidth: float | None = None
    name = "mmd"
    tendency = "the posterior's margins for a wide kernel, inside of the posterior for a narrow one"
    caution = "where the draws are not the posterior's: it is the distance from them"

    def __post_init__(self) -> None:
        check_draws("MMD", self.num_samples, 2)
        _check_bandwidth("MMD", self.bandwidth)
        if not isinstance(self.draws, Mapping):
            found = np.asarray(self.draws)
            if found.ndim != 2 or found.dtype.kind not in "fiu":
                raise IncompatibleError(
                    f"MMD(draws=...) is {type(self.draws).__name__} of shape {found.shape}; needed: draws of the "
                    "posterior, {site: [n, ...]} as posterior.sample(n) gives them, or unconstrained vectors [n, p]."
                )
            _check_points(found)

    def integrand(self, target: Target, z: Any, log_q: Any) -> Any:
        return self.between(z, None, slice(None))

    def between(self, z: Any, scores: Any, rows: slice) -> Any:
        """k(x, y) - m(x) - m(y) + E k(X, X'), m(x) = E k(x, X) over the given draws X, which are ``[n, p]`` here."""
        given, width = self.draws, self.bandwidth or usual_width(z.shape[1])
        n = len(given)
        own = sum(multiquadric(given[i : i + _ROWS], given, width).sum() for i in range(0, n, _ROWS)) - n
        means = multiquadric(z, given, width).mean(1)
        return multiquadric(z[rows], z, width) - means[rows, None] - means + own / (n * (n - 1))

    def check(self, model: Model) -> None:
        """Names, numbers and shapes of the draws against the model's.

        Raises:
            UnknownNameError: draws of what the model has not.
            DataError: sites that are missing, or shapes that are wrong.
        """
        if not isinstance(self.draws, Mapping):
            columns = np.shape(self.draws)[1]
            if columns != model.dimension:
                raise DataError(
                    f"MMD's draws have {columns} columns, and {model.name!r} has {model.dimension} unconstrained "
                    "coordinates; needed: as many."
                )
            return
        known = {*model.sites, *model.deterministics, *model.discrete, *model.summed}
        if unknown := [n for n in self.draws if n not in known]:
            raise unknown_name("site in MMD's draws", unknown[0], known)
        missing = [n for n in model.sites if n not in self.draws]
        if missing:
            raise DataError(
                f"MMD's draws have {', '.join(map(str, self.draws))}; needed: every latent site, and {missing[0]!r} is "
                "missing."
            )
        shapes = {n: np.shape(self.draws[n]) for n in model.sites}
        counts = {n: s[0] if s else 0 for n, s in shapes.items()}
        for n, site in model.sites.items():
            if shapes[n] != (counts[next(iter(counts))], *site.shape):
                raise DataError(
                    f"MMD's draws of {n!r} have shape {shapes[n]}; needed: (n, *{tuple(site.shape)}), "
                    f"with one n for all sites, and they have {counts}."
                )

    def coordinates(self, model: Model) -> tuple[np.ndarray, np.ndarray]:
        x = self._vectors(model)
        scale = x.std(0)
        if not (scale > 0).all():
            names = [n for n, s in zip(model.coordinate_names(), scale, strict=True) if not s > 0]
            raise DataError(f"all of MMD's draws are equal in {', '.join(names[:4])}; needed: draws with a spread.")
        return x.mean(0), scale

    def placed(self, model: Model, shift: np.ndarray, scale: np.ndarray) -> MMD:
        return replace(self, draws=(self._vectors(model) - shift) / scale)

    def _vectors(self, model: Model) -> np.ndarray:
        """The given draws as unconstrained vectors ``[n, p]``.

        Raises:
            UnknownNameError, DataError: as ``check``; too few draws, or numbers that are not finite.
        """
        self.check(model)
        if not isinstance(self.draws, Mapping):
            return np.asarray(self.draws, float)
        values = {n: np.asarray(self.draws[n], float) for n in model.sites}
        x, _ = SiteMap(model.sites, {}, model).unconstrain(values, len(next(iter(values.values()))))
        _check_points(x)
        return x


def _check_points(x: np.ndarray) -> None:
    if len(x) < _LEAST:
        raise DataError(f"MMD has {len(x)} draws of the posterior; needed: {_LEAST} or more.")
    bad = ~np.isfinite(x).all(1)
    if bad.any():
        raise DataError(
            f"{int(bad.sum())} of MMD's {len(x)} draws are not finite on the unconstrained space, the first "
            f"{x[bad][0][:4]}; needed: draws inside of the supports."
        )


def _check_bandwidth(owner: str, bandwidth: Any) -> None:
    if bandwidth is None:
        return
    if isinstance(bandwidth, bool) or not isinstance(bandwidth, (int, float)) or not 0 < bandwidth < float("inf"):
        raise IncompatibleError(f"{owner}(bandwidth={bandwidth!r}): needed: a positive number, or None.")
