r"""The block-arrow Gaussian: hierarchical models with thousands of groups.

Coordinates are *globals* g, all correlated, and *groups* j, each correlated within itself and with the
globals, and independent of every other group given the globals. With e standard normal,

    z_g = m_g + L_g e_g,        z_j = m_j + C_j e_g + L_j e_j,

which is z_j = m_j + B_j (z_g - m_g) + L_j e_j with B_j = C_j L_g^{-1}. In the order (g, 1, ..., J) the factor
F = [[L_g, 0], [C, diag L_j]] is lower triangular, and the precision F^{-T} F^{-1} has zeros between groups: an
arrow, factorised without fill-in (Tan & Nott 2018). The covariance is
full all the same: groups are correlated through the globals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from lowerbound.errors import IncompatibleError
from lowerbound.families.base import Family, GaussianBlock
from lowerbound.families.linalg import LOG_2PI, namespace, solve_lower, standard_normal_log_prob


@dataclass(frozen=True, eq=False)
class ArrowLayout:
    """Which coordinates are global, and which make up each group.

    Groups of one size stand together, so that each size is one batched array: there is no loop over groups.

    Args:
        order: All coordinates ``[p]``: the globals, then the groups, size by size.
        classes: For each size ``[c, 2]``: how many groups, and how many coordinates each has.
    """

    order: np.ndarray
    classes: np.ndarray

    @staticmethod
    def of(globals: Sequence[int] | np.ndarray, groups: Sequence[Sequence[int] | np.ndarray]) -> ArrowLayout:
        """From the coordinates of the globals and of each group; together ``0..p-1``, each once."""
        sizes = sorted({len(g) for g in groups})
        alike = [np.array([g for g in groups if len(g) == d], int) for d in sizes]
        order = np.concatenate([np.asarray(globals, int), *(a.ravel() for a in alike)])
        if not np.array_equal(np.sort(order), np.arange(len(order))) or 0 in sizes:
            raise IncompatibleError(
                f"ArrowLayout.of: {len(order)} coordinates are given in globals and groups; needed: each of 0..p-1 "
                "once, and no group that is empty."
            )
        return ArrowLayout(order, np.array([a.shape for a in alike], int).reshape(-1, 2))

    @property
    def dimension(self) -> int:
        return len(self.order)

    @cached_property
    def globals(self) -> int:
        """p_g, the number of globals."""
        return self.dimension - int(self.classes.prod(1).sum())

    @cached_property
    def width(self) -> int:
        """The most coordinates that one regression has to tell apart: the globals and the largest group."""
        return self.globals + int(self.classes[:, 1].max(initial=0))

    @cached_property
    def inverse(self) -> np.ndarray:
        """The place of each coordinate in ``order``."""
        return np.argsort(self.order)

    @cached_property
    def parts(self) -> list[tuple[int, int, slice, slice]]:
        """For each size: groups n, coordinates d, their place among local coordinates and among the numbers of L_j."""
        out, at, number = [], 0, 0
        for n, d in self.classes.tolist():
            out.append((n, d, slice(at, at + n * d), slice(number, number + n * d * d)))
            at, number = at + n * d, number + n * d * d
        return out

    def stack(self, flat: Any) -> list[Any]:
        """The matrices of the groups ``[n, d, d]``, size by size, from one vector of their numbers."""
        return [flat[numbers].reshape(n, d, d) for n, d, _, numbers in self.parts]

    def multiply(self, matrices: Sequence[Any], x: Any, *, transpose: bool = False) -> Any:
        """Each group's matrix times its part of ``x [s, p - p_g]``."""
        if not matrices:
            return x
        xp, out = namespace(x, *matrices), []
        for (n, d, place, _), matrix in zip(self.parts, matrices, strict=True):
            if d == 1:
                out.append(x[:, place] * matrix.reshape(n))
                continue
            batched = x[:, place].reshape(-1, n, d).transpose(1, 2, 0)
            product = (matrix.transpose(0, 2, 1) if transpose else matrix) @ batched
            out.append(product.transpose(2, 0, 1).reshape(-1, n * d))
        return xp.concatenate(out, -1)

    def gram(self, x: Any, y: Any) -> list[np.ndarray]:
        """x_j' y_j for each group ``[n, d, d]``, from ``x, y [s, p - p_g]``."""
        out = []
        for n, d, place, _ in self.parts:
            if d == 1:
                out.append((x[:, place] * y[:, place]).sum(0).reshape(n, 1, 1))
                continue
            a, b = x[:, place].reshape(-1, n, d), y[:, place].reshape(-1, n, d)
            out.append(a.transpose(1, 2, 0) @ b.transpose(1, 0, 2))
        return out


