r"""Affine coupling layers by FlowJAX, from the identity, with programs that no model is part of.

A layer keeps the first half of its coordinates and moves the others by an affine map whose shift and log
scale are a small network of the first (RealNVP; Dinh, Sohl-Dickstein & Bengio 2017):

    y_1 = x_1,     y_2 = exp(s(x_1)) x_2 + t(x_1),     log |dy/dx| = sum s(x_1),

then the coordinates are rearranged for the next layer. Forward and inverse cost the same. The network has one
hidden layer of tanh units, and s is held within +-2 by a second tanh: shift and scale are bounded, so far out
the map is affine in each direction and tails stay Gaussian, which importance weights need. The last weights
start at zero, where every layer is the identity.

Layers are stacked and run by ``flowjax.bijections.Scan``, so that the compiled program holds one of them:
2 seconds of compilation where unrolled layers took 9. On the posteriors tried, rational-quadratic splines in
place of the affine map took three times as long to compile and ten times as long an iteration, and reached
the same bound in a third of the iterations.

The programs depend on the dimension and the architecture alone. A model enters by the scores at the draws,
which are an argument, so the programs are compiled once for all models (and kept between processes).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lowerbound.compilation import compile_once
from lowerbound.families.linalg import standard_normal_log_prob
from lowerbound.precision import float64

#: Draws of one call: four calls of the kernel.
BATCH = 256
#: Largest |log scale| of one layer.
_LOG_SCALE = 2.0
#: Names of a layer's arrays, in the order in which FlowJAX flattens them.
WEIGHTS = ("hidden_weight", "hidden_bias", "output_weight", "output_bias")


class Couplings(NamedTuple):
    """An architecture.

    Attributes:
        dimension: Coordinates k, at least two.
        layers: Coupling layers.
        width: Hidden units of each layer's network.
    """

    dimension: int
    layers: int
    width: int

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the :data:`WEIGHTS`, all layers stacked."""
        kept = self.dimension // 2
        out = 2 * (self.dimension - kept)
        one = ((self.width, kept), (self.width,), (out, self.width), (out,))
        return tuple((self.layers, *s) for s in one)

    def identity(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Weights at which the map is the identity; the hidden ones are random, as gradients need."""
        hidden, bias, output, last = self.shapes()
        bound = 1 / np.sqrt(hidden[-1])
        return rng.uniform(-bound, bound, hidden), np.zeros(bias), np.zeros(output), np.zeros(last)

    def orders(self) -> np.ndarray:
        """How the coordinates are rearranged after each layer ``[layers, k]``, the same always.

        In turn: the halves change places, so that what was kept is moved next; a shuffle, so that coordinates of one
        half meet. (Its first part is backwards: of an odd number, the one that no swap keeps is kept then.)
        """
        k = self.dimension
        swap = np.roll(np.arange(k), k // 2)
        shuffle = np.concatenate([np.arange(0, k, 2)[::-1], np.arange(1, k, 2)])
        return np.stack([swap if i % 2 == 0 or k == 2 else shuffle for i in range(self.layers)])

    def bijection(self, weights: Sequence[Any]) -> Any:
        """The FlowJAX bijection with these weights, inside a traced function."""
        import equinox as eqx
        from flowjax.bijections import Affine, Chain, Coupling, Permute, Scan
        from paramax import Parameterize

        scale = Parameterize(lambda x: jnp.exp(_LOG_SCALE * jnp.tanh(x / _LOG_SCALE)), jnp.zeros(()))
        # The key is for weights that are replaced at once: the compiler drops them.
        coupling = Coupling(
            jax.random.key(0),
            transformer=eqx.tree_at(lambda a: a.scale, Affine(), scale),
            untransformed_dim=self.dimension // 2,
            dim=self.dimension,
            nn_width=self.width,
            nn_depth=1,
            nn_activation=jnp.tanh,
        )
        arrays, rest = eqx.partition(Chain([coupling, Permute(jnp.arange(self.dimension))]), eqx.is_array)
        leaves, tree = jax.tree_util.tree_flatten(arrays)
        orders = self.orders()
        given = [*weights, orders, np.argsort(orders, axis=1)]
        stacked = [jnp.asarray(g, old.dtype) for g, old in zip(given, leaves, strict=True)]
        return Scan(eqx.combine(jax.tree_util.tree_unflatten(tree, stacked), rest))

    # -- as functions of weights and draws ---------------------------------------------------------

    def forward(self, weights: Sequence[Any], noise: Any) -> tuple[Any, Any]:
        """f(e) ``[n, k]`` and log |det f'(e)| ``[n]``."""
        return jax.vmap(self.bijection(weights).transform_and_log_det)(noise)

    def inverse(self, weights: Sequence[Any], u: Any) -> tuple[Any, Any]:
        """f^{-1}(u) ``[n, k]`` and log |det (f^{-1})'(u)| ``[n]``."""
        return jax.vmap(self.bijection(weights).inverse_and_log_det)(u)

    def log_q(self, weights: Sequence[Any], u: Any) -> Any:
        """log density of f(e), e ~ N(0, I), at ``u [n, k]``."""
        e, log_det = self.inverse(weights, u)
        return standard_normal_log_prob(e) + log_det

    def pull(self, weights: Sequence[Any], noise: Any, slopes: Any, log_det_slopes: Any) -> Any:
        """The gradient with respect to the weights, from slopes at the outputs of :meth:`forward`."""
        return jax.vjp(lambda w: self.forward(w, noise), weights)[1]((slopes, log_det_slopes))[0]

    def pull_draws(self, weights: Sequence[Any], noise: Any, slopes: Any) -> Any:
        """The gradient with respect to the noise of slopes' f(e) + log |det f'(e)|, ``[n, k]``."""
        return jax.vjp(lambda e: self.forward(weights, e), noise)[1]((slopes, jnp.ones(noise.shape[0], noise.dtype)))[0]

    # -- compiled, on the host --------------------------------------------------------------------

    def transform(self, weights: Sequence[Any], noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`forward` on the host, in whole batches."""
        return _batched(program(self, "forward"), weights, noise)

    def invert(self, weights: Sequence[Any], u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`inverse` on the host, in whole batches."""
        return _batched(program(self, "inverse"), weights, u)

    def gradient(
        self, weights: Sequence[Any], noise: np.ndarray, slopes: np.ndarray, log_det_slopes: np.ndarray
    ) -> list[np.ndarray]:
        """:meth:`pull` on the host, in whole batches; zero slopes fill the last."""
        total = [np.zeros(s) for s in self.shapes()]
        run, more = program(self, "pull"), -len(noise) % BATCH
        noise, slopes = (np.concatenate([a, np.zeros((more, self.dimension))]) for a in (noise, slopes))
        log_det_slopes = np.concatenate([log_det_slopes, np.zeros(more)])
        with float64():
            for i in range(0, len(noise), BATCH):
                part = slice(i, i + BATCH)
                for t, g in zip(total, run(weights, noise[part], slopes[part], log_det_slopes[part]), strict=True):
                    t += np.asarray(g)
        return total

    def pull_noise(self, weights: Sequence[Any], noise: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        """:meth:`pull_draws` on the host, in whole batches."""
        run, out, more = program(self, "pull_draws"), np.empty_like(noise), -len(noise) % BATCH
        noise, slopes = (np.concatenate([a, np.zeros((more, self.dimension))]) for a in (noise, slopes))
        with float64():
            weights = tuple(jax.device_put(np.asarray(w, np.float64)) for w in weights)
            for i in range(0, len(out), BATCH):
                n = min(BATCH, len(out) - i)
                out[i : i + n] = np.asarray(run(weights, noise[i : i + BATCH], slopes[i : i + BATCH]))[:n]
        return out


@lru_cache(maxsize=64)
def program(couplings: Couplings, method: str) -> Any:
    """One of the methods above compiled for :data:`BATCH` draws."""
    with float64():
        weights = tuple(jax.ShapeDtypeStruct(s, np.float64) for s in couplings.shapes())
        draws = jax.ShapeDtypeStruct((BATCH, couplings.dimension), np.float64)
        each = jax.ShapeDtypeStruct((BATCH,), np.float64)
        rest = {"pull": (draws, each), "pull_draws": (draws,)}.get(method, ())
        return compile_once(getattr(couplings, method), weights, draws, *rest)[0]


def _batched(run: Any, weights: Sequence[Any], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = np.asarray(x, np.float64)
    out, log_det = np.empty_like(x), np.empty(len(x))
    with float64():
        weights = tuple(jax.device_put(np.asarray(w, np.float64)) for w in weights)
        for i in range(0, len(x), BATCH):
            part = x[i : i + BATCH]
            n = len(part)
            if n < BATCH:
                part = np.concatenate([part, np.zeros((BATCH - n, x.shape[1]))])
            y, d = run(weights, part)
            out[i : i + n], log_det[i : i + n] = np.asarray(y)[:n], np.asarray(d)[:n]
    return out, log_det
