r"""Up to three dimensions: integrals over the unconstrained vector, with the error that the nodes themselves tell.

The trapezoidal rule converges faster than any power where an analytic integrand dies away at both ends (Trefethen &
Weideman 2014), as it does on stretched axes (:mod:`lowerbound.decomposition.boxes`). Each integral is taken over two
sets of nodes with different steps (two shifts of one step can err by the same amount, the same sign too, where the
integrand is symmetric); their difference is the error that is reported, and the number of nodes grows until it is that
of rounding.

Where p(x, u) has several modes, each has a box of its own, with the share of p that its Gaussian has in the sum of all.

The evidence and the ELBO are over the first set, the divergence over the second, with p(z | x) normalised over the
second as well: nothing but the two densities is common to the three numbers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from lowerbound.decomposition.approximation import place_of
from lowerbound.decomposition.boxes import Stretch, box, ended
from lowerbound.decomposition.peaks import Peak, peaks, share
from lowerbound.decomposition.result import Decomposition
from lowerbound.decomposition.target import Target
from lowerbound.diagnostics.estimate import Estimate
from lowerbound.divergences.ends import Beyond, beyond, stretch

#: Nodes on an axis, coarse to fine, by number of dimensions.
_LEVELS = {
    1: (64, 128, 256, 512, 1024, 4096, 16384),
    2: (32, 48, 72, 108, 160, 240, 360),
    3: (20, 28, 40, 56),
}
#: Errors that are those of rounding, relative to the numbers; and above which the draws do better.
_ROUNDING, POOR = 1e-12, 1e-4
#: Probability that q may have where log p(x, z) is not finite: rounding in the far tails.
_NOTHING = 1e-10
#: By how much the mass of q over its nodes may differ from one.
_MASS = 1e-6


class _Tails(NamedTuple):
    """What is beyond the box of a cut integrand in one dimension: of the ELBO's, of the KL's, of q; and the error."""

    gain: float = 0.0
    loss: float = 0.0
    mass: float = 0.0
    error: float = 0.0


def by_quadrature(target: Target) -> Decomposition | None:
    """The three numbers of a model with up to three unconstrained dimensions; None where the nodes do not suffice.

    Args:
        target: The model and q.

    Cost: two sets of nodes for each of two densities: hundreds in one dimension, up to 10^5 in two and 2 10^5 in three.
    """
    p = target.kernel.dimension
    place, spread = target.q.place()
    q_box, beyond_q = ended(
        lambda v: _height(target, v), box(lambda v: _height(target, v), place, spread), anywhere=True
    )
    drawn = target.q.points(target.q.sample(np.random.default_rng([0, 1]), 1024)).u
    found = peaks(target, *place_of(drawn))
    p_boxes, beyond_p = _boxes(target, found)
    if beyond_p is None:
        return None
    if any(b.value == math.inf for _, _, b in beyond_q):
        evidence = [_evidence(target, found, p_boxes, _LEVELS[p][-2], o, beyond_p) for o in (0.5, 0.3)]
        return _without_limit(evidence)
    tails = _tails(target, q_box, beyond_q) if p == 1 else _Tails()
    if not math.isfinite(tails.gain + tails.loss) or (p > 1 and beyond_q):
        return None
    before: list[float] | None = None
    for n in _LEVELS[p]:
        sets = ((n, 0.5), (n + max(3, n // 8), 0.3))
        evidence = [_evidence(target, found, p_boxes, *s, beyond_p) for s in sets]
        first, second = (_expectations(target, q_box, *s, tails) for s in sets)
        missed, mass = max(first[2], second[2]), abs(second[3] - 1)
        if missed > _NOTHING:
            return _infinite(evidence, missed)
        elbo = [first[0], second[0]]
        # E_q[log q - log p(x, z)] + log p(x), each over the same set of nodes.
        kl = [e[1] + z for e, z in zip((first, second), evidence, strict=True)]
        size = 1 + max(abs(evidence[0]), abs(elbo[0]))
        errors = [abs(a - b) for a, b in (evidence, elbo, kl)]
        errors = [errors[0], errors[1] + tails.error, errors[2] + tails.error]
        if max(errors) < _ROUNDING * size or (before and max(errors) < 1e-9 and max(errors) > 0.5 * max(before)):
            break
        before = errors
    if not max(errors) < POOR or mass > _MASS:
        return None
    axis = f"{n:,} nodes" + ("" if p == 1 else f" on each of {p} axes")
    return Decomposition(
        Estimate(evidence[0], errors[0]),
        Estimate(elbo[0], errors[1]),
        Estimate(kl[1], errors[2]),
        "quadrature",
        (
            f"quadrature of p(x, z), {axis}",
            f"quadrature of q (log p(x, z) - log q), {axis} of its own",
            "quadrature of q log(q / p(z | x)), on other nodes, with p(z | x) normalised there",
        ),
    )


def _height(target: Target, v: np.ndarray) -> np.ndarray:
    """log of q times what is averaged under it, which may grow as fast as q dies away."""
    t = target.terms(v)
    size = np.log1p(np.abs(t.gain) + np.abs(t.loss))
    return t.log_q + np.where(np.isfinite(size), size, 0.0)


def _boxes(target: Target, found: list[Peak]) -> tuple[list[Stretch], float | None]:
    """A box for each mode, and log of what is beyond them; None where that is not known."""
    boxes, rest = [], -math.inf
    for i, one in enumerate(found):

        def log_share(u: np.ndarray, i: int = i) -> np.ndarray:
            return target.log_p(u) + (share(i, found, u) if len(found) > 1 else 0.0)

        where, beyond_p = ended(log_share, box(log_share, one.mode, one.covariance), anywhere=False)
        if beyond_p and len(one.mode) > 1:
            return [], None
        for _, s, _ in beyond_p:
            at = np.sign(s) * stretch(abs(s))[:, None]
            along = log_share(where.at(at)) + where.log_jacobian(at)
            more = beyond(np.abs(at[:, 0]), along - one.height, slack=1e-6)
            if not math.isfinite(more.value) or more.error > POOR * more.value:
                return [], None
            rest = float(np.logaddexp(rest, one.height + math.log(more.value))) if more.value > 0 else rest
        boxes.append(where)
    return boxes, rest


def _evidence(target: Target, found: list[Peak], boxes: list[Stretch], n: int, offset: float, rest: float) -> float:
    """log of the integral of p(x, u)."""
    parts = [rest]
    for i, where in enumerate(boxes):
        u, log_weight = where.nodes(n, offset)
        log_p = target.log_p(u) + (share(i, found, u) if len(boxes) > 1 else 0.0)
        parts.append(float(np.asarray(logsumexp(log_p + log_weight))))
    return float(np.asarray(logsumexp(parts)))


def _tails(target: Target, where: Stretch, beyond_q: list[tuple[int, float, Beyond]]) -> _Tails:
    """What the three integrands under q have beyond a box in one dimension; nan where it is not known."""
    total = np.zeros(4)
    for _, s, _ in beyond_q:
        at = np.sign(s) * stretch(abs(s))[:, None]
        t = target.terms(where.at(at))
        weight = t.log_q + where.log_jacobian(at)
        for i, f in enumerate((t.gain, t.loss, np.ones(len(at)))):
            with np.errstate(divide="ignore"):
                one = beyond(np.abs(at[:, 0]), weight + np.log(np.abs(f)), slack=1e-6)
            total[i] += np.sign(f[-1]) * one.value
            total[3] += one.error
    return _Tails(*(float(x) for x in total))


def _expectations(target: Target, where: Stretch, n: int, offset: float, tails: _Tails) -> tuple[float, ...]:
    """The ELBO, E_q[log q - log p(x, z)] on terms of its own, the share of q where p(x, z) is 0, and q's mass."""
    v, log_weight = where.nodes(n, offset)
    t = target.terms(v)
    mass = np.exp(t.log_q + log_weight)
    mass = np.where(np.isfinite(mass), mass, 0.0)
    lost = ~np.isfinite(t.gain) | ~np.isfinite(t.loss)
    held = np.where(lost, 0.0, mass)
    gain, loss = np.where(lost, 0.0, t.gain), np.where(lost, 0.0, t.loss)
    return (
        float(held @ gain) + tails.gain,
        float(held @ loss) + tails.loss,
        float(mass[lost].sum()),
        float(mass.sum()) + tails.mass,
    )


def _without_limit(evidence: list[float]) -> Decomposition:
    return Decomposition(
        Estimate(evidence[0], abs(evidence[0] - evidence[1])),
        Estimate(-np.inf, 0.0),
        Estimate(np.inf, 0.0),
        "quadrature",
        ("quadrature of p(x, z)", "q log p(x, z) has no integral", "q log(q / p(z | x)) has no integral"),
        (
            "log p(x, z) falls faster than the tails of q can bear: E_q[log p(x, z)] has no limit, and the KL is "
            "infinite. Take a q with lighter tails.",
        ),
    )


def _infinite(evidence: list[float], missed: float) -> Decomposition:
    return Decomposition(
        Estimate(evidence[0], abs(evidence[0] - evidence[1])),
        Estimate(-np.inf, 0.0),
        Estimate(np.inf, 0.0),
        "quadrature",
        ("quadrature of p(x, z)", "log p(x, z) is -inf where q is not 0", "p(z | x) is 0 where q is not"),
        (
            f"q has probability {missed:.3g} where p(x, z) = 0, or is not a number, so that KL(q ‖ p(z | x)) is "
            "infinite",
        ),
    )
