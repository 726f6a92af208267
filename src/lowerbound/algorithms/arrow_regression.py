r"""The regression of scores on noise for a precision with the shape of an arrow.

In whitened coordinates, e = F^{-1} (z - m), an arrow stays an arrow: A = -F' E_q[Hess log p] F has no entries between
groups. Where the posterior's groups are independent given the globals, so that its Hessian has none either, the
expectations that the natural gradient needs are regressions of few variables, whatever p is:

    A_jj = -sym E[e_j G_j'],     A_jg = -E[G_j e_g'],     A_gg = -sym E[e_g G_g'],     G = F' grad log p(z),

each group's scores on its own noise and the globals', and the globals' on their own. (A_gj is not read from
E[e_j G_g'], in which all other groups are noise.) The noise has second moments exactly I within the globals, within
each group and between the two, and e and -e together, so that every one of these is exact for scores that are affine:
one step then lands on a Gaussian with an arrow precision, from any start. Between groups the noise is only random; it
never matters, because E[e_g e_k'] = 0 exactly takes other groups out of A_gg.

What is not affine in a group's scores is for the most part a function of its own coordinates, an odd one (even ones
cancel between e and -e): the third Hermite polynomials of e_j, whose products with e_g and e_j have expectation zero,
serve as control variates. Without them each of thousands of couplings A_jg would carry an error, and their squares
add up in the curvature of the globals.

The step to the precision P = (1 - rho) I + rho A needs its factor, from the groups inwards, without fill-in:

    S = P_gg - sum_j P_gj P_jj^{-1} P_jg,   U_g U_g' = S^{-1},   U_j U_j' = P_jj^{-1},   U_jg = -P_jj^{-1} P_jg U_g

and F <- F U, lower triangular again by QR of its diagonal blocks. P is positive definite if and only if S and all P_jj
are: their eigenvalues are clipped to [1/tau, tau], each group by itself, so that one bad group holds up no other.

Errors are counted apart for the globals, which are few and on which everything rests: what the noise may cost them is
what it may cost a dense Gaussian of p_g dimensions, and in it is what the errors of the couplings together take from
the spread of the globals, delta = sum_j var(A_jg): a KL of sum_i delta_ii^2 / 4.

Cost: M gradients and O(M p p_g + sum_j (M d_j^2 + d_j^3) + p_g^3) a step, with M = 64 ceil(1.5 (p_g + max d_j) / 32) at
first. Fails where groups are coupled other than through the globals: see
:mod:`~lowerbound.algorithms.structure`, which looks for that before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from lowerbound.algorithms.pattern import AFFINE, TAU, Iterate, Pattern, Slope, allowed, clip
from lowerbound.algorithms.quasi_newton import lower, root
from lowerbound.algorithms.search import End
from lowerbound.expectations.noise import stratified_normals
from lowerbound.families import Arrow, ArrowGaussian, ArrowLayout, Block, GaussianBlock
from lowerbound.kernel import Kernel

#: No coordinate moves by more than so many standard deviations of its block in one step.
_FARTHEST = 3.0


@dataclass(frozen=True, eq=False)
class ArrowPattern(Pattern):
    """Dense globals, and groups that only they connect.

    Args:
        layout: Which coordinates are which.
    """

    layout: ArrowLayout
    hierarchical = True

    @property
    def width(self) -> int:
        return self.layout.width

    @property
    def first_draws(self) -> int:
        # Half as many pairs again as a regression has variables: with no more than those, whitening distorts the draws.
        return 64 * int(np.ceil(1.5 * self.width / 32))

    def noise(self, rng: np.random.Generator, m: int) -> np.ndarray:
        layout, h = self.layout, m // 2
        g = layout.globals
        half = stratified_normals(rng, h, layout.dimension)
        top, local = half[:, :g], half[:, g:]
        if g:
            w, v = np.linalg.eigh(top.T @ top / h)
            top = top @ (v / np.sqrt(w)) @ v.T
            local = local - top @ (top.T @ local / h)
        local = layout.multiply([_power(*np.linalg.eigh(c / h), -0.5) for c in layout.gram(local, local)], local)
        half = np.concatenate([top, local], 1)
        return np.concatenate([half, -half])

    def localise(self, end: End) -> End:
        return end

    def gaussian(self, mean: np.ndarray, covariance: np.ndarray) -> ArrowGaussian:
        if covariance.ndim == 2:
            factor = root(covariance)
            covariance = factor @ factor.T
        return Arrow(self.layout).build(mean, covariance)

    def narrow(self, q: GaussianBlock, factor: float) -> ArrowGaussian:
        q = cast(ArrowGaussian, q)
        return replace(
            q, scale_global=q.scale_global * factor, border=q.border * factor, scale_local=q.scale_local * factor
        )

    def pull(self, q: GaussianBlock, scores: np.ndarray) -> np.ndarray:
        return cast(ArrowGaussian, q).pull(scores)

    def regress(self, at: Iterate) -> ArrowRegression:
        return ArrowRegression(at, self)

    def output(self, q: GaussianBlock) -> Block:
        return q


class ArrowRegression(Slope):
    """gb, the blocks of A, and the residual at an iterate; see the module's docstring."""

    def __init__(self, at: Iterate, pattern: ArrowPattern):
        self.at, self.pattern = at, pattern
        layout = self.layout = pattern.layout
        g, m = layout.globals, len(at.noise)
        e, scores = at.noise, at.scores
        self.gradient = scores.mean(0)
        # Third Hermite polynomials, one for each local coordinate, and the part of each group's scores along them.
        cubic = e[:, g:] ** 3 - 3 * e[:, g:]
        odd = self._along(cubic, scores[:, g:])
        own = scores[:, g:] - odd
        self.groups = [-0.5 * (c + c.transpose(0, 2, 1)) / m for c in layout.gram(e[:, g:], own)]
        self.border = -(own.T @ e[:, :g]) / m
        top = -(e[:, :g].T @ scores[:, :g]) / m
        self.top = 0.5 * (top + top.T)
        residual = scores - self.gradient
        residual[:, :g] += e[:, :g] @ self.top + e[:, g:] @ self.border
        residual[:, g:] += e[:, :g] @ self.border.T + layout.multiply(self.groups, e[:, g:])
        # Affine scores make gb and A exact: then nothing need be held back.
        self.affine = bool(np.linalg.norm(residual) <= AFFINE * np.linalg.norm(scores - self.gradient))
        self.limit = 1e12 if self.affine else TAU
        self._precision()
        self._full_step()
        residual[:, g:] -= odd
        self._errors(residual)

    def _along(self, cubic: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """The regression of each group's scores on its cubic terms, beside its linear ones ``[m, p - p_g]``."""
        layout, g, m = self.layout, self.layout.globals, len(cubic)
        e = self.at.noise
        # Free of what is linear in e_j and e_g, so that only what those do not explain is left to it.
        clean = cubic - e[:, :g] @ (e[:, :g].T @ cubic / m)
        clean = clean - layout.multiply([c / m for c in layout.gram(e[:, g:], clean)], e[:, g:], transpose=True)
        gram, with_scores = layout.gram(clean, clean), layout.gram(clean, scores)
        slopes = [
            np.linalg.solve(c + 1e-3 * m * np.eye(c.shape[-1]), s) for c, s in zip(gram, with_scores, strict=True)
        ]
        return layout.multiply(slopes, cubic, transpose=True)

    def _precision(self) -> None:
        """Eigenvalues of the A_jj and of the globals' Schur complement, as they are and made positive."""
        spectra = [np.linalg.eigh(a) for a in self.groups]
        self.w = [clip(w, self.limit) for w, _ in spectra]
        self.v = [v for _, v in spectra]
        schur = self._schur(1.0)
        w, v = np.linalg.eigh(schur)
        self.w_top, self.v_top = clip(w, self.limit), v
        self.lowest = float(min([w.min(initial=np.inf), *(s.min() for s, _ in spectra)]))
        smallest = min([self.w_top.min(initial=np.inf), *(w.min() for w in self.w)])
        self.widening = bool(smallest <= 1.01 / TAU)

    def _schur(self, rho: float) -> np.ndarray:
        """P_gg - sum_j P_gj P_jj^{-1} P_jg at the step rho."""
        half = self._solve(self.border.T, rho, 0.5)
        return np.eye(len(self.top)) + rho * (self.top - np.eye(len(self.top))) - rho**2 * (half @ half.T)

    def _solve(self, x: np.ndarray, rho: float = 1.0, power: float = 1.0) -> np.ndarray:
        """P_jj^{-power} times each group's part of ``x [s, p - p_g]``; P_jj = A_jj^rho."""
        inverse = [_power(w, v, -rho * power) for w, v in zip(self.w, self.v, strict=True)]
        return self.layout.multiply(inverse, x)

    def _full_step(self) -> None:
        """A^{-1} gb in whitened coordinates, block by block, and how far it is."""
        g = self.layout.globals
        pulled = self.gradient[:g] - self._solve(self.gradient[None, g:])[0] @ self.border
        top = self._short(self.v_top @ ((self.v_top.T @ pulled) / self.w_top), g)
        local = self._solve((self.gradient[g:] - self.border @ top)[None])[0]
        for n, d, place, _ in self.layout.parts:
            local[place] = self._short(local[place].reshape(n, d), d).ravel()
        self.move = np.concatenate([top, local])
        q = cast(ArrowGaussian, self.at.q)
        self.direction = q.times(self.move[None])[0]
        through = self._solve(self.border.T, power=0.5)
        self._top_size = float((top**2).sum() + 0.5 * (np.log(self.w_top) ** 2).sum())
        self._local_size = float(
            (local**2).sum() + 0.5 * sum((np.log(w) ** 2).sum() for w in self.w) + (through**2).sum()
        )
        # The tolerance is for the globals, and for each hundred local coordinates.
        self.size = float(np.sqrt(max(self._top_size, self._local_size / max(1.0, len(local) / 100))))

    def _short(self, move: np.ndarray, d: int) -> np.ndarray:
        if self.affine or not move.size:
            return move
        norm = np.linalg.norm(move, axis=-1, keepdims=True)
        return move * np.minimum(1.0, _FARTHEST * np.sqrt(d) / np.maximum(norm, 1e-300))

    def _errors(self, residual: np.ndarray) -> None:
        """What this noise costs the globals and the groups."""
        layout, e = self.layout, self.at.noise
        g, h = layout.globals, len(e) // 2
        # Means have the error of what is even in e, slopes that of what is odd: h independent pairs of each.
        even, odd = 0.5 * (residual[:h] + residual[h:]), 0.5 * (residual[:h] - residual[h:])
        mean, slope, squares = (even**2).sum(0) / h**2, odd**2 / h**2, e[:h] ** 2
        couplings = squares[:, :g].T @ slope[:, g:]
        taken = couplings.sum(1)
        top = 0.5 * mean[:g].sum() + 0.25 * (squares[:, :g].T @ slope[:, :g]).sum() + 0.25 * (taken**2).sum()
        inner = sum(c.sum() for c in layout.gram(squares[:, g:], slope[:, g:]))
        local = 0.5 * mean[g:].sum() + 0.25 * inner + 0.5 * couplings.sum()
        self.noise_cost = float(top + local)
        parts = [(top, allowed(g)), (local, allowed(layout.dimension - g))]
        self.excess = float(max(cost / most for cost, most in parts))
        self.near = bool(self._top_size < 8 * top + 1e-300 and self._local_size < 8 * local + 1e-300)

    def propose(self, kernel: Kernel, rho: float) -> Iterate | None:
        layout, q = self.layout, cast(ArrowGaussian, self.at.q)
        w, v = (self.w_top, self.v_top) if rho == 1 else np.linalg.eigh(self._schur(rho))
        top = lower(q.scale_global @ (v * clip(w, self.limit) ** -0.5)) if len(w) else q.scale_global
        # F U with U_g turned so that L_g U_g is lower triangular: turn = U_g Q = L_g^{-1} (L_g U_g Q).
        turn = np.linalg.solve(q.scale_global, top) if len(w) else top
        factors = layout.stack(q.scale_local)
        down = layout.multiply(factors, self._solve(rho * self.border.T, rho))
        border = (q.border - down.T) @ turn
        local = [_lower(f @ (v * w[:, None, :] ** (-rho / 2))) for f, w, v in zip(factors, self.w, self.v, strict=True)]
        flat = np.concatenate([np.empty(0), *(f.ravel() for f in local)])
        location = q.location + rho * self.direction
        moved = replace(q, location=location, scale_global=top, border=border, scale_local=flat)
        return self.pattern.evaluate(kernel, moved, self.at.noise)


def _power(w: np.ndarray, v: np.ndarray, power: float) -> np.ndarray:
    """V w^power V' of each matrix ``[n, d, d]``."""
    return (v * w[:, None, :] ** power) @ v.transpose(0, 2, 1)


def _lower(matrices: np.ndarray) -> np.ndarray:
    """The lower triangular L with L L' = M M' of each matrix ``[n, d, d]``."""
    if matrices.shape[-1] == 1:
        return np.abs(matrices)
    r = np.asarray(np.linalg.qr(matrices.transpose(0, 2, 1), mode="r")).transpose(0, 2, 1)
    return r * np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0)[:, None, :]