@dataclass(frozen=True, eq=False)
class ArrowGaussian(GaussianBlock):
    """N(mean, F F') with the arrow factor F.

    Args:
        location: The mean ``[p]``, in the model's order of coordinates.
        scale_global: L_g ``[p_g, p_g]``, lower triangular.
        border: C ``[p - p_g, p_g]``, in the layout's order of local coordinates.
        scale_local: The numbers of all L_j, lower triangular, one after the other.
        order, classes: See :class:`ArrowLayout`.

    Noise is in the layout's order. Cost: O(p p_g + sum d_j^2) a draw.
    """

    location: Any
    scale_global: Any
    border: Any
    scale_local: Any
    order: np.ndarray
    classes: np.ndarray

    @cached_property
    def layout(self) -> ArrowLayout:
        return ArrowLayout(np.asarray(self.order), np.asarray(self.classes))

    def times(self, noise: Any) -> Any:
        """F e for ``noise [s, p]``, in the model's order."""
        g, xp = self.layout.globals, namespace(noise, self.scale_local)
        top = noise[:, :g] @ self.scale_global.T
        local = noise[:, :g] @ self.border.T
        local = local + self.layout.multiply(self.layout.stack(self.scale_local), noise[:, g:])
        return xp.concatenate([top, local], -1)[:, self.layout.inverse]

    def pull(self, scores: Any) -> Any:
        """F' s for ``scores [s, p]`` in the model's order: slopes along the noise."""
        g, xp = self.layout.globals, namespace(scores, self.scale_local)
        s = scores[:, self.layout.order]
        top = s[:, :g] @ self.scale_global + s[:, g:] @ self.border
        local = self.layout.multiply(self.layout.stack(self.scale_local), s[:, g:], transpose=True)
        return xp.concatenate([top, local], -1)

    def transform(self, noise: Any) -> Any:
        return self.location + self.times(noise)

    def whiten(self, x: Any) -> Any:
        g, xp = self.layout.globals, namespace(x, self.scale_local)
        y = (x - self.location)[:, self.layout.order]
        top = solve_lower(self.scale_global, y[:, :g].T).T if g else y[:, :0]
        inverses = [xp.linalg.inv(f) for f in self.layout.stack(self.scale_local)]
        local = self.layout.multiply(inverses, y[:, g:] - top @ self.border.T)
        return xp.concatenate([top, local], -1)

    def _diagonal(self) -> Any:
        """Of F, in the layout's order."""
        xp = namespace(self.scale_local)
        local = [xp.diagonal(f, axis1=1, axis2=2).reshape(-1) for f in self.layout.stack(self.scale_local)]
        return xp.concatenate([xp.diagonal(self.scale_global), *local])

    def log_det(self) -> Any:
        xp = namespace(self.scale_local)
        return xp.log(xp.abs(self._diagonal())).sum()

    def log_prob(self, x: Any) -> Any:
        return standard_normal_log_prob(self.whiten(x)) - self.log_det()

    def entropy(self) -> Any:
        return self.log_det() + 0.5 * self.dimension * (1 + LOG_2PI)

    def variance(self) -> Any:
        xp = namespace(self.scale_local)
        own = [(f**2).sum(-1).reshape(-1) for f in self.layout.stack(self.scale_local)]
        through = [(self.border[place] ** 2).sum(-1) for _, _, place, _ in self.layout.parts]
        local = [a + b for a, b in zip(own, through, strict=True)]
        return xp.concatenate([(self.scale_global**2).sum(-1), *local])[self.layout.inverse]

    def covariance(self) -> Any:
        xp = namespace(self.scale_local)
        columns = self.times(xp.eye(self.dimension, dtype=self.location.dtype))
        return columns.T @ columns

    def natural(self, gradient: Any) -> Any:
        return self.times(self.pull(gradient))

    def rescale(self, shift: np.ndarray, scale: np.ndarray) -> ArrowGaussian:
        g = self.layout.globals
        s = scale[self.layout.order]
        local = [
            (s[g:][place].reshape(n, d, 1) * f).reshape(-1)
            for (n, d, place, _), f in zip(self.layout.parts, self.layout.stack(self.scale_local), strict=True)
        ]
        return replace(
            self,
            location=shift + scale * self.location,
            scale_global=s[:g, None] * self.scale_global,
            border=s[g:, None] * self.border,
            scale_local=np.concatenate([np.empty(0), *local]),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        names = ("location", "scale_global", "border", "scale_local", "order", "classes")
        return {k: np.asarray(getattr(self, k)) for k in names}


@dataclass(frozen=True, eq=False)
class Arrow(Family):
    """Gaussians whose precision is an arrow: dense globals, and groups independent given them.

    Args:
        layout: Which coordinates are which. None: found in the model, when it is fitted.
    """

    layout: ArrowLayout | None = None
    name = "arrow"

    def _known(self) -> ArrowLayout:
        if self.layout is None:
            raise IncompatibleError(
                "Arrow() has no layout yet: score_regression finds it in a model when that is fitted. By hand "
                "write Arrow(ArrowLayout.of(globals, groups))."
            )
        return self.layout

    def build(self, mean: np.ndarray, covariance: np.ndarray) -> ArrowGaussian:
        a = self._known()
        g, order = a.globals, a.order
        if covariance.ndim == 1:
            sd = np.sqrt(covariance)[order]
            local = [np.eye(d) * sd[g:][place].reshape(n, d, 1) for n, d, place, _ in a.parts]
            top, border = np.diag(sd[:g]), np.zeros((a.dimension - g, g))
        else:
            # KL(q || N(m, S)) is least where q has S's marginal of the globals, its regression on them, and for each
            # group its covariance given all else, (S^{-1})_jj^{-1}: the derivatives in L_g, C and L_j are zero there.
            s = covariance[np.ix_(order, order)]
            top = np.linalg.cholesky(s[:g, :g])
            border = solve_lower(top, s[:g, g:]).T if g else np.zeros((a.dimension, 0))
            given = np.linalg.inv(s)[g:, g:]
            local = []
            for n, d, place, _ in a.parts:
                i = np.arange(place.start, place.stop).reshape(n, d)
                local.append(np.linalg.cholesky(np.linalg.inv(given[i[:, :, None], i[:, None, :]])))
        flat = np.concatenate([np.empty(0), *(f.ravel() for f in local)])
        return ArrowGaussian(mean, top, border, flat, a.order, a.classes)

    def parameters(self, block: ArrowGaussian) -> dict[str, Any]:
        # F = strictly lower + exp(log_diagonal), as for the dense family.
        return {
            "location": block.location,
            "lower_global": np.tril(block.scale_global, -1),
            "border": block.border,
            "lower_local": _strictly_lower(block.layout, block.scale_local),
            "log_diagonal": np.log(block._diagonal()),
        }

    def elbo_gradient(self, block: ArrowGaussian, noise: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        # d/dF mean log p(m + F e) = mean s e', where F is not zero; the entropy adds 1 to d/d log F_ii.
        a, m = block.layout, len(noise)
        g = a.globals
        s = scores[:, a.order]
        local = np.concatenate([np.empty(0), *(f.ravel() / m for f in a.gram(s[:, g:], noise[:, g:]))])
        return {
            "location": scores.mean(0),
            "lower_global": np.tril(s[:, :g].T @ noise[:, :g] / m, -1),
            "border": s[:, g:].T @ noise[:, :g] / m,
            "lower_local": _strictly_lower(a, local),
            "log_diagonal": (s * noise).mean(0) * block._diagonal() + 1,
        }

    def from_parameters(self, parameters: dict[str, Any]) -> ArrowGaussian:
        a, xp = self._known(), namespace(*parameters.values())
        diagonal = xp.exp(parameters["log_diagonal"])
        g = a.globals
        local = [xp.zeros(0, diagonal.dtype)]
        for (n, d, place, _), below in zip(a.parts, a.stack(parameters["lower_local"]), strict=True):
            eye = np.eye(d, dtype=diagonal.dtype)
            local.append((xp.tril(below, -1) + eye * diagonal[g:][place].reshape(n, d, 1)).reshape(-1))
        top = xp.tril(parameters["lower_global"], -1) + xp.diag(diagonal[:g])
        return ArrowGaussian(
            parameters["location"], top, parameters["border"], xp.concatenate(local), a.order, a.classes
        )


def _strictly_lower(layout: ArrowLayout, flat: np.ndarray) -> np.ndarray:
    return np.concatenate([np.empty(0), *(np.tril(f, -1).ravel() for f in layout.stack(flat))])


def check_layout(family: Family) -> None:
    """Refuse an Arrow without a layout, where nothing will look for one."""
    if isinstance(family, Arrow):
        family._known()
