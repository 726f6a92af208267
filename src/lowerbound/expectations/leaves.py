r"""Latents that nothing else depends on: outcomes that were not observed.

If y occurs in its own factor p(y | z) alone, then

    p(x, z) = sum_y p(y | z) p(x, z):

the posterior of z is that without y, and y given z is p(y | z). A q(y) that is independent of q(z) would count y as
data that agree with what is believed already: q(z) too narrow, sweeps slow, and a bound below that without y. So
discrete latents of this kind take no part in the ascent, and get their q(y) at its end; draws of y are drawn given z.
(Continuous ones are kept: their draws are a part of the vector that q is over.)
"""

from __future__ import annotations

from lowerbound.expectations.factors import Joint


def leaves_of(joint: Joint, *, discrete: bool = True) -> tuple[str, ...]:
    """Names of the latents that nothing else depends on, or of what is left once others are gone; last ones first.

    Args:
        joint: The factors of a model.
        discrete: Whether they must be discrete.
    """
    own = {f.name: f for f in joint.factors}
    left = {f.name: set(f.latents) for f in joint.factors}
    out: list[str] = []
    while True:
        asked = {n: [f for f, names in left.items() if n in names] for n in joint.latents if n not in out}
        found = [
            n
            for n, factors in asked.items()
            if factors == [n] and own[n].normalised and (joint.latents[n].values is not None or not discrete)
        ]
        if not found:
            return tuple(out)
        out += found
        for n in found:
            del left[n]


def without(joint: Joint, names: tuple[str, ...]) -> Joint:
    """The joint of the other latents."""
    latents = {n: v for n, v in joint.latents.items() if n not in names}
    return Joint(latents, [f for f in joint.factors if f.name not in names], joint.plate_axes)
