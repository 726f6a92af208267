r"""A block of its own for each row, found from the network's by ascent of that row's ELBO.

    max_{m, s}  L_i(m, s) = E[log p(x_i, m + s e | g)] + sum log s + const,      e ~ N(0, I), g ~ q(g)

over noise that is drawn once and stays (sample-average approximation), with its first two moments matched, so that of
a Gaussian posterior the optimum is exact. Its maximum is the best diagonal Gaussian of the row, which a network may or
may not reach; on noise that it was not fitted to, its ELBO is honest.

All rows ascend together in one compiled program: :data:`_STEPS` steps of Adam whose rate falls to zero, in units of the
row's own block as it is then. What a row has gained is kept, a loss is not; a row that gained less than
:data:`_LITTLE` nats has its rate cut to a third, and is done after :data:`_CUTS` of those.

Cost: ``draws`` gradients of a row's log density a step, 100 to 300 steps for most rows.

Source: Kim, Wiseman, Miller, Sontag & Rush (2018) and Cremer, Li & Duvenaud (2018) refine amortized blocks in this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.algorithms.row_weights import RowWeights
from lowerbound.compilation import compile_once
from lowerbound.expectations.noise import matched_normals
from lowerbound.precision import float32

#: Rows of one call, steps of one call, and calls at most.
_ROWS, _STEPS, _CALLS = 64, 25, 40
_RATE, _CUTS = 0.1, 4
#: Steps that most rows take.
_USUAL = 250
#: Nats: less is no gain.
_LITTLE = 3e-3
#: Draws behind a row's ELBO: at least, and as multiples of its latents at most.
_LEAST, _TIMES, _MOST = 32, 4, 128


class Refined(NamedTuple):
    """Blocks of rows by themselves.

    Attributes:
        location, scale: ``[rows, d]``.
        settled: Which rows had nothing more to gain ``[rows]``.
    """

    location: np.ndarray
    scale: np.ndarray
    settled: np.ndarray


class Refiner:
    """Blocks of rows by themselves, from those of a network.

    Args:
        problem: Rows and network.
        parameters: The network's weights and the rest of what was learned.
        seed: Of the noise.
    """

    def __init__(self, problem: RowWeights, parameters: Any, seed: int):
        self._problem, self._parameters = problem, parameters
        d, m = problem.rows.dimension, problem.shared
        draws = int(min(max(_LEAST, _TIMES * d), _MOST))
        noise = matched_normals(np.random.default_rng([seed, 24]), draws, d + m)
        self._noise = noise[:, :d].astype(np.float32)
        self._shared = np.asarray(problem.shared_block(parameters).transform(noise[:, d:]), np.float32)
        self._program: Any = None

    def cost(self, rows: int) -> int:
        """Gradients of a row's log density that refining so many rows takes, about."""
        return rows * _USUAL * len(self._noise)

    def __call__(
        self, data: Sequence[Any] | None, index: np.ndarray, location: np.ndarray, scale: np.ndarray
    ) -> Refined:
        """Refine the blocks ``location, scale [rows, d]`` of the rows ``index``.

        Args:
            data: The arrays with rows; None for those fitted to.
            index: Which rows.
            location, scale: Where each starts.
        """
        out = Refined(np.array(location, float), np.array(scale, float), np.zeros(len(index), bool))
        problem = self._problem
        with float32():
            arrays = problem.device_rows if data is None else problem.single(data)
            for i in range(0, len(index), _ROWS):
                part = slice(i, i + _ROWS)
                pad = np.arange(_ROWS) % len(index[part])
                rows = [a[index[part][pad]] for a in arrays]
                m, s, settled = self._ascend(rows, out.location[part][pad], out.scale[part][pad])
                n = len(index[part])
                out.location[part], out.scale[part], out.settled[part] = m[:n], s[:n], settled[:n]
        return out

    def _ascend(self, rows: list[Any], location: np.ndarray, scale: np.ndarray) -> tuple[Any, Any, np.ndarray]:
        m, s = np.asarray(location, np.float32), np.asarray(scale, np.float32)
        rate, cuts = np.full(_ROWS, _RATE, np.float32), np.zeros(_ROWS, int)
        for _ in range(_CALLS):
            moved, widened, gain = map(np.asarray, self._call(rows, m, s, rate))
            self._problem.evaluations += _ROWS * _STEPS * len(self._noise)
            better = (gain > 0) & np.isfinite(moved).all(1) & np.isfinite(widened).all(1)
            m, s = np.where(better[:, None], moved, m), np.where(better[:, None], widened, s)
            little = ~better | (gain < _LITTLE)
            cuts = cuts + little
            rate = np.where(little, rate / 3, rate).astype(np.float32)
            if (cuts >= _CUTS).all():
                break
        return m, s, cuts >= _CUTS

    def _call(self, rows: Any, location: Any, scale: Any, rate: Any) -> Any:
        learned, arguments = self._parameters[1], self._problem.arguments
        if self._program is None:
            problem = self._problem

            def ascend(
                learned: Any, rows: Any, location: Any, scale: Any, rate: Any, noise: Any, shared: Any, arguments: Any
            ) -> Any:
                given = problem.filled(arguments, learned)

                def one(row: Any, m: Any, s: Any, rate: Any) -> Any:
                    def elbo(moved: Any) -> Any:
                        a, b = moved
                        z = m + s * a + s * jnp.exp(b) * noise
                        terms = jax.vmap(lambda u, g: problem.rows.terms(u, g, row, given)[0])(z, shared)
                        return terms.mean() + b.sum()

                    def step(carry: Any, t: Any) -> Any:
                        moved, first, second = carry
                        value, slope = jax.value_and_grad(elbo)(moved)
                        first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope**2
                        # Adam (Kingma & Ba 2015), its moments freed of their start at zero.
                        unit = first / (1 - 0.9 ** (t + 1)) / (jnp.sqrt(second / (1 - 0.99 ** (t + 1))) + 1e-8)
                        return (moved + rate * (1 - t / _STEPS) * unit, first, second), value

                    start = jnp.zeros((2, len(m)), m.dtype)
                    carry, values = jax.lax.scan(step, (start, start, start), jnp.arange(_STEPS, dtype=m.dtype))
                    (a, b), *_ = carry
                    return m + s * a, s * jnp.exp(b), elbo((a, b)) - values[0]

                return jax.vmap(one)(rows, location, scale, rate)

            self._program, _ = compile_once(
                ascend, learned, rows, location, scale, rate, self._noise, self._shared, arguments
            )
        return self._program(learned, rows, location, scale, rate, self._noise, self._shared, arguments)
