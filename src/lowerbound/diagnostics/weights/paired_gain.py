r"""Is a new q better than the old one? The paired gain of the importance-weighted bound.

For each q the bound with K draws is (Burda, Grosse & Salakhutdinov 2016)

    IW_K(q) = E[ log (1/K) sum_k p(x, z_k) / q(z_k) ],     z_1..z_K ~ q,     ELBO = IW_1 <= IW_K <= log p(x),

here K = 16: it does not punish an old q for the tail that its importance weights would repair anyway, so a gain is
of what the weights cannot mend. Both q's are given the same noise, whose draws are close together where the q's are,
so that the difference of the two bounds has a far smaller error than either. The pairs of groups are independent: the
error is the standard deviation of their differences over the square root of their number.

A richer q is worth having if the gain is above three standard errors.

Cost: ``num_groups * K`` log densities for each q.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from lowerbound.diagnostics.estimate import Estimate
from lowerbound.errors import IncompatibleError
from lowerbound.families import Block
from lowerbound.kernel import Kernel

#: Draws in a group, K.
GROUP = 16


def paired_gain(
    kernel: Kernel,
    q_old: Block,
    q_new: Block,
    rng: np.random.Generator,
    *,
    new_kernel: Kernel | None = None,
    num_groups: int = 256,
    num_draws: int = GROUP,
) -> Estimate:
    """IW_K(q_new) - IW_K(q_old) in nats, on common noise, with its standard error.

    Args:
        kernel: The compiled log density.
        q_old, q_new: Two approximations. The common noise helps where equal noise gives nearby draws, as when one
            was fitted from the other.
        rng: Random numbers.
        new_kernel: The log density in the coordinates of ``q_new``, where they are others than those of ``q_old``:
            log p(x) is one number in all coordinates, so the bounds can be compared.
        num_groups: Independent groups of draws; the error falls with their square root.
        num_draws: K, draws in a group; 1 for the ELBO.

    Returns:
        The gain. A draw whose log density is not finite has no weight; a group without any is left out of both sides
        where it is the old q's, and makes the gain minus infinity where it is the new one's alone.

    Raises:
        IncompatibleError: a block of another dimension than its kernel, or fewer than two groups.

    Example:
        >>> import jax.numpy as jnp, numpy as np, lowerbound as lb
        >>> from lowerbound.kernel import Kernel
        >>> from lowerbound.model import Model
        >>> target = lb.LogDensity(lambda x: -0.5 * (x**2).sum(), {"x": lb.Site(shape=(2,))})
        >>> kernel = Kernel(Model.from_log_density(target, {}))
        >>> exact = lb.families.DiagonalGaussian(np.zeros(2), np.ones(2))
        >>> off = lb.families.DiagonalGaussian(np.array([1.0, 0.0]), np.ones(2))
        >>> gain = paired_gain(kernel, off, exact, np.random.default_rng(0), num_draws=1)
        >>> bool(abs(gain.value - 0.5) < 4 * gain.se)
        True
    """
    new_kernel = new_kernel or kernel
    for q, k in ((q_old, kernel), (q_new, new_kernel)):
        if q.dimension != k.dimension:
            raise IncompatibleError(
                f"paired_gain: a block of {q.dimension} dimensions for a log density of {k.dimension}; needed: the "
                "kernel of the coordinates in which the block was fitted."
            )
    if num_groups < 2 or num_draws < 1:
        raise IncompatibleError(
            f"paired_gain(num_groups={num_groups}, num_draws={num_draws}): needed: at least 2 groups of 1 draw."
        )
    width = max(q_old.noise_dimension, q_new.noise_dimension)
    noise = rng.standard_normal((num_groups * num_draws, width))
    old = _bounds(kernel, q_old, noise[:, : q_old.noise_dimension], num_draws)
    new = _bounds(new_kernel, q_new, noise[:, : q_new.noise_dimension], num_draws)
    known = np.isfinite(old)
    difference = new[known] - old[known]
    if not len(difference) or not np.isfinite(difference).all():
        # Where the old q has nothing finite any finite new one is a gain without limit.
        return Estimate(np.inf if not known.any() and np.isfinite(new).any() else -np.inf, np.nan)
    return Estimate(float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference))))


def _bounds(kernel: Kernel, q: Block, noise: np.ndarray, k: int) -> np.ndarray:
    """log mean of the weights of each group, ``[num_groups]``."""
    with np.errstate(all="ignore"):
        x = np.asarray(q.transform(noise))
        value, _ = kernel(x)
        log_w = value - np.asarray(q.log_prob(x))
        log_w = np.where(np.isfinite(log_w), log_w, -np.inf)
        return logsumexp(log_w.reshape(-1, k), axis=1) - np.log(k)
